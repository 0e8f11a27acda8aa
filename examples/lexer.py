"""A lexer for Python's own source: a state machine that visits one state per token.

    python examples/lexer.py                       counts the tokens of the package json
    python examples/lexer.py FILE --tokens         lists them, as `python -m tokenize FILE` does
    python examples/lexer.py DIRECTORY --check     compares each with what `tokenize` finds

It is written to be read as an introduction to `FSM`. The states, of which each takes some
characters, makes a token of them, and looks at the next character to say where to go:

    line_start      indentation: INDENT, or as many DEDENT as it takes; nothing on an empty line
    lone_comment    a comment with nothing before it
    name            what begins like a name, and may turn out to be the prefix of a string
    number, dot     a dot may begin a number
    string          from a quote to its twin; triple_quoted where there are three of them
    fstring         f" and its like, from Python 3.12 on
    fstring_text    what stands between the replacement fields of such a string
    fstring_end     its closing quote
    field           the { of a replacement field
    operator        what is neither a bracket nor a dot
    opening         ( [ {, within which lines do not end
    closing         ) ] }, within a string perhaps back to its text
    comment, continuation, newline, line_break
    last_line       a last line that lacks its end
    end             the rest of the DEDENT, and ENDMARKER

What flows from state to state is a `Scan`: the text and the place in it, open brackets, open
indentation, and the tokens so far.

The tokens are those of `tokenize.generate_tokens` on the Python that runs this: their type, text,
start and end. Up to 3.11 an f-string is one STRING; since then it is FSTRING_START, FSTRING_MIDDLE,
what stands in its fields, and FSTRING_END. In some things the lexer keeps to the parser of Python,
where `tokenize` of 3.11 does not:

- Blanks before a backslash that ends its line are the indentation of the line that follows.
- A last line of code ends in a NEWLINE, even if it begins with a "#" that is part of a string.
- Names may have all letters that they may have in Python, some of which `tokenize` does not know.
- Source that the parser refuses for its characters, brackets, numbers or tabs is refused.

Some releases of 3.12 (3.12.1, 3.12.4) are wrong about columns beside strings of several lines that
are not all ASCII.

`--check` tells of files that the lexer refuses and Python does not, or that `tokenize` alone
refuses, and of each file with tokens that differ.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import sys
import token
import tokenize
import warnings
from collections import Counter
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from fast_dag import FSM, ExecutionError, FSMReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROGRAM = "lexer"
LEFT_OUT = {"site-packages", "dist-packages", "__pycache__"}

SPLITS_FSTRINGS = hasattr(token, "FSTRING_START")  # since Python 3.12


class Token(NamedTuple):
    """A token. Places are (row from 1, column from 0)."""

    type: str
    text: str
    start: tuple[int, int]
    end: tuple[int, int]


class LexError(ValueError):
    """Raised for text that is no Python, with the place where that shows."""

    def __init__(self, reason: str, place: tuple[int, int]) -> None:
        super().__init__(reason, place)
        self.reason = reason
        self.place = place

    def __str__(self) -> str:
        return f"{self.place[0]}:{self.place[1] + 1}: {self.reason}"


class FString:
    """An f-string (or t-string) in which the lexer is. `fields` has a number for each replacement
    field that is open: how many brackets are open in its expression."""

    __slots__ = ("fields", "kind", "place", "quote", "text")

    def __init__(self, kind: str, quote: str, raw: bool, place: tuple[int, int]) -> None:
        self.kind = kind
        self.place = place
        self.quote = quote
        self.text = FSTRING_TEXT[quote, raw]
        self.fields: list[int] = []


class Scan:
    """A text, how far it has been read, and what has to be remembered of that.

    Parameters
    ----------
    text:
        Source, whose lines end in "\\n" only.
    splits_fstrings:
        Whether f-strings are split, as Python 3.12 began to.
    """

    __slots__ = (
        "at",
        "brackets",
        "fstrings",
        "indents",
        "line_at",
        "row",
        "splits_fstrings",
        "text",
        "tokens",
    )

    def __init__(self, text: str, splits_fstrings: bool = SPLITS_FSTRINGS) -> None:
        self.text = text
        self.splits_fstrings = splits_fstrings
        self.at = 0
        self.row = 1
        self.line_at = 0  # where the row begins
        self.tokens: list[Token] = []
        self.indents = [(0, 0)]  # in columns, with tabs of 8 and of 1
        self.brackets: list[tuple[str, tuple[int, int]]] = []
        self.fstrings: list[FString] = []

    @property
    def place(self) -> tuple[int, int]:
        """Where it is, as a row and a column."""
        return self.row, self.at - self.line_at

    def take(self, kind: str, end: int) -> None:
        """Make a token of the characters up to `end`, which are of one line."""
        row, at, line_at = self.row, self.at, self.line_at
        text = self.text[at:end]
        self.tokens.append(Token(kind, text, (row, at - line_at), (row, end - line_at)))
        self.at = end

    def take_lines(self, kind: str, end: int) -> None:
        """Make a token of the characters up to `end`, which may be of many lines."""
        text, start = self.text[self.at : end], self.place
        self.at = end
        self.count_lines(text)
        self.tokens.append(Token(kind, text, start, self.place))

    def count_lines(self, text: str) -> None:
        """Note the ends of lines in what was read last."""
        if "\n" in text:
            self.row += text.count("\n")
            self.line_at = self.at - (len(text) - text.rindex("\n") - 1)

    def take_nothing(self, kind: str, width: int = 0) -> None:
        """Make a token that has a place but no characters."""
        row, column = self.place
        self.tokens.append(Token(kind, "", (row, column), (row, column + width)))

    def begin_line(self) -> None:
        """Go from the end of a row to the next."""
        self.row += 1
        self.line_at = self.at

    @property
    def is_in_field(self) -> bool:
        """Whether it is in a replacement field, outside brackets of its expression."""
        return bool(self.fstrings) and self.fstrings[-1].fields[-1] == len(self.brackets)

    def refuse(self, reason: str, place: tuple[int, int] | None = None) -> NoReturn:
        """Give up, here or at another place."""
        raise LexError(reason, place or self.place)


# What tokens look like. Every expression is anchored where the lexer is, and none goes back.

BLANKS = re.compile(r"[ \t\f]*+")
INDENTATION = re.compile(r"(?:[ \t\f]|\\\n)*+")
COMMENT = re.compile(r"#[^\n]*+")
NAME = re.compile(r"[A-Za-z0-9_\x80-\U0010ffff]++")
NUMBER = re.compile(
    r"""0[xX](?:_?[0-9a-fA-F])++ | 0[bB](?:_?[01])++ | 0[oO](?:_?[0-7])++
      | (?: [0-9](?:_?[0-9])*+ \. (?:[0-9](?:_?[0-9])*+)?+ (?:[eE][-+]?[0-9](?:_?[0-9])*+)?+
          | \. [0-9](?:_?[0-9])*+ (?:[eE][-+]?[0-9](?:_?[0-9])*+)?+
          | [0-9](?:_?[0-9])*+ [eE][-+]?[0-9](?:_?[0-9])*+
        ) [jJ]?+
      | [0-9](?:_?[0-9])*+ [jJ]
      | 0(?:_?0)*+ | [1-9](?:_?[0-9])*+""",
    re.VERBOSE,
)
OPERATOR = re.compile(
    r"\*\*=? | //=? | >>=? | <<=? | -> | \.\.\. | [-+*/%&|^@=<>!:]= | [-+*/%&|^@=<>:.,;~]",
    re.VERBOSE,
)
STRING = re.compile(
    r"""[A-Za-z]*+ (?: '(?!'') (?:[^'\\\n]++|\\.)*+ ' | "(?!"") (?:[^"\\\n]++|\\.)*+ " )""",
    re.VERBOSE | re.DOTALL,
)
TRIPLE_QUOTED = re.compile(
    r"""[A-Za-z]*+ (?: '''(?:[^'\\]++|\\.|'(?!''))*+''' | \"""(?:[^"\\]++|\\.|"(?!""))*+\""" )""",
    re.VERBOSE | re.DOTALL,
)
BEGIN_OF_STRING = re.compile(r"""([A-Za-z]*+)('''|\"""|'|")""")


def fstring_text_before(quote: str, raw: bool) -> re.Pattern[str]:
    """What may stand before a brace or the closing quote; the group `name` where it ends with the
    name of a character."""
    plain = rf"[^{quote[0]}{{}}\\]" if len(quote) == 3 else rf"[^{quote}{{}}\\\n]"
    lone_quote = rf"{quote[0]}(?!{quote[1:]})" if len(quote) == 3 else r"(?!)"
    named = r"(?!)" if raw else r"\\N\{"
    name = rf"(?P<name>{named}[^{quote[0]}{{}}\n]*+\}})?+"
    return re.compile(rf"(?:{plain}|{lone_quote}|(?!{named})\\[^{{}}]?+)*+{name}")


FSTRING_TEXT = {
    (quote, raw): fstring_text_before(quote, raw)
    for quote in ("'", '"', "'''", '"""')
    for raw in (False, True)
}

QUOTES = frozenset("'\"")
PREFIXES = {"b", "r", "u", "f", "br", "rb", "fr", "rf"}
SPLIT = {"f": "FSTRING"}  # strings that are split, by a letter of their prefix
if hasattr(token, "TSTRING_START"):  # Python 3.14
    PREFIXES |= {"t", "tr", "rt"}
    SPLIT["t"] = "TSTRING"
MAY_FOLLOW_A_NUMBER = ("and", "else", "for", "if", "in", "is", "not", "or")
CLOSES = {")": "(", "]": "[", "}": "{"}

STATE_FOR = {
    **dict.fromkeys("0123456789", "number"),
    **dict.fromkeys("'\"", "string"),
    **dict.fromkeys("([{", "opening"),
    **dict.fromkeys(")]}", "closing"),
    **dict.fromkeys("-+*/%&|^@=<>!:,;~", "operator"),
    ".": "dot",
    "#": "comment",
    "\\": "continuation",
    "\n": "newline",
    "": "last_line",
}


def onward(scan: Scan) -> FSMReturn:
    """Skip blanks; the character after them says which state comes."""
    text, at = scan.text, scan.at
    char = text[at : at + 1]
    if char in (" ", "\t", "\f"):
        scan.at = at = end_of(BLANKS, scan)
        char = text[at : at + 1]
    return FSMReturn(STATE_FOR.get(char, "name"), scan)


def end_of(expression: re.Pattern[str], scan: Scan) -> int:
    """Where that ends which begins here; here, if nothing of the kind does."""
    match = expression.match(scan.text, scan.at)
    return scan.at if match is None else match.end()


# The machine. It is one, for all texts: what belongs to a text is in its Scan.

lexer = FSM("lexer", keep_history=1, description="From the text of Python source to its tokens")


def lex(text: str, splits_fstrings: bool = SPLITS_FSTRINGS) -> list[Token]:
    """The tokens of a text; raises LexError where it is no Python.

    >>> [(token.type, token.text) for token in lex("x = 1")]
    [('NAME', 'x'), ('OP', '='), ('NUMBER', '1'), ('NEWLINE', ''), ('ENDMARKER', '')]
    """
    # At most every second state takes no character, but for the first and the last ones.
    most = 2 * len(text) + 4
    try:
        tokens: list[Token] = lexer.run(scan=Scan(text, splits_fstrings), max_cycles=most)
    except ExecutionError as error:
        if isinstance(error.__cause__, LexError):
            raise error.__cause__ from None
        raise
    return tokens


@lexer.state(initial=True)
def line_start(scan: Scan) -> FSMReturn:
    """Compare the indentation with that of the lines before."""
    text, begin = scan.text, scan.at
    end = end_of(INDENTATION, scan)
    char = text[end : end + 1]
    columns = measured(text[begin:end])
    scan.at = end
    scan.count_lines(text[begin:end])
    if char == "#":
        return FSMReturn("lone_comment", scan)
    if char == "\n":
        return FSMReturn("line_break", scan)
    if not char:
        if text.endswith("\\\n", begin, end):
            scan.refuse("the file ends after a backslash")
        return FSMReturn("line_break" if scan.splits_fstrings and begin < end else "end", scan)

    if columns[0] > scan.indents[-1][0]:
        scan.at = scan.line_at
        scan.take("INDENT", end)
        if columns[1] <= scan.indents[-1][1]:
            scan.refuse("tabs and spaces do not agree")
        scan.indents.append(columns)
    while columns[0] < scan.indents[-1][0]:
        scan.indents.pop()
        scan.take_nothing("DEDENT")
    if columns != scan.indents[-1]:
        if columns[0] == scan.indents[-1][0]:
            scan.refuse("tabs and spaces do not agree")
        scan.refuse("the indentation is none of those before")
    return onward(scan)


def measured(indentation: str) -> tuple[int, int]:
    """How far it goes, where tabs are at every 8th column, and where they are one wide."""
    if not indentation.strip(" "):
        return len(indentation), len(indentation)
    column = other = first = 0
    for char in indentation:
        if char == " ":
            column, other = column + 1, other + 1
        elif char == "\t":
            column, other = column // 8 * 8 + 8, other + 1
        elif char == "\f":
            column = other = 0
        elif char == "\\":  # the blanks before the first one count
            first = first or column
    return (first, first) if first else (column, other)


@lexer.state
def lone_comment(scan: Scan) -> FSMReturn:
    """A comment that has its line for itself: the line is no line of code."""
    scan.take("COMMENT", end_of(COMMENT, scan))
    return FSMReturn("line_break", scan)


@lexer.state
def comment(scan: Scan) -> FSMReturn:
    """A comment behind code, or within brackets."""
    scan.take("COMMENT", end_of(COMMENT, scan))
    return onward(scan)


@lexer.state
def name(scan: Scan) -> FSMReturn:
    """A name or keyword, unless it is the prefix of a string, or none."""
    text, end = scan.text, end_of(NAME, scan)
    word = text[scan.at : end]
    if text[end : end + 1] in QUOTES and word.lower() in PREFIXES:
        split = scan.splits_fstrings and any(letter in word.lower() for letter in SPLIT)
        return FSMReturn("fstring" if split else "string", scan)
    if not word.isidentifier():
        scan.refuse(f"{word or text[scan.at]!a} is no name and no operator")
    scan.take("NAME", end)
    return onward(scan)


@lexer.state
def dot(scan: Scan) -> FSMReturn:
    """A dot, which may begin a number."""
    follower = STATE_FOR.get(scan.text[scan.at + 1 : scan.at + 2])
    return FSMReturn("number" if follower == "number" else "operator", scan)


@lexer.state
def number(scan: Scan) -> FSMReturn:
    """A number. Some keywords may follow at once, but nothing else of which names are made."""
    end = end_of(NUMBER, scan)
    rest = NAME.match(scan.text, end)
    if rest and rest[0].isascii():
        whole = scan.text[scan.at : rest.end()]
        if not rest[0].startswith(MAY_FOLLOW_A_NUMBER) or whole.startswith("0or"):
            scan.refuse(f"{whole!a} is no number")
    scan.take("NUMBER", end)
    return onward(scan)


@lexer.state
def string(scan: Scan) -> FSMReturn:
    """A string between single quotes; a backslash takes it to the next line."""
    match = STRING.match(scan.text, scan.at)
    if match is None:
        begin = BEGIN_OF_STRING.match(scan.text, scan.at)
        if begin and len(begin[2]) == 3:
            return FSMReturn("triple_quoted", scan)
        scan.refuse("a string has no end")
    scan.take_lines("STRING", match.end())
    return onward(scan)


@lexer.state
def triple_quoted(scan: Scan) -> FSMReturn:
    """A string of any number of lines."""
    match = TRIPLE_QUOTED.match(scan.text, scan.at)
    if match is None:
        scan.refuse("a triple-quoted string has no end")
    scan.take_lines("STRING", match.end())
    return onward(scan)


@lexer.state
def fstring(scan: Scan) -> FSMReturn:
    """The begin of a string with replacement fields, up to its quote."""
    match = BEGIN_OF_STRING.match(scan.text, scan.at)
    assert match is not None
    letters = match[1].lower()
    kind = next(SPLIT[letter] for letter in letters if letter in SPLIT)
    scan.fstrings.append(FString(kind, match[2], "r" in letters, scan.place))
    scan.take(f"{kind}_START", match.end())
    return FSMReturn("fstring_text", scan)


@lexer.state
def fstring_text(scan: Scan) -> FSMReturn:
    """Text up to a brace or the closing quote: outside fields, or of a format after its colon.

    A doubled brace ends a piece of text, which has one of the two; so does a character's name.
    """
    text, string = scan.text, scan.fstrings[-1]
    middle = f"{string.kind}_MIDDLE"
    in_format = bool(string.fields)
    match = string.text.match(text, scan.at)
    assert match is not None
    end = match.end()
    char, doubled = text[end : end + 1], text[end : end + 2] in ("{{", "}}")
    if match["name"]:
        scan.take_lines(middle, end)
        return FSMReturn("fstring_text", scan)
    if doubled and not in_format:
        scan.take_lines(middle, end + 1)
        scan.at += 1
        return FSMReturn("fstring_text", scan)
    if end > scan.at or (in_format and (char != "{" or doubled)):
        scan.take_lines(middle, end)  # perhaps none: an empty format is a token too
    if char == "{":
        return FSMReturn("field", scan)
    if not in_format and text.startswith(string.quote, end):
        return FSMReturn("fstring_end", scan)
    if in_format and char == "}":
        return FSMReturn("closing", scan)
    if in_format and char == "\n":
        return onward(scan)
    if char == "}":
        scan.refuse("an f-string has a single '}'")
    scan.refuse("an f-string has no end", string.place)


@lexer.state
def fstring_end(scan: Scan) -> FSMReturn:
    """The closing quote."""
    string = scan.fstrings.pop()
    scan.take(f"{string.kind}_END", scan.at + len(string.quote))
    return onward(scan)


@lexer.state
def field(scan: Scan) -> FSMReturn:
    """The brace that opens a replacement field: code comes."""
    scan.brackets.append(("{", scan.place))
    scan.fstrings[-1].fields.append(len(scan.brackets))
    scan.take("OP", scan.at + 1)
    return onward(scan)


@lexer.state
def operator(scan: Scan) -> FSMReturn:
    """An operator or delimiter; the colon of a replacement field leads to its format."""
    if scan.fstrings and scan.is_in_field:
        if scan.text[scan.at] == ":":
            scan.take("OP", scan.at + 1)
            return FSMReturn("fstring_text", scan)
        if scan.text[scan.at] == "!" and not scan.text.startswith("!=", scan.at):
            scan.take("OP", scan.at + 1)
            return onward(scan)
    end = end_of(OPERATOR, scan)
    if scan.splits_fstrings and scan.text.startswith("<>", scan.at):
        end = scan.at + 2  # a joke of Python's, but one with a token
    if end == scan.at:
        scan.refuse(f"{scan.text[end]!a} is no name and no operator")
    scan.take("OP", end)
    return onward(scan)


@lexer.state
def opening(scan: Scan) -> FSMReturn:
    """An opening bracket."""
    scan.brackets.append((scan.text[scan.at], scan.place))
    scan.take("OP", scan.at + 1)
    return onward(scan)


@lexer.state
def closing(scan: Scan) -> FSMReturn:
    """A closing bracket; the one that closes a replacement field leads back to text."""
    char = scan.text[scan.at]
    if not scan.brackets or scan.brackets[-1][0] != CLOSES[char]:
        scan.refuse(f"{char!r} closes nothing")
    ends_field = scan.is_in_field
    scan.brackets.pop()
    scan.take("OP", scan.at + 1)
    if ends_field:
        scan.fstrings[-1].fields.pop()
        return FSMReturn("fstring_text", scan)
    return onward(scan)


@lexer.state
def continuation(scan: Scan) -> FSMReturn:
    """A backslash: the line goes on in the next row."""
    if scan.text[scan.at + 1 : scan.at + 2] != "\n":
        scan.refuse("something follows a backslash")
    scan.at += 2
    scan.begin_line()
    if scan.at == len(scan.text):
        scan.refuse("the file ends after a backslash")
    return onward(scan)


@lexer.state
def newline(scan: Scan) -> FSMReturn:
    """The end of a line of code; between brackets it is no more than the end of a row."""
    if scan.brackets:
        scan.take("NL", scan.at + 1)
        scan.begin_line()
        return onward(scan)
    scan.take("NEWLINE", scan.at + 1)
    scan.begin_line()
    return FSMReturn("line_start", scan)


@lexer.state
def line_break(scan: Scan) -> FSMReturn:
    """The end of a row without code."""
    if scan.at < len(scan.text):
        scan.take("NL", scan.at + 1)
        scan.begin_line()
        return FSMReturn("line_start", scan)
    scan.take_nothing("NL", width=1 if scan.splits_fstrings else 0)
    scan.begin_line()
    return FSMReturn("end", scan)


@lexer.state
def last_line(scan: Scan) -> FSMReturn:
    """The end of the file in a line of code."""
    if scan.brackets:
        bracket, place = scan.brackets[-1]
        scan.refuse(f"{bracket!r} is never closed", place)
    scan.take_nothing("NEWLINE", width=1)
    scan.begin_line()
    return FSMReturn("end", scan)


@lexer.state(terminal=True)
def end(scan: Scan) -> list[Token]:
    """The end of the file, which ends all indentation."""
    scan.line_at = scan.at
    for _ in scan.indents[1:]:
        scan.take_nothing("DEDENT")
    scan.take_nothing("ENDMARKER")
    return scan.tokens


# Comparing with tokenize.


def reference(text: str) -> list[Token]:
    """The tokens that `tokenize` finds; raises LexError where it finds an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes, since 3.12
        try:
            found = list(tokenize.generate_tokens(io.StringIO(text).readline))
        except tokenize.TokenError as error:
            raise LexError(str(error.args[0]), error.args[1]) from None
        except SyntaxError as error:
            raise LexError(error.msg, (error.lineno or 1, error.offset or 0)) from None
    for each in found:
        if each.type == token.ERRORTOKEN:
            raise LexError(f"there is no token for {each.string!a}", each.start)
    return [Token(token.tok_name[each.type], each.string, each.start, each.end) for each in found]


def is_python(text: str) -> bool:
    """Whether Python's parser takes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return False
    return True


def difference(tokens: Sequence[Token], expected: Sequence[Token]) -> str | None:
    """The first token that differs, in words; None where none does."""
    for found, other in zip(tokens, expected, strict=False):
        if found != other:
            row, column = min(found.start, other.start)
            return f"{row}:{column + 1}: {shown(found)} here, {shown(other)} by tokenize"
    if len(tokens) != len(expected):
        return f"{len(tokens)} tokens here, {len(expected)} by tokenize"
    return None


def shown(token: Token) -> str:
    """A token in a message."""
    (row, column), (last_row, last_column) = token.start, token.end
    text = token.text if len(token.text) <= 40 else token.text[:37] + "..."
    return f"{token.type} {text!a} {row},{column}-{last_row},{last_column}"


# Many files.


class Report:
    """What was found in all files."""

    def __init__(self) -> None:
        self.files = 0
        self.lines = 0
        self.seconds = 0.0
        self.seconds_of_tokenize = 0.0
        self.counts: Counter[str] = Counter()
        self.refused: list[str] = []  # by Python too, where that was asked
        self.refused_by_tokenize: list[str] = []  # though they are Python
        self.unread: list[str] = []
        self.differences: list[str] = []

    def add(self, path: str, check: bool) -> list[Token]:
        """Read and lex a file; returns its tokens, none where it has none."""
        shown_path = printable(path)
        try:
            with tokenize.open(path) as file:
                text = file.read()
        except OSError as error:
            self.unread.append(f"{shown_path}: {error.strerror or error}")
            return []
        except (SyntaxError, UnicodeDecodeError) as error:  # of a declaration, of a byte
            self.unread.append(f"{shown_path}: cannot be decoded: {error}")
            return []
        started = perf_counter()
        try:
            tokens = lex(text)
        except LexError as error:
            problem = f"{shown_path}:{error}"
            if check and is_python(text):
                self.differences.append(f"{problem} (Python takes it)")
            else:
                self.refused.append(problem)
            return []
        self.seconds += perf_counter() - started
        self.files += 1
        self.lines += text.count("\n") + (text[-1:] not in ("\n", ""))
        self.counts.update(each.type for each in tokens)
        if check:
            self.compare(shown_path, text, tokens)
        return tokens

    def compare(self, path: str, text: str, tokens: Sequence[Token]) -> None:
        """Note how the tokens differ from what `tokenize` finds."""
        started = perf_counter()
        try:
            found = difference(tokens, reference(text))
        except LexError as error:
            found = f"{error} (by tokenize)"
            if is_python(text):
                self.refused_by_tokenize.append(f"{path}:{found}")
                return
        self.seconds_of_tokenize += perf_counter() - started
        if found is not None:
            self.differences.append(f"{path}:{found}")

    @property
    def problems(self) -> list[str]:
        """What there is to say of single files."""
        return self.unread + self.refused + self.refused_by_tokenize + self.differences

    def summary(self, check: bool) -> Iterator[str]:
        """The lines of the report."""
        in_all = self.counts.total()
        yield f"{'tokens':<16}{in_all:>12,}"
        for kind, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            yield f"  {kind:<14}{count:>12,}  {count / in_all:>6.1%}"
        files = f"{self.files:,} file{'s' * (self.files != 1)}"
        speed = in_all / self.seconds if self.seconds else 0.0
        yield f"{files}, {self.lines:,} lines, {speed:,.0f} tokens a second"
        for title, problems in (
            ("refused", self.refused),
            ("not read", self.unread),
            ("refused by tokenize alone", self.refused_by_tokenize),
            ("different", self.differences),
        ):
            if problems:
                yield f"{title}: {len(problems):,}"
                yield from (f"  {problem}" for problem in problems)
        if check and self.seconds_of_tokenize:
            yield f"{self.seconds / self.seconds_of_tokenize:.1f} times the time of tokenize"
            if not self.differences:
                yield "every token is that of tokenize"


def files_below(path: str) -> list[str]:
    """The file itself, or the .py files in and below a directory, in a fixed order. Raises OSError
    where it cannot be listed."""
    if not os.path.isdir(path):
        return [path]

    def cannot_list(error: OSError) -> NoReturn:
        raise error

    found = []
    for directory, below, names in os.walk(path, onerror=cannot_list):
        below[:] = [each for each in below if each not in LEFT_OUT and each[0] != "."]
        found += [os.path.join(directory, each) for each in names if each.endswith(".py")]
    return sorted(found)


def listing(tokens: Sequence[Token]) -> Iterator[str]:
    """The lines in which `python -m tokenize` shows tokens."""
    for each in tokens:
        places = f"{each.start[0]},{each.start[1]}-{each.end[0]},{each.end[1]}:"
        yield f"{places:<20}{each.type:<15}{each.text!r:<15}"


def printable(text: str) -> str:
    """A path on one line, whatever bytes it is made of."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


# The command line.


def arguments() -> argparse.ArgumentParser:
    """What the program may be told."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Split Python source into tokens by a state machine.",
        epilog="Exit status: 0 with a report, 1 where tokens differ or nothing could be lexed, "
        "2 where the arguments are wrong.",
    )
    parser.add_argument(
        "path",
        nargs="?",
        default=os.path.dirname(json.__file__),
        metavar="FILE or DIRECTORY",
        help="what to read (default: the package json of this Python)",
    )
    parser.add_argument("--check", action="store_true", help="compare each token with tokenize")
    parser.add_argument("--tokens", action="store_true", help="list the tokens, in place of counts")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    options: Any = arguments().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack some letters
    path, report = printable(options.path), Report()
    try:
        os.stat(options.path)  # for the reason why it is not there
        files = files_below(options.path)
    except (OSError, ValueError) as error:
        where = printable(str(getattr(error, "filename", None) or options.path))
        return complain(f"{where}: {getattr(error, 'strerror', None) or error}", 2)
    if not files:
        return complain(f"there are no .py files in {path}", 2)
    try:
        for each in files:
            tokens = report.add(each, options.check)
            if options.tokens:
                print(*listing(tokens), sep="\n", end="\n" if tokens else "")
        if not report.files:
            problems = report.problems
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            return complain(problems[0] + more, 1)
        if not options.tokens:
            print(*report.summary(options.check), sep="\n", flush=True)
        else:
            for problem in report.problems:
                complain(problem, 1)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 1
    return 1 if report.differences else 0


def complain(problem: object, status: int) -> int:
    """Say in one line what went wrong."""
    print(f"{PROGRAM}: error: {' '.join(str(problem).split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
