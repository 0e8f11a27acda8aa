"""Docstrings as the site shows them: examples and parameters as Markdown, names as links.

What the reference is made from are the docstrings as they stand in the source, and they are written
to be read there. This extension of griffe, which reads them for the site, changes how they look:

- lines after `>>>` become a code block,
- a section "Parameters" becomes a list of definitions,
- the names of what is public, and of methods of the same class, become links,
- a method that takes what another one does is shown with the parameters of that one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import griffe

if TYPE_CHECKING:
    from collections.abc import Callable

INTERNAL = {"Workflow": "DAG", "Nestable": "DAG", "Linkable": "Node"}
"""Bases that the reference does not show themselves, and where their members are shown."""

FURTHER = {
    "UnknownNodeError": "fast_dag.errors.UnknownNodeError",
    "MissingResultError": "fast_dag.errors.MissingResultError",
    "MissingExtraError": "fast_dag.errors.MissingExtraError",
    "GraphvizError": "fast_dag.draw.dot.GraphvizError",
    "NodeOptions": "fast_dag.define.options.NodeOptions",
    "CachedNodeOptions": "fast_dag.define.options.CachedNodeOptions",
}
"""What the reference shows besides the names that `fast_dag` exports."""

ENTRY = re.compile(r"[\w*]+(, [\w*]+)*[:,]$")
CODE = re.compile(r"(`[^`\n]+`)")
DOTTED = re.compile(r"`(?:(?P<owner>[A-Z]\w+)\.)?(?P<name>\w+)(?P<call>\(\))?`")
COMPOUND = re.compile(r"\b[A-Z]\w*[a-z][A-Z]\w+\b")
"""A name that is no ordinary word, so that it is meant as a name wherever it stands."""


class Docstrings(griffe.Extension):
    """Rewrites the docstrings of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        exported = pkg.exports or []
        self.places = {str(name): f"{pkg.path}.{name}" for name in exported} | FURTHER
        self.package = pkg
        self.visit(pkg)

    def visit(self, item: griffe.Object) -> None:
        """Rewrite what an object and all within it say."""
        if isinstance(item, griffe.Function):
            take_parameters(item)
        if item.docstring is not None:
            item.docstring.value = self.rewritten(item)
        for member in item.members.values():
            if isinstance(member, griffe.Object):
                self.visit(member)

    def rewritten(self, item: griffe.Object) -> str:
        assert item.docstring is not None
        own = item if isinstance(item, griffe.Class) else item.parent
        owner = own.name if isinstance(own, griffe.Class) else ""
        taken = {each.name for each in getattr(item, "parameters", ())}

        def linked(text: str) -> str:
            parts = CODE.split(text)
            parts[1::2] = [self.link(code, owner, taken, item.name) for code in parts[1::2]]
            parts[::2] = [COMPOUND.sub(self.bare_link(item.name), each) for each in parts[::2]]
            return "".join(parts)

        return markdown(item.docstring.value, linked)

    def link(self, code: str, owner: str, taken: set[str], own_name: str) -> str:
        """A name set as code, as a link where the reference has it."""
        match = DOTTED.fullmatch(code)
        if match is None or (match["owner"] is None and match["name"] in {*taken, own_name}):
            return code
        if match["owner"] is None and match["name"] in self.places:
            return f"[{code}][{self.places[match['name']]}]"
        owner = INTERNAL.get(match["owner"] or owner, match["owner"] or owner)
        if owner not in self.places or match["name"].startswith("_"):
            return code
        place = self.places[owner]
        members = self.package[place.removeprefix("fast_dag.")].all_members
        method = members.get(match["name"])
        if method is None or not (method.is_function or match["owner"]):
            return code
        return f"[{code}][{place}.{match['name']}]"

    def bare_link(self, own_name: str) -> Callable[[re.Match[str]], str]:
        def link(match: re.Match[str]) -> str:
            place = self.places.get(match[0])
            return match[0] if place is None or match[0] == own_name else f"[`{match[0]}`][{place}]"

        return link


def take_parameters(function: griffe.Function) -> None:
    """Show a method under `@takes_what(other)` with the parameters of that one."""
    for decorator in function.decorators:
        match = re.fullmatch(r"takes_what\((\w+)(, .*)?\)", str(decorator.value))
        if match is not None:
            assert function.parent is not None
            function.parameters = function.parent[match[1]].parameters


def markdown(text: str, linked: Callable[[str], str]) -> str:
    """A docstring as Markdown; `linked` is asked about each line of prose."""
    made: list[str] = []
    first, empty, rest = text.partition("\n\n")
    first = first.replace("\n", " ")  # overviews show the first line only
    lines = iter([*(first + empty + rest).splitlines(), ""])
    parameters = False
    for line in lines:
        if line == "Parameters":
            next(lines)  # the dashes
            made.append("**Parameters**")
            parameters = True
        elif line.startswith(">>> "):
            made.append("```pycon")
            while line:
                made.append("" if line == "<BLANKLINE>" else line)
                line = next(lines)  # noqa: PLW2901  # an example goes on until an empty line
            made += ["```", ""]
        elif parameters and ENTRY.match(line):
            while not line.endswith(":"):
                line += " " + next(lines)  # noqa: PLW2901  # more names than fit into a line
            names = ", ".join(f"`{name}`" for name in line.removesuffix(":").split(", "))
            first = next(lines).strip()
            made += ["", names, f":   {linked(first)}"]
        elif parameters and line and not line.startswith(" "):
            parameters = False
            made += ["", linked(line)]
        elif line.startswith("    ") and not parameters:
            made.append(line)  # a block of code already
        else:
            made.append(linked(line))
    return "\n".join(made).strip("\n")
