"""Skips what needs a package that only an extra brings, where that is not installed."""

from __future__ import annotations

import gc
from importlib.util import find_spec

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
