"""Reading what a callable takes."""

from __future__ import annotations

import functools
import inspect
import math
import operator
from typing import Any

import pytest

import fast_dag.define.signature
from fast_dag import Context
from fast_dag.define.signature import ABSENT, Kind, UnreadableSignatureError, read_signature


def every_kind(a, b=1, /, c=2, *d, e, f=3, **g): ...


def read(func: Any) -> list[tuple[str, Any, int]]:
    return [(each.name, each.default, each.kind) for each in read_signature(func).parameters]


def test_parameters_of_every_kind_are_told_apart() -> None:
    signature = read_signature(every_kind)
    assert read(every_kind) == [
        ("a", ABSENT, Kind.POSITIONAL_ONLY),
        ("b", 1, Kind.POSITIONAL_ONLY),
        ("c", 2, Kind.POSITIONAL),
        ("e", ABSENT, Kind.KEYWORD_ONLY),
        ("f", 3, Kind.KEYWORD_ONLY),
    ]
    assert (signature.var_positional, signature.var_keyword) == ("d", "g")
    assert signature.inputs == ("a", "b", "c", "e", "f")
    assert signature.positional == ("a", "b", "c")


class Holder:
    def method(self, a, b=1, *, c=2): ...

    @classmethod
    def of_class(cls, a, b=1): ...

    @staticmethod
    def static(a, b=1): ...

    def __call__(self, a, *rest): ...


def nothing(): ...


def only_args(*args): ...


def only_kwargs(**kwargs): ...


def keyword_only(*, a, b=1): ...


def none_default(a=None): ...


async def later(a, b=1): ...


SAME_AS_INSPECT = {
    "every kind": every_kind,
    "nothing": nothing,
    "args": only_args,
    "kwargs": only_kwargs,
    "keyword-only": keyword_only,
    "default None": none_default,
    "async": later,
    "lambda": lambda x, y=2: x,
    "bound method": Holder().method,
    "function of a method": Holder.method,
    "class method": Holder.of_class,
    "static method": Holder.static,
    "callable object": Holder(),
    "partial": functools.partial(every_kind, 1, e=2),
    "partial of a method": functools.partial(Holder().method, 1),
    "lru_cache": functools.lru_cache(keyword_only),
    "operator.add": operator.add,
    "len": len,
    "math.sqrt": math.sqrt,
    "pow": pow,
    "sorted": sorted,
    "print": print,
}


@pytest.mark.parametrize("kind", SAME_AS_INSPECT)
def test_what_is_read_is_what_inspect_reads(kind: str) -> None:
    func = SAME_AS_INSPECT[kind]
    expected = inspect.signature(func).parameters.values()
    named = [p for p in expected if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    assert read(func) == [
        (p.name, ABSENT if p.default is p.empty else p.default, int(p.kind)) for p in named
    ]
    signature = read_signature(func)
    assert signature.var_positional == next(
        (p.name for p in expected if p.kind is p.VAR_POSITIONAL), None
    )
    assert signature.var_keyword == next(
        (p.name for p in expected if p.kind is p.VAR_KEYWORD), None
    )


def test_function_that_tells_another_signature_is_believed() -> None:
    def func(*args, **kwargs): ...

    func.__signature__ = inspect.signature(keyword_only)  # type: ignore[attr-defined]
    assert read_signature(func).inputs == ("a", "b")


@pytest.mark.parametrize("func", [math.hypot, max, int, dict, type], ids=lambda each: each.__name__)
def test_builtin_that_tells_nothing_is_unreadable(func: Any) -> None:
    with pytest.raises(UnreadableSignatureError):
        read_signature(func)


def test_context_is_no_input() -> None:
    def func(a, c: Context, context, b=1): ...

    signature = read_signature(func)
    assert signature.inputs == ("a", "b")
    assert signature.takes_context
    assert [each.name for each in signature.parameters if each.is_context] == ["c", "context"]
    assert not read_signature(every_kind).takes_context


# Async.


class Later:
    async def __call__(self, a): ...

    async def method(self, a): ...


async def generates():
    yield 1


def dressed(func: Any) -> Any:
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        return func(*args, **kwargs)

    return wrapper


ASYNC = {
    "function": later,
    "method": Later().method,
    "callable object": Later(),
    "partial": functools.partial(later, 1),
    "partial of a partial": functools.partial(functools.partial(later, 1), 2),
    "partial of a method": functools.partial(Later().method, 1),
}
SYNC = {
    "function": every_kind,
    "class of async callables": Later,
    "builtin": len,
    "async generator": generates,
    "partial": functools.partial(every_kind, 1),
    "sync wrapper of an async function": dressed(later),
}


@pytest.mark.parametrize("kind", ASYNC)
def test_what_gives_a_coroutine_is_async(kind: str) -> None:
    assert read_signature(ASYNC[kind]).is_async


@pytest.mark.parametrize("kind", SYNC)
def test_what_gives_no_coroutine_is_not_async(kind: str) -> None:
    assert not read_signature(SYNC[kind]).is_async


# Wrappers.


def wrap(func: Any) -> Any:
    def wrapper(*args, **kwargs):
        return func(*args, **kwargs)

    return wrapper


def test_opaque_wrapper_is_seen_through() -> None:
    signature = read_signature(wrap(wrap(every_kind)))
    assert signature.inputs == ("a", "b", "c", "e", "f")
    assert signature.origin is every_kind
    assert (signature.var_positional, signature.var_keyword) == ("d", "g")


def test_wrapper_with_parameters_of_its_own_is_not_seen_through() -> None:
    def decorate(func):
        def wrapper(first, *args, **kwargs):
            return func(*args, **kwargs)

        return wrapper

    signature = read_signature(decorate(every_kind))
    assert signature.inputs == ("first",)
    assert signature.var_positional == "args"


def test_wrapper_of_args_alone_is_not_seen_through() -> None:
    def decorate(func):
        def wrapper(*args):
            return func(*args)

        return wrapper

    assert read_signature(decorate(every_kind)).inputs == ()


def test_wrapper_of_what_cannot_be_read_stays_opaque() -> None:
    signature = read_signature(wrap(math.hypot))
    assert signature.inputs == ()
    assert (signature.var_positional, signature.var_keyword) == ("args", "kwargs")


def test_wrapper_of_a_cell_without_a_value_stays_opaque() -> None:
    def decorate():
        def wrapper(*args, **kwargs):
            return func(*args, **kwargs)

        if not wrapper:
            func = every_kind
        return wrapper

    assert read_signature(decorate()).var_positional == "args"


def test_async_wrapper_of_a_sync_function_is_async() -> None:
    def decorate(func):
        async def wrapper(*args, **kwargs):
            return func(*args, **kwargs)

        return wrapper

    signature = read_signature(decorate(every_kind))
    assert signature.is_async
    assert signature.inputs == ("a", "b", "c", "e", "f")


# Renaming and annotations.


def test_renamed_parameters_keep_their_kind_default_and_keyword() -> None:
    signature = read_signature(keyword_only).renamed(["x", "y"])
    assert signature.inputs == ("x", "y")
    x, y = signature.parameters
    assert (x.kind, x.keyword, x.default) == (Kind.KEYWORD_ONLY, "a", ABSENT)
    assert (y.kind, y.keyword, y.default) == (Kind.KEYWORD_ONLY, "b", 1)
    assert signature.keyword_of("x") == "a"
    assert signature.keyword_of("other") == "other"


def test_renamed_parameters_pass_the_context_over() -> None:
    def func(c: Context, a, b): ...

    assert read_signature(func).renamed(["x", "y"]).inputs == ("x", "y")


def test_renamed_star_args_become_parameters() -> None:
    signature = read_signature(only_args).renamed(["x", "y"])
    assert signature.inputs == ("x", "y")
    assert signature.var_positional is None


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (["x", "x"], "given twice"),
        (["x", "y", "z"], "3 names for 2 parameters"),
        (["b", "a"], "name of another parameter"),
    ],
)
def test_names_that_do_not_fit_are_refused(new: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_signature(keyword_only).renamed(new)


def test_annotations_are_resolved_where_they_can_be() -> None:
    def func(a: int, b: Nowhere, c) -> str: ...  # noqa: F821

    signature = read_signature(func)
    assert signature.annotation("a") is int
    assert signature.annotation("b") is ABSENT
    assert signature.annotation("c") is ABSENT
    assert signature.return_annotation() is str


# Signatures are kept for as long as nodes have them.


def test_functions_that_do_not_change_are_read_once() -> None:
    def func(a, b: int, c=1): ...

    assert read_signature(func) is read_signature(func)


def set_default(func: Any) -> None:
    func.__defaults__ = (2,)


def set_keyword_default(func: Any) -> None:
    func.__kwdefaults__["d"] = 2


def set_annotation(func: Any) -> None:
    func.__annotations__["a"] = Context


def set_annotations(func: Any) -> None:
    func.__annotations__ = {"a": Context}


def set_code(func: Any) -> None:
    func.__code__ = every_kind.__code__


def set_wrapped(func: Any) -> None:
    func.__wrapped__ = every_kind


def mark_async(func: Any) -> None:
    inspect.markcoroutinefunction(func)  # type: ignore[attr-defined, unused-ignore]


CHANGES = [set_default, set_keyword_default, set_annotation, set_annotations, set_code, set_wrapped]


@pytest.mark.parametrize("change", CHANGES, ids=lambda each: each.__name__)
def test_a_function_that_was_changed_is_read_again(change: Any) -> None:
    def make() -> Any:
        def func(a, c=1, *, d=1): ...

        return func

    def seen(signature: Any) -> Any:
        return signature.inputs, [each.default for each in signature.parameters]

    func, fresh = make(), make()
    kept = read_signature(func)
    change(func)
    change(fresh)
    assert seen(read_signature(func)) == seen(read_signature(fresh)) != seen(kept)


@pytest.mark.skipif(not hasattr(inspect, "markcoroutinefunction"), reason="new in Python 3.12")
def test_a_function_that_was_marked_is_async() -> None:
    def func(a): ...

    kept = read_signature(func)
    mark_async(func)
    assert not kept.is_async
    assert read_signature(func).is_async
    assert read_signature(functools.partial(func, 1)).is_async


def test_names_of_parameters_are_not_kept_without_end() -> None:
    for number in range(3000):
        made: dict[str, Any] = {}
        exec(f"def func(parameter_{number}): ...", made)
        assert read_signature(made["func"]).inputs == (f"parameter_{number}",)
    assert len(fast_dag.define.signature._shared) < 2000


def test_absent_is_one_object() -> None:
    import copy
    import pickle

    assert pickle.loads(pickle.dumps(ABSENT)) is ABSENT
    assert copy.deepcopy(ABSENT) is ABSENT
    assert repr(ABSENT) == "<absent>"
