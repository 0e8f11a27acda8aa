"""The command `fast-dag`, driven as a process: over good and bad input, with a terminal and
without."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pexpect
import pytest

from fast_dag.cli.target import Target
from fast_dag.cli.tree import tree
from fast_dag.define.dag import DAG
from tests.patience import LONG, timeouts
from tests.ways import MODES_EVERYWHERE

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("click")

SHOP = """
from fast_dag import DAG, ConditionalReturn

dag = DAG("shop", description="Sells things")

@dag.node
def prices(basket=(3, 4), rate: float = 1.0):
    print("asked for prices")
    return [each * rate for each in basket]

@dag.node(retry=1, retry_delay=0)
def total(prices):
    return sum(prices)

@dag.node
def text(total, currency="EUR"):
    return f"{total} {currency}"

prices >> total >> text
"""
SEVERAL = """
from fast_dag import DAG, FSM
inner = DAG("inner").add_node("double", lambda x: 2 * x)
outer = DAG("outer").add_node("inner", inner)
other = DAG("other", description="Another").add_node("one", lambda: 1)
same = other
_hidden = DAG("hidden")
number = 3
"""
FAILING = """
from fast_dag import DAG

def helper(n):
    return 1 / n

dag = DAG("failing")
@dag.node
def load(n: int = 0):
    return n
@dag.node
def inverse(load):
    return helper(load)
@dag.node
def beside():
    return "beside"
@dag.node
def after(inverse):
    return inverse
load >> inverse >> after
"""
GAME = """
from fast_dag import FSM
fsm = FSM("game", initial_state="draw", terminal_states=["won"])
fsm.add_state("draw", lambda n=0: n + 1).add_state("won", lambda n: f"won by {n}")
fsm.add_transition("draw", "won", lambda n: n > 2).add_transition("draw", "draw")
"""
INVALID = """
from fast_dag import DAG
dag = DAG("invalid").add_node("a", lambda x: x).add_node("b", lambda x: x)
dag.connect("a", "b").connect("b", "a")
fine = DAG("fine").add_node("one", lambda: 1)
"""
VALUES = """
from fast_dag import DAG
dag = DAG("values")
@dag.node
def given(x):
    return x
@dag.node
def kind(given):
    return type(given).__name__
given >> kind
odd = DAG("odd").add_node("odd", lambda: {1: {2.5, 2.5}, "nan": float("nan"), "pair": (1, None)})
class Silent:
    def __repr__(self):
        raise ValueError
silent = DAG("silent").add_node("silent", Silent)
nothing = DAG("nothing").add_node("nothing", lambda: None)
kinds = DAG("kinds").add_node("kinds", lambda **given: given)
"""
FOREIGN = """
from fast_dag import DAG
dag = DAG("größe").add_node("→é", lambda: "→é \\ud800")
dag.add_node("↓", lambda x: {"→": x}).connect("→é", "↓")
red = DAG("red").add_node("red", lambda: "\\x1b[31mred")
"""
ODD_ERRORS = """
from fast_dag import DAG

class Odd(Exception):
    def __getattribute__(self, name):
        raise RuntimeError(name)

def odd():
    raise Odd("boo")

class Value:
    __class__ = property(lambda self: 1 / 0)

dag = DAG("odd").add_node("odd", odd)
value = DAG("value").add_node("value", lambda: [Value()])
"""
WAITING = """
import asyncio, threading
from fast_dag import DAG

dag = DAG("waiting")
@dag.node
def first():
    return 1
@dag.node
def wait(first):
    print("waiting", flush=True)
    while not threading.Event().wait(0.05):  # a signal just before a wait is seen after it
        pass
@dag.node
def never(wait):
    print("never")
first >> wait >> never

later = DAG("later")
@later.node
async def wait_for_it():
    print("waiting", flush=True)
    await asyncio.Event().wait()
"""
LEAVING_NODES = """
import sys, threading
from fast_dag import DAG, FSM

class Stop(BaseException):
    def __str__(self):
        raise ValueError

KINDS = {
    "zero": lambda: sys.exit(0),
    "none": lambda: sys.exit(),
    "text": lambda: sys.exit("no more"),
    "raised": lambda: (_ for _ in ()).throw(Stop),
}
dag = DAG("dag")
@dag.node
def first():
    return 1
@dag.node
def leave(first, kind="zero"):
    KINDS[kind]()
@dag.node
def never(leave):
    return 2
first >> leave >> never

outer = DAG("outer").add_node("sub", dag)
fsm = FSM("fsm").add_state("leave", lambda: sys.exit(3), initial=True, terminal=True)

hung_up = DAG("hung_up")
@hung_up.node
def hang_up():
    import os, signal
    os.kill(os.getpid(), signal.SIGHUP)
    return "still here"

sub = DAG("sub")
@sub.node
def ends(begun):
    import pathlib, time
    while len(list(pathlib.Path(begun).iterdir())) < 2:
        time.sleep(0.01)
    sys.exit(5)
beside = DAG("beside").add_node("sub", sub)
for name in ("one", "two"):
    @beside.node(name=name)
    def waits(begun, name=name):
        import pathlib
        pathlib.Path(begun, name).touch()
        threading.Event().wait(30)

wide = DAG("wide")
@wide.node
async def leave_soon():
    sys.exit(4)
@wide.node
def wait():
    threading.Event().wait(3)
"""
CLEAN = """
import sys, threading
from fast_dag import DAG

def told(text):
    print(text, file=sys.stderr, flush=True)

dag = DAG("dag")
@dag.resource("db")
def connect():
    yield "db"
    told("closed")
@dag.node
def first(db):
    return db
@dag.node
def wait(first):
    told("waiting")
    while not threading.Event().wait(0.05):
        pass
@dag.node
async def wait_on_loop(first):
    import asyncio
    await asyncio.Event().wait()
dag.set_node_hooks("wait", cleanup=lambda node: told("cleaned up"))
first >> [wait, wait_on_loop]
"""
LOUD = """
import atexit, os, sys, threading
from fast_dag import DAG

print("imported \\u2603")
os.write(1, b"raw\\n")
atexit.register(print, "left")
let_go = threading.Event()
dag = DAG("gr\xf6\xdfe", description="\\u2603 \\ud800")
@dag.node(name="größe")
def named(x="\xe4"):
    print("node \\u2603")
    os.system("echo child")
    return {"\\u2603": "\\ud800"}
late = DAG("late")
@late.node
def wait():
    print("begun", flush=True)
    printed.clear()
    let_go.wait(60)
    print("late", flush=True)
    printed.set()
printed = threading.Event()
printed.set()
def leave():
    let_go.set()
    printed.wait(60)
atexit.register(leave)

swapped = DAG("swapped")
@swapped.node
def swap():
    sys.stdout = open(os.devnull, "w")
    return "seen"
"""
AWKWARD = """
import logging, sys
from fast_dag import DAG

def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value

circle = []
circle += [circle, circle]
made = {
    "long": 10**6000, "longs": [10**6000], "deep": nested(3000), "edge": nested(399),
    "circle": circle, "set": {1}, "one": 1,
}
dag = DAG("dag")
for name, value in made.items():
    dag.add_node(name, lambda value=value: value, inputs=[])
dag.add_node("last", lambda set: len(set)).connect("set", "last")

logs = DAG("logs")
@logs.node
def log():
    logging.getLogger("mine").info("told by %s", "me")

forgetful = DAG("forgetful")
@forgetful.node
def forget(context):
    context.metadata.clear()
"""
STORED = """
import os, sys, threading, time
from fast_dag import DAG

class Order:
    def __init__(self, number):
        self.number = number

dag = DAG("stored", remember=False)
@dag.node
def load(number=3):
    print("loaded", file=sys.stderr)
    return Order(number)
@dag.node
def opened(load):
    return lambda: load.number  # which does not pickle
@dag.node
def end(load, opened, how="well"):
    print("ending", file=sys.stderr, flush=True)
    match how:
        case "badly":
            raise ValueError("no")
        case "leaving":
            sys.exit(0)
        case "never":
            while not threading.Event().wait(0.05):
                pass
    return opened() + load.number
load >> opened >> end
load >> end

outer = DAG("outer").add_node("stored", dag).add_node("shown", lambda stored: stored)
outer.connect("stored", "shown")
mapped = DAG("mapped")
@mapped.map
def each(item, fails=None):
    if item == fails:
        raise ValueError
    return lambda: item
@mapped.node
def total(each):
    return sum(call() for call in each)
each >> total
unkept = DAG("unkept")
@unkept.node
def refer(context):
    context.metadata["lock"] = threading.Lock()
"""
OPTIONS = """
from fast_dag import DAG, FSM, FSMReturn, Limits, Rate

limits = Limits(db=4, api=Rate(10))
dag = DAG("options", limits=limits)

@dag.node(uses={"db": 2, "api": 1}, priority=3)
def load():
    return 1
@dag.select(several=True, retry=1, retry_on=(ValueError, OSError))
def ways(load):
    return ["a"]
@dag.node
def a(ways):
    return 1
@dag.any(wait=True)
def either(a):
    return 1
@dag.all(collect="parts")
def end(parts):
    return 1
load >> ways
dag.connect("ways", "a", output="a").connect("a", "either").connect("either", "end")
dag.connect("load", "end", optional=True)

fsm = FSM("machine", initial_state="try", on_error="give_up", limits=limits)
fsm.add_state("try", lambda: 1, on_error="repair").add_state("repair", lambda: 2)
fsm.add_terminal_state("give_up", lambda: 3)

def is_one(value):
    return value == 1
fsm.add_transition("try", "repair", is_one).add_transition("repair", "give_up", event="error")
"""
FILES = {
    "options.py": OPTIONS,
    "stored.py": STORED,
    "leaving_nodes.py": LEAVING_NODES,
    "clean.py": CLEAN,
    "loud.py": LOUD,
    "awkward.py": AWKWARD,
    "shop.py": SHOP,
    "several.py": SEVERAL,
    "failing.py": FAILING,
    "game.py": GAME,
    "invalid.py": INVALID,
    "values.py": VALUES,
    "waiting.py": WAITING,
    "foreign.py": FOREIGN,
    "odd.py": ODD_ERRORS,
    "nothing.py": "x = 1\n",
    "loose.py": FAILING,
    "broken.py": "import os\n\n1 / 0\n",
    "syntax.py": "def f(:\n",
    "leaving.py": "raise SystemExit(3)\n",
    "needing.py": "import not_there_at_all\n",
    "clash/json.py": SHOP,  # a name of the standard library
    "my-flow.v2.py": SHOP,
    "package/__init__.py": "",
    "package/steps.py": "def one(): return 1\n",
    "package/flow.py": (
        "from fast_dag import DAG\nfrom .steps import one\ndag = DAG('flow').add_node('one', one)\n"
    ),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with workflows."""
    directory = tmp_path_factory.mktemp("cli")
    for name, text in FILES.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return directory


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("_FAST_DAG")}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", **more}


class Done:
    """A command that ended."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.code = process.returncode
        self.out = process.stdout
        self.err = process.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


SERVER = """
import json, os, sys
from fast_dag.cli.app import start

for line in sys.stdin:
    args, directory, files = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(directory)
        for stream, (file, flags) in enumerate(zip(files, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY))):
            os.dup2(os.open(file, flags | os.O_CREAT), stream)
        sys.exit(start(args))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    """Runs each command in a process of its own, forked from one that has imported what all need:
    that takes longer than the commands do."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


class Cli:
    """The command, in a directory."""

    def __init__(self, directory: Path, server: subprocess.Popen[str], files: Path) -> None:
        self.directory = directory
        self.server = server
        self.files = [str(files / name) for name in ("in", "out", "err")]

    def __call__(self, *args: str, stdin: str = "", **env: str) -> Done:
        if env:
            done = subprocess.run(
                [sys.executable, "-m", "fast_dag", *args],
                cwd=self.directory,
                env=environment(**env),
                input=stdin,
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=LONG,
                check=False,
            )
        else:
            done = self._forked(args, stdin)
        assert "--traceback" in args or "Traceback" not in done.stderr, done.stderr
        return Done(done)

    def _forked(self, args: tuple[str, ...], stdin: str) -> subprocess.CompletedProcess[str]:
        given, out, err = map(Path, self.files)
        given.write_text(stdin, encoding="utf-8")
        out.write_bytes(b"")
        err.write_bytes(b"")
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(
            json.dumps([args, str(self.directory), self.files]), file=self.server.stdin, flush=True
        )
        code = int(self.server.stdout.readline())
        return subprocess.CompletedProcess(
            args, code, out.read_text("utf-8"), err.read_text("utf-8")
        )

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "fast_dag", *args],
            cwd=self.directory,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )


@pytest.fixture
def cli_in(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes the command in a directory."""
    return lambda directory: Cli(directory, server, tmp_path_factory.mktemp("streams"))


@pytest.fixture
def cli(here: Path, cli_in: Any) -> Cli:
    made: Cli = cli_in(here)
    return made


# run


@pytest.mark.parametrize(
    "target",
    ["shop.py", "shop.py:dag", "shop", "shop:dag", "./shop.py", "clash/json.py", "my-flow.v2.py"],
)
def test_file_or_module_is_run_and_its_value_printed(cli: Cli, target: str) -> None:
    done = cli("run", target)
    assert (done.code, done.out) == (0, "asked for prices\n7.0 EUR\n"), done
    assert re.fullmatch(r"shop: completed in [\d.]+ \S+ \(3 completed\)\n", done.err)


@pytest.mark.parametrize("target", ["package.flow", "package/flow.py", "package.flow:dag"])
def test_module_of_a_package_is_run_in_its_package(cli: Cli, target: str) -> None:
    assert cli("run", target, "-q").out == "1\n"


def test_file_elsewhere_is_run_with_its_directory_to_import_from(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "uses.py").write_text("from helper_of_mine import dag\n")
    (tmp_path / "helper_of_mine.py").write_text(SHOP)
    assert cli("run", str(tmp_path / "uses.py"), "-q").code == 0


def test_inputs_are_json_where_they_parse_and_text_else(cli: Cli) -> None:
    given = {"a": "3", "b": "[1, 2]", "c": "null", "d": "three", "e": '"3"', "f": "", "g": "a=b"}
    options = [f"--input={name}={text}" for name, text in given.items()]
    done = cli("run", "values.py:kinds", *options, "-i", "h=NaN", "--json")
    expected = {"a": 3, "b": [1, 2], "c": None, "d": "three", "e": "3", "f": "", "g": "a=b"}
    assert done.json["value"] == {**expected, "h": "NaN"}


def test_inputs_come_from_a_file_or_stdin_and_single_ones_win(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "inputs.json"
    file.write_text('{"basket": [1, 2], "currency": "CHF"}')
    done = cli("run", "shop.py", "--input-json", str(file), "--input", "currency=£")
    assert done.out.endswith("3.0 £\n")
    done = cli("run", "shop.py", "--input-json", "-", stdin='{"rate": 2}')
    assert done.out.endswith("14 EUR\n")


@pytest.mark.parametrize("mode", MODES_EVERYWHERE)
def test_modes_give_the_same(cli: Cli, mode: str) -> None:
    done = cli("run", "shop.py", "--mode", mode, "--workers", "2", "--json")
    assert (done.code, done.json["value"]) == (0, "7.0 EUR"), done
    assert "asked for prices" in done.err


def test_json_is_one_document_with_everything(cli: Cli) -> None:
    done = cli("run", "shop.py", "--json", "--quiet")
    assert done.err == "asked for prices\n"
    data = done.json
    assert data["workflow"] == "shop"
    assert data["status"] == "completed"
    assert data["results"] == {"prices": [3.0, 4.0], "total": 7.0, "text": "7.0 EUR"}
    assert data["statuses"] == dict.fromkeys(["prices", "total", "text"], "completed")
    assert data["timings"].keys() == data["results"].keys()
    assert (data["errors"], data["not_json"]) == ({}, {})


def test_values_that_are_no_json_are_shown(cli: Cli) -> None:
    data = cli("run", "values.py:odd", "--json").json
    assert data["value"] == {"1": "{2.5}", "nan": "nan", "pair": [1, None]}
    assert data["results"] == {}
    assert data["not_json"].keys() == {"odd"}
    assert cli("run", "values.py:odd", "-q").out == "{1: {2.5}, 'nan': nan, 'pair': (1, None)}\n"
    assert cli("run", "values.py:nothing", "-q").out == ""
    assert cli("run", "values.py:silent", "-q").out.startswith("<Silent")  # it has no repr
    assert cli("run", "values.py:silent", "--json").json["value"].startswith("<Silent")


def test_parts_of_a_dag_are_run(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", "shop.py", "--until", "total", "-q").out == "asked for prices\n7.0\n"
    done = cli("run", "shop.py", "--outputs", "prices,total", "--json")
    assert done.json["value"] == {"prices": [3.0, 4.0], "total": 7.0}
    earlier = tmp_path / "run.json"
    earlier.write_text(cli("run", "shop.py", "--json").out)
    again = cli("run", "shop.py", "--from", "total", "--results", str(earlier), "-i", "currency=$")
    assert again.out == "7.0 $\n"
    earlier.write_text('{"prices": [1]}')
    between = cli(
        "run", "shop.py", "--from", "total", "--until", "total", "--results", str(earlier), "-q"
    )
    assert between.out == "1\n"
    missing = cli("run", "shop.py", "--from", "total")
    assert missing.code == 2
    assert "the result of 'prices'" in missing.err


def test_results_have_what_a_decider_returned(cli_in: Any, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(
        "from fast_dag import DAG, SelectReturn\n"
        "dag = DAG('flow').add_node('mail', lambda x: f'mailed {x}')\n"
        "dag.add_node('route', lambda: SelectReturn('mail', value=[3]), type='select')\n"
        "dag.connect(dag.nodes['route'].branches['mail'], 'mail')\n"
    )
    cli = cli_in(tmp_path)
    earlier = cli("run", "flow.py", "--json")
    assert (earlier.json["value"], earlier.json["not_json"]) == ("mailed [3]", {})
    (tmp_path / "run.json").write_text(earlier.out)
    done = cli("run", "flow.py", "--from", "mail", "--results", "run.json", "-q")
    assert done.out == "mailed [3]\n"


def test_machine_is_run(cli: Cli) -> None:
    assert cli("run", "game.py").out == "won by 3\n"
    data = cli("run", "game.py", "--json", "--max-cycles", "9", "-i", "n=2").json
    assert data["state_history"] == ["draw", "won"]
    done = cli("run", "game.py", "--max-cycles", "2")
    assert done.code == 1
    assert "max_cycles" in done.err


def test_failure_is_told_with_its_place_and_exit_code(cli: Cli) -> None:
    done = cli("run", "failing.py")
    assert (done.code, done.out) == (1, "")
    assert "failing: failed in" in done.err
    assert "'inverse' of 'failing' failed: ZeroDivisionError: division by zero" in done.err
    assert "(failing.py, line 5)" in done.err
    traced = cli("run", "failing.py", "--traceback")
    assert traced.code == 1
    assert "in helper" in traced.err


def test_run_goes_on_after_a_failure_where_asked_to(cli: Cli) -> None:
    done = cli("run", "failing.py", "--continue")
    assert (done.code, done.out) == (1, "beside\n")
    assert "1 skipped" in done.err
    data = cli("run", "failing.py", "--continue", "--json").json
    assert data["status"] == "completed_with_errors"
    assert data["errors"]["inverse"]["type"] == "ZeroDivisionError"
    assert data["error"]["node"] == "inverse"
    assert data["results"] == {"load": 0, "beside": "beside"}


def test_timeout_has_its_exit_code(cli: Cli) -> None:
    done = cli("run", "waiting.py:dag", "--timeout", "0.2")
    assert done.code == 124
    assert "did not end within its timeout of 0.2 s" in done.err
    assert (
        cli("run", "waiting.py:later", "--timeout", "0.2", "--json").json["status"] == "timed_out"
    )


def test_report_is_written_of_every_run(cli: Cli, tmp_path: Path) -> None:
    for target, code in {"shop.py": 0, "failing.py": 1}.items():
        file = tmp_path / f"{target}.html"
        assert cli("run", target, "--report", str(file)).code == code
        assert file.read_text(encoding="utf-8").startswith("<!doctype html>")


# What is wrong.

WRONG = [
    ([], "Usage: fast-dag"),
    (["rnu", "shop.py"], "No such command"),
    (["run"], "Missing argument"),
    (["run", "shop.py", "--speed"], "No such option"),
    (["run", "shop.py", "--mode", "magic"], "is not one of"),
    (["run", "shop.py", "--workers", "0"], "max_workers is a count of at least 1"),
    (["run", "shop.py", "--timeout", "-1"], "timeout is a number of seconds above 0"),
    (["run", "shp.py"], "there is no file 'shp.py' (did you mean 'shop.py'?)"),
    (["run", "shp"], "there is no module 'shp'"),
    (["run", "package.flaw"], "there is no module 'package.flaw'"),
    (["run", "a-b"], "neither a file nor the name of a module"),
    (["run", "shop.py:dga"], "has no 'dga'; it has 'dag' (did you mean 'dag'?)"),
    (["run", "shop.py:prices"], "'prices' of 'shop.py' is a Node, not a DAG or FSM"),
    (["run", "several.py"], "has several workflows: 'outer', 'other'; say which"),
    (["run", "nothing.py"], "'nothing.py' has no workflow"),
    (["run", "broken.py"], "failed: ZeroDivisionError: division by zero (broken.py, line 3)"),
    (["run", "syntax.py"], "failed: SyntaxError: invalid syntax (syntax.py, line 1)"),
    (["run", "leaving.py"], "it ended the program"),
    (["run", "needing"], "No module named 'not_there_at_all' (needing.py, line 1)"),
    (["run", "invalid.py:dag"], "has a cycle: a -> b -> a"),
    (["run", "shop.py", "-i", "rte=2"], "did you mean 'rate'?"),
    (["run", "shop.py", "-i", "rate"], "--input 'rate' is not NAME=VALUE"),
    (["run", "shop.py", "-i", "rate=1", "-i", "rate=2"], "--input gives 'rate' twice"),
    (["run", "shop.py", "--input-json", "none.json"], "No such file or directory"),
    (["run", "shop.py", "--input-json", "shop.py"], "--input-json: the file is no JSON"),
    (["run", "shop.py", "--results", "shop.py"], "the file is no JSON"),
    (["run", "values.py:dag"], "'x' of 'given'"),
    (["run", "shop.py", "--report", "nowhere/run.html"], "--report: there is no directory"),
    (["run", "shop.py", "--save", "nowhere/run"], "--save: there is no directory 'nowhere'"),
    (["run", "shop.py", "--save", "/dev/null"], "--save: '/dev/null' is no regular file"),
    (["run", "shop.py", "--resume", "none.pickle"], "No such file or directory"),
    (["run", "shop.py", "--resume", "shop.py"], "'shop.py' has no run that can be read (Unpickl"),
    (["run", "game.py", "--resume", "shop.py"], "--resume is for a DAG; 'game' is an FSM"),
    (["run", "shop.py", "--until", "totl"], "did you mean 'total'?"),
    (["run", "shop.py", "--outputs", "totl"], "did you mean 'total'?"),
    (["run", "shop.py", "--max-cycles", "3"], "--max-cycles is for an FSM"),
    (["run", "shop.py", "--from", "totl"], "did you mean 'total'?"),
    (["run", "game.py", "--max-cycles", "-1"], "max_cycles is a count of at least 1"),
    (["run", "broken"], "failed: ZeroDivisionError: division by zero (broken.py, line 3)"),
    (["completion", "tcsh"], "is not one of"),
    (["run", "game.py", "--until", "won"], "--until is for a DAG; 'game' is an FSM"),
    (["new", "shop.py"], "is there already; --force writes over it"),
    (["new", "shop.txt"], "is no name for a Python file"),
    (["new", "nowhere/shop.py"], "cannot be written"),
    (["run", "nowhere.json"], "cannot be read"),
]


@pytest.mark.parametrize(("args", "words"), WRONG, ids=[" ".join(each) for each, _ in WRONG])
def test_wrong_command_is_told_without_a_traceback(cli: Cli, args: list[str], words: str) -> None:
    done = cli(*args)
    assert (done.code, done.out) == (2, ""), done
    assert words in done.err, done


def test_traceback_of_an_import_is_shown_where_asked_for(cli: Cli) -> None:
    done = cli("run", "broken.py", "--traceback")
    assert done.code == 2
    assert "Traceback" in done.err
    assert "1 / 0" in done.err


def test_errors_are_json_where_that_is_asked_for(cli: Cli) -> None:
    done = cli("run", "shop.py:dga", "--json")
    assert (done.code, done.err) == (2, "")
    assert done.json["error"]["type"] == "ValidationError"
    assert cli("run", "failing.py", "--json").json["error"]["node"] == "inverse"


@pytest.mark.needs
def test_missing_click_names_the_extra(here: Path) -> None:
    code = "import sys; sys.modules['click'] = None\nfrom fast_dag.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "fast-dag's commands need click: pip install '/path/to/checkout[cli]'"
    )


# show, validate, list


def test_show_prints_a_tree(cli: Cli) -> None:
    assert cli("show", "shop.py").out == (
        "shop (DAG): 3 nodes, 2 edges\n"
        "Sells things\n"
        "inputs: basket=(3, 4), rate=1.0, currency='EUR'\n"
        "\n"
        "prices\n"
        "↓ total  (retry 1)\n"
        "↓ text\n"
    )
    assert cli("show", "game.py").out == (
        "game (FSM): 2 states, 2 transitions\n"
        "inputs: n=0\n"
        "\n"
        "▶ draw\n"
        "    → won if <lambda>\n"
        "    → draw\n"
        "■ won\n"
    )


def test_show_tells_options_of_nodes_edges_and_workflows(cli: Cli) -> None:
    assert cli("show", "options.py:dag").out == (
        "options (DAG): 5 nodes, 5 edges\n"
        "limits: db=4, api=Rate(10, per=1)\n"
        "\n"
        "load  (uses 2 db, api, priority 3)\n"
        "├─ ways  (select, retry 1, several)\n"
        "│  ↓ [a] a\n"
        "│  ↓ either  (any, wait)\n"
        "│  └─ end  (all, collect parts)\n"
        "└─ [optional] end  (all, collect parts)\n"
    )
    assert cli("show", "options.py:fsm").out == (
        "machine (FSM): 3 states, 2 transitions\n"
        "limits: db=4, api=Rate(10, per=1)\n"
        "\n"
        "▶ try\n"
        "    → repair if is_one\n"
        "    → repair on error\n"
        "  repair\n"
        "    → give_up on 'error'\n"
        "    → give_up on error\n"
        "■ give_up\n"
    )


def test_show_describes_options_as_json(cli: Cli) -> None:
    data = cli("show", "options.py:dag", "--json").json
    assert data["limits"] == {"db": 4, "api": {"count": 10, "per": 1.0, "burst": 10}}
    assert {node["name"]: node["options"] for node in data["nodes"]} == {
        "load": {"uses": {"db": 2, "api": 1}, "priority": 3},
        "ways": {"several": True, "retry": 1, "retry_on": ["ValueError", "OSError"]},
        "a": {},
        "either": {"wait": True},
        "end": {"collect": "parts"},
    }
    optional = {(each["source"], each["target"]): each["optional"] for each in data["edges"]}
    assert (optional["load", "end"], optional["load", "ways"]) == (True, False)
    data = cli("show", "options.py:fsm", "--json").json
    assert data["on_error"] == "give_up"
    assert data["error_states"] == {"try": "repair", "repair": "give_up"}
    assert [each["condition"] for each in data["transitions"]] == ["is_one", None]


def test_show_does_without_unicode(cli: Cli) -> None:
    done = cli("show", "shop.py", PYTHONIOENCODING="ascii")
    assert "v total  (retry 1)\n" in done.out


def test_show_prints_pictures_as_text(cli: Cli) -> None:
    assert cli("show", "shop.py", "--mermaid").out.startswith("flowchart")
    assert cli("show", "game.py", "--dot").out.startswith("digraph")


@pytest.mark.parametrize(
    "asked",
    [["--svg", "--dot"], ["--dot", "--json"], ["--mermaid", "--dot", "--svg"]],
    ids=" ".join,
)
def test_show_prints_one_format(cli: Cli, asked: list[str]) -> None:
    refused = cli("show", "flows.py:dag", *asked)
    assert refused.code == 2
    assert all(option in refused.out + refused.err for option in ("show prints one format", *asked))
    assert "<svg" not in refused.out


def test_show_describes_as_json(cli: Cli) -> None:
    data = cli("show", "several.py:outer", "--json").json
    assert data["inputs"] == ["x"]
    assert [node["name"] for node in data["nodes"]] == ["inner"]
    assert data["nodes"][0]["workflow"]["nodes"][0]["name"] == "double"
    edge = {"source": "prices", "target": "total", "branch": None, "output": None}
    edge |= {"input": "prices", "optional": False}
    assert cli("show", "shop.py", "--json").json["edges"][0] == edge
    assert cli("show", "game.py", "--json").json["terminal_states"] == ["won"]


def test_validate_tells_all_problems_of_all_workflows(cli: Cli) -> None:
    done = cli("validate", "invalid.py")
    assert done.code == 2
    assert done.out.startswith("dag:\n  'invalid' has a cycle: a -> b -> a")
    assert done.out.endswith("fine: ok\n")
    data = cli("validate", "invalid.py", "--json")
    assert (data.code, data.json["fine"], len(data.json["dag"])) == (2, [], 1)
    assert cli("validate", "invalid.py:fine").code == 0
    assert cli("validate", "shop").out == "dag: ok\n"
    strict = cli("validate", "loose.py", "--strict")
    assert (strict.code, cli("validate", "loose.py").code) == (2, 0)
    assert "'beside'" in strict.out


def test_list_tells_the_workflows_of_a_module_once(cli: Cli) -> None:
    assert cli("list", "several.py").out == (
        "inner  inner (DAG): 1 node, 0 edges\n"
        "outer  outer (DAG): 1 node, 0 edges\n"
        "other  other (DAG): 1 node, 0 edges  Another\n"
    )
    (game,) = cli("list", "game", "--json").json
    assert game == {
        "variable": "fsm",
        "name": "game",
        "kind": "fsm",
        "description": "",
        "inputs": ["n=0"],
    }


# new


@pytest.mark.parametrize("option", [[], ["--fsm"]])
def test_new_file_runs_validates_and_shows(cli_in: Any, tmp_path: Path, option: list[str]) -> None:
    cli = cli_in(tmp_path)
    done = cli("new", "first-try", *option)
    assert (done.code, done.out) == (
        0,
        "Wrote first-try.py. Run it:\n\n    fast-dag run first-try.py\n",
    )
    run = cli("run", "first-try.py", "-q")
    assert run.code == 0
    assert run.out
    itself = subprocess.run(
        [sys.executable, "first-try.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert itself.stdout == run.out
    assert cli("validate", "first-try.py", "--strict").code == 0
    text = (tmp_path / "first-try.py").read_text()
    for line in re.findall(r"^    fast-dag (.*)$", text, re.MULTILINE):
        args = [each.replace('"', "") for each in re.findall(r'(?:[^\s"]|"[^"]*")+', line)]
        assert cli(*args).code == 0


def test_new_writes_pipeline_py_and_over_it_only_by_force(cli_in: Any, tmp_path: Path) -> None:
    cli = cli_in(tmp_path)
    assert cli("new").code == 0
    file = tmp_path / "pipeline.py"
    file.write_text("mine")
    assert cli("new").code == 2
    assert file.read_text() == "mine"
    assert cli("new", "--force").code == 0
    assert "DAG" in file.read_text()


# Files of data.


def test_workflow_in_a_file_runs_what_is_allowed(cli: Cli, tmp_path: Path) -> None:
    node = {"name": "one", "function": "package.steps:one"}
    text = json.dumps({"fast_dag": 1, "kind": "dag", "name": "flow", "nodes": [node]})
    for name in ("flow.json", "flow.yaml"):
        file = tmp_path / name
        file.write_text(text)
        assert cli("run", str(file), "--allow", "package", "-q").out == "1\n"
        refused = cli("run", str(file))
        assert refused.code == 2
        assert "nodes[0].function" in refused.err
        assert "allow=" in refused.err
    assert cli("list", str(file), "--allow", "package").out.startswith("flow  flow (DAG)")
    assert "has one workflow" in cli("run", f"{file}:flow").err


# Ctrl-C.


@pytest.mark.parametrize(
    "args",
    [
        ["waiting.py:dag"],
        ["waiting.py:dag", "--mode", "parallel"],
        ["waiting.py:later"],
        ["waiting.py:dag", "--timeout", "100"],
    ],
    ids=" ".join,
)
def test_interrupted_run_ends_cleanly(cli: Cli, args: list[str]) -> None:
    process = cli.start("run", *args)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LONG)
    assert (process.returncode, out) == (130, ""), err
    assert re.fullmatch(r"(waiting|later): interrupted in [^\n]*\n", err), err


def test_interrupted_import_ends_cleanly(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "slow_import.py"
    file.write_text("import time\nprint('here', flush=True)\nwhile True: time.sleep(0.05)\n")
    process = cli.start("run", str(file))
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LONG)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


def test_interrupted_run_is_told_as_json(cli: Cli) -> None:
    process = cli.start("run", "waiting.py:dag", "--json", "-q")
    assert process.stderr is not None
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LONG)
    data = json.loads(out)
    assert (process.returncode, err) == (130, "")
    assert (data["status"], data["results"]) == ("cancelled", {"first": 1})


# Other signals, and nodes that end the program.

MODES = ["sequential", "parallel", "async", "process"]


def until(stream: Any, line: str) -> None:
    """Read what a command prints up to that line."""
    for each in stream:
        if each == line:
            return
    raise AssertionError(f"it never printed {line!r}")


@pytest.mark.one_in(4)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.stress)],
)
@pytest.mark.parametrize("to", [os.kill, os.killpg])
def test_signal_ends_a_run_with_all_that_was_asked_for(
    cli: Cli, mode: str, number: signal.Signals, to: Any, tmp_path: Path
) -> None:
    if to is os.killpg and mode != "process":
        pytest.skip("one process is its group")
    report = tmp_path / "run.html"
    options = ["--mode", mode, "--json", "--report", str(report)]
    process = cli.start("run", "clean.py", *options, start_new_session=True)
    until(process.stderr, "waiting\n")
    to(process.pid, number)
    out, err = process.communicate(timeout=LONG)
    assert process.returncode == 128 + number, err
    assert err.splitlines()[-2:-1] == ["closed"]
    assert "cleaned up\n" in err
    by = "" if number is signal.SIGINT else f" by {number.name}"
    assert f"dag: interrupted{by} in " in err
    data = json.loads(out)
    assert (data["status"], data["results"]) == ("cancelled", {"first": "db"})
    assert "interrupted" in err
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_signal_that_repeats_at_once_interrupts_once() -> None:
    code = """
import signal
from fast_dag.cli import signals

signals._REPEATED = 1000.0
heard = []
with signals.Signals() as heeded:
    for name in ("SIGHUP", "SIGHUP", "SIGTERM", "SIGINT"):
        try:
            signal.raise_signal(getattr(signal, name))
        except KeyboardInterrupt:
            heard.append(name)
print(heard, heeded.number.name, signal.getsignal(signal.SIGTERM).name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['SIGHUP', 'SIGINT'] SIGHUP SIG_DFL\n"


def test_signal_that_is_ignored_stays_ignored(cli: Cli) -> None:
    process = cli.start(
        "run", "clean.py", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    until(process.stderr, "waiting\n")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=LONG)[0] == ""
    assert process.returncode == 143


def test_worker_process_leaves_the_signals_of_a_terminal_to_the_run(cli: Cli) -> None:
    done = cli("run", "leaving_nodes.py:hung_up", "--mode", "process", "-q")
    assert (done.code, done.out) == (0, "still here\n"), done


ENDS = [
    ("zero", "SystemExit: 0"),
    ("none", "SystemExit: "),
    ("text", "SystemExit: no more"),
    ("raised", "Stop: <its message cannot be shown>"),
]


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        pytest.param(
            mode,
            *end,
            marks=() if mode == "sequential" or end is ENDS[0] else pytest.mark.stress,
        )
        for mode in MODES
        for end in ENDS
    ],
)
def test_node_that_ends_the_program_has_failed(
    cli: Cli, mode: str, kind: str, words: str, tmp_path: Path
) -> None:
    report = tmp_path / "run.html"
    options = ["--mode", mode, "-i", f"kind={kind}", "--report", str(report)]
    if mode == "process":
        options.append("--traceback")  # that of the worker is a note on the error
    done = cli("run", "leaving_nodes.py:dag", *options)
    assert (done.code, done.out) == (1, ""), done
    assert f"node 'leave' of 'dag' failed: {words}" in done.err
    assert "dag: failed in" in done.err
    assert "SystemExit" in report.read_text(encoding="utf-8") or kind == "raised"
    data = cli("run", "leaving_nodes.py:dag", *options, "--json").json
    assert (data["status"], data["results"]) == ("failed", {"first": 1})
    assert data["errors"].keys() == {"leave"}
    assert data["error"]["node"] == "leave"


@pytest.mark.parametrize("mode", [each for each in MODES if each != "sequential"])
def test_of_several_nodes_the_one_that_ends_the_program_is_named(
    cli: Cli, mode: str, tmp_path: Path
) -> None:
    options = ["--mode", mode, "--workers", "3", "-i", f"begun={tmp_path}"]
    options.append("--traceback")  # that of the worker is a note on the error
    done = cli("run", "leaving_nodes.py:beside", *options)
    assert (done.code, done.out) == (1, ""), done
    assert "node 'sub.ends' of 'beside' failed: SystemExit: 5" in done.err


@pytest.mark.stress
def test_node_that_ends_the_program_is_found_among_others(cli: Cli) -> None:
    done = cli("run", "leaving_nodes.py:outer")
    assert (done.code, done.out) == (1, "")
    assert "node 'sub.leave' of 'outer' failed: SystemExit: 0 (leaving_nodes.py, line" in done.err
    assert "state 'leave' of 'fsm' failed" in cli("run", "leaving_nodes.py:fsm").err
    for mode in ("parallel", "async"):
        done = cli("run", "leaving_nodes.py:wide", "--mode", mode)
        assert done.code == 1
        assert "node 'leave_soon' of 'wide' failed: SystemExit: 4" in done.err


def test_reader_that_goes_away_is_no_error(cli: Cli) -> None:
    with cli.start("show", "shop.py", "--json") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 0


# Streams that cannot encode, or cannot be written.


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-16", "utf-8"])
def test_json_has_everything_in_every_encoding(cli: Cli, encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fast_dag", "run", "foreign.py:dag", "--json"],
        cwd=cli.directory,
        env=environment(PYTHONIOENCODING=encoding),
        capture_output=True,
        check=True,
    )
    data = json.loads(done.stdout)  # bytes: RFC 8259 knows Unicode only
    assert data["workflow"] == "größe"
    assert data["value"] == {"→": "→é \ud800"}
    assert data["statuses"].keys() == {"→é", "↓"}


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "option",
    [
        ["show", "--json"],
        ["show", "--mermaid"],
        ["show", "--dot"],
        ["show", "--svg"],
        ["list", "--json"],
    ],
    ids=" ".join,
)
def test_documents_are_the_same_bytes_in_every_encoding(cli: Cli, option: list[str]) -> None:
    command, *rest = option
    documents = set()
    for encoding in ("ascii", "latin-1:strict", "utf-16"):
        done = subprocess.run(
            [sys.executable, "-m", "fast_dag", command, "loud.py:dag", *rest],
            cwd=cli.directory,
            env=environment(PYTHONIOENCODING=encoding),
            capture_output=True,
            check=True,
        )
        documents.add(done.stdout)
        assert b"raw" in done.stderr
    (document,) = documents
    assert "größe" in document.decode()
    assert b"raw" not in document


def test_what_a_module_prints_is_not_part_of_what_commands_print(cli: Cli) -> None:
    assert cli("show", "loud.py:swapped").out == "swapped (DAG): 1 node, 0 edges\n\nswap\n"
    assert cli("validate", "loud.py:dag").out == "dag: ok\n"


def test_thread_that_prints_after_the_run_does_not_print_into_the_json(cli: Cli) -> None:
    for timeout in timeouts():
        done = cli("run", "loud.py:late", "--json", "--timeout", str(timeout))
        if "begun\n" in done.err:
            break
    assert (done.code, done.json["status"]) == (124, "timed_out")
    assert "late\n" in done.err
    assert "left\n" in done.err


def test_value_is_printed_where_a_node_replaced_stdout(cli: Cli) -> None:
    assert cli("run", "loud.py:swapped", "-q").out.endswith("seen\n")


def test_values_that_json_cannot_have_end_no_command(cli: Cli) -> None:
    names = ["long", "longs", "deep", "edge", "circle", "one"]
    done = cli("run", "awkward.py:dag", "--json", "--outputs", ",".join(names))
    assert (done.code, done.json["results"].keys()) == (0, {"edge", "one"}), done
    assert done.json["not_json"].keys() == {*names} - {"edge", "one"}
    for name in names:
        assert cli("run", "awkward.py:dag", "--outputs", name).code == 0
    assert cli("run", "awkward.py:forgetful", "--json").json["run_id"] is None


def test_numbers_of_numpy_are_results(cli_in: Any, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    (tmp_path / "flow.py").write_text(
        "import numpy as np\nfrom fast_dag import DAG\ndag = DAG('dag')\n"
        "dag.add_node('half', lambda: np.float32(0.5)).add_node('all', lambda: [np.int64(1)])\n"
        "dag.add_node('array', lambda: np.arange(2))\n"
    )
    data = cli_in(tmp_path)("run", "flow.py", "--json", "--outputs", "half,all,array").json
    assert data["results"] == {"half": 0.5, "all": [1]}
    assert data["value"] == {"half": 0.5, "all": [1], "array": "array([0, 1])"}


def test_results_that_are_text_are_told_where_they_are_missed(cli: Cli, tmp_path: Path) -> None:
    earlier = tmp_path / "run.json"
    earlier.write_text(cli("run", "awkward.py:dag", "--json").out)
    done = cli("run", "awkward.py:dag", "--from", "last", "--results", str(earlier))
    assert done.code == 2
    told = "--results has the result of 'set' only as text, since it is no JSON"
    assert told in done.err
    assert "--results FILE gives them" in cli("run", "awkward.py:dag", "--from", "last").err
    done = cli("run", "awkward.py:dag", "--results", str(earlier))
    assert (done.code, "for --from" in done.err) == (2, True)
    assert "for a DAG" in cli("run", "game.py", "--results", str(earlier)).err


def test_log_goes_to_stderr_from_the_level_on(cli: Cli) -> None:
    done = cli("run", "awkward.py:logs", "--log-level", "info")
    assert (done.code, done.out) == (0, "")
    assert " INFO mine: told by me\n" in done.err
    assert " INFO fast_dag: run of 'logs': completed\n" in done.err
    assert "node 'log'" in cli("run", "awkward.py:logs", "--log-level", "debug").err
    assert "told" not in cli("run", "awkward.py:logs").err


def test_value_for_people_is_written_out_where_it_cannot_be_encoded(cli: Cli) -> None:
    done = cli("run", "foreign.py:dag", "-q", PYTHONIOENCODING="ascii")
    assert done.out == "{'\\u2192': '\\u2192\\xe9 \\ud800'}\n"
    assert cli("run", "foreign.py:red", "-q").out == "\x1b[31mred\n"


def test_tree_has_plain_marks_and_names_as_they_are(cli: Cli) -> None:
    lines = cli("show", "foreign.py:dag", PYTHONIOENCODING="ascii").out.splitlines()
    assert lines[-2:] == ["\\u2192\\xe9", "v \\u2193"]


def through_shell(cli: Cli, words: str, shell: str = "sh") -> Done:
    """A command with redirections, which a shell does."""
    done = subprocess.run(
        [shell, "-c", f'exec "$0" -m fast_dag {words}', sys.executable],
        cwd=cli.directory,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done)


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.mark.one_in(3)
@needs_full
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("run game.py", 74),
        ("run game.py --json", 74),
        ("run values.py:nothing -q", 0),
        ("show shop.py", 74),
        ("--help", 74),
        ("run failing.py --continue", 1),
        ("run failing.py --json", 1),
        ("validate invalid.py", 2),
    ],
)
def test_full_stdout_is_told_in_a_line(cli: Cli, words: str, code: int) -> None:
    done = through_shell(cli, f"{words} > /dev/full")
    assert done.code == code
    lost = "error: stdout could not be written: No space left on device\n"
    assert done.err.endswith(lost if code else ""), done


@pytest.mark.one_in(4)
@needs_full
@pytest.mark.parametrize("to", ["2> /dev/full", "2>&-"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("run shop.py", 0),
        ("run shop.py --progress", 0),
        ("run game.py --json", 0),
        ("run failing.py", 1),
        ("run failing.py --traceback", 1),
        ("run shop.py --speed", 2),
    ],
)
def test_stderr_that_cannot_be_written_changes_no_code(
    cli: Cli, words: str, code: int, to: str
) -> None:
    done = through_shell(cli, f"{words} {to}")
    assert done.code == code
    if "--json" in words:
        assert done.json["value"] == "won by 3"
    elif not code:
        assert done.out == "asked for prices\n7.0 EUR\n"


@pytest.mark.parametrize("words", ["--help", "show shop.py --dot", "run shop.py --json"])
def test_reader_that_wants_nothing_changes_no_code(cli: Cli, words: str) -> None:
    done = through_shell(cli, f"{words} > >(exec true)", shell="bash")
    assert (done.code, "error" in done.err) == (0, False), done


def test_closed_stdin_is_empty(cli: Cli) -> None:
    assert through_shell(cli, "run shop.py <&-").code == 0
    done = through_shell(cli, "run shop.py --input-json - <&-")
    assert (done.code, "--input-json: the file is no JSON" in done.err) == (2, True)


def test_closed_stdout_is_told(cli: Cli) -> None:
    for words in ("run shop.py", "run shop.py --json"):
        done = through_shell(cli, f"{words} >&-")
        assert (done.code, done.err.count("stdout could not be written")) == (74, 1), done


@needs_full
def test_report_that_cannot_be_written_loses_no_run(cli: Cli) -> None:
    done = cli("run", "shop.py", "--report", "/dev/full")
    assert (done.code, done.out) == (74, "asked for prices\n7.0 EUR\n")
    lost = "--report: '/dev/full' could not be written: No space left on device"
    assert f"error: {lost}\n" in done.err
    done = cli("run", "shop.py", "--report", "/dev/full", "--json")
    assert (done.code, done.json["value"]) == (74, "7.0 EUR")
    assert done.json["error"]["message"] == lost
    done = cli("run", "failing.py", "--report", "/dev/full")
    assert done.code == 1
    assert lost in done.err
    assert "'inverse' of 'failing' failed" in done.err


def test_reader_that_goes_away_hides_no_failure(cli: Cli) -> None:
    with cli.start("run", "failing.py", "--continue", "-q") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert "division by zero" in process.stderr.read()
    assert process.returncode == 1


def test_errors_and_values_of_odd_classes_are_told(cli: Cli) -> None:
    done = cli("run", "odd.py:dag")
    assert done.code == 1
    assert "'odd' of 'odd' failed: Odd: boo (odd.py, line 9)" in done.err
    assert "Odd: boo" in cli("run", "odd.py:dag", "--traceback").err
    assert cli("run", "odd.py:dag", "--json").json["errors"]["odd"]["message"] == "boo"
    done = cli("run", "odd.py:value", "--json")
    assert (done.code, done.json["not_json"].keys()) == (0, {"value"})


# With a terminal.


@pytest.fixture
def in_terminal(here: Path) -> Iterator[Any]:
    """Starts a command in a pseudo terminal of its own."""
    opened: list[Any] = []

    def start(*args: str, **env: str) -> Any:
        env = environment(TERM="xterm-256color", **env)
        command = ["-m", "fast_dag", *args]
        opened.append(
            pexpect.spawn(
                sys.executable,
                command,
                cwd=here,
                env=env,
                timeout=LONG,
                encoding="utf-8",
                dimensions=(30, 100),
            )
        )
        return opened[-1]

    yield start
    for each in opened:
        each.close(force=True)


def all_shown(terminal: Any) -> str:
    """What it shows until its end."""
    terminal.expect(pexpect.EOF)
    shown: str = terminal.before
    terminal.close()
    return shown


def test_terminal_shows_errors_in_colour(in_terminal: Any) -> None:
    terminal = in_terminal("run", "failing.py")
    assert "\x1b[31m\x1b[1merror:\x1b[0m node 'inverse'" in all_shown(terminal)
    assert terminal.exitstatus == 1


def test_terminal_shows_a_bar_where_asked_for(in_terminal: Any) -> None:
    terminal = in_terminal("run", "shop.py", "--progress")
    shown = all_shown(terminal)
    assert "shop" in shown.partition("7.0 EUR")[0]
    assert "\x1b[2K" in shown  # the bar goes when the run ends
    assert shown.count("7.0 EUR") == 1
    assert terminal.exitstatus == 0


def test_pipe_shows_no_bar(cli: Cli) -> None:
    done = cli("run", "shop.py", "--progress", "-q")
    assert done.code == 0, done
    assert "\x1b" not in done.out + done.err
    assert done.out.splitlines()[-1] == "7.0 EUR"


@pytest.mark.needs("rich")
def test_bar_that_is_forced_goes_to_stderr(cli: Cli) -> None:
    done = cli("run", "shop.py", "--progress", "-q", FORCE_COLOR="1")
    assert (done.code, done.out) == (0, "asked for prices\n7.0 EUR\n")
    assert "\x1b[2K" in done.err


def test_colours_are_as_the_environment_says(in_terminal: Any, cli: Cli) -> None:
    assert "\x1b" not in all_shown(in_terminal("run", "failing.py", NO_COLOR="1"))
    assert "\x1b[31m" in cli("run", "failing.py", FORCE_COLOR="1").err


def test_key_ctrl_c_interrupts(in_terminal: Any) -> None:
    terminal = in_terminal("run", "waiting.py:dag")
    terminal.expect_exact("waiting")
    terminal.sendintr()
    shown = all_shown(terminal)
    assert "waiting: interrupted in" in shown
    assert "Traceback" not in shown
    assert terminal.exitstatus == 130


# Help and completion.


def test_installed_command_is_the_same() -> None:
    (entry,) = [
        each
        for each in importlib.metadata.entry_points(group="console_scripts", name="fast-dag")
        if each.dist is not None and each.dist.name == "fast-dag"
    ]
    assert entry.value == "fast_dag.__main__:main"
    script = Path(sys.executable).with_name("fast-dag")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"fast-dag, version {importlib.metadata.version('fast-dag')}\n"


def test_help_names_commands_and_exit_codes(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    for words in ("run", "show", "validate", "list", "new", "completion", "124", "129, 130, 143"):
        assert words in done.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_printed(cli: Cli, shell: str) -> None:
    done = cli("completion", shell)
    assert done.code == 0
    assert "_FAST_DAG_COMPLETE" in done.out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.out, text=True, check=True)


def test_shell_completes_commands_options_and_files(cli: Cli) -> None:
    def completed(words: str) -> list[str]:
        env = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return cli(_FAST_DAG_COMPLETE="bash_complete", **env).out.splitlines()

    assert completed("fast-dag va") == ["plain,validate"]
    assert completed("fast-dag run --time") == ["plain,--timeout"]
    assert completed("fast-dag run shop.py --mode par") == ["plain,parallel"]
    assert completed("fast-dag run sh") == ["file,sh"]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("shop.py --until t", ["total", "text"]),
        ("shop.py --from pr", ["prices"]),
        ("shop.py --outputs t", ["total", "text"]),
        ("shop.py --outputs prices,to", ["prices,total"]),
        ("shop.py --until none", []),
        ("--until t", []),  # of what?
        ("no_such_file.py --until t", []),
        ("broken.py --until t", []),
        ("loud.py --until o", ["only"]),
    ],
)
def test_shell_completes_nodes(cli: Cli, words: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module")
    (tmp_path / "loud.py").write_text(
        "import sys\nfrom fast_dag import DAG\nprint('here')\nprint('there', file=sys.stderr)\n"
        "dag = DAG('loud').add_node('only', lambda: 1)\n"
    )
    line = f"fast-dag run {words}"
    for name in ("broken.py", "loud.py", "no_such_file.py"):
        line = line.replace(name, str(tmp_path / name))
    env = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = cli(_FAST_DAG_COMPLETE="bash_complete", **env)
    assert done.out.split() == [f"plain,{each}" for each in expected]
    assert done.err == ""


# The parts that are no process.


@pytest.mark.parametrize(
    ("text", "place", "name"),
    [
        ("a.b:c", "a.b", "c"),
        ("a.py", "a.py", None),
        ("a.py:", "a.py", None),
        ("a.py:C.dag", "a.py", "C.dag"),
        (r"C:\flows\a.py", r"C:\flows\a.py", None),
        (r"C:\flows\a.py:dag", r"C:\flows\a.py", "dag"),
    ],
)
def test_target_is_split_into_place_and_name(text: str, place: str, name: str | None) -> None:
    assert Target.of(text) == (place, name)


def test_tree_shows_branches_joins_nested_workflows_and_cycles() -> None:
    inner = DAG("inner").add_node("a", lambda x: x).add_node("b", lambda x: x).connect("a", "b")
    dag = DAG("demo").add_node("check", lambda n: n > 1, type="condition")
    dag.add_node("yes", inner).add_node("no", lambda n: n, run_in="thread", timeout=2)
    dag.add_node("either", lambda x: x, type="any").add_node("end", lambda x: x)
    dag.connect(dag.nodes["check"].on_true, "yes").connect(dag.nodes["check"].on_false, "no")
    dag.connect("yes", "either").connect("no", "either").connect("either", "end")
    dag.cached_node(lambda: 1, name="alone")
    assert list(tree(dag)) == [
        "demo (DAG): 6 nodes, 5 edges",
        "inputs: n",
        "",
        "check  (condition)",
        "├─ [true] yes",
        "│  ┆  a",
        "│  ┆  ↓ b",
        "│  └─ either  (any)",
        "│     ↓ end",
        "└─ [false] no  (timeout 2 s, in thread)",
        "   └─ either  (any) (above)",
        "alone  (cached)",
    ]
    circle = DAG("circle").add_node("a", lambda x: x).add_node("b", lambda x: x)
    circle.connect("a", "b").connect("b", "a")
    assert list(tree(circle))[-3:] == ["a", "↓ b", "└─ a (above)"]


def test_tree_of_many_nodes_takes_no_recursion() -> None:
    dag = DAG("long")
    for index in range(5_000):
        dag.add_node(f"n{index}", lambda x: x)
        if index:
            dag.connect(f"n{index - 1}", f"n{index}")
    assert list(tree(dag))[-1] == "↓ n4999"


# Runs in files.


@pytest.mark.parametrize(
    ("how", "options", "code"),
    [
        ("badly", [], 1),
        ("leaving", [], 1),
        ("never", ["--mode", "parallel", "--timeout"], 124),
    ],
)
def test_saved_run_goes_on_where_it_ended(
    cli: Cli, tmp_path: Path, how: str, options: list[str], code: int
) -> None:
    file = str(tmp_path / "run.pickle")
    for timeout in timeouts(0.2):
        limit = [str(timeout)] if "--timeout" in options else []
        done = cli("run", "stored.py:dag", "-i", f"how={how}", *options, *limit, "--save", file)
        if "ending\n" in done.err:
            break
    assert done.code == code, done
    assert os.stat(file).st_mode & 0o777 == 0o600
    assert f"--save: {file!r} is without the results of 'opened'" in done.err
    done = cli("run", "stored.py:dag", "-i", "how=well", "--resume", file, "--json")
    assert (done.code, done.json["value"], done.err.count("loaded")) == (0, 6, 0), done
    assert list(done.json["timings"]) == ["opened", "end"]
    done = cli("run", "stored.py:dag", "-i", "how=well", "-i", "number=4", "--resume", file)
    assert (done.code, done.out, done.err.count("loaded")) == (0, "8\n", 1)


def test_interrupted_run_is_saved(cli: Cli, tmp_path: Path) -> None:
    file = str(tmp_path / "run.pickle")
    process = cli.start("run", "stored.py:outer", "-i", "how=never", "--save", file)
    until(process.stderr, "ending\n")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LONG)
    assert process.returncode == 143
    done = cli("run", "stored.py:outer", "-i", "how=well", "--resume", file)
    assert (done.code, done.out) == (0, "6\n"), done


def test_run_that_completed_is_saved_and_read_as_python_does(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "run.pickle"
    link = tmp_path / "link"
    link.symlink_to(file.name)
    assert cli("run", "shop.py", "--save", str(link)).code == 0
    assert link.is_symlink()
    with file.open("rb") as stream:
        run = pickle.load(stream)
    assert (run.status, run.value, run["total"]) == ("completed", "7.0 EUR", 7.0)
    assert sorted(os.listdir(tmp_path)) == ["link", "run.pickle"]
    assert cli("run", "shop.py", "--resume", str(file)).out == "7.0 EUR\n"


def test_value_of_a_run_is_left_out_of_its_file_where_it_does_not_pickle(
    cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "run.pickle"
    done = cli("run", "stored.py:dag", "--outputs", "opened,end", "--save", str(file), "--json")
    assert done.code == 0, done
    assert set(done.json["results"]) | set(done.json["not_json"]) == {"load", "opened", "end"}
    code = "import pickle, sys, stored; print(pickle.load(open(sys.argv[1], 'rb')).value)"
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(file)],
        cwd=cli.directory,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "{'end': 6}\n"


def test_saved_run_lacks_items_of_a_map_that_do_not_pickle(cli: Cli, tmp_path: Path) -> None:
    file = str(tmp_path / "run.pickle")
    items = ["-i", "item=[1, 2, 3]"]
    done = cli("run", "stored.py:mapped", *items, "-i", "fails=3", "--save", file)
    assert (done.code, "is without the results of 'each', which" in done.err) == (1, True), done
    done = cli("run", "stored.py:mapped", "-i", "fails=0", "--resume", file)
    assert (done.code, done.out) == (0, "6\n"), done


def test_saved_run_of_another_workflow_or_a_machine_is_refused(cli: Cli, tmp_path: Path) -> None:
    file = str(tmp_path / "run.pickle")
    assert cli("run", "shop.py", "--save", file).code == 0
    done = cli("run", "failing.py", "--resume", file)
    assert (done.code, done.out) == (2, "")
    assert "the run to resume is a run of 'shop', not of 'failing'" in done.err
    done = cli("run", "shop.py", "--from", "total", "--resume", file)
    assert (done.code, "omit --from and --until" in done.err) == (2, True)
    assert cli("run", "game.py", "--save", file).code == 0
    done = cli("run", "shop.py", "--resume", file)
    assert (done.code, "cannot be the run of a machine, 'game'" in done.err) == (2, True)
    Path(file).write_bytes(pickle.dumps({"a": 1}))
    done = cli("run", "shop.py", "--resume", file)
    assert (done.code, f"{file!r} has a dict, not a run" in done.err) == (2, True)


def test_saved_run_that_is_cut_off_is_told(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "run.pickle"
    assert cli("run", "shop.py", "--save", str(file)).code == 0
    whole = file.read_bytes()
    for length in (0, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        done = cli("run", "shop.py", "--resume", str(file))
        assert (done.code, "has no run that can be read" in done.err) == (2, True), done


@pytest.mark.parametrize(
    ("words", "limit", "code"),
    [
        ("run shop.py", "ulimit -f 0;", 74),  # as on a full disk
        ("run failing.py", "ulimit -f 0;", 1),
        ("run stored.py:unkept", "", 74),
    ],
)
def test_run_that_cannot_be_saved_destroys_no_earlier_one(
    cli: Cli, tmp_path: Path, words: str, limit: str, code: int
) -> None:
    file = tmp_path / "run.pickle"
    file.write_bytes(b"earlier")
    done = subprocess.run(
        ["sh", "-c", f'{limit} "$0" -m fast_dag {words} --save {file} --json', sys.executable],
        cwd=cli.directory,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done
    assert f"--save: {str(file)!r} could not be written" in done.stderr
    assert json.loads(done.stdout)["error"]
    assert os.listdir(tmp_path) == ["run.pickle"]
    assert file.read_bytes() == b"earlier"
