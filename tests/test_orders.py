"""Orders as users take them through their life: one process per command, and the files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples import orders as program
from examples.orders import Bank, OrderError, Store, order_process
from fast_dag import ExecutionError, FSMContext
from tests.patience import LONG

PROGRAM = Path(program.__file__)
GOOD_CARD = program.CARD
BAD_CARD = "4000 0000 0000 0001"


def run_program(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command, as a user gives it."""
    return subprocess.run(
        [sys.executable, PROGRAM, "--directory", directory, *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=LONG,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
    )


def refused(directory: Path, *arguments: str, told: str = "", status: int = 1) -> str:
    """The one line that says why a command was refused or failed."""
    done = run_program(directory, *arguments)
    assert (done.returncode, done.stdout.rstrip()) == (status, told), done
    *usage, line = done.stderr.splitlines()
    assert not usage or usage[0].startswith("usage: ")
    assert line.startswith("orders"), done.stderr
    return line.partition(" error: ")[2]


def told(directory: Path, *arguments: str) -> str:
    """What a command that succeeds prints."""
    done = run_program(directory, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.rstrip()


def store_in(directory: Path, bank: Bank | None = None) -> Store:
    """The orders of a directory, as a new process sees them."""
    return Store(directory, order_process(bank or Bank()))


def ways(trail: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    return [(each["from"], each["to"], each["due"]) for each in trail]


# One process per command.


def test_order_is_paid_in_parts_and_shipped_by_separate_processes(tmp_path: Path) -> None:
    assert told(tmp_path, "new", "Ada", "30") == "order 1: awaiting_payment, 30.00 due"
    assert told(tmp_path, "pay", "1", "10.5") == "order 1: awaiting_payment, 19.50 due"
    assert refused(tmp_path, "pay", "1", "19.51") == "order 1: no more than 19.50 can be paid"
    assert refused(tmp_path, "ship", "1") == (
        "order 1: it is awaiting_payment, where it can only pay or cancel"
    )
    assert told(tmp_path, "pay", "1", "19.50") == "order 1: paid"
    assert told(tmp_path, "ship", "1") == "order 1: shipped"
    assert refused(tmp_path, "cancel", "1") == "order 1: it is shipped, which is its end"
    shown = told(tmp_path, "show", "1").splitlines()
    assert shown[:4] == [
        "order 1: shipped", "  customer  Ada", "  total     30.00", "  possible  nothing",
    ]  # fmt: skip
    assert [line.split()[1:4] for line in shown[4:]] == [
        ["placed", "->", "awaiting_payment"],
        ["awaiting_payment", "->", "paying"],
        ["paying", "->", "awaiting_payment"],
        ["awaiting_payment", "->", "paying"],
        ["paying", "->", "paid"],
        ["paid", "->", "shipped"],
    ]


@pytest.mark.stress
def test_payment_that_the_bank_did_not_answer_is_made_by_a_later_process(tmp_path: Path) -> None:
    told(tmp_path, "new", "Ada", "30")
    assert refused(tmp_path, "retry", "1") == "order 1 has nothing to be retried"
    assert refused(tmp_path, "pay", "1", "30", "--bank-fails", "3") == (
        "the bank does not answer (asked 3 times); order 1 is kept as it is; later: retry 1"
    )
    unfinished = "order 1 has not come out of 'paying' yet; finish that by: retry 1"
    assert refused(tmp_path, "pay", "1", "30") == unfinished
    assert refused(tmp_path, "cancel", "1") == unfinished
    assert told(tmp_path, "list") == "order 1: paying, 30.00 due, to be retried (Ada, 30.00)"
    assert "does not answer" in refused(tmp_path, "retry", "1", "--bank-fails", "3")
    assert told(tmp_path, "retry", "1", "--bank-fails", "2") == "order 1: paid"


@pytest.mark.stress
def test_third_declined_payment_cancels_the_order(tmp_path: Path) -> None:
    told(tmp_path, "new", "Ada", "30")
    told(tmp_path, "pay", "1", "5")
    pay = ("pay", "1", "25", "--card", BAD_CARD)
    problem = "the bank has declined: the number of the card is wrong"
    still = "order 1: awaiting_payment, 25.00 due"
    assert refused(tmp_path, *pay, told=still) == problem
    assert refused(tmp_path, *pay, told=still) == problem
    assert refused(tmp_path, *pay, told="order 1: cancelled, 5.00 refunded") == problem
    assert "(the number of the card is wrong)" in told(tmp_path, "show", "1")


@pytest.mark.stress
def test_commands_say_what_they_cannot_use(tmp_path: Path) -> None:
    assert told(tmp_path / "none", "list") == ""
    for command in (("pay", "7", "1"), ("ship", "7"), ("retry", "7"), ("show", "7")):
        assert refused(tmp_path, *command) == f"there is no order 7 in {tmp_path}"
    number = "argument ID: '../1' is not the number of an order"
    assert refused(tmp_path, "show", "../1", status=2) == number
    amount = "argument AMOUNT: '{}' is no amount, such as 30 or 29.95"
    for wrong in ("x", "0", "1.234", "1e9"):
        assert refused(tmp_path, "pay", "1", wrong, status=2) == amount.format(wrong)
    assert "invalid choice: 'eat'" in refused(tmp_path, "eat", status=2)
    (tmp_path / "file").write_text("")
    assert refused(tmp_path / "file", "new", "Ada", "1") == f"{tmp_path}/file: File exists"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.stress
def test_broken_order_is_told_of_and_does_not_hide_the_others(tmp_path: Path) -> None:
    for name in ("Ada", "Бо\nb", "Cy"):
        told(tmp_path, "new", name, "1")
    (tmp_path / "1.json").write_text('{"format": 1,')
    (tmp_path / "notes.json").write_text("not an order")
    done = run_program(tmp_path, "list")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "order 2: awaiting_payment, 1.00 due (Бо\\nb, 1.00)",
        "order 3: awaiting_payment, 1.00 due (Cy, 1.00)",
    ]
    assert done.stderr.startswith(f"orders: error: {tmp_path}/1.json is no order: Expecting ")
    assert refused(tmp_path, "pay", "1", "1").startswith(f"{tmp_path}/1.json is no order: ")
    assert (tmp_path / "1.json").read_text() == '{"format": 1,'


def test_order_in_use_by_another_process_is_left_alone(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.create("Ada", 100)
    with store.locked(1):
        assert refused(tmp_path, "pay", "1", "1").startswith(
            "order 1 is being changed by another process; "
        )
        assert told(tmp_path, "show", "1").startswith("order 1: awaiting_payment")
    assert told(tmp_path, "pay", "1", "1") == "order 1: paid"


# Files.


def altered(snapshot: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """The snapshot with another value at a path such as "inputs.total"."""
    *parents, last = where.split(".")
    at = snapshot
    for key in parents:
        at = at[key]
    at[last] = value
    return snapshot


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("format", 99, "has the format 99"),
        ("at", "eaten", "it has no state 'eaten' any more"),
        ("at", [], ""),
        ("history", None, ""),
        ("metrics", {}, ""),
        ("inputs", {}, ""),
        ("inputs.total", "much", ""),
        ("inputs.order", 2, "but order 2"),
        ("metadata", {}, ""),
        ("metadata.audit", [{}], ""),
        ("value", None, ""),
    ],
)
def test_file_that_is_no_order_is_refused(
    tmp_path: Path, where: str, value: Any, words: str
) -> None:
    store = store_in(tmp_path)
    store.create("Ada", 100)
    text = json.dumps(altered(json.loads(store.path(1).read_text()), where, value))
    store.path(1).write_text(text)
    with pytest.raises(OrderError, match=rf"1\.json is no order.*{words}"):
        store_in(tmp_path).send(1, "cancel")
    assert store.path(1).read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["1.json"]


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"\xff", b"{}", b"[" * 100_000])
def test_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "1.json").write_bytes(content)
    with pytest.raises(OrderError, match=r"1\.json is no order"):
        store_in(tmp_path).load(1)


def test_order_that_lacks_what_a_state_needs_is_refused(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.create("Ada", 100)
    snapshot = altered(json.loads(store.path(1).read_text()), "value", {"due": 100})
    store.path(1).write_text(json.dumps(snapshot))
    with pytest.raises(OrderError, match="lacks values for 'attempts', 'declined'"):
        store_in(tmp_path).send(1, "pay", amount=100, card=GOOD_CARD)
    assert json.loads(store.path(1).read_text()) == snapshot


def test_directory_gets_numbers_that_were_never_used(tmp_path: Path) -> None:
    store = store_in(tmp_path / "deep" / "orders")
    assert [store.create("Ada", 100).number for _ in range(3)] == [1, 2, 3]
    store.path(2).unlink()
    assert store.create("Ada", 100).number == 4
    assert store.numbers() == [1, 3, 4]


def test_order_that_another_process_is_making_is_not_made_twice(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    with store.locked(1), pytest.raises(OrderError, match="being changed by another process"):
        store.create("Ada", 100)
    assert store.create("Ada", 100).number == 1


def test_refused_event_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.create("Ada", 100)
    before = store.path(1).read_bytes()
    for event, data in (("ship", {}), ("pay", {"amount": 101, "card": GOOD_CARD})):
        with pytest.raises(OrderError):
            store_in(tmp_path).send(1, event, **data)
    assert store.path(1).read_bytes() == before


def test_file_stays_small_however_many_payments_there_are(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.create("Ada", 100)
    for _ in range(40):
        store.send(1, "pay", amount=1, card=GOOD_CARD)
    snapshot = json.loads(store.path(1).read_text())
    assert len(snapshot["history"]) == 10
    assert len(snapshot["metadata"]["audit"]) == 81
    assert store.load(1).machine.cycle_count == 82


# The process.

EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("pay", {"amount": 40, "card": GOOD_CARD}),
    ("pay", {"amount": 60, "card": BAD_CARD}),
    ("pay", {"amount": 60, "card": GOOD_CARD}),
    ("cancel", {}),
]


def test_restoring_before_each_event_changes_nothing(tmp_path: Path) -> None:
    context = FSMContext(metadata={"customer": "Ada", "audit": []})
    machine = order_process(Bank()).start(order=1, total=100, context=context)
    store_in(tmp_path).create("Ada", 100)
    for event, data in EVENTS:
        machine.send(event, **data)
        order = store_in(tmp_path).send(1, event, **data)
        assert order.machine.value == machine.value
        assert order.machine.events == machine.events
    again = store_in(tmp_path).load(1)
    assert ways(again.audit) == ways(context.metadata["audit"])
    assert again.machine.state_history == machine.state_history
    assert again.machine.done


def test_bank_takes_and_returns_what_the_order_says(tmp_path: Path) -> None:
    bank = Bank()
    store = store_in(tmp_path, bank)
    store.create("Ada", 100)
    for event, data in EVENTS:
        store.send(1, event, **data)
    assert bank.done == {
        "order 1, payment 1": 40,
        "order 1, payment 3": 60,
        "order 1, refund": -100,
    }


def test_payment_that_was_not_written_down_is_charged_once(tmp_path: Path) -> None:
    bank = Bank()
    store = store_in(tmp_path, bank)
    store.create("Ada", 100)
    before = store.path(1).read_bytes()
    store.send(1, "pay", amount=100, card=GOOD_CARD)
    store.path(1).write_bytes(before)  # as though the process had been killed before it wrote
    store.send(1, "pay", amount=100, card=GOOD_CARD)
    assert bank.done == {"order 1, payment 1": 100}


def test_accepted_payment_forgives_the_declined_ones_before_it(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.create("Ada", 100)
    for card in (BAD_CARD, BAD_CARD, GOOD_CARD, BAD_CARD, BAD_CARD):
        order = store.send(1, "pay", amount=10, card=card)
    assert order.machine.state == "awaiting_payment"
    order = store.send(1, "pay", amount=10, card=BAD_CARD)
    assert (order.machine.state, order.machine.value["refunded"]) == ("cancelled", 10)


def test_refund_waits_for_the_bank_too(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.create("Ada", 100)
    store.send(1, "pay", amount=10, card=GOOD_CARD)
    with pytest.raises(OrderError, match="asked 3 times"):
        store_in(tmp_path, Bank(fails=3)).send(1, "cancel")
    assert str(store.load(1)) == "order 1: refunding, 0.90 due, to be retried"
    bank = Bank()
    assert str(store_in(tmp_path, bank).retry(1)) == "order 1: cancelled, 0.10 refunded"
    assert bank.done == {"order 1, refund": -10}


def test_order_without_payments_is_cancelled_without_the_bank(tmp_path: Path) -> None:
    store_in(tmp_path).create("Ada", 100)
    order = store_in(tmp_path, Bank(fails=99)).send(1, "cancel")
    assert str(order) == "order 1: cancelled"


def test_audit_trail_has_each_transition_once(tmp_path: Path) -> None:
    store_in(tmp_path).create("Ada", 100)
    with pytest.raises(OrderError):
        store_in(tmp_path, Bank(fails=3)).send(1, "pay", amount=100, card=BAD_CARD)
    with pytest.raises(OrderError):
        store_in(tmp_path, Bank(fails=3)).retry(1)
    order = store_in(tmp_path).retry(1)
    assert ways(order.audit) == [
        ("placed", "awaiting_payment", 100),
        ("awaiting_payment", "paying", 100),
        ("paying", "awaiting_payment", 100),
    ]
    assert [each["reason"] for each in order.audit] == [
        None,
        None,
        "the number of the card is wrong",
    ]


def test_failure_that_nobody_expects_is_not_hidden(tmp_path: Path) -> None:
    class Mad(Bank):
        def charge(self, reference: str, card: str, cents: int) -> str | None:
            raise RuntimeError("a bug")

    store_in(tmp_path).create("Ada", 100)
    with pytest.raises(ExecutionError, match="a bug"):
        store_in(tmp_path, Mad()).send(1, "pay", amount=1, card=GOOD_CARD)
    assert store_in(tmp_path).send(1, "cancel").machine.done


def test_process_is_valid_and_every_state_can_be_reached() -> None:
    assert order_process(Bank()).validate() == []


@pytest.mark.parametrize(
    ("card", "is_right"),
    [("79927398713", False), ("4242 4242 4242 4242", True), (BAD_CARD, False), ("", False)],
)
def test_check_digit(card: str, is_right: bool) -> None:
    assert program.has_right_check_digit(card) is is_right
