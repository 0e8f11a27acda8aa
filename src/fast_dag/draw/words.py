"""Names, values and durations as short, printable text."""

from __future__ import annotations

from reprlib import Repr
from typing import Any
from unicodedata import category, east_asian_width

_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""The Unicode categories of characters that are invisible, or that no encoding can write."""

_BRIEF = Repr()
_BRIEF.maxlevel = 3
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 60


def shown(text: str, most: int | None = 60) -> str:
    """Text on one line: invisible characters are escaped, and a long text is cut.

    >>> print(shown("two\\nlines"), shown("a" * 70, 5))
    two\\nlines aaaa…
    """
    if text.isspace():
        return repr(text)
    if not text.isprintable():
        text = "".join(_seen(each) for each in text)
    return text if most is None or len(text) <= most else text[: most - 1] + "…"


def _seen(character: str) -> str:
    if category(character) in _INVISIBLE:
        return character.encode("unicode_escape").decode()
    return character


def lines_shown(text: str) -> str:
    """`shown` for text of several lines, which is not cut."""
    return "\n".join(shown(line.expandtabs(4), None) for line in text.splitlines())


def brief(value: Any, most: int = 60) -> str:
    """A value's repr on one line, cut if it is long; a stand-in if `__repr__` raises.

    >>> brief(list(range(100)))
    '[0, 1, 2, 3, 4, 5, ...]'
    """
    try:
        text = _BRIEF.repr(value)
    except Exception:
        text = f"<{type(value).__name__} whose repr cannot be shown>"
    return shown(" ".join(text.split()), most)


def duration(seconds: float) -> str:
    """Seconds in the unit that fits, with three digits.

    >>> duration(0.0123), duration(2.5), duration(75), duration(4000)
    ('12.3 ms', '2.5 s', '1 min 15 s', '1 h 7 min')
    """
    if seconds < 0.0000005:
        return "0 s"
    for factor, unit in ((1e6, "µs"), (1e3, "ms"), (1, "s")):
        if seconds * factor < 999.5 and (unit != "s" or seconds < 59.95):
            return f"{seconds * factor:.3g} {unit}"
    if round(seconds) < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun, in the plural if it has one.

    >>> counted(1, "visit"), counted(2, "retry", "retries")
    ('1 visit', '2 retries')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def width(text: str) -> int:
    """How many columns a terminal needs for the text.

    >>> width("ab"), width("日本")
    (2, 4)
    """
    if text.isascii():
        return len(text)
    return sum(2 if east_asian_width(each) in "WF" else 1 for each in text)
