"""Which changes of code give other keys in a shared backend, and which do not."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG, FSM, InvalidNodeError
from fast_dag.cache import DiskCache
from fast_dag.cache.fingerprint import Fingerprint
from tests.patience import LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType


class Kept(dict[str, Any]):
    """A backend in memory."""

    set = dict.__setitem__

    def delete(self, key: str) -> None:
        self.pop(key, None)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """`write(flow="...", tax="...")` writes modules, and imports the first one anew."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def written(**sources: str) -> ModuleType:
        names.extend(sources)
        for name, source in sources.items():
            file = tmp_path / f"{name}.py"
            file.write_text(source, encoding="utf-8")
            # The same second and size as before must not find old bytecode.
            importlib.invalidate_caches()
            for old in tmp_path.glob(f"__pycache__/{name}.*"):
                old.unlink()
        for name in names:
            sys.modules.pop(name, None)
        return importlib.import_module(next(iter(sources)))

    yield written
    for name in names:
        sys.modules.pop(name, None)


def keys_of(func: Any, **options: Any) -> set[str]:
    """The keys of one call in a new backend."""
    kept, dag = Kept(), DAG("d")
    dag.cached_node(name="f", backend=kept, **options)(func)
    dag.run(x=1)
    return set(kept)


FLOW = """
import tax
from tax import BASE, Rates
FACTOR = 2
COUNT = 0

def price(x):
    return tax.rate(x) * helper(x) + BASE + Rates.full

def helper(x):
    return FACTOR * x
"""
TAX = """
RATE = 0.19
BASE = RATE * 10
UNUSED = 1

def rate(x):
    return RATE + margin(x)

def margin(x):
    return 0

class Rates:
    full = 1

    def half(self):
        return self.full / 2
"""
OTHERS = {
    "the function": ("flow", "helper(x) +", "helper(x) -"),
    "a helper": ("flow", "FACTOR * x", "FACTOR + x"),
    "a constant": ("flow", "FACTOR = 2", "FACTOR = 3"),
    "a default": ("flow", "def price(x)", "def price(x, y=2)"),
    "a helper of another module": ("tax", "RATE + margin", "RATE - margin"),
    "a helper of that": ("tax", "return 0", "return 1"),
    "a constant of another module": ("tax", "RATE = 0.19", "RATE = 0.21"),
    "an expression": ("tax", "RATE * 10", "RATE * 20"),
    "an attribute of a class": ("tax", "full = 1", "full = 2"),
    "a method": ("tax", "full / 2", "full / 3"),
}
SAME = {
    "nothing": ("flow", "", ""),
    "a comment": ("flow", "def helper", "# a comment\n\ndef helper"),
    "a docstring": ("flow", "    return FACTOR", '    """Doubles."""\n    return FACTOR'),
    "white space": ("flow", "FACTOR * x", "(FACTOR  *  x)"),
    "another function": ("flow", "def helper", "def other(): return 1\n\ndef helper"),
    "the docstring of a helper": ("tax", "    return RATE", '    "told"\n    return RATE'),
    "a constant that nobody uses": ("tax", "UNUSED = 1", "UNUSED = 2"),
}


@pytest.mark.parametrize(("module", "old", "new"), OTHERS.values(), ids=OTHERS)
def test_another_code_is_another_key(
    write: Callable[..., ModuleType], module: str, old: str, new: str
) -> None:
    sources = {"flow": FLOW, "tax": TAX}
    before = keys_of(write(**sources).price)
    assert old in sources[module]
    sources[module] = sources[module].replace(old, new)
    assert keys_of(write(**sources).price) != before


@pytest.mark.parametrize(("module", "old", "new"), SAME.values(), ids=SAME)
def test_what_changes_nothing_keeps_the_key(
    write: Callable[..., ModuleType], module: str, old: str, new: str
) -> None:
    sources = {"flow": FLOW, "tax": TAX}
    before = keys_of(write(**sources).price)
    sources[module] = sources[module].replace(old, new)
    assert keys_of(write(**sources).price) == before


def test_constants_count_by_their_assignment_and_not_by_their_value(
    write: Callable[..., ModuleType],
) -> None:
    source = (
        "COUNT, SEEN = 0, []\n"
        "def count(x):\n"
        "    global COUNT\n"
        "    COUNT += 1\n"
        "    SEEN.append(x)\n"
        "    return COUNT\n"
    )
    module = write(flow=source)
    assert keys_of(module.count) == keys_of(module.count)
    assert module.SEEN == [1, 1]


def test_imports_inside_of_a_function_count(write: Callable[..., ModuleType]) -> None:
    flow = "def f(x):\n    from tax import rate\n    import tax as t\n    return rate(x) + t.RATE\n"
    before = keys_of(write(flow=flow, tax=TAX).f)
    assert keys_of(write(flow=flow, tax=TAX).f) == before
    assert keys_of(write(flow=flow, tax=TAX.replace("0.19", "0.21")).f) != before
    assert keys_of(write(flow=flow, tax=TAX.replace("return 0", "return 1")).f) != before


IMPORTS = {
    "in a function": "def f(x):\n    import tax\n    return tax.rate(x)\n",
    "in an inner function": (
        "def f(x):\n"
        "    def inner():\n        import tax\n        return tax.rate(x)\n"
        "    return inner()\n"
    ),
    "by another name": "def f(x):\n    import tax as t\n    return t.rate(x)\n",
    "of a submodule": "def f(x):\n    import pack.sub\n    return pack.sub.rate(x)\n",
    "of a submodule by another name": (
        "def f(x):\n    import pack.sub as s\n    return s.rate(x)\n"
    ),
    "from a package": "def f(x):\n    from pack import sub\n    return sub.rate(x)\n",
    "from a package, several": (
        "def f(x):\n    from pack import NAME, sub\n    return sub.rate(x)\n"
    ),
    "of what imports it": "def f(x):\n    import user\n    return user.rate(x)\n",
    "of what imports it in a function": (
        "def f(x):\n    import user\n    return user.late_rate(x)\n"
    ),
    "in a class": ("class Taxes:\n    import tax\ndef f(x):\n    return Taxes.tax.rate(x)\n"),
    "to a local name": "import tax\ndef f(x):\n    t = tax\n    return t.rate(x)\n",
    "to a local name, among others": (
        "import tax\ndef f(x):\n    t, y = tax, x\n    return t.rate(y)\n"
    ),
    "as an argument": (
        "import tax\ndef g(m, x):\n    return m.rate(x)\ndef f(x):\n    return g(tax, x)\n"
    ),
    "as an attribute of a class": (
        "import tax\nclass Taxes:\n    t = tax\ndef f(x):\n    return Taxes.t.rate(x)\n"
    ),
    "as an attribute of an object": (
        "import tax\nclass Taxes: pass\ntaxes = Taxes()\ntaxes.t = tax\n"
        "def f(x):\n    return taxes.t.rate(x)\n"
    ),
    "in a list": "import tax\nALL = [tax]\ndef f(x):\n    return ALL[0].rate(x)\n",
    "in a dict": "import tax\nALL = {1: tax}\ndef f(x):\n    return ALL[1].rate(x)\n",
}
MODULES = {
    "tax.py": TAX,
    "pack/__init__.py": "NAME = 'pack'\n",
    "pack/sub.py": TAX,
    "user.py": (
        "from tax import rate\n"
        "def late_rate(x):\n    from pack import sub\n    return sub.rate(x)\n"
    ),
}
PRINTS_KEYS = """
if __name__ == "__main__":
    from fast_dag import DAG
    class Kept(dict):
        set, delete = dict.__setitem__, dict.pop
    kept, dag = Kept(), DAG("d")
    dag.cached_node(name="f", backend=kept)(f)
    dag.run(x=1)
    print(*kept)
"""


def key_printed(directory: Path, python: str, program: str = "flow.py", **sources: str) -> str:
    """The key that a program prints in a new process, with these modules next to it."""
    for name, source in sources.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(source)
    done = subprocess.run(
        [python, "-B", program],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG,
    )
    return done.stdout.strip()


FORKS = """
import os, runpy, sys
import fast_dag.cache.fingerprint, fast_dag.cache.store

for directory in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            os.chdir(directory)
            sys.path[0] = directory
            runpy.run_path("flow.py", run_name="__main__")
            sys.stdout.flush()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""


def keys_printed(python: str, directories: list[Path]) -> list[str]:
    """The keys that the programs `flow.py` print, each in a process of its own; these are forked,
    because to start them takes much longer than they do."""
    done = subprocess.run(
        [python, "-B", "-c", FORKS, *map(str, directories)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG,
    )
    return done.stdout.splitlines()


@pytest.mark.stress
def test_a_module_whose_use_cannot_be_followed_counts_as_a_whole(tmp_path: Path) -> None:
    edits = {"before": ("", ""), "a": ("return 0", "return 1"), "b": ("RATE = 0.19", "RATE = 0.21")}
    for edit, (old, new) in edits.items():
        for number, flow in enumerate(IMPORTS.values()):
            for name, source in {**MODULES, "flow.py": flow + PRINTS_KEYS}.items():
                file = tmp_path / edit / str(number) / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(source.replace(old, new))

    def keys(edit: str, python: str = sys.executable) -> dict[str, str]:
        directories = [tmp_path / edit / str(number) for number in range(len(IMPORTS))]
        return dict(zip(IMPORTS, keys_printed(python, directories), strict=True))

    before = keys("before")
    assert before["in a function"] == key_printed(tmp_path / "before" / "0", sys.executable)
    for python in other_pythons():
        assert keys("before", python) == before
    for edit in ("a", "b"):
        after = keys(edit)
        assert [name for name in IMPORTS if after[name] == before[name]] == []


def test_a_whole_module_keeps_its_key_if_only_its_prose_changes(tmp_path: Path) -> None:
    flow = IMPORTS["of what imports it"] + PRINTS_KEYS
    before = key_printed(tmp_path, sys.executable, **{**MODULES, "flow.py": flow})
    for name in ("tax.py", "user.py"):
        text = f'"""About it."""\n# a comment\n{MODULES[name]}'
        assert key_printed(tmp_path, sys.executable, **{name: text}) == before


def test_reading_a_whole_module_imports_nothing_that_its_functions_import(tmp_path: Path) -> None:
    flow = IMPORTS["in a function"] + PRINTS_KEYS
    tax = TAX + "def train():\n    import training\n"
    sources = {"flow.py": flow, "tax.py": tax, "training.py": "print('trained')\n"}
    before = key_printed(tmp_path, sys.executable, **sources)
    assert "trained" not in before
    sources["training.py"] += "STEPS = 2\n"
    assert key_printed(tmp_path, sys.executable, **sources) != before


def test_a_script_that_its_modules_import_has_one_key_however_it_starts(tmp_path: Path) -> None:
    flow = IMPORTS["in a function"].replace("def f", "from pack.sub import margin\ndef f", 1)
    tax = TAX + "def back():\n    import flow\n    return flow.f\n"
    flow += PRINTS_KEYS.replace('if __name__ == "__main__":', "def main():")
    flow += 'if __name__ == "__main__":\n    main()\n'
    start = "import flow\nflow.main()\n"
    sources = {**MODULES, "tax.py": tax, "flow.py": flow, "start.py": start}
    as_script = key_printed(tmp_path, sys.executable, **sources)
    assert as_script
    assert key_printed(tmp_path, sys.executable, program="start.py") == as_script


def test_other_names_of_a_module_do_not_count_where_its_names_are_followed(
    tmp_path: Path,
) -> None:
    flow = "import tax\ndef f(x):\n    from pack import NAME\n    return tax.rate(x), NAME\n"
    sources = {**MODULES, "flow.py": flow + PRINTS_KEYS}
    before = key_printed(tmp_path, sys.executable, **sources)
    sources["tax.py"] = TAX.replace("UNUSED = 1", "UNUSED = 2")
    sources["pack/__init__.py"] += "UNUSED = 2\n"
    assert key_printed(tmp_path, sys.executable, **sources) == before


def test_helpers_that_call_each_other_have_a_key(write: Callable[..., ModuleType]) -> None:
    source = (
        "def even(x):\n    return x == 0 or odd(x - 1)\n"
        "def odd(x):\n    return x != 0 and even(x - 1)\n"
    )
    assert keys_of(write(flow=source).even) == keys_of(write(flow=source).even)


def test_several_lambdas_in_one_line_are_told_apart(write: Callable[..., ModuleType]) -> None:
    source = "both = [lambda x: x + 1, lambda x: (lambda y: y + 2)(x)]\n"
    one, other = [keys_of(each) for each in write(flow=source).both]
    assert one != other
    moved = write(flow=f"# moved\n{source}")
    assert [keys_of(each) for each in moved.both] == [one, other]


def test_constants_with_several_assignments_count_by_these_and_not_by_their_value(
    write: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "import os\n"
        "try:\n    HOST = os.environ['THE_HOST']\nexcept KeyError:\n    HOST = 'here'\n"
        "if 'THE_HOST' in os.environ:\n    PORT = len(HOST)\nelse:\n    PORT = 80\n"
        "def f(x):\n    return HOST, PORT\n"
    )
    keys = [keys_of(write_old(write, source).f)]
    for host in ("ada", "bob"):
        monkeypatch.setenv("THE_HOST", host)
        keys.append(keys_of(write_old(write, source).f))
    assert keys[0] == keys[1] == keys[2]
    assert keys_of(write_old(write, source.replace("'here'", "'there'")).f) != keys[0]


def write_old(write: Callable[..., ModuleType], source: str) -> ModuleType:
    """A module that nobody has edited since this process began."""
    module = write(flow=source)
    os.utime(str(module.__file__), (1e9, 1e9))
    return module


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"], ids=["", "text"])
@pytest.mark.parametrize("told", ["Order", "list[Order] | None", "tax.Order"])
def test_methods_of_classes_that_annotations_of_parameters_name_count(
    write: Callable[..., ModuleType], told: str, future: str
) -> None:
    flow = (
        f"{future}import tax\nfrom tax import Order\n"
        f"def f(x, order: {told} = None) -> tax.Result:\n    return order and order.total()\n"
    )
    order = "class Order:\n    def total(self): return 1\nclass Result:\n    value = 1\n"
    keys = keys_of(write(flow=flow, tax=order).f)
    assert keys_of(write(flow=flow, tax=order.replace("return 1", "return 2")).f) != keys
    assert keys_of(write(flow=flow, tax=order.replace("value = 1", "value = 2")).f) == keys


def test_a_helper_behind_a_decorator_counts(write: Callable[..., ModuleType]) -> None:
    source = (
        "import functools\n"
        "def twice(func):\n"
        "    @functools.wraps(func)\n"
        "    def call(x):\n"
        "        return 2 * func(x)\n"
        "    return call\n"
        "@functools.cache\n"
        "def kept(x): return x + 1\n"
        "@twice\n"
        "def helper(x): return kept(x)\n"
        "def price(x): return helper(x)\n"
    )
    before = keys_of(write(flow=source).price)
    assert keys_of(write(flow=source).price) == before
    assert keys_of(write(flow=source.replace("x + 1", "x + 2")).price) != before
    assert keys_of(write(flow=source.replace("2 * func", "3 * func")).price) != before


USES = {
    "an implementation for a type": (
        "import functools\n@functools.singledispatch\ndef used(x): return 1\n"
        "@used.register\ndef _(x: int): return {}\n"
    ),
    "a method for a type": (
        "import functools\nclass Used:\n    @functools.singledispatchmethod\n"
        "    def of(self, x): return 1\n    @of.register\n    def _(self, x: int): return {}\n"
        "def used(x): return Used().of(x)\n"
    ),
    "a method of a metaclass": (
        "class Meta(type):\n    def of(cls, x): return {}\nclass Used(metaclass=Meta): pass\n"
        "def used(x): return Used.of(x)\n"
    ),
    "a list that the module fills": "ALL = []\nALL.append({})\ndef used(x): return ALL[0]\n",
    "a dict in a dict": (
        "ALL = dict(a=dict())\nif ALL:\n    ALL['a'].update(b={})\n"
        "def used(x): return ALL['a']['b']\n"
    ),
}


@pytest.mark.parametrize("source", USES.values(), ids=USES)
def test_what_a_function_uses_in_another_way_than_by_a_call_counts(
    write: Callable[..., ModuleType], source: str
) -> None:
    def key_with(value: int) -> set[str]:
        return keys_of(write(flow=f"{source.format(value)}\ndef f(x):\n    return used(x)\n").f)

    assert key_with(2) == key_with(2)
    assert key_with(2) != key_with(3)


def test_what_a_module_does_with_other_objects_does_not_count(
    write: Callable[..., ModuleType],
) -> None:
    def key_with(level: int) -> set[str]:
        source = "import logging\nlog = logging.getLogger('x')\nlog.setLevel({})\n"
        return keys_of(write(flow=source.format(level) + "def f(x):\n    log.debug(x)\n").f)

    assert key_with(10) == key_with(20)


def test_nodes_that_a_node_calls_count(write: Callable[..., ModuleType]) -> None:
    source = (
        "from fast_dag import DAG\n"
        "dag = DAG('d')\n"
        "@dag.node\n"
        "def helper(x): return x + 1\n"
        "def price(x): return helper(x)\n"
    )
    before = keys_of(write(flow=source).price)
    assert keys_of(write(flow=source.replace("x + 1", "x + 2")).price) != before


def test_fields_of_classes_count(write: Callable[..., ModuleType]) -> None:
    source = (
        "import dataclasses\n"
        "LIMIT = 3\n"
        "@dataclasses.dataclass\n"
        "class Point:\n"
        "    x: int\n"
        "    y: int = LIMIT\n"
        "def price(x): return Point(x).y\n"
    )
    before = keys_of(write(flow=source).price)
    assert keys_of(write(flow=source).price) == before
    assert (
        keys_of(write(flow=source.replace("x: int\n", "x: int\n    z: int = 0\n")).price) != before
    )
    assert keys_of(write(flow=source.replace("LIMIT = 3", "LIMIT = 4")).price) != before


def rate(x: int) -> int:
    return x


def taxed(x: int) -> int:
    return rate(x)


def test_a_helper_that_is_defined_anew_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook, where the cell of the helper is run again."""
    dag = DAG("d")
    dag.cached_node(name="f", backend=Kept())(taxed)
    assert [dag.run(x=1), dag.run(x=1)] == [1, 1]
    monkeypatch.setitem(globals(), "rate", lambda x: 5 * x)
    assert dag.run(x=1) == 5
    monkeypatch.undo()
    assert dag.run(x=1) == 1
    assert dag.context.metrics["cache_hits"] == 1


def test_functions_without_a_source_are_told_apart_by_their_bytecode() -> None:
    def define(helper: str, rate: str) -> Any:
        scope: dict[str, Any] = {"__name__": "typed_in"}
        exec(f"def f(x): return g(x)\ndef g(x): return {helper}\nRATE = {rate}", scope)
        return scope["f"]

    before = keys_of(define("RATE * x", "2"))
    assert keys_of(define("RATE * x", "2")) == before
    assert keys_of(define("RATE + x", "2")) != before
    assert keys_of(define("RATE * x", "3")) != before


def test_functions_in_containers_count_without_a_source() -> None:
    def define(helper: str) -> Any:
        scope: dict[str, Any] = {"__name__": "typed_in"}
        exec(f"def f(x): return ALL[0][1](x)\ndef g(x): return {helper}\nALL = [{{1: g}}]", scope)
        return scope["f"]

    assert keys_of(define("2 * x")) == keys_of(define("2 * x"))
    assert keys_of(define("2 * x")) != keys_of(define("3 * x"))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("target", ["Taxes.rate", "rate.of", "Taxes.low, rate.of"])
def test_attributes_that_a_module_sets_on_its_classes_and_functions_count(
    tmp_path: Path, target: str
) -> None:
    tax = f"class Taxes: pass\ndef rate(): pass\n{target} = 1{', 1' * target.count(',')}\n"
    flow = f"from tax import Taxes, rate\ndef f(x):\n    return ({target})\n{PRINTS_KEYS}"
    before = key_printed(tmp_path, sys.executable, **{"flow.py": flow, "tax.py": tax})
    assert key_printed(tmp_path, sys.executable, **{"tax.py": tax + "# told\n"}) == before
    assert key_printed(tmp_path, sys.executable, **{"tax.py": tax.replace("1", "2")}) != before


def test_a_file_that_was_edited_after_its_import_is_not_taken_for_the_loaded_code(
    write: Callable[..., ModuleType], tmp_path: Path
) -> None:
    source = "RATE = 2\ndef price(x): return RATE * x\n"
    module = write(flow=source)
    (tmp_path / "flow.py").write_text(source.replace("RATE = 2", "RATE = 7"))
    stale = keys_of(module.price)
    assert keys_of(write(flow=source.replace("RATE = 2", "RATE = 7")).price) != stale


PROGRAM = """
import enum
from fast_dag import DAG
from helpers import Base, rate

class Kept(dict):
    set, delete = dict.__setitem__, dict.pop

class Point(Base):
    "A point."
    x: int = 1
    def twice(self): return [f"{each!r:>5}" for each in (self.x, self.x)]

def wrapped(x, *, sign=-1.5e300, names=("a", b"b", None, ...)):
    try:
        with open("nothing") as file: pass
    except OSError as error:
        return Point().twice(), rate(x)
    return {each: -each for each in range(x) if each not in {1, 2}}

kept, dag = Kept(), DAG("d")
dag.cached_node(name="f", backend=kept)(wrapped)
dag.run(x=[1, "a", (2.5, None)])
both = DAG("both")
for each, make in zip("ab", (lambda: 11, lambda: 22)):
    both.cached_node(name=each, backend=kept)(make)
both.run()
print(*kept)
"""
HELPERS = """
import dataclasses, json
@dataclasses.dataclass
class Base:
    y: float = 2.5
def rate(x): return json.dumps(x) if x else [0.5 * each for each in x]
"""


def other_pythons() -> list[str]:
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [str(each) for each in root.glob("3.1[1-9].*/bin/python")]
    return [sys.executable, *found]


@pytest.mark.stress
def test_every_python_makes_the_same_key(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "helpers.py").write_text(HELPERS)
    source = Path(__file__).parents[2] / "src"
    keys = {
        subprocess.run(
            [python, "program.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(source)},
            capture_output=True,
            text=True,
            check=True,
            timeout=LONG,
        ).stdout
        for python in other_pythons()
    }
    assert len(keys) == 1
    assert len(set(keys.pop().split())) == 3


ODD = """
class HasEverything:
    def __getattr__(self, name): return HasEverything()
    def __call__(self, x): return x

class RaisesAlways:
    def __getattribute__(self, name): raise LookupError(name)
    def __call__(self, x): return x

proxy, raises = HasEverything(), RaisesAlways()
def by_proxy(x): return proxy(x)
def by_raising(x): return raises(x)
"""


def test_objects_of_every_kind_fail_no_node(write: Callable[..., ModuleType]) -> None:
    module = write(odd=ODD)
    assert keys_of(module.by_proxy) == keys_of(module.by_proxy)
    with pytest.warns(RuntimeWarning, match=r"LookupError.*uncached"):
        assert keys_of(module.by_raising) == set()


# What code does not tell.


def captures(value: Any) -> Callable[[int], Any]:
    return lambda x: (x, value)


@pytest.mark.parametrize("value", [3, "a", (1, 2), [1], {"a": 1}, None], ids=repr)
def test_free_variables_that_are_plain_data_need_no_version(value: Any) -> None:
    assert keys_of(captures(value)) == keys_of(captures(value))
    assert keys_of(captures(value)) != keys_of(captures("another"))


@pytest.mark.parametrize("value", [object(), captures(1), functools.partial(len)])
def test_other_free_variables_need_a_version(value: Any) -> None:
    with pytest.raises(InvalidNodeError, match=r"'f'.*free variables.*needs version="):
        keys_of(captures(value))
    assert len(keys_of(captures(value), version=1)) == 1


def test_what_a_function_with_a_version_collects_is_no_part_of_its_key() -> None:
    seen: list[int] = []

    def collect(x: int) -> None:
        seen.append(x)

    assert keys_of(collect, version=1) == keys_of(collect, version=1)
    assert seen == [1, 1]


# Nested workflows.


def one(x: int) -> int:
    return x + 1


def two(x: int) -> int:
    return x + 2


def inner_of(func: Callable[..., Any]) -> DAG:
    return DAG("inner").add_node("n", func)


def nested_in(*levels: str, func: Callable[..., Any], **options: Any) -> tuple[DAG, DAG]:
    """A cached node around a DAG around a DAG; the outermost and the innermost."""
    innermost = workflow = inner_of(func)
    for level in levels:
        workflow = DAG(level).add_node("sub", workflow)
    dag = DAG("outer")
    dag.cached_node(name="all", **options)(workflow)
    return dag, innermost


@pytest.mark.parametrize("backend", [None, Kept, DiskCache], ids=["memory", "shared", "disk"])
@pytest.mark.parametrize("levels", [(), ("middle",), ("middle", "upper")], ids=len)
def test_a_cached_workflow_notices_a_node_that_was_replaced(
    backend: Any, levels: tuple[str, ...], tmp_path: Path
) -> None:
    made = {Kept: Kept, DiskCache: lambda: DiskCache(tmp_path)}
    options = {} if backend is None else {"backend": made[backend]()}
    dag, innermost = nested_in(*levels, func=one, **options)
    assert [dag.run(x=1), dag.run(x=1)] == [2, 2]
    assert dag.context.metrics["cache_hits"] == 1
    innermost.replace_node("n", two)
    assert [dag.run(x=1), dag.run(x=1)] == [3, 3]
    assert dag.context.metrics["cache_hits"] == 1
    dag.invalidate_cache("all", x=1)
    assert dag.execute(x=1).metrics["cache_misses"] == 1


def test_workflows_share_results_where_they_do_the_same() -> None:
    kept = Kept()
    first, _ = nested_in(func=one, backend=kept)
    first.run(x=1)
    again, _ = nested_in(func=one, backend=kept)
    assert again.execute(x=1).metrics["cache_hits"] == 1
    other, _ = nested_in(func=two, backend=kept)
    assert other.run(x=1) == 3


def test_edges_hooks_and_handlers_of_a_cached_workflow_count() -> None:
    def made(change: Callable[[DAG], Any]) -> set[str]:
        kept, inner = Kept(), DAG("inner").add_node("a", one).add_node("b", two)
        inner.connect("a", "b")
        change(inner)
        dag = DAG("outer")
        dag.cached_node(name="all", backend=kept)(inner)
        dag.run(x=1)
        return set(kept)

    keys = [
        made(lambda inner: None),
        made(lambda inner: inner.disconnect("a", "b")),
        made(lambda inner: inner.set_node_hooks("b", post_execute=hook)),
        made(lambda inner: inner.set_default_hooks(post_execute=hook)),
        made(lambda inner: inner.set_node_error_handler("a", handler)),
    ]
    assert len({frozenset(each) for each in keys}) == len(keys)
    assert made(lambda inner: None) == keys[0]


def hook(node: Any, inputs: Any, result: Any) -> Any:
    return -result


def handler(node: Any, inputs: Any, error: Any) -> int:
    return 0


def test_transitions_of_a_cached_machine_count() -> None:
    def made(last: str) -> Any:
        kept, fsm = Kept(), FSM("m", initial_state="a", terminal_states=["b", "c"])
        fsm.add_state("a", one).add_state("b", one).add_state("c", two)
        fsm.add_transition("a", last)
        dag = DAG("outer")
        dag.cached_node(name="all", backend=kept)(fsm)
        return dag.run(x=1), set(kept)

    assert made("b")[1] == made("b")[1]
    assert made("b")[1] != made("c")[1]


def test_a_workflow_with_a_node_that_code_does_not_tell_needs_a_version() -> None:
    inner = inner_of(captures(object()))
    with pytest.raises(InvalidNodeError, match=r"'all'.*workflow with.*needs version="):
        DAG("d").cached_node(name="all", backend=Kept())(inner)
    dag = DAG("d")
    dag.cached_node(name="all", backend=Kept(), version=1)(inner)
    dag.run(x=1)
    assert dag.execute(x=1).metrics["cache_hits"] == 1


def test_a_workflow_that_gets_such_a_node_later_runs_uncached_with_one_warning() -> None:
    dag, innermost = nested_in(func=one, backend=Kept())
    assert dag.run(x=1) == 2
    innermost.replace_node("n", captures(sys.flags and object()))
    with pytest.warns(RuntimeWarning, match=r"'all' cannot be cached.*needs version="):
        dag.run(x=1)


def calls_made(call: Callable[[], object]) -> int:
    """How many Python functions a call calls, those of the standard library included."""
    count = 0

    def entered(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(entered)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def test_a_function_costs_the_same_among_many_in_one_file(write: Callable[..., ModuleType]) -> None:
    def cost(many: int) -> float:
        functions = [f"def f{n}(x):\n    return C{n} + x\nC{n} = {n}\n" for n in range(many)]
        flow = write(**{f"flow_of_{many}": "\n".join(functions)})
        found = [getattr(flow, f"f{n}") for n in range(many)]
        return calls_made(lambda: [Fingerprint([each]) for each in found]) / many

    assert cost(200) < 2 * cost(20)
