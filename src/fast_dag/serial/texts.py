"""Data as JSON or YAML text."""

from __future__ import annotations

from functools import cache
from typing import Any

from fast_dag._extras import needed
from fast_dag.errors import ValidationError

_ODD_BREAKS = frozenset("\x85\u2028\u2029")
_DEEP = "the file is nested too deeply to be read"


def to_json(data: dict[str, Any], indent: int | None) -> str:
    """JSON text with the keys in the order of the data."""
    import json  # slow to import

    text = json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)
    # A lone surrogate becomes `\ud800`, which JSON reads as that and which files can hold.
    return text.encode("utf-8", "backslashreplace").decode()


def from_json(text: str | bytes, where: str = "the file") -> Any:
    """The data of a JSON text; raises ValidationError if the text is not valid JSON.

    >>> from_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    fast_dag.errors.ValidationError: the file is no JSON: the key 'a' stands twice in one mapping
    """
    import json  # slow to import

    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ValidationError(f"{where} is no JSON: {error}") from None
    except RecursionError:
        raise ValidationError(_DEEP) from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one mapping")
    return made


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _yaml() -> Any:
    return needed("yaml", extra="yaml", purpose="YAML files")


def to_yaml(data: dict[str, Any]) -> str:
    """YAML text with the keys in the order of the data."""
    text: str = _yaml().dump(data, Dumper=_dumper(), sort_keys=False, allow_unicode=True)
    return text


@cache
def _dumper() -> Any:
    """PyYAML's safe dumper, which also quotes line breaks other than newlines: reading would
    change them."""
    yaml = _yaml()

    class Dumper(yaml.SafeDumper):  # type: ignore[misc,name-defined]  # it is loaded when needed
        pass

    def text_node(dumper: Any, text: str) -> Any:
        style = None if _ODD_BREAKS.isdisjoint(text) else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)

    Dumper.add_representer(str, text_node)
    return Dumper


def from_yaml(text: str | bytes) -> Any:
    """The data of a YAML text.

    Raises ValidationError if the text is not valid YAML, or has aliases: with these, a short text
    can describe endless data.
    """
    yaml = _yaml()
    try:
        return yaml.load(text, Loader=_loader())
    except (yaml.YAMLError, ValueError) as error:
        raise ValidationError(f"the file is no YAML: {error}") from None
    except RecursionError:
        raise ValidationError(_DEEP) from None


@cache
def _loader() -> Any:
    """PyYAML's safe loader, which also refuses aliases and duplicate keys."""
    yaml = _yaml()

    class Loader(yaml.SafeLoader):  # type: ignore[misc,name-defined]  # it is loaded when needed
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                mark = self.peek_event().start_mark
                raise yaml.composer.ComposerError(None, None, "aliases are not read", mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if key.value.__class__ is str and (key.tag, key.value) in seen:
                    told = f"the key {key.value!r} stands twice in one mapping"
                    raise yaml.constructor.ConstructorError(None, None, told, key.start_mark)
                seen.add((key.tag, str(key.value)))
            return super().construct_mapping(node, deep)

    return Loader
