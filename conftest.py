"""Skips what needs a package that only an extra brings, where that is not installed."""

from __future__ import annotations

import compileall
import gc
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies

import tests.properties  # noqa: F401  loads how hard hypothesis tries
from tests.ways import WAYS

NEEDED = {name: way.needs for name, way in WAYS.items()} | {
    "processes": ("cloudpickle",),
    "loky": ("loky",),
    "dask": ("distributed",),
    "yaml": ("yaml",),
    "by grandalf": ("grandalf",),
}
"""What a test needs that is parametrised with one of these, beside what its marks `needs` say."""


def is_missing(package: str) -> bool:
    return find_spec(package) is None


# The doctests of modules that import an extra, or have examples that need one.
DOCTESTS = {
    "src/fast_dag/cli/app.py": "click",
    "src/fast_dag/cli/command.py": "click",
    "src/fast_dag/cli/output.py": "click",
    "src/fast_dag/cli/runs.py": "click",
    "src/fast_dag/drive/workers.py": "cloudpickle",
    "src/fast_dag/store/codec.py": "cloudpickle",
}
collect_ignore = [path for path, package in DOCTESTS.items() if is_missing(package)]


def pytest_configure(config: pytest.Config) -> None:
    """Compile the library once, not in each of the hundreds of programs that the tests start."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(__file__).parent / "src", quiet=1)


@pytest.hookimpl(tryfirst=True)  # before tests are left out by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make long tests of all but one in so many parameters of a test that is marked so."""
    seen: Counter[str] = Counter()
    for item in items:
        if mark := item.get_closest_marker("one_in"):
            test = item.nodeid.partition("[")[0]
            if seen[test] % mark.args[0]:
                item.add_marker("stress")
            seen[test] += 1


def pytest_collection_finish() -> None:
    """Have the collector, which many tests call, pass over the thousands of tests themselves."""
    # The first property that is not random makes Hypothesis look for what holds its source of
    # random numbers; among what the collector passes over it would not find that any more.
    fixed = settings(derandomize=True, database=None, max_examples=1)
    fixed(given(strategies.none())(lambda _: None))()
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    mark = item.get_closest_marker("needs")  # so that a test can tell it otherwise than its module
    packages = [] if mark is None else list(mark.args)
    if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
        given = {each for each in item.callspec.params.values() if isinstance(each, str)}
        given.update(item.callspec.id.split("-"))  # where the parameter is a function, say
        packages += [package for each in given for package in NEEDED.get(each, ())]
    if missing := [package for package in packages if is_missing(package)]:
        pytest.skip(f"not installed: {', '.join(missing)}")
