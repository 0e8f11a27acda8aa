"""Orders that are paid, shipped or cancelled by one command after another, each its own process.

    python examples/orders.py new "Ada Lovelace" 30       order 1: awaiting_payment, 30.00 due
    python examples/orders.py pay 1 10                    order 1: awaiting_payment, 20.00 due
    python examples/orders.py pay 1 20 --bank-fails 3     error: the bank does not answer ...
    python examples/orders.py retry 1                     order 1: paid
    python examples/orders.py ship 1                      order 1: shipped
    python examples/orders.py show 1                      with its audit trail
    python examples/orders.py list                        all orders of the directory `orders`

It is written to be read as an introduction to events and snapshots of an `FSM`. The process:

    placed >> awaiting_payment
    awaiting_payment >> paying            on "pay", where the amount is not more than what is due
    awaiting_payment >> refunding         on "cancel"
    paying >> paid                        when nothing is due any more
    paying >> refunding                   when payments were declined three times in a row
    paying >> awaiting_payment            else
    paid >> shipped                       on "ship"
    paid >> refunding                     on "cancel"
    refunding >> cancelled

Between two commands an order is a file: the snapshot of its machine, as JSON. A command restores
the machine, sends it one event, and writes the next snapshot, in which the audit trail is too.

A bank that does not answer is asked twice more. If it keeps silent, the state fails and the order
is kept as it is then: with `paying` still to be executed, and the payment that the event brought.
`retry` does that, on another day and in another process.

The bank is a stand-in that declines cards whose number has a wrong check digit. It is no part of a
snapshot: each process opens its own, as a resource. Amounts are counted in cents.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_dag import FSM, ExecutionError, FSMContext, InvalidTransitionError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fast_dag import Machine

PROGRAM = "orders"
CARD = "4000 0000 0000 0002"
MOST_DECLINED = 3

NUMBER = re.compile(r"[1-9][0-9]{0,8}")
MONEY = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,2}))?")


class OrderError(Exception):
    """Raised for what cannot be done to an order, with the reason."""


class UnreachableError(ConnectionError):
    """Raised when the bank does not answer."""


class Bank:
    """A stand-in for a bank, whose line fails a number of times before it works."""

    def __init__(self, fails: int = 0) -> None:
        self.fails = fails
        self.done: dict[str, int] = {}  # cents by reference

    def charge(self, reference: str, card: str, cents: int) -> str | None:
        """Take money; returns why not, where the bank declines. A reference is charged once,
        however often that is asked for."""
        self._connect()
        if not has_right_check_digit(card):
            return "the number of the card is wrong"
        self.done.setdefault(reference, cents)
        return None

    def refund(self, reference: str, cents: int) -> None:
        """Give money back, once for each reference."""
        self._connect()
        self.done.setdefault(reference, -cents)

    def _connect(self) -> None:
        if self.fails > 0:
            self.fails -= 1
            raise UnreachableError("the bank does not answer")


def has_right_check_digit(card: str) -> bool:
    """Whether the digits of a number fit together (Luhn)."""
    digits = [int(each) for each in card if each.isdecimal()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return len(digits) >= 12 and (sum(digits[::-2]) + sum(doubled)) % 10 == 0


# The states. Each is given what the state before returned, by the names of its parameters, and what
# an event brought (`amount`, `card`), the inputs of the order (`order`, `total`), and the bank.


def account(due: int, attempts: int = 0, declined: int = 0, **more: Any) -> dict[str, Any]:
    """What states hand on: cents due, payments tried, and how many of the last were declined."""
    return {"due": due, "attempts": attempts, "declined": declined, **more}


def placed(total: int) -> dict[str, Any]:
    """A new order owes everything."""
    return account(total)


def awaiting_payment(due: int, attempts: int, declined: int) -> dict[str, Any]:
    """Nothing to do but to wait for an event."""
    return account(due, attempts, declined)


def paying(
    bank: Bank, order: int, due: int, attempts: int, declined: int, amount: int, card: str
) -> dict[str, Any]:
    """One payment, of all that is due or of a part."""
    problem = bank.charge(f"order {order}, payment {attempts + 1}", card, amount)
    if problem is not None:
        return account(due, attempts + 1, declined + 1, reason=problem)
    return account(due - amount, attempts + 1)


def paid(due: int, attempts: int) -> dict[str, Any]:
    """Ready to be shipped."""
    return account(due, attempts)


def shipped(due: int, attempts: int) -> dict[str, Any]:
    """The end that everyone hopes for."""
    return account(due, attempts)


def refunding(bank: Bank, order: int, total: int, due: int, attempts: int) -> dict[str, Any]:
    """Give back what was paid."""
    if total > due:
        bank.refund(f"order {order}, refund", total - due)
    return account(0, attempts, refunded=total - due)


def cancelled(due: int, attempts: int, refunded: int) -> dict[str, Any]:
    """The other end."""
    return account(due, attempts, refunded=refunded)


def is_payable(value: Mapping[str, Any], context: object, data: Mapping[str, Any]) -> bool:
    """The guard of "pay": nobody pays more than is due."""
    return bool(0 < data["amount"] <= value["due"])


def audit(fsm: FSM, from_state: str, to_state: str, result: Mapping[str, Any]) -> None:
    """The state hook: note each transition, where the snapshot will have it."""
    fsm.context.metadata["audit"].append(
        {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "from": from_state,
            "to": to_state,
            "due": result["due"],
            "reason": result.get("reason"),
        }
    )


def order_process(bank: Bank) -> FSM:
    """The machine of which every order is a run."""
    fsm = FSM(
        "order",
        initial_state="placed",
        terminal_states=["shipped", "cancelled"],
        keep_history=10,
        description="From an order to its shipment or cancellation",
    )

    @fsm.resource("bank")
    def line_to_the_bank() -> Iterator[Bank]:
        """Open from the first state that needs it, until the machine waits or ends."""
        yield bank

    fsm.add_state("placed", placed)
    fsm.add_state("awaiting_payment", awaiting_payment)
    fsm.add_state("paying", paying, retry=2, retry_on=UnreachableError, retry_delay=0.02)
    fsm.add_state("paid", paid)
    fsm.add_state("shipped", shipped)
    fsm.add_state("refunding", refunding, retry=2, retry_on=UnreachableError, retry_delay=0.02)
    fsm.add_state("cancelled", cancelled)

    fsm.add_transition("placed", "awaiting_payment")
    fsm.add_transition("awaiting_payment", "paying", is_payable, event="pay")
    fsm.add_transition("awaiting_payment", "refunding", event="cancel")
    fsm.add_transition("paying", "paid", lambda value: value["due"] == 0)
    fsm.add_transition("paying", "refunding", lambda value: value["declined"] >= MOST_DECLINED)
    fsm.add_transition("paying", "awaiting_payment")
    fsm.add_transition("paid", "shipped", event="ship")
    fsm.add_transition("paid", "refunding", event="cancel")
    fsm.add_transition("refunding", "cancelled")

    fsm.add_state_hook(audit)
    return fsm


# Orders in files.


class Order(NamedTuple):
    """An order and its machine."""

    number: int
    total: int
    machine: Machine
    seen: int = 0  # transitions of which earlier commands have told

    @property
    def customer(self) -> str:
        """Whose it is."""
        return str(self.machine.context.metadata["customer"])

    @property
    def audit(self) -> list[dict[str, Any]]:
        """All transitions so far."""
        trail: list[dict[str, Any]] = self.machine.context.metadata["audit"]
        return trail

    @property
    def is_unfinished(self) -> bool:
        """Whether a state has failed, and is still to be executed."""
        return self.machine.next_state is not None

    def __str__(self) -> str:
        value = self.machine.value
        text = f"order {self.number}: {self.machine.state}"
        if value["due"]:
            text += f", {money(value['due'])} due"
        if value.get("refunded"):
            text += f", {money(value['refunded'])} refunded"
        return f"{text}, to be retried" if self.is_unfinished else text


class Store:
    """A directory of orders, one JSON file each: the snapshot of its machine."""

    def __init__(self, directory: Path, process: FSM) -> None:
        self.directory = directory
        self.process = process

    def path(self, number: int) -> Path:
        """The file of an order."""
        return self.directory / f"{number}.json"

    def numbers(self) -> list[int]:
        """The numbers of all orders."""
        if not self.directory.is_dir():
            return []
        names = (each.stem for each in self.directory.glob("*.json"))
        return sorted(int(name) for name in names if NUMBER.fullmatch(name))

    def create(self, customer: str, total: int) -> Order:
        """A new order, which has gone as far as it can."""
        self.directory.mkdir(parents=True, exist_ok=True)
        number = max(self.numbers(), default=0) + 1
        with self.locked(number):
            if self.path(number).exists():
                raise OrderError(f"order {number} was made by another process; try again")
            context = FSMContext(metadata={"customer": customer, "audit": []})
            machine = self.process.start(order=number, total=total, context=context)
            machine.run()
            order = Order(number, total, machine)
            self.save(order)
        return order

    def load(self, number: int) -> Order:
        """An order, to go on where it was. Raises OrderError where there is no good one."""
        path = self.path(number)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            raise OrderError(f"there is no order {number} in {self.directory}") from None
        try:
            snapshot = json.loads(text)
            machine = self.process.restore(snapshot)
            inputs, trail = snapshot["inputs"], snapshot["metadata"]["audit"]
            order = Order(number, inputs["total"], machine, len(trail))
            described(order)  # which needs all that an order has
        except ValueError as error:
            raise OrderError(f"{path} is no order: {error}") from error
        except (TypeError, LookupError, AttributeError, RecursionError) as error:
            raise OrderError(f"{path} is no order: {type(error).__name__}: {error}") from error
        if inputs["order"] != number:
            raise OrderError(f"{path} is no order {number}, but order {inputs['order']}")
        return order

    def save(self, order: Order) -> None:
        """Write the snapshot: the old file or the new one is there whole, whatever happens."""
        path = self.path(order.number)
        beside = path.with_suffix(".new")
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(order.machine.snapshot(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)

    @contextmanager
    def locked(self, number: int) -> Iterator[None]:
        """Nobody else changes the order meanwhile. Raises OrderError where somebody does."""
        lock = self.path(number).with_suffix(".lock")
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            raise OrderError(
                f"order {number} is being changed by another process; if that is not so, one was "
                f"killed: look at the order, and remove {lock}"
            ) from None
        try:
            yield
        finally:
            lock.unlink()

    def send(self, number: int, event: str, **data: Any) -> Order:
        """Send an event to an order, and keep what comes of it."""
        with self.changed(number) as order:
            if order.is_unfinished:
                raise OrderError(
                    f"order {number} has not come out of {order.machine.next_state!r} yet; "
                    f"finish that by: retry {number}"
                )
            order.machine.send(event, **data)
        return order

    def retry(self, number: int) -> Order:
        """Execute again the state that failed."""
        with self.changed(number) as order:
            if not order.is_unfinished:
                raise OrderError(f"order {number} has nothing to be retried")
            order.machine.run()
        return order

    @contextmanager
    def changed(self, number: int) -> Iterator[Order]:
        """An order that is written down after it was changed, also where a state failed."""
        if not self.path(number).exists():
            raise OrderError(f"there is no order {number} in {self.directory}")
        with self.locked(number):
            order = self.load(number)
            try:
                yield order
            except InvalidTransitionError as error:
                raise OrderError(f"order {number}: {why_not(order, error)}") from error
            except ExecutionError as error:
                if isinstance(error.__cause__, ValidationError):
                    raise OrderError(f"{self.path(number)} is no whole order: {error}") from error
                if not isinstance(error.__cause__, UnreachableError):
                    raise
                self.save(order)
                raise OrderError(
                    f"{error.__cause__} (asked {error.attempts} times); order {number} is kept as "
                    f"it is; later: retry {number}"
                ) from error
            self.save(order)


def why_not(order: Order, error: InvalidTransitionError) -> str:
    """Why an event was refused."""
    machine = order.machine
    if machine.done:
        return f"it is {machine.state}, which is its end"
    heard = " or ".join(machine.events)
    if getattr(error, "event", None) in machine.events or not hasattr(error, "event"):
        return f"no more than {money(machine.value['due'])} can be paid"
    return f"it is {machine.state}, where it can only {heard}"


def described(order: Order) -> list[str]:
    """The lines that show an order."""
    lines = [
        str(order),
        f"  customer  {printable(order.customer)}",
        f"  total     {money(order.total)}",
        f"  possible  {', '.join(order.machine.events) or 'nothing'}",
    ]
    for entry in order.audit:
        reason = f" ({entry['reason']})" if entry["reason"] else ""
        way = f"{entry['from']} -> {entry['to']}"
        lines.append(f"  {entry['at']}  {way:<30}{money(entry['due']):>12} due{reason}")
    return lines


def money(cents: int) -> str:
    """An amount as people write it."""
    return f"{cents // 100}.{cents % 100:02}"


def printable(text: str) -> str:
    """A text on one line."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


# The command line.


def number(text: str) -> int:
    """An argument that is the number of an order."""
    if not NUMBER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!a} is not the number of an order")
    return int(text)


def cents(text: str) -> int:
    """An argument that is an amount."""
    match = MONEY.fullmatch(text)
    amount = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0")) if match else 0
    if not amount:
        raise argparse.ArgumentTypeError(f"{text!a} is no amount, such as 30 or 29.95")
    return amount


def count(text: str) -> int:
    """An argument that is a number from 0."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!a} is not a whole number, 0 or more")
    return int(text)


def arguments() -> argparse.ArgumentParser:
    """What the program may be told."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Take orders through payment and shipment, one command at a time.",
        epilog="Exit status: 0 where it was done, 1 where it was refused or failed, 2 where the "
        "arguments are wrong.",
    )
    parser.add_argument("--directory", type=Path, default=Path("orders"),
        help="where the orders are (default: orders)")  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    def of_order(name: str, text: str, asks_bank: bool = False) -> argparse.ArgumentParser:
        added = command(name, text)
        added.add_argument("number", type=number, metavar="ID")
        if asks_bank:
            added.add_argument("--bank-fails", type=count, default=0, metavar="TIMES",
                help="how often the bank does not answer (default: 0)")  # fmt: skip
        return added

    new = command("new", "make an order")
    new.add_argument("customer", metavar="CUSTOMER")
    new.add_argument("total", type=cents, metavar="TOTAL")
    pay = of_order("pay", "pay what is due, or a part of it", asks_bank=True)
    pay.add_argument("amount", type=cents, metavar="AMOUNT")
    pay.add_argument("--card", default=CARD, metavar="NUMBER", help=f"default: {CARD}")
    of_order("retry", "go on where the bank did not answer", asks_bank=True)
    of_order("ship", "ship what is paid")
    of_order("cancel", "cancel, and refund what was paid", asks_bank=True)
    of_order("show", "show an order and its audit trail")
    command("list", "list all orders")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    options = arguments().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack some letters
    process = order_process(Bank(getattr(options, "bank_fails", 0)))
    try:
        return perform(options, Store(options.directory, process))
    except OrderError as error:
        return complain(error)
    except OSError as error:
        return complain(f"{error.filename or options.directory}: {error.strerror or error}")


def perform(options: Any, store: Store) -> int:
    """Do what was asked for."""
    match options.command:
        case "list":
            return list_orders(store)
        case "show":
            print(*described(store.load(options.number)), sep="\n")
            return 0
        case "new":
            order = store.create(options.customer, options.total)
        case "retry":
            order = store.retry(options.number)
        case "pay":
            order = store.send(options.number, "pay", amount=options.amount, card=options.card)
        case event:
            order = store.send(options.number, event)
    print(order, flush=True)
    declined = [entry["reason"] for entry in order.audit[order.seen :] if entry["reason"]]
    return complain(f"the bank has declined: {declined[0]}") if declined else 0


def list_orders(store: Store) -> int:
    """One line for each order; the broken ones are told of, and do not hide the others."""
    status = 0
    for each in store.numbers():
        try:
            order = store.load(each)
        except OrderError as error:
            status = complain(error)
        else:
            print(f"{order} ({printable(order.customer)}, {money(order.total)})", flush=True)
    return status


def complain(problem: object) -> int:
    """Say in one line what went wrong."""
    print(f"{PROGRAM}: error: {' '.join(printable(str(problem)).split())}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
