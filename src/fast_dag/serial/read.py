"""A workflow from data that need not be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as short_repr
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from fast_dag.call.hooks import OFFERED
from fast_dag.define.node import Branch, Node, NodeType
from fast_dag.define.options import CACHE_OPTIONS, OPTIONS
from fast_dag.errors import ValidationError, closest, names
from fast_dag.serial.plain import below, placed, plain, problem
from fast_dag.serial.references import Finder
from fast_dag.serial.write import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fast_dag.define.options import Option

T = TypeVar("T")


class Rule(NamedTuple):
    """What a value in a file must be: the words for it, and the check."""

    words: str
    fits: Callable[[Any], bool]


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


TEXT = Rule("a string", lambda value: isinstance(value, str))
TEXTS = Rule("a list of strings", _is_texts)
FLAG = Rule("true or false", lambda value: isinstance(value, bool))
COUNT = Rule("a whole number", lambda value: type(value) is int)
NUMBER = Rule("a number", lambda value: type(value) in (int, float))
LIST = Rule("a list", lambda value: isinstance(value, list))
MAPPING = Rule("a mapping", lambda value: isinstance(value, Mapping))
BY_NAME = {
    "exceptions": Rule("a string or a list of strings", lambda v: TEXT.fits(v) or TEXTS.fits(v)),
    "registered": TEXT,
    "function": TEXT,
}

Fields = Mapping[str, "Rule | Option"]


def _options(table: Mapping[str, Option]) -> Fields:
    return {name: BY_NAME.get(option.by_name, option) for name, option in table.items()}


NODE: Fields = {
    "name": TEXT,
    "function": TEXT,
    "workflow": MAPPING,
    "type": TEXT,
    **_options(OPTIONS),
    "hooks": MAPPING,
    "error_handler": TEXT,
}
CACHE: Fields = _options(CACHE_OPTIONS)
EDGE: Fields = {
    "source": TEXT,
    "target": TEXT,
    "branch": Rule("a branch's name, true or false", lambda value: isinstance(value, (str, bool))),
    "output": TEXT,
    "input": Rule("a parameter's name, or false", lambda v: v is False or isinstance(v, str)),
    "optional": FLAG,
}
HOOKS: Fields = dict.fromkeys(OFFERED, TEXT)
RATE: Fields = {"count": COUNT, "per": NUMBER, "burst": COUNT}
TRANSITION: Fields = {"source": TEXT, "target": TEXT, "condition": TEXT, "event": TEXT}

_ANY_KIND: Fields = {
    "fast_dag": COUNT,
    "kind": TEXT,
    "name": TEXT,
    "description": TEXT,
    "metadata": MAPPING,
    "limits": MAPPING,
    "default_hooks": MAPPING,
    "resources": MAPPING,
}
WORKFLOWS: dict[str, Fields] = {
    "dag": {**_ANY_KIND, "autowire": FLAG, "nodes": LIST, "edges": LIST},
    "fsm": {
        **_ANY_KIND,
        "initial_state": TEXT,
        "terminal_states": TEXTS,
        "max_cycles": Rule("a whole number, or false", lambda v: v is False or type(v) is int),
        "on_max_cycles": TEXT,
        "on_error": TEXT,
        "error_states": Rule(
            "a mapping of states to states",
            lambda v: isinstance(v, Mapping) and _is_texts([*v, *v.values()]),
        ),
        "keep_history": COUNT,
        "states": LIST,
        "transitions": LIST,
        "state_hooks": TEXTS,
    },
}


def read(
    data: Any,
    cls: type[T],
    kinds: Mapping[str, type[Any]],
    *,
    allow: Iterable[str] | None = None,
    registry: Mapping[str, Any] | None = None,
) -> T:
    """The workflow that the data describes, as `written` returns it: a `cls`; those nested in it
    are of the classes in `kinds`.

    Raises ValidationError with everything that is wrong, each problem with its place.
    """
    reader = _Reader(Finder(allow, registry), kinds)
    try:
        version = data.get("fast_dag") if isinstance(data, Mapping) else VERSION
        if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= VERSION:
            told = "no version" if version is None else f"the version {short_repr(version)}"
            raise problem(
                "fast_dag", f"the file has {told}; this release reads version {VERSION} only"
            )
        workflow: T = reader.workflow(data, "", cls)
    except RecursionError:
        raise ValidationError("the file is nested too deeply to be read") from None
    if reader.problems:
        raise ValidationError.of(reader.problems, "the file")
    return workflow


def _fields(data: Any, place: str, known: Fields, required: Iterable[str] = ()) -> dict[str, Any]:
    """The entries of a mapping without those that are null. Raises ValidationError for the first
    entry that is wrong."""
    if not isinstance(data, Mapping):
        raise problem(place, f"{short_repr(data)} is no mapping")
    found = {}
    for key, value in data.items():
        if not isinstance(key, str):
            raise problem(place, f"the key {short_repr(key)} is no string")
        if key not in known:
            raise problem(below(place, key), f"there is no such key{closest(key, known)[1]}")
        if value is None:
            continue
        if not known[key].fits(value):
            words = known[key].words
            raise problem(below(place, key), f"it is {words}, not {short_repr(value)}")
        found[key] = plain(value, below(place, key)) if key == "metadata" else value
    for key in required:
        if key not in found:
            raise problem(place, f"{key!r} is missing")
    return found


class _Reader:
    """Reads what can be read, and collects the problems with the rest."""

    def __init__(self, finder: Finder, kinds: Mapping[str, type[Any]]) -> None:
        self.finder = finder
        self.kinds = kinds
        self.problems: list[ValidationError] = []

    def _each(self, items: Iterable[Any], place: str, read: Callable[[Any, str], object]) -> None:
        for index, item in enumerate(items):
            here = f"{place}[{index}]"
            try:
                read(item, here)
            except ValueError as error:
                self.problems.append(placed(error, here))

    def _function(self, reference: str, place: str) -> Any:
        try:
            return self.finder.find(reference)
        except ValidationError as error:
            raise placed(error, place) from error.__cause__

    def _hooks(self, data: Any, place: str) -> dict[str, Any]:
        return {
            phase: self._function(each, below(place, phase))
            for phase, each in _fields(data, place, HOOKS).items()
        }

    # Workflows.

    def workflow(self, data: Any, place: str, cls: Any = None) -> Any:
        """The workflow at a place, without the parts that have problems."""
        if not isinstance(data, Mapping):
            raise problem(place, f"{short_repr(data)} is no mapping")
        kind = data.get("kind")
        if not isinstance(kind, str) or kind not in self.kinds:
            told = f"it is one of {names(self.kinds)}, not {short_repr(kind)}"
            raise problem(below(place, "kind"), told)
        if cls is None or not cls.kind:
            cls = self.kinds[kind]
        elif cls.kind != kind:
            right = self.kinds[kind].__name__
            raise problem(
                below(place, "kind"),
                f"the file has the {kind} {short_repr(data.get('name'))}; read it with {right}",
            )
        fields = _fields(data, place, WORKFLOWS[kind], ["name"])
        if "limits" in fields:
            fields["limits"] = self._limits(fields["limits"], below(place, "limits"))
        try:
            return self._dag(fields, place, cls) if kind == "dag" else self._fsm(fields, place, cls)
        except ValueError as error:
            raise placed(error, place) from error.__cause__

    def _dag(self, fields: dict[str, Any], place: str, cls: Any) -> Any:
        dag = cls(**_only(fields, "name", "description", "metadata", "autowire", "limits"))
        before = len(self.problems)
        self._nodes(fields, place, dag, "nodes")
        if len(self.problems) == before:  # else edges would name nodes that could not be read
            self._each(
                fields.get("edges", ()),
                below(place, "edges"),
                lambda edge, here: self._edge(edge, here, dag),
            )
        return self._surrounded(fields, place, dag)

    def _fsm(self, fields: dict[str, Any], place: str, cls: Any) -> Any:
        if fields.get("max_cycles") is False:
            fields["max_cycles"] = None  # no limit; in a file null is what is not given
        fsm = cls(
            **_only(
                fields,
                "name",
                "description",
                "metadata",
                "initial_state",
                "terminal_states",
                "max_cycles",
                "on_max_cycles",
                "keep_history",
                "on_error",
                "limits",
            )
        )
        before = len(self.problems)
        self._nodes(fields, place, fsm, "states")
        if len(self.problems) == before:  # else states would be named that could not be read
            for state, target in fields.get("error_states", {}).items():
                fsm.set_error_state(state, target)

        def transition(data: Any, here: str) -> None:
            each = _fields(data, here, TRANSITION, ["source", "target"])
            condition = each.get("condition")
            if condition is not None:
                condition = self._function(condition, below(here, "condition"))
            fsm.add_transition(each["source"], each["target"], condition, event=each.get("event"))

        self._each(fields.get("transitions", ()), below(place, "transitions"), transition)
        self._each(
            fields.get("state_hooks", ()),
            below(place, "state_hooks"),
            lambda reference, here: fsm.add_state_hook(self._function(reference, here)),
        )
        return self._surrounded(fields, place, fsm)

    def _limits(self, data: Mapping[str, Any], place: str) -> Any:
        from fast_dag.run.limits import Limits, Rate

        limits: dict[str, Any] = {}
        for name, each in data.items():
            is_rate = isinstance(each, Mapping)
            here = below(place, str(name))
            limits[name] = Rate(**_fields(each, here, RATE, ["count"])) if is_rate else each
        try:
            return Limits(**limits)
        except (TypeError, ValidationError) as error:
            raise problem(place, str(error)) from None

    def _surrounded(self, fields: dict[str, Any], place: str, workflow: Any) -> Any:
        hooks = fields.get("default_hooks", {})
        workflow.set_default_hooks(**self._hooks(hooks, below(place, "default_hooks")))
        for name, factory in fields.get("resources", {}).items():
            here = below(below(place, "resources"), str(name))
            if not isinstance(name, str) or not isinstance(factory, str):
                raise problem(here, "a resource is a name with a function's")
            workflow.resource(name, self._function(factory, here))
        return workflow

    # Nodes and edges.

    def _nodes(self, fields: dict[str, Any], place: str, workflow: Any, key: str) -> None:
        self._each(
            fields.get(key, ()),
            below(place, key),
            lambda node, here: self._node(node, here, workflow),
        )

    def _node(self, data: Any, place: str, workflow: Any) -> None:
        fields = _fields(data, place, NODE, ["name"])
        name = fields.pop("name")
        hooks = self._hooks(fields.pop("hooks", {}), below(place, "hooks"))
        handler = fields.pop("error_handler", None)
        if handler is not None:
            handler = self._function(handler, below(place, "error_handler"))
        if "cache" in fields:
            here = below(place, "cache")
            fields["cache"] = self._found(
                _fields(fields["cache"], here, CACHE), here, CACHE_OPTIONS
            )
        fields = self._found(fields, place, OPTIONS)
        type_ = fields.pop("type", NodeType.NODE)
        node: Node[..., Any] = Node(self._called(fields, place), name, type=type_, **fields)
        workflow.graph.add(node)
        if hooks:
            workflow.set_node_hooks(node, **hooks)
        workflow.set_node_error_handler(node, handler)

    def _called(self, fields: dict[str, Any], place: str) -> Any:
        """What a node calls: a function, or a nested workflow."""
        if ("function" in fields) == ("workflow" in fields):
            raise problem(place, "a node has either 'function' or 'workflow'")
        if "function" in fields:
            return self._function(fields.pop("function"), below(place, "function"))
        return self.workflow(fields.pop("workflow"), below(place, "workflow"))

    def _found(
        self, fields: dict[str, Any], place: str, table: Mapping[str, Option]
    ) -> dict[str, Any]:
        """The fields, with what is meant in the place of names."""
        find = {
            "exceptions": self._errors,
            "registered": self.finder.find_value,
            "function": self.finder.find,
        }
        for key in table.keys() & fields.keys():
            if table[key].by_name:
                try:
                    fields[key] = find[table[key].by_name](fields[key])
                except ValidationError as error:
                    raise placed(error, below(place, key)) from error.__cause__
        return fields

    def _errors(self, references: str | list[str]) -> Any:
        if isinstance(references, str):
            return self.finder.find_error(references)
        return tuple([self.finder.find_error(each) for each in references])

    def _edge(self, data: Any, place: str, dag: Any) -> None:
        fields = _fields(data, place, EDGE, ["source", "target"])
        source: Any = dag.graph.node(fields["source"])
        branch = fields.get("branch")
        if branch is not None:
            if not source.type.decides:
                told = f"{source.name!r} is a {source.type.value} and has no branches"
                raise problem(below(place, "branch"), told)
            right = TEXT if source.type is NodeType.SELECT else FLAG
            if not right.fits(branch):
                told = f"that of a {source.type.value} is {right.words}, not {branch!r}"
                raise problem(below(place, "branch"), told)
            source = Branch(source, branch)
        dag.connect(source, fields["target"], **_only(fields, "output", "input", "optional"))


def _only(fields: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: fields[key] for key in keys if key in fields}
