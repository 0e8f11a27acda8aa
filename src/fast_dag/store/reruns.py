"""Which rows of a run no longer count: those of nodes that are to be computed anew, and of what is
below them. Old rows stay until they are pruned; `replaced` says from which generation on."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from fast_dag.errors import UnknownNodeError, ValidationError
from fast_dag.store.durable import REPLACE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from sqlite3 import Connection

    from fast_dag.store.graphs import StoredGraph

    Path = tuple[str, ...]


class Rows:
    """The rows of a run that count, by the attempts of nested workflows that they belong to."""

    def __init__(self, connection: Connection, run: int, graph: StoredGraph) -> None:
        self.run = run
        self.graph = graph
        self.ok: dict[int, dict[str, bool]] = defaultdict(dict)
        self.begun: dict[int, set[str]] = defaultdict(set)  # maps that have not ended
        self.codes: dict[tuple[int, str], set[bytes | None]] = {}
        # Nodes that failed when they were called again for values that are not stored: each with
        # what has ended since.
        self.since: dict[tuple[int, str], set[tuple[int, str]]] = {}
        for scope, node, ok, code, stored in connection.execute(
            "SELECT scope, node, ok, code, stored FROM nodes"
            " WHERE run = ? AND replaced IS NULL AND item = x'' ORDER BY id",
            (run,),
        ):
            self.ok[scope][node] = bool(ok)
            self.codes[scope, node] = {code}
            for later in self.since.values():
                later.add((scope, node))
            if not ok and not stored:
                self.since[scope, node] = set()
        for scope, node, code in connection.execute(
            "SELECT DISTINCT scope, node, code FROM nodes"
            " WHERE run = ? AND replaced IS NULL AND item != x''",
            (run,),
        ):
            if node not in self.ok[scope]:
                self.begun[scope].add(node)
                self.codes.setdefault((scope, node), set()).add(code)
        self.scopes: dict[tuple[int, str], list[int]] = defaultdict(list)
        for scope, parent, node in connection.execute(
            "SELECT id, parent, node FROM scopes WHERE run = ? AND replaced IS NULL ORDER BY id",
            (run,),
        ):
            self.scopes[parent, node].append(scope)

    def ended(self) -> Iterator[tuple[Path, int, str]]:
        """The nodes that have ended, of nested workflows in their last attempt: path, scope and
        name."""
        return self._paths(lambda scope: self.ok[scope])

    def committed(self) -> Iterator[tuple[Path, int, str]]:
        """The same, and the maps that have not ended, but some of whose items have."""
        return self._paths(lambda scope: (*self.ok[scope], *self.begun[scope]))

    def _paths(
        self, names: Callable[[int], Iterable[str]], scope: int = 0, prefix: Path = ()
    ) -> Iterator[tuple[Path, int, str]]:
        for name in names(scope):
            yield (*prefix, name), scope, name
        for (parent, name), scopes in self.scopes.items():
            if parent == scope:
                yield from self._paths(names, scopes[-1], (*prefix, name))

    def graphs(
        self, scope: int = 0, graph: StoredGraph | None = None
    ) -> Iterator[tuple[int, StoredGraph]]:
        """The scopes, of nested workflows that of the last attempt, each with its graph."""
        graph = graph or self.graph
        yield scope, graph
        for name, inner in graph.nested.items():
            scopes = self.scopes.get((scope, name))
            if scopes:
                yield from self.graphs(scopes[-1], inner)

    def failed(self, scope: int = 0, graph: StoredGraph | None = None) -> Iterator[Path]:
        """The nodes that failed; of a nested workflow those inside of it, if there are some."""
        graph = graph or self.graph
        for name, ok in self.ok[scope].items():
            if ok or name not in graph.names:
                continue
            inner, last = graph.nested.get(name), self.scopes.get((scope, name))
            inside = list(self.failed(last[-1], inner)) if inner is not None and last else []
            if inside:
                yield from ((name, *each) for each in inside)
            else:
                yield (name,)

    def below(
        self, paths: Collection[Path], scope: int = 0, graph: StoredGraph | None = None
    ) -> tuple[dict[int, set[str]], set[int]]:
        """What no longer counts if these nodes do not: the names of nodes by scope, and scopes of
        which nothing counts. Raises UnknownNodeError."""
        graph = graph or self.graph
        inner: dict[str, list[Path]] = defaultdict(list)
        direct = set[str]()
        for first, *rest in paths:
            if first not in graph.names or (rest and first not in graph.nested):
                name = ".".join((first, *rest))
                raise UnknownNodeError.named(name, graph.names, repr(graph.name))
            if rest:
                inner[first].append(tuple(rest))
            else:
                direct.add(first)
        starts = direct | inner.keys()
        names = graph.below(starts)
        # A nested workflow that gets other inputs begins anew as a whole.
        whole = direct | {
            name for start in starts for name in graph.below({start}) if name != start
        }
        found, gone = {scope: names}, set[int]()
        for name in names:
            scopes = self.scopes.get((scope, name), ())
            if name in whole or name not in inner:
                for each in scopes:
                    gone |= self._inside(each)
            elif scopes:
                more, more_gone = self.below(inner[name], scopes[-1], graph.nested[name])
                found |= more
                gone |= more_gone
        return found, gone

    def below_since(self, path: Path, scope: int, name: str) -> Iterator[Path]:
        """What is below a node, or below the nested workflows that it is in, and has ended since
        that node failed."""
        since = self.since[scope, name]
        for other, at, node in self.ended():
            outer = other[:-1]
            if (
                path[: len(outer)] != outer
                or other == path[: len(other)]
                or (at, node) not in since
            ):
                continue
            graph = self.graph
            for each in outer:
                graph = graph.nested[each]
            if node in graph.below({path[len(outer)]}):
                yield other

    def _inside(self, scope: int) -> set[int]:
        """A scope, and those inside of it."""
        found = {scope}
        for (parent, _), scopes in self.scopes.items():
            if parent == scope:
                for each in scopes:
                    found |= self._inside(each)
        return found


def replace_failed(connection: Connection, rows: Rows, generation: int) -> None:
    """Let the nodes that failed, and all below them, be computed anew. Of a map that has not
    completed only the items that failed are; of what is below a node that had completed before it
    failed, what has ended since."""
    paths = list(rows.failed())
    replace_only(connection, rows, paths, generation, keeps_inside=True)
    connection.execute(_REPLACE_FAILED_ITEMS, (generation, rows.run))
    again = [
        (path, scope, name) for path, scope, name in rows.ended() if (scope, name) in rows.since
    ]
    early = {path for path, _, _ in again}
    found, gone = rows.below(
        [
            *(path for path in paths if path not in early),
            *(each for path, scope, name in again for each in rows.below_since(path, scope, name)),
        ]
    )
    starts = {(scope, name) for path, scope, name in rows.ended() if path in set(paths)}
    found = {
        scope: {name for name in names if (scope, name) not in starts}
        for scope, names in found.items()
    }
    _replace(connection, rows, found, gone, generation)


_REPLACE_FAILED_ITEMS: Final = """
    UPDATE nodes SET replaced = ? WHERE run = ? AND replaced IS NULL AND item != x'' AND NOT ok
        AND NOT EXISTS (SELECT 1 FROM nodes AS m WHERE m.run = nodes.run AND m.scope = nodes.scope
            AND m.node = nodes.node AND m.item = x'' AND m.replaced IS NULL)"""


def replace(connection: Connection, rows: Rows, paths: Collection[Path], generation: int) -> None:
    """Let these nodes, and all below them, be computed anew in this generation."""
    found, gone = rows.below(paths)
    _replace(connection, rows, found, gone, generation)


def _replace(
    connection: Connection,
    rows: Rows,
    found: Mapping[int, Collection[str]],
    gone: Collection[int],
    generation: int,
) -> None:
    for scope, names in found.items():
        values = [(generation, rows.run, scope, name) for name in names]
        connection.executemany(REPLACE, values)
    for scope in gone:
        connection.execute("UPDATE scopes SET replaced = ? WHERE id = ?", (generation, scope))
        connection.execute(
            "UPDATE nodes SET replaced = ? WHERE run = ? AND scope = ? AND replaced IS NULL",
            (generation, rows.run, scope),
        )


def replace_only(
    connection: Connection,
    rows: Rows,
    paths: Collection[Path],
    generation: int,
    keeps_inside: bool = False,
) -> None:
    """Let these nodes be computed anew, and the nested workflows that they are in go on. What is
    inside of a node stays if `keeps_inside`: items of a map, nodes of a nested workflow."""
    which, gone = " AND item = x''" if keeps_inside else "", set[int]()
    for path in paths:
        scope, scopes = 0, list[int]()
        for name in path:
            connection.execute(REPLACE + which, (generation, rows.run, scope, name))
            scopes = rows.scopes.get((scope, name), [])
            scope = scopes[-1] if scopes else -1
        if not keeps_inside:  # nor does an earlier attempt count again
            gone.update(*map(rows._inside, scopes))
    _replace(connection, rows, {}, gone, generation)


def replace_pending(connection: Connection, rows: Rows, generation: int) -> None:
    """Let what the generation before has not decided yet be computed anew in this one."""
    _replace(connection, rows, *undecided(connection, rows, generation - 1), generation)


def undecided(
    connection: Connection, rows: Rows, generation: int
) -> tuple[dict[int, set[str]], set[int]]:
    """What is below nodes that a generation computes anew, if it has not ended, and was not
    computed anew itself: the names of nodes by scope, and scopes of which nothing counts."""
    before = rows.run, generation
    starts = _replaced(connection, *before)
    paths = {path for path, _, _ in rows._paths(lambda scope: starts[scope])}
    inner = {path[:end] for path in paths for end in range(1, len(path))}
    found, gone = rows.below([path for path in paths - inner if rows.graph.has(path)])
    known = defaultdict[int, set[str]](set)
    for scope, node in connection.execute(
        "SELECT DISTINCT scope, node FROM nodes"
        " WHERE run = ? AND replaced IS NULL AND generation = ?",
        before,
    ):
        known[scope].add(node)
    found = {scope: names - known[scope] for scope, names in found.items()}
    for (scope,) in connection.execute(
        "SELECT id FROM scopes WHERE run = ? AND generation = ?", before
    ):
        gone.discard(scope)
    return found, gone


def _replaced(connection: Connection, run: int, generation: int) -> Mapping[int, set[str]]:
    """The nodes by scope that a generation computes anew."""
    starts: dict[int, set[str]] = defaultdict(set)
    for scope, node in connection.execute(
        "SELECT scope, node FROM nodes WHERE run = ? AND replaced = ?", (run, generation)
    ):
        starts[scope].add(node)
    return starts


def below_replaced(connection: Connection, rows: Rows, generation: int) -> dict[int, set[str]]:
    """The nodes that have ended in an earlier generation, and are below one that has not: this
    generation computes it anew, or an edited graph may reach it. By scope."""
    old: dict[int, set[str]] = defaultdict(set)
    for scope, node in connection.execute(
        "SELECT scope, node FROM nodes WHERE run = ? AND replaced IS NULL AND generation < ?",
        (rows.run, generation),
    ):
        old[scope].add(node)
    decided = {
        inner
        for (scope, node), inners in rows.scopes.items()
        if node in rows.ok[scope]  # all inside of it is
        for inner in inners
    }
    return {
        scope: graph.below({name for name in graph.names if name not in old[scope]}) & old[scope]
        for scope, graph in rows.graphs()
        if scope not in decided
    }


def paths_of(nodes: Iterable[str]) -> list[Path]:
    """Names of nodes as paths.

    >>> paths_of(["load", "sub.inner"])
    [('load',), ('sub', 'inner')]
    """
    return [tuple(node.split(".")) for node in nodes]


def rename(connection: Connection, rows: Rows, renamed: Mapping[str, str]) -> None:
    """Let the rows of nodes count for others of the same graph, that have none of their own.
    Raises UnknownNodeError if there is no node of a new name, ValidationError if there still is
    one of an old name."""
    ended = {path for path, _, _ in rows.ended()}
    for old, new in renamed.items():
        path, as_path = paths_of([old, new])
        *outer, name = path
        *same, other = as_path
        if outer != same:
            raise ValidationError(f"renamed: {old!r} and {new!r} are nodes of two workflows")
        if not rows.graph.has(as_path):
            known = map(".".join, rows.graph.paths())
            raise UnknownNodeError.named(new, known, repr(rows.graph.name))
        if rows.graph.has(path):
            raise ValidationError(f"renamed: there still is a node {old!r}")
        if as_path in ended:
            continue
        scopes = [0]
        for each in outer:
            scopes = [scope for parent in scopes for scope in rows.scopes.get((parent, each), ())]
        for scope in scopes:
            for table, column in (("nodes", "scope"), ("scopes", "parent"), ("calls", "scope")):
                connection.execute(
                    f"UPDATE {table} SET node = ? WHERE run = ? AND {column} = ? AND node = ?",
                    (other, rows.run, scope, name),
                )
