"""What a function does, as text that another process finds, too.

A fingerprint covers the function, its defaults and closure, and the functions, classes and
constants that it uses from the user's own modules, and what these use. Constants count by the
syntax of their assignment, so that a counter does not change a fingerprint. Other packages count by
their version, the standard library does not count.

`tax.rate(x)` uses one name of the module `tax`. Where a module goes anywhere else (`import tax` in
a function, `m = tax`, `[tax]`), nobody can tell which names are used: all of its source counts,
with the source of the modules that it imports.
"""

from __future__ import annotations

import dis
import sys
from ast import parse
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin

from fast_dag.cache.keys import UnkeyableError, digest_of, key_of, stable_text
from fast_dag.cache.origins import full_name, loaded, module_name
from fast_dag.cache.syntax import (
    SCALARS,
    Binding,
    bindings,
    chains,
    changes,
    class_level,
    class_of,
    imports,
    is_old,
    literal,
    module_syntax,
    syntax,
    syntax_of,
)
from fast_dag.errors import InvalidNodeError, brief_of, failures

if TYPE_CHECKING:
    from ast import AST
    from collections.abc import Iterable, Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from typing import Protocol, TypeGuard

    from fast_dag.define.signature import Signature

    class Workflow(Protocol):
        """What a fingerprint needs of a workflow."""

        @property
        def version(self) -> Any: ...

    class CachedNode(Protocol):
        """What a cache needs of its node."""

        @property
        def name(self) -> str: ...
        @property
        def workflow(self) -> Workflow | None: ...
        @property
        def inputs(self) -> tuple[str, ...]: ...
        @property
        def signature(self) -> Signature: ...
        @property
        def __wrapped__(self) -> Any:
            """Its function."""
            ...


_ABSENT: Final = object()

VALUE: Final = "value of "
"""How the names of parts begin that tell the value of a constant, because its file was edited while
the process ran: nobody can tell whether the assignment is the one that was carried out."""


class Base:
    """The part of a node's keys that stands for its function, or for its workflow.

    Raises InvalidNodeError if code does not tell what the node does and `version` is not given.
    """

    def __init__(self, node: CachedNode, version: str | int | None) -> None:
        self._node = node
        self._version = version
        # The fingerprint, of which version of the workflow it is, and the text made of it.
        self._made: tuple[Fingerprint, Any, str] | None = None
        why = None if version is not None else self._untold()
        if why is not None:
            raise InvalidNodeError(
                f"cached node {node.name!r}: {why} needs version= in a shared backend",
                node=node.name,
            )

    def _untold(self) -> str | None:
        """Why code does not tell what the node does."""
        workflow = self._node.workflow
        if workflow is None:
            return untold(self._node.__wrapped__, self._node.signature.origin)
        for each in made_of(workflow):
            if callable(each) and (why := untold(each, each)) is not None:
                return f"a workflow with {why}"
        return None

    @property
    def was_read(self) -> bool:
        """Whether source files were read. Until then `text` takes a while."""
        return self._made is not None

    def text(self) -> str:
        """The base as it is now. Raises UnkeyableError if code does no longer tell it."""
        workflow, made = self._node.workflow, self._made
        version = None if workflow is None else workflow.version
        if made is None or made[1] != version or not made[0].is_current(with_cells=True):
            try:
                made = self._made = self._make(workflow, version)
            except UnkeyableError:
                raise
            except failures() as error:  # of objects that a module has
                why = brief_of(error)
                raise UnkeyableError(f"reading its code raised {why}") from None
        return made[2]

    def _make(self, workflow: Workflow | None, version: Any) -> tuple[Fingerprint, Any, str]:
        if workflow is None:
            things, name = [self._node.__wrapped__], full_name(self._node.signature.origin)
        else:
            if self._version is None and (why := self._untold()) is not None:
                raise UnkeyableError(f"{why} needs version=")
            things, name = made_of(workflow), f"workflow {self._node.name}"
        fingerprint = Fingerprint(things, self._version is not None)
        return fingerprint, version, f"fast_dag:{name}:{fingerprint.text}:{self._version}"


def untold(func: Any, origin: Any) -> str | None:
    """Why the code of a function does not tell what it does; None if it does."""
    code = getattr(origin, "__code__", None)
    if code is None:
        return "a function that has no bytecode to tell versions by"
    if origin is not func or type(func) is not FunctionType or hasattr(func, "__wrapped__"):
        return "a function that is bound to values, or wrapped by another one,"
    try:
        for name, cell in zip(code.co_freevars, origin.__closure__ or (), strict=True):
            stable_text(key_of(cell.cell_contents), f"the free variable {name!r}")
    except (UnkeyableError, ValueError):
        return "a function that has free variables which are no plain data"
    try:
        stable_text(key_of((origin.__defaults__, origin.__kwdefaults__)), "a default")
    except UnkeyableError:
        return "a function that has defaults that mean nothing to another process"
    return None


def made_of(workflow: Any) -> list[Any]:
    """What decides about the results of a workflow: functions, and plain data."""
    made: list[Any] = []
    for name, node in workflow.nodes.items():
        made += [name, node.type.value, node.inputs, node.outputs]
        if node.workflow is None:
            made.append(node.func)
        else:
            made += made_of(node.workflow)
        if node.map is not None:
            made += _made_by_map(node.map)
    for edge in workflow.graph.edges():
        made.append((edge.source, edge.target, edge.output, edge.input, edge.branch))
    for hooks in (workflow.default_hooks, *workflow.node_hooks.values()):
        made += hooks.values()
    made += workflow.node_hooks
    for name, handler in workflow.error_handlers.items():
        made += [name, handler]
    for name, factory in workflow.resources.items():
        made += [name, factory]
    for transition in getattr(workflow, "transitions", ()):
        made += [transition.source, transition.target, transition.event]
        if transition.condition is not None:
            made.append(transition.condition.func)
    for part in ("initial_states", "terminal_states", "state_hooks"):
        made += [part, *getattr(workflow, part, ())]
    return made


def _made_by_map(spec: Any) -> list[Any]:
    """What decides about the result of a map, besides its function. Builtins go by their names."""
    return [
        (spec.walked, spec.is_product, spec.ordered, spec.on_error, spec.min_success),
        *(
            full_name(each) if getattr(each, "__module__", None) == "builtins" else each
            for each in (spec.keys, spec.into)
        ),
    ]


class Fingerprint:
    """The fingerprint of functions, of what they use, and of plain data. `parts` has the text of
    each function, class and constant, by name, `told` that of each thing itself.

    >>> def rate(): return 0.19
    >>> def tax(x): return rate() * x
    >>> one = Fingerprint([tax])
    >>> one.is_current(), one.text == Fingerprint([tax]).text == Fingerprint([rate]).text
    (True, False)
    """

    def __init__(self, things: Sequence[Any], has_version: bool = False) -> None:
        homes = [_home(each) for each in things if isinstance(each, FunctionType)]
        reader = _Reader(homes, has_version)
        self.told = [reader.told(each) for each in things]
        self.text = digest_of(repr((self.told, sorted(reader.parts.items()))).encode()).hex()
        self.parts = reader.parts
        self._names = reader.names
        self._codes = reader.codes
        # A function that sets a free variable itself counts its calls there, say.
        self._cells = [it for it in reader.cells if id(it[0]) not in reader.cells_set]

    @classmethod
    def of_all(cls, fingerprints: Iterable[Fingerprint]) -> Fingerprint:
        """One that is current as long as all of these are; it has no text."""
        made = cls(())
        names, codes = {}, {}
        for each in fingerprints:
            names.update({(id(name[0]), name[1]): name for name in each._names})
            codes.update({id(code[0]): code for code in each._codes})
        made._names, made._codes = [*names.values()], [*codes.values()]
        return made

    def is_current(self, with_cells: bool = False) -> bool:
        """Whether the same functions are still there: a notebook may define them anew. With
        `with_cells`, whether others have set their free variables anew, too."""
        for namespace, name, value in self._names:
            if namespace.get(name, _ABSENT) is not value:
                return False
        for func, code in self._codes:
            if func.__code__ is not code:
                return False
        if with_cells:
            for cell, value in self._cells:
                if _value_in(cell) is not value:
                    return False
        return True


def _value_in(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _ABSENT  # not assigned yet, or deleted


class _Reader:
    """Collects `parts`, the text of everything that was used, by name."""

    def __init__(self, homes: Iterable[str], has_version: bool) -> None:
        self._has_version = has_version
        self.parts: dict[str, str] = {}
        self.names: list[tuple[dict[str, Any], str, Any]] = []  # and what they stand for
        self.codes: list[tuple[FunctionType, CodeType]] = []
        self.cells: list[tuple[Any, Any]] = []  # and what is in them
        self.cells_set: set[int] = set()  # by the functions themselves, by id
        self._seen: dict[int, Any] = {}  # by id, and kept alive
        self._read: set[tuple[int, str]] = set()  # the names that were read, by namespace
        self._tops = {_top(each) for each in homes} - sys.stdlib_module_names

    def _is_first(self, thing: Any) -> bool:
        is_first = id(thing) not in self._seen
        self._seen[id(thing)] = thing
        return is_first

    def told(self, thing: Any) -> str:
        """Text that stands for one thing: its name, if more is to be told in `parts`."""
        if isinstance(thing, ModuleType):
            return self._module(thing)
        if isinstance(thing, FunctionType):
            return self._function(thing)
        if isinstance(thing, type):
            return self._class(thing)
        if isinstance(thing, MethodType):
            return f"method {self.told(thing.__func__)} of {self.told(thing.__self__)}"
        if isinstance(thing, partial):
            return (
                f"partial {[self.told(each) for each in (thing.func, thing.args, thing.keywords)]}"
            )
        # A node, or a function with a cache; not an object that has every attribute.
        if "__wrapped__" in getattr(thing, "__dict__", ()) or hasattr(type(thing), "__wrapped__"):
            return self.told(thing.__wrapped__)
        try:
            return stable_text(key_of(thing))
        except UnkeyableError:
            parts: Iterable[Any] = ()
            if type(thing) in (list, tuple, dict, set, frozenset) and self._is_first(thing):
                parts = thing.items() if type(thing) is dict else thing
            return f"a {self._class(type(thing))} {sorted([self.told(each) for each in parts])}"

    # Functions.

    def _function(self, func: FunctionType) -> str:
        name = full_name(func)
        if not self._is_first(func):
            return name
        if not self._is_own_function(func):  # it may have taken the name of what it wraps
            wrapped = getattr(func, "__wrapped__", None)
            for each in getattr(func, "registry", {}).values():  # of functools.singledispatch
                if isinstance(each, FunctionType) and self._is_own_function(each):
                    self.told(each)
            return self._package(_home(func), name if wrapped is None else self.told(wrapped))
        code = func.__code__
        self.codes.append((func, code))
        said = syntax_of(code, func.__globals__) or _bytecode_of(code)
        cells = [self._cell(each) for each in func.__closure__ or ()]
        defaults = [self.told(each) for each in func.__defaults__ or ()]
        keywords = [(each, self.told(it)) for each, it in (func.__kwdefaults__ or {}).items()]
        self._add(name, repr((said, cells, defaults, sorted(keywords))))
        self._follow(code, func.__globals__)
        free = dict(zip(code.co_freevars, func.__closure__ or (), strict=True))
        self.cells_set.update(id(free[each]) for each in _sets_free(code) if each in free)
        self._annotations(func)
        return name

    def _annotations(self, func: FunctionType) -> None:
        """Read the classes that annotations of parameters name: the function may call methods of
        their instances."""
        try:
            told = [it for name, it in func.__annotations__.items() if name != "return"]
        except failures():  # from Python 3.14 on they are evaluated here
            return
        for each in told:
            if isinstance(each, str):
                with suppress(SyntaxError):
                    for first, *rest in chains(parse(each, mode="eval")):
                        self._named(func.__globals__, first, rest)
            else:
                self._annotated(each)

    def _named(self, namespace: dict[str, Any], name: str, attributes: list[str]) -> None:
        found = namespace.get(name)
        self.names.append((namespace, name, found if name in namespace else _ABSENT))
        for each in attributes:
            found = vars(found).get(each) if self._is_own_module(found) else None
        self._annotated(found)

    def _annotated(self, told: Any) -> None:
        if get_origin(told) is not None:
            for each in get_args(told):
                self._annotated(each)
        elif isinstance(told, type) and self._is_own(told.__module__):
            self._class(told)

    def _is_own_function(self, func: FunctionType) -> bool:
        home = _home(func)
        return _top(home) in self._tops or _is_users(home, func.__code__.co_filename)

    def _cell(self, cell: Any) -> str:
        """A free variable. One that changes in place counts only if no version stands for it:
        functions may collect things there."""
        value = _value_in(cell)
        self.cells.append((cell, value))
        if value is _ABSENT:
            return "nothing"
        if self._has_version and isinstance(value, (list, dict, set)):
            return type(value).__name__
        return self.told(value)

    def _add(self, name: str, text: str) -> None:
        """Two functions may have one name: lambdas, or those that a factory makes."""
        if name in self.parts:
            text = "\n".join(sorted([self.parts[name], text]))
        self.parts[name] = text

    def _follow(self, code: CodeType, namespace: dict[str, Any]) -> None:
        """Read what the code uses: globals, attributes of modules, and whole modules."""
        before: list[Any] = [None, None]
        last = ""
        found: Any = None  # what the last steps loaded
        for step in dis.get_instructions(code):
            name = step.opname
            if name in _NO_STEPS:
                continue
            if name in _LOADS_GLOBAL:
                self._escapes(found, code)
                found = self.used(namespace, step.argval)
            elif name == "IMPORT_NAME":
                found = self._imported(step.argval, before[0], namespace)
                if not before[1] and found is not None:  # `import a.b`, which loads a
                    self._escapes(found, code)
                    found = sys.modules.get(_top(step.argval))
            elif name == "IMPORT_FROM":  # the package stays: `from a import b, c`
                self._escapes(self._part(found, step.argval), code)
            elif name in ("LOAD_ATTR", "LOAD_METHOD") and self._is_own_module(found):
                found = self._part(found, step.argval)
            elif name == "POP_TOP" or (name == "SWAP" and last == "IMPORT_FROM"):
                found = None
            elif not (name.startswith("STORE_") and last == "IMPORT_FROM"):
                self._escapes(found, code)
                found = None
            before, last = [before[1], step.argval], name
        for each in code.co_consts:
            if isinstance(each, CodeType):
                self._follow(each, namespace)

    def _part(self, module: Any, name: str) -> Any:
        """Read an attribute of a module, or a submodule that nobody has imported yet."""
        if not self._is_own_module(module):
            return None
        if name in vars(module):
            return self.used(vars(module), name)
        part = self._imported(f"{module.__name__}.{name}", 0, {})
        if part is None:  # the module may have a function __getattr__
            self._module(module)
        return part

    def _escapes(self, thing: Any, code: CodeType) -> None:
        """Read all of a module, because it goes where its use cannot be followed. The code may use
        submodules that others have imported."""
        if self._is_own_module(thing):
            self._module(thing)
            for name in code.co_names:
                part = vars(thing).get(name)
                if part is not thing and isinstance(part, ModuleType):
                    self.told(part)

    def _imported(self, name: str, level: Any, namespace: dict[str, Any]) -> Any:
        """A module that a function imports when it is called; None if it is not the user's own."""
        try:
            if level:
                name = resolve_name("." * level + name, namespace.get("__package__") or "")
            if name not in sys.modules:
                spec = find_spec(name)
                if spec is None or not self._is_own(name, spec.origin):
                    return None
            return import_module(name)
        except failures():
            return None

    # Whole modules.

    def _module(self, module: ModuleType) -> str:
        """Read all of a loaded module, if it is the user's own."""
        if not self._is_own_module(module):
            return self._package(module.__name__, f"module {module.__name__}")
        namespace, name = vars(module), module_name(module.__name__)
        if self._is_first(module):
            package = namespace.get("__package__")
            self._source(name, namespace.get("__file__"), namespace, package)
            was_edited = not is_old(namespace)
            for key, value in sorted(namespace.items()):
                try:
                    if key.startswith("__"):
                        continue
                    if self._is_own_module(value):
                        if was_edited:
                            self._module(value)
                    elif was_edited or self._is_set(module, key, value):
                        self.used(namespace, key)
                except failures():  # of objects that nobody may need: the source counts anyway
                    continue
        return f"module {name}"

    def _is_set(self, module: ModuleType, key: str, value: Any) -> bool:
        """Whether a name may stand for something else than the source of its module says."""
        namespace = vars(module)
        if isinstance(value, ModuleType):
            return True  # a package, which counts by its version
        if callable(value):
            self.names.append((namespace, key, value))
            said = getattr(value, "__module__", None), getattr(value, "__name__", None)
            return said != (module.__name__, key)
        if not isinstance(value, SCALARS):
            return False
        bound = bindings(key, namespace)
        return _may_be_edited(bound, value, namespace)

    def _source(self, name: str, file: Any, namespace: dict[str, Any], package: str | None) -> None:
        """Read the source of a module, and of those that it imports, without importing any."""
        if f"module {name}" in self.parts:
            return
        said = module_syntax(file, namespace)
        if said is not None:
            tree, self.parts[f"module {name}"] = said
            self._imports(tree, package)

    def _imports(self, tree: AST, package: str | None) -> None:
        """Read all of the modules that statements import."""
        for name, level in imports(tree):
            try:
                name = resolve_name("." * level + name, package or "")  # noqa: PLW2901
                module, spec = sys.modules.get(name), None
                if module is None and _top(name) not in sys.stdlib_module_names:
                    spec = _spec(name)
                    if spec is not None and self._is_own(name, spec.origin):
                        module = loaded(name)  # a script has another name
                if self._is_own_module(module):
                    self._module(module)
                elif spec is not None and self._is_own(name, spec.origin):
                    self._source(name, spec.origin, {}, spec.parent)
            except failures():  # an import that would fail, too
                continue

    def used(self, namespace: dict[str, Any], name: str) -> Any:
        """Read what a global name of one of the user's modules stands for, and return it."""
        value = namespace.get(name, _ABSENT)
        key = id(namespace), name
        if value is _ABSENT or key in self._read:
            return value
        self._read.add(key)
        self._is_first(namespace)  # keeps it alive
        if isinstance(value, ModuleType):
            self.names.append((namespace, name, value))
            if not self._is_own_module(value):
                self._package(value.__name__, "")
        elif callable(value):
            self.names.append((namespace, name, value))
            text = self.told(value)
            bound = bindings(name, namespace)
            set_later = [each for each in bound if each.of_part or each.module is not None]
            if set_later:
                text += self._bound(set_later, namespace)
            self._add(f"{module_name(str(namespace.get('__name__')))}:{name}", text)
        else:
            self._constant(namespace, name, value)
        return value

    # Constants.

    def _constant(self, namespace: dict[str, Any], name: str, value: Any) -> None:
        bound = bindings(name, namespace)
        text = self._bound(bound, namespace)
        if isinstance(value, (list, dict, set)):
            text += self._bound(changes(name, namespace), namespace)
        own = f"{module_name(str(namespace.get('__name__')))}:{name}"
        if _may_be_edited(bound, value, namespace):
            self.names.append((namespace, name, value))
            if bound and any(literal(each.value) is None for each in bound):
                self._add(f"{VALUE}{own}", self.told(value))
            else:
                text += self.told(value)
        if self._is_own(type(value).__module__):
            text += self._class(type(value))
        self._add(own, text)

    def _bound(self, bound: list[Binding], namespace: dict[str, Any]) -> str:
        """The statements that bind a name, as text."""
        said = []
        for each in bound:
            if each.module is not None:
                source = self._imported(each.module, each.level, namespace)
                if self._is_own_module(source) and each.name is not None:
                    self.used(vars(source), each.name)
                said.append(f"{each.module}.{each.name}")
            elif each.value is not None:
                said.append(syntax(each.value))
                for first, *rest in chains(each.value):
                    self._chain(namespace, first, rest)
        return repr(said)

    def _chain(self, namespace: dict[str, Any], name: str, attributes: list[str]) -> None:
        found = self.used(namespace, name)
        for each in attributes:
            if not self._is_own_module(found):
                return
            found = self.used(vars(found), each)
        if self._is_own_module(found):
            self._module(found)

    # Classes.

    def _class(self, cls: type) -> str:
        name = full_name(cls)
        if not self._is_first(cls):
            return name
        if not self._is_own(cls.__module__):
            return self._package(cls.__module__, name)
        namespace = vars(sys.modules.get(cls.__module__, object))
        node = class_of(cls.__qualname__, namespace)
        parts = [self._class(each) for each in (type(cls), *cls.__bases__)]
        functions = [
            func
            for value in vars(cls).values()
            for func in _functions_in(value)
            if self._is_own_function(func)
        ]
        if node is not None:
            parts.append(syntax(node))
            for part in class_level(node):
                for first, *rest in chains(part):
                    self._chain(namespace, first, rest)
                self._imports(part, namespace.get("__package__"))
            # Others are made by a decorator, that of dataclasses say, differently in each Python.
            functions = [func for func in functions if func.__code__.co_filename[:1] != "<"]
        if node is None or not is_old(namespace):
            parts += self._attributes(cls)
        parts += sorted([self._function(func) for func in functions])
        self._add(name, repr(parts))
        return name

    def _attributes(self, cls: type) -> Iterator[str]:
        """The attributes of a class whose source is not there."""
        for key, value in sorted(vars(cls).items()):
            if not (key.startswith("__") or callable(value) or isinstance(value, _IN_CLASSES)):
                yield f"{key} {self.told(value)}"
        for key in ("__annotations__", "__dataclass_fields__"):
            yield from vars(cls).get(key, ())

    # Whose a module is.

    def _is_own(self, module: str | None, file: str | None = None) -> bool:
        top = _top(module)
        if top in self._tops:
            return True
        for each in (module, top):
            file = file or getattr(sys.modules.get(each or ""), "__file__", None)
        return _is_users(module, file)

    def _is_own_module(self, module: Any) -> TypeGuard[ModuleType]:
        return isinstance(module, ModuleType) and self._is_own(module.__name__)

    def _package(self, module: str | None, name: str) -> str:
        """Note the version of somebody else's package."""
        top = _top(module)
        if top not in sys.stdlib_module_names:
            version = getattr(sys.modules.get(top), "__version__", None)
            self.parts[f"package {top}"] = str(version)
        return name


def _may_be_edited(bound: list[Binding], value: Any, namespace: dict[str, Any]) -> bool:
    """Whether a constant may be another than the source says: no statement binds it to that. A
    list or dict that was changed in place is not, nor is what functions set by `global`."""
    if not bound:
        return True
    if isinstance(value, (list, dict, set)) or any(each.varies for each in bound):
        return False
    said = [literal(each.value) for each in bound]
    if None in said and is_old(namespace):
        return False
    return all(each is None or (type(each[0]), each[0]) != (type(value), value) for each in said)


_IN_CLASSES: Final = (property, list, dict, set, FunctionType, classmethod, staticmethod)
"""What of a class is told elsewhere, or changes in place."""


def _sets_free(code: CodeType) -> Iterator[str]:
    """The names of the free variables that code sets, or code inside of it."""
    if code.co_freevars:
        yield from (it.argval for it in dis.get_instructions(code) if it.opname == "STORE_DEREF")
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _sets_free(each)


_NO_STEPS: Final = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PUSH_NULL"})
_LOADS_GLOBAL: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})


def _spec(name: str) -> ModuleSpec | None:
    """Where a module would be imported from. Unlike `find_spec`, this imports no package."""
    package = name.rpartition(".")[0]
    if not package:
        return find_spec(name)
    path = getattr(sys.modules.get(package), "__path__", None)
    if path is None and (spec := _spec(package)) is not None:
        path = spec.submodule_search_locations
    return None if path is None else PathFinder.find_spec(name, path)


def _home(func: FunctionType) -> str:
    """The module that a function was defined in."""
    return str(func.__globals__.get("__name__"))


def _top(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _is_users(module: str | None, file: str | None) -> bool:
    """Whether a module is neither of the standard library nor of an installed package."""
    top = _top(module)
    if not module or top in sys.stdlib_module_names or top == "fast_dag":
        return False
    return file is None or not {"site-packages", "dist-packages"} & {*PurePath(file).parts}


def _functions_in(value: Any) -> Iterator[FunctionType]:
    """The functions of an attribute of a class."""
    for name in ("__func__", "fget", "fset", "func", "__wrapped__", "dispatcher"):
        inner = getattr(value, name, None)
        if isinstance(inner, FunctionType):
            yield inner
    if isinstance(value, FunctionType):
        yield value


def _bytecode_of(code: CodeType) -> str:
    """Code without a source, for this version of Python."""
    return f"{sys.implementation.cache_tag} {_bytecode(code)}"


def _bytecode(code: CodeType) -> str:
    return repr((code.co_code, code.co_names, [_constant(each) for each in code.co_consts]))


def _constant(value: Any) -> str:
    """A constant as the same text in every process: sets have another order in each."""
    if isinstance(value, CodeType):
        return _bytecode(value)
    if isinstance(value, tuple):
        return f"({','.join([_constant(each) for each in value])})"
    if isinstance(value, frozenset):
        return f"{{{','.join(sorted([_constant(each) for each in value]))}}}"
    return repr(value)
