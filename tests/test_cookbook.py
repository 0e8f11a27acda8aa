"""The programs of the cookbook print what its page says, and mind what is not as it should be."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.patience import LONG

ROOT = Path(__file__).parents[1]
PROGRAMS = ROOT / "examples" / "cookbook"


class Recipe(NamedTuple):
    """A section of the page: the program it links to, its commands, and what these print."""

    program: str
    commands: list[str]
    printed: str


def recipes() -> list[Recipe]:
    text = (ROOT / "docs" / "cookbook.md").read_text(encoding="utf-8")
    section = re.compile(
        r"\[The program\.\]\(\.\./examples/cookbook/(\w+\.py)\)\n\n"
        r"```sh\n(.*?)```\n\n```text\n(.*?)```",
        re.DOTALL,
    )
    return [Recipe(each[1], each[2].splitlines(), each[3]) for each in section.finditer(text)]


def call(command: str, where: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the page, with this Python, in another directory."""
    words = shlex.split(command)
    if words[0] == "python":
        words = [sys.executable, str(ROOT / words[1]), *words[2:]]
    done = subprocess.run(
        words,
        cwd=where,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        timeout=LONG,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def run(program: str, where: Path) -> subprocess.CompletedProcess[str]:
    return call(f"python examples/cookbook/{program}", where)


def test_page_tells_of_each_program_once() -> None:
    assert sorted(each.program for each in recipes()) == sorted(
        path.name for path in PROGRAMS.glob("*.py")
    )


SLOW = ("charge_cards.py", "crawl_site.py", "daily_sales.py", "fetch_pages.py")
NEEDED = {
    "array_chain.py": ["cloudpickle"],
    "log_shards.py": ["cloudpickle"],
    "nightly_job.py": ["yaml"],
    "sweep_table.py": ["cloudpickle"],
    "warm_model.py": ["cloudpickle"],
    "watch_nodes.py": ["rich"],
    "web_service.py": ["fastapi", "httpx", "uvicorn"],
}


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(
            recipe,
            id=recipe.program,
            marks=[
                pytest.mark.needs(*NEEDED.get(recipe.program, [])),
                *([pytest.mark.stress] if recipe.program in SLOW else []),
            ],
        )
        for recipe in recipes()
    ],
)
def test_program_prints_what_the_page_says(recipe: Recipe, tmp_path: Path) -> None:
    assert all(recipe.program in each or each.startswith("mkdir ") for each in recipe.commands)
    assert "".join(call(each, tmp_path).stdout for each in recipe.commands) == recipe.printed


def test_csv_files_of_ones_own_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("day,product,pieces\n2026-01-02,pen,3\n2026-01-02,,3\n")
    told = run("csv_to_sqlite.py mine.csv none.csv", tmp_path).stdout
    assert told.splitlines()[:2] == ["pen      3 pieces", "rejected mine.csv:3: no product"]
    assert "No such file" in told.splitlines()[2]


@pytest.mark.needs("cloudpickle")
@pytest.mark.parametrize("mode", ["sequential", pytest.param("process", marks=pytest.mark.stress)])
def test_a_log_is_counted_alike_in_every_mode(mode: str, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    assert "most failures" in run("log_shards.py --mode process", tmp_path).stdout
    line = '10.0.0.1 - - [01/Jan/2026:00:00:00 +0000] "GET {} HTTP/1.1" {} 100\n'
    log.write_text("".join(line.format(f"/{n % 3}", 500 if n % 5 else 200) for n in range(99)))
    told = run(f"log_shards.py --mode {mode} --shards 7 --file access.log", tmp_path)
    assert told.stdout.startswith("99 requests"), told


def test_a_build_finds_what_another_process_made(tmp_path: Path) -> None:
    first = run("incremental_build.py --cache kept", tmp_path).stdout
    second = run("incremental_build.py --cache kept", tmp_path).stdout
    assert "made 4, found 0" in first
    assert "made 0, found 4" in second.splitlines()[1]


def test_a_report_goes_on_with_what_was_kept(tmp_path: Path) -> None:
    failed = run("resume_report.py --outbox out", tmp_path)
    assert failed.returncode == 1
    kept = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert kept["failed"] == "deliver"
    kept["results"]["render"] = "made by hand"
    (tmp_path / "report.json").write_text(json.dumps(kept), encoding="utf-8")
    (tmp_path / "out").mkdir()
    assert run("resume_report.py --outbox out", tmp_path).stdout.splitlines() == [
        "delivering",
        "delivered 12 characters",
    ]
    assert (tmp_path / "out" / "report.txt").read_text(encoding="utf-8") == "made by hand"
    assert not (tmp_path / "report.json").exists()


def test_a_report_goes_on_from_any_step(tmp_path: Path) -> None:
    text = (PROGRAMS / "resume_report.py").read_text(encoding="utf-8")
    broken = text.replace('print("counting")', 'raise OSError("the disk is full")')
    (tmp_path / "broken.py").write_text(broken, encoding="utf-8")
    failed = call(f"python {tmp_path / 'broken.py'} --outbox {tmp_path}", tmp_path).stdout
    assert failed.splitlines() == ["collecting", "searching", "count failed: the disk is full"]
    told = run(f"resume_report.py --outbox {tmp_path}", tmp_path).stdout
    assert told.splitlines()[:-1] == ["counting", "rendering", "delivering"]


def test_a_breaker_closes_after_a_call_that_is_well(tmp_path: Path) -> None:
    run("circuit_breaker.py kept.json --at 0 fail fail fail", tmp_path)
    told = run("circuit_breaker.py kept.json --at 61 ok fail", tmp_path).stdout
    assert told.splitlines() == [
        "called, ok: half_open -> closed",
        "called, fail: closed -> closed",
    ]


@pytest.mark.needs("click")
def test_log_of_a_run_is_json_and_its_report_a_page(tmp_path: Path) -> None:
    told = run("watch_nodes.py --seconds --report run.html", tmp_path).stdout.splitlines()
    events = [json.loads(line) for line in told if line.startswith("{")]
    assert all(each["seconds"] >= 0 for each in events if each["event"] == "completed")
    assert (tmp_path / "run.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.one_in(3)
@pytest.mark.needs("yaml")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("", 0),
        ("--set keep=2 --timeout 50", 0),
        ("--set source=nothing", 1),
        ("--set keep=0", 1),
        ("--set kept=2", 2),
        ("--timeout 0.000001", 124),
    ],
)
def test_job_tells_by_its_exit_status_how_it_ended(
    arguments: str, status: int, tmp_path: Path
) -> None:
    run("nightly_job.py night --example", tmp_path)
    done = run(f"nightly_job.py night/job.yaml {arguments}", tmp_path)
    assert done.returncode == status, done
    assert bool(done.stderr) == bool(status)


@pytest.mark.needs("yaml")
@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("function: pack", "function: os:remove", "os:remove"),
        ("retry: 2", "retries: 2", "did you mean 'retry'?"),
        ("target: packed", "target: pack", "did you mean 'packed'?"),
    ],
)
def test_job_that_is_not_right_does_nothing(
    right: str, wrong: str, told: str, tmp_path: Path
) -> None:
    run("nightly_job.py night --example", tmp_path)
    job = tmp_path / "night" / "job.yaml"
    job.write_text(job.read_text(encoding="utf-8").replace(right, wrong), encoding="utf-8")
    done = run("nightly_job.py night/job.yaml", tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "night" / "copies").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "last"),
    [
        ("'what do 4 spoons cost?'", 0, "5, in 6 steps"),
        ("'what do 4 forks cost?'", 0, "no sum: SyntaxError, without the fork, in 6 steps"),
        ("'what do 4 spoons cost?' --steps 6", 0, "5, in 6 steps"),
        ("'what do 4 spoons cost?' --steps 5", 1, "no answer after 5 steps"),
    ],
)
def test_agent_answers_within_its_steps(
    arguments: str, status: int, last: str, tmp_path: Path
) -> None:
    done = run(f"ask_agent.py {arguments}", tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (status, last)


@pytest.mark.stress
def test_a_month_that_cannot_be_read_leaves_a_gap_in_the_table(tmp_path: Path) -> None:
    run("daily_sales.py sales --example", tmp_path)
    (tmp_path / "sales" / "2026-02.csv").write_text("day,item\n2026-02-01,tea\n", encoding="utf-8")
    done = run("daily_sales.py sales", tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].split() == ["2026-01", "2026-03"]
    assert done.stderr.startswith("2026-02 failed: ")


def test_a_case_is_decided_in_other_processes_and_only_once(tmp_path: Path) -> None:
    run("approve_refund.py open case.json 'a pot and a spoon'", tmp_path)
    before = (tmp_path / "case.json").read_text(encoding="utf-8")
    shown = run("approve_refund.py show case.json", tmp_path).stdout
    assert shown == "23.25 for 'a pot and a spoon': ['approve', 'change', 'refuse']\n"
    assert (tmp_path / "case.json").read_text(encoding="utf-8") == before
    assert run("approve_refund.py decide case.json refuse", tmp_path).stdout == "refused by Ada\n"
    refused = run("approve_refund.py decide case.json approve", tmp_path)
    assert refused.returncode == 2
    assert "has ended" in refused.stderr
    assert run("approve_refund.py show case.json", tmp_path).stdout == "refused by Ada\n"
