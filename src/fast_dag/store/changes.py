"""What code nodes have, and how it differs from the code that a store remembers."""

from __future__ import annotations

import json
import re
from ast import literal_eval
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from fast_dag.cache.fingerprint import VALUE, Fingerprint, made_of, untold
from fast_dag.define.node import NodeType
from fast_dag.errors import brief_of, failures
from fast_dag.store.codec import digest
from fast_dag.store.graphs import text_of_graph

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from sqlite3 import Connection

    from fast_dag.define.node import Node
    from fast_dag.plan.plan import Plan
    from fast_dag.plan.step import Step
    from fast_dag.store.reruns import Rows

_PACKAGE: Final = "package "
_UNTOLD: Final = "untold"
_VERSION: Final = "version"
_BOUND: Final = "what is called"
_INPUT: Final = "input "
_BRANCH: Final = "branch of "
_AFTER: Final = "after "
_TYPE: Final = "type"
_LISTENED: Final = "branches"
_INSIDE: Final = "inside"
_EDITED_INSIDE: Final = "nodes or edges in it have changed"
_BRANCHES: Final = {None: "", True: "true", False: "false"}


class Code(NamedTuple):
    """The code of a node: the parts of its fingerprint by name, where its arguments come from, and
    a digest of all that.

    A part "package x" is the version of somebody else's package; "untold" is why code does not tell
    what the node does; "what is called" is a partial, a method or another object; "input x" is what
    feeds a parameter, "branch of x" which choices of a node lead here, "after x" an edge that only
    orders; "type" is that of a node that decides or joins, "branches" those that a select has,
    "inside" the nodes and edges of a nested workflow."""

    key: bytes
    parts: Mapping[str, str]
    text: str  # the parts as JSON


class Codes:
    """The code of each node of a plan, and of the workflows nested in it: `by_path`, the `keys` by
    dotted path, and the `texts` by key, of which the one of the `graph` lists the others. `noted`
    are the databases that have them all, unless something was pruned there since; see
    `Claim._note`."""

    def __init__(self, plan: Plan) -> None:
        found = list(_codes_of(plan))
        self.by_path = {path: code for path, code, _ in found}
        self.keys = {".".join(path): code.key for path, code, _ in found}
        self.texts = {code.key: code.text for _, code, _ in found}
        text = text_of_graph(plan, self.texts)
        self.graph = _key_of(text)
        self.texts[self.graph] = text
        self.noted = WeakKeyDictionary[object, object]()
        fingerprints = [each for *_, each in found if each is not None]
        self._all = Fingerprint.of_all(fingerprints) if len(fingerprints) == len(found) else None

    @classmethod
    def of(cls, plan: Plan) -> Codes:
        """Those of a plan, which keeps them for as long as the functions are the same."""
        kept: Codes | None = plan.__dict__.get("all_codes")
        if kept is None or kept._all is None or not kept._all.is_current():
            kept = plan.__dict__["all_codes"] = cls(plan)
        return kept


_NO_CODE: Final = Fingerprint(())
"""That of a node whose code are the nodes in it."""


def _codes_of(
    plan: Plan, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Code, Fingerprint | None]]:
    # Kept by the plan, so that it is freed with what it refers to.
    known: dict[int, tuple[Fingerprint | None, Code]] = plan.__dict__.setdefault("codes", {})
    shared: dict[Any, tuple[Fingerprint | None, Mapping[str, str]]] = {}
    for step in plan.steps:
        path, workflow = (*prefix, step.name), step.node.workflow
        is_nested = workflow is not None and getattr(workflow, "kind", None) == "dag"
        if is_nested and step.node.map is None:
            inside = {} if step.nested is None else {_INSIDE: _shape(step.nested)}
            yield path, _code({**_wires(step, plan), **inside}), _NO_CODE
            if step.nested is not None:
                yield from _codes_of(step.nested, path)
            continue
        found = known.get(step.index)
        if found is None or found[0] is None or not found[0].is_current():
            key = step.node.func
            read = shared.get(key) if isinstance(key, FunctionType) else None
            if read is None or step.node.cache is not None:
                read = _read(step.node)
            if isinstance(key, FunctionType) and step.node.cache is None:
                shared[key] = read
            found = known[step.index] = read[0], _code({**read[1], **_wires(step, plan)})
        yield path, found[1], found[0]


def _code(parts: Mapping[str, str]) -> Code:
    text = json.dumps(parts, sort_keys=True)
    return Code(_key_of(text), parts, text)


def _key_of(text: str) -> bytes:
    return bytes.fromhex(digest(text.encode("utf-8", "surrogatepass")))


def _wires(step: Step, plan: Plan) -> dict[str, str]:
    """Where the arguments of a node come from, and what decides whether it runs, and which branch
    it takes."""
    parts: dict[str, str] = {}
    kind = step.node.type
    if kind is not NodeType.NODE:
        collects = step.node.options.get("collect")
        parts[_TYPE] = kind.value if collects is None else f"{kind.value} that collects {collects}"
    branches = plan.topology.known_branches(step.name)
    if kind is NodeType.SELECT and branches:
        parts[_LISTENED] = ", ".join(sorted(map(str, branches)))
    for name in () if step.binding is None else sorted(step.binding.used):
        parts[_INPUT + name] = "the run's input"
    for edge in step.edges:
        branch = edge.branch if isinstance(edge.branch, str) else _BRANCHES[edge.branch]
        if edge.input is None:
            parts[_AFTER + edge.source] = "optional" if edge.optional else "required"
        else:
            optional = " (optional)" if edge.optional else ""
            name, origin = _INPUT + edge.input, f"node {edge.origin}{optional}"
            parts[name] = f"{parts[name]} and {origin}" if name in parts else origin
        if branch:
            name = _BRANCH + edge.source
            parts[name] = f"{parts[name]} or {branch}" if name in parts else branch
    return parts


def _shape(plan: Plan) -> str:
    """The nodes and edges of a workflow, which decide what in it may run."""
    nodes = [f"{step.name} {step.node.type.value}" for step in plan.steps]
    edges = [
        f"{edge!r} optional" if edge.optional else repr(edge)
        for step in plan.steps
        for edge in step.edges
    ]
    return ", ".join([*sorted(nodes), *sorted(edges)])


def _read(node: Node[..., Any]) -> tuple[Fingerprint | None, Mapping[str, str]]:
    """What the code of a node says, and its fingerprint, None if that cannot be made."""
    workflow: Any = node.workflow
    version = (node.options.get("cache") or {}).get("version")
    parts: dict[str, str] = {}
    fingerprint = None
    try:
        things = [node.func] if workflow is None else made_of(workflow)
        why = None
        if workflow is None and version is None:
            why = untold(node.func, node.signature.origin)
        if why is not None:
            parts[_UNTOLD] = why
        # As with a version: what functions collect in their closures is no change of the code.
        fingerprint = Fingerprint(things, True)
        parts |= fingerprint.parts
        if workflow is None and not isinstance(node.func, FunctionType):
            parts[_BOUND] = fingerprint.told[0]
    except failures() as error:  # of objects that a module has
        parts[_UNTOLD] = f"reading it raised {brief_of(error)}"
    if version is not None:
        parts[_VERSION] = str(version)
    return fingerprint, parts


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """What has changed from one code to another, in words: what was seen to change in the user's
    own code, and what may make a difference.

    >>> differences({"shop:RATE": "['float 0.19']"}, {"shop:RATE": "['float 0.21']"})
    (['shop.RATE: constant 0.19 -> 0.21'], [])
    >>> differences({"input price": "node a"}, {"input price": "node b"})
    ([], ['input price: from node a, now from node b'])
    """
    seen, maybe = [], []
    old, new = _without_renamed(old, new)
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if name == _UNTOLD:
            maybe.append(f"nobody can tell whether it changed: {after or before}")
        elif before == after:
            continue
        elif (was := _python_of(before)) != (now := _python_of(after)) and before and after:
            maybe.append(
                f"nobody can tell whether {_shown(name)} changed: it was read from {was}, and now "
                f"from {now}"
            )
        elif name.startswith(VALUE):
            maybe.append(
                f"nobody can tell whether {_shown(name.removeprefix(VALUE))} changed: its file was "
                "edited while a process ran"
            )
        elif name.startswith(_PACKAGE):
            maybe.append(f"{name}: {before or 'not used'} -> {after or 'not used'}")
        elif name.startswith(_INPUT):
            was, now = before or "its default", after or "its default"
            maybe.append(f"{name}: from {was}, now from {now}")
        elif name.startswith(_BRANCH):
            maybe.append(f"{name}: {before or 'any'}, now {after or 'any'}")
        elif name.startswith(_AFTER):
            maybe.append(f"{name}: {before or 'no edge'}, now {after or 'no edge'}")
        elif name == _TYPE:
            maybe.append(f"{name}: {before or 'node'}, now {after or 'node'}")
        elif name == _INSIDE:
            maybe.append(_EDITED_INSIDE)
        elif name == _LISTENED:
            maybe.append(f"{name}: {before or 'none'}, now {after or 'none'}")
        else:
            seen.append(_told(name, before, after))
    return seen, maybe


def _python_of(text: str | None) -> str:
    """Which Python compiled a function whose bytecode stands for it, because no source was there:
    each Python makes another."""
    found = re.match(r"\(['\"]([a-z]+-[0-9]+) ", text or "")
    return "a source" if found is None else f"the bytecode of {found[1]}"


def _shown(name: str) -> str:
    return name.replace(":", ".")


def _without_renamed(
    old: Mapping[str, str], new: Mapping[str, str]
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Both without the functions that differ in nothing but their name. What calls such a function
    by its name has changed itself."""
    gone = {_nameless(name, text): name for name, text in old.items() if name not in new}
    come = {_nameless(name, text): name for name, text in new.items() if name not in old}
    same = gone.keys() & come.keys()
    before, after = {gone[text] for text in same}, {come[text] for text in same}
    return (
        {name: text for name, text in old.items() if name not in before},
        {name: text for name, text in new.items() if name not in after},
    )


def _nameless(name: str, text: str) -> str:
    """The text of a function without its name; of other things with it."""
    own = f"FunctionDef name={name.rpartition('.')[2]!r}"
    return text.replace(own, "FunctionDef", 1) if own in text else f"{name} {text}"


def _told(name: str, before: str | None, after: str | None) -> str:
    shown = _shown(name)
    if name == _VERSION:
        return f"version {before} -> {after}"
    if before is None:
        return f"{shown} is used now"
    if after is None:
        return f"{shown} is used no longer"
    old, new = _constant(before), _constant(after)
    if old is not None and new is not None:
        return f"{shown}: constant {old} -> {new}"
    return f"{shown} has changed"


def _constant(text: str) -> str | None:
    """The literal that a constant is assigned, from the text of that statement; None if it is no
    literal."""
    try:
        (said,) = literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return None
    kind, _, value = str(said).partition(" ")
    return value if kind in ("int", "float", "str", "bool", "bytes", "NoneType") and value else None


class Change(NamedTuple):
    """How the code of a committed node differs: what was `seen` to change, what `may` make a
    difference; `is_gone` if there is no such node any more."""

    seen: list[str]
    may: list[str]
    is_gone: bool = False

    @property
    def is_inside(self) -> bool:
        """Whether nothing changed but the graph of a nested workflow, which can go on."""
        return not self.seen and self.may == [_EDITED_INSIDE]


def changes_of(
    connection: Connection, rows: Rows, codes: Mapping[tuple[str, ...], Code]
) -> dict[tuple[str, ...], Change]:
    """How the code of the nodes that have ended, and of maps with items that have, differs from
    what it is now, by path; those that do not differ are left out."""
    found: dict[tuple[str, ...], Change] = {}
    old: dict[bytes, dict[str, str]] = {}
    for path, scope, name in rows.committed():
        if not rows.graph.has(path):
            found[path] = Change([f"the node {'.'.join(path)!r} is gone"], [], is_gone=True)
            continue
        new = codes.get(path)
        for key in rows.codes[scope, name]:
            if key is None or new is None:
                continue
            if key == new.key and _UNTOLD not in new.parts:
                continue
            if key not in old:
                old[key] = _parts_of(connection, key)
            seen, may = differences(old[key], new.parts)
            if seen or may:
                found[path] = Change(seen, may)
    return found


def is_refed(connection: Connection, key: bytes | None, code: Code) -> bool:
    """Whether the arguments of a node came from elsewhere when it had the code of that key."""
    old, new = (
        {name: text for name, text in parts.items() if name.startswith(_INPUT)}
        for parts in (_parts_of(connection, key), code.parts)
    )
    return old != new


def _parts_of(connection: Connection, key: bytes | None) -> dict[str, str]:
    """The parts of the code of a key; none if they were pruned."""
    rows = connection.execute("SELECT parts FROM codes WHERE digest = ?", (key,))
    return next((json.loads(text) for (text,) in rows), {})
