"""The lexer against `tokenize`, token by token, on the standard library and on text made for it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import sysconfig
import token
import tokenize
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import lexer as program
from examples.lexer import LexError, Scan, Token, is_python, lex, lexer, reference
from tests.patience import LONG
from tests.properties import tries

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = Path(program.__file__)
STDLIB = Path(sysconfig.get_paths()["stdlib"])
JSON = sorted(Path(json.__file__).parent.glob("*.py"))
IS_SPLIT = sys.version_info >= (3, 12)  # f-strings


def text_of(path: Path) -> str:
    with tokenize.open(path) as file:
        return file.read()


def by_tokenize(text: str) -> list[Token]:
    """The reference, made without the code of the example."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions warn of escapes
        return [
            Token(token.tok_name[each.type], each.string, each.start, each.end)
            for each in tokenize.generate_tokens(io.StringIO(text).readline)
        ]


def words(text: str, splits_fstrings: bool = IS_SPLIT) -> list[str]:
    """The tokens in short: type and text."""
    return [f"{each.type} {each.text}".strip() for each in lex(text, splits_fstrings)]


# Against tokenize, on files.


@pytest.mark.parametrize("path", JSON, ids=lambda path: path.name)
def test_tokens_of_the_json_package_are_those_of_tokenize(path: Path) -> None:
    text = text_of(path)
    assert lex(text) == by_tokenize(text)


@pytest.mark.stress
def test_tokens_of_the_standard_library_are_those_of_tokenize() -> None:
    files = [
        path
        for path in sorted(STDLIB.rglob("*.py"))
        if not {"site-packages", "dist-packages"} & set(path.parts)
    ]
    hard = {"test_fstring.py", "test_grammar.py", "test_tokenize.py", "test_string_literals.py"}
    small = [path for path in files if path.stat().st_size < 30_000]
    files = [path for path in files if path.name in hard] + small[::12]
    compared = 0
    for path in files:
        try:
            text = text_of(path)
        except (SyntaxError, UnicodeDecodeError):  # some test how that fails
            continue
        try:
            tokens = lex(text)
        except LexError:
            assert not is_python(text), path
            continue
        try:
            expected = reference(text)
        except LexError:
            assert not IS_SPLIT  # tokenize of 3.11 lacks letters that names may have
            assert is_python(text), path
            continue
        is_same = tokens == expected
        if not is_same and is_known_to_differ(text):
            continue
        assert is_same, (path, program.difference(tokens, expected))
        compared += 1
    assert compared >= len(files) - 5
    assert compared > 50


def test_lexer_reads_its_own_source() -> None:
    text = PROGRAM.read_text(encoding="utf-8")
    assert lex(text) == by_tokenize(text)


# Against tokenize, on pieces.

PIECES = [
    "",
    "\n",
    "x",
    "x\n",
    "# lone",
    "# lone\n",
    "x # behind",
    "x\n  ",
    "x\n\f",
    "if x:\n  y\n  ",
    "if x:\n  y\n  # c\n\n# d\nz",
    "if x:\n  if y:\n    z\nw\n",
    "if x:\n\tif y:\n\t  z\n\tw\n",
    "if x:\n        y\n\f\nz\n",
    "\f\nx\n",
    "x = \\\n  1\n",
    "x\\\n\n",
    "(\n# c\n\n  a,\n)\n",
    "{'a': [1, (2,\n 3)]}[\n'a'\n]\n",
    "1if x else 2\n",
    "0xfor x\n",
    "0_7j 1e5 .5 1. 1.e-3J 0XfF 0b1_0 0o17 00 1_000.000_1 1E+1_0\n",
    "a->b:=c...x!=y<=z>>=1**2//3**=4//=5<<6<<=7@=8@9^=~1\n",
    "x.y.z...\n",
    "rb'a' Rb'' bR\"a\" u'' U'' br'''\n''' B\"\"\"'\"\"\" \n",
    "'a\\\nb' 'c\\'d' '' \"\" ''''a''' ''''''\n",
    "'''a\n'b''\\'''' + x\n",
    "print'x'\n",
    "bu'x'\n",
    "naïve = 模块 + ªº\n",
    "x; y;\n",
    "@f\nasync def g(): await x\n",
    "f'' rf'a' F\"\" fR'''a'''\n",
    "f'a{{b}}c{x}' f'{{}}'\n",
    "f'{x:}' f'{x:{w}.{p}}' f'{x!r:>10}' f'{x=}' f'{x = !s}'\n",
    "f'{a[1:2]!r}{b!=3}{(c:=4)}{d:=5}' f'{ {1: 2}[1] }' f'{(lambda: 1)()}'\n",
    "f'\\N{BULLET} {x}' rf'\\N{x}' f'\\{x}' rf'\\{x}' f'\\'{x}'\n",
    "f'a\\\nb{x}'\n",
    "f'''\na{\nx # c\n}\n {{ 'b' ''c'' '''\n",
    "f'''{x:\na}'''\n",
    "f'é{{ñ{x}' f\"ü{x}\" + y\n",
    "f'{x:%H:%M}' f'{x:{y:{z}}}' f'{x:a{y}b{z}c}'\n",
]


@pytest.mark.parametrize("text", PIECES, ids=ascii)
def test_tokens_of_a_piece_are_those_of_tokenize(text: str) -> None:
    assert lex(text) == by_tokenize(text)


@pytest.mark.skipif(not IS_SPLIT, reason="3.11 does not split f-strings, and has other rules")
@pytest.mark.parametrize(
    "text",
    [
        "f'{x:{{a}}}'\n",
        "f'{a['b']}' f'{f'{f'{x}'}'}'\n",
        "f'{x\n}'\n",
        "f'{f\"{f'''{x}'''}\"}'\n",
        "if x:\n  y\n\\\n  z\n",
        "  \\\n  x\n",
        "x <> y\n",
        "x = '''\n#'''",
    ],
    ids=ascii,
)
def test_tokens_of_newer_pythons_are_those_of_tokenize(text: str) -> None:
    assert lex(text) == by_tokenize(text)


def is_known_to_differ(text: str) -> bool:
    """Whether this version of tokenize may have tokens that are not the parser's."""
    if sys.version_info[:2] == (3, 12) and not text.isascii():
        return True  # some releases count bytes for columns
    last = text.rpartition("\n")[2].strip()
    return not IS_SPLIT and (bool(re.search(r"^[ \t\f]*\\\n", text, re.M)) or last[:1] == "#")


PARTS = [
    "\n".join(lines[begin : begin + 5])
    for lines in [*(text_of(path).split("\n") for path in JSON), "".join(PIECES).split("\n")]
    for begin in range(0, len(lines), 5)
]
BITS = [*"\n\t '\"\\#{}()[]:!.,=_0e$é\f", '"""', "f'", 'rb"', "\\\n", "{{", "or ", "1.", "\n  "]


@tries(300)
@given(
    st.sampled_from(PARTS),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3), st.sampled_from(["", *BITS]))),
)
def test_text_has_the_tokens_of_tokenize_or_is_refused_by_python_too(
    text: str, edits: list[tuple[int, int, str]]
) -> None:
    for at, length, bit in edits[:4]:
        text = text[:at] + bit + text[at + length :]
    try:
        tokens = lex(text)
    except LexError:
        assert not is_python(text)
        return
    if is_python(text) and not is_known_to_differ(text):
        assert tokens == by_tokenize(text)


@given(st.text(st.sampled_from("ab0. \n\\'\"f{}([])#:!=\t\fé"), max_size=30), st.booleans())
def test_any_text_is_lexed_whole_or_refused(text: str, splits_fstrings: bool) -> None:
    try:
        tokens = lex(text, splits_fstrings)
    except LexError as error:
        row, column = error.place
        assert 0 <= column <= len(text.split("\n")[row - 1])
        return
    assert tokens[-1].type == "ENDMARKER"
    assert [each.start for each in tokens] == sorted(each.start for each in tokens)
    kinds = [each.type for each in tokens]
    assert kinds.count("INDENT") == kinds.count("DEDENT")
    left = "".join(each.text for each in tokens)
    dropped = " \t\f\\\n" + "{}" * splits_fstrings
    assert left.translate(dict.fromkeys(map(ord, dropped))) == text.translate(
        dict.fromkeys(map(ord, dropped))
    )


# f-strings, in both ways, on any Python.


def test_fstring_is_one_string_up_to_3_11() -> None:
    assert words("f'{x!r:>{w}}'", splits_fstrings=False)[0] == "STRING f'{x!r:>{w}}'"


def test_fstring_is_split_since_3_12() -> None:
    assert words("rf'a{{{x!r:>{w}}b'", splits_fstrings=True) == [
        "FSTRING_START rf'",
        "FSTRING_MIDDLE a{",
        "OP {",
        "NAME x",
        "OP !",
        "NAME r",
        "OP :",
        "FSTRING_MIDDLE >",
        "OP {",
        "NAME w",
        "OP }",
        "FSTRING_MIDDLE",
        "OP }",
        "FSTRING_MIDDLE b",
        "FSTRING_END '",
        "NEWLINE",
        "ENDMARKER",
    ]


def test_split_fstring_may_nest_its_own_quotes_and_lines() -> None:
    tokens = lex('f"{f"{a["b"]}"\n}"', splits_fstrings=True)
    assert [each.text for each in tokens if each.type == "STRING"] == ['"b"']
    assert [each.type for each in tokens].count("FSTRING_START") == 2
    assert tokens[-3] == Token("FSTRING_END", '"', (2, 1), (2, 2))


def test_text_of_a_split_fstring_is_cut_after_a_doubled_brace_and_a_characters_name() -> None:
    tokens = lex("f'a{{b}}\\N{BULLET}c'", splits_fstrings=True)
    assert [(each.text, each.start[1]) for each in tokens if each.type == "FSTRING_MIDDLE"] == [
        ("a{", 2),
        ("b}", 5),
        ("\\N{BULLET}", 8),
        ("c", 18),
    ]


# What is refused.


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 'a\n'", "1:5: a string has no end"),
        ("x = '''a\n'", "1:5: a triple-quoted string has no end"),
        ("x = (1,\n[2", "2:1: '[' is never closed"),
        ("(]", "1:2: ']' closes nothing"),
        ("x)", "1:2: ')' closes nothing"),
        ("0777", "1:1: '0777' is no number"),
        ("1__0", "1:1: '1__0' is no number"),
        ("0or 1", "1:1: '0or' is no number"),
        ("a $ b", "1:3: '$' is no name and no operator"),
        ("a ! b", "1:3: '!' is no name and no operator"),
        ("a€", "1:1: 'a\\u20ac' is no name and no operator"),
        ("a\0", "1:2: '\\x00' is no name and no operator"),
        ("x = \\ 1\n", "1:5: something follows a backslash"),
        ("x = \\\n", "2:1: the file ends after a backslash"),
        ("\\\n", "2:1: the file ends after a backslash"),
        ("if x:\n  y\n z\n", "3:2: the indentation is none of those before"),
        ("if x:\n\ty\n        z\n", "3:9: tabs and spaces do not agree"),
        ("if x:\n  if y:\n\tz\n", "3:2: tabs and spaces do not agree"),
    ],
)
def test_what_is_no_python_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(LexError) as caught:
        lex(text)
    assert str(caught.value) == problem
    assert not is_python(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("f'a", "1:1: an f-string has no end"),
        ("f'a}'", "1:4: an f-string has a single '}'"),
        ("f'{a'", "1:5: a string has no end"),
        ("f'{a:b'", "1:1: an f-string has no end"),
        ("f'{a)}'", "1:5: ')' closes nothing"),
        ("f'\\N{BULLET'", "1:1: an f-string has no end"),
    ],
)
def test_split_fstring_that_is_none_is_refused(text: str, problem: str) -> None:
    with pytest.raises(LexError) as caught:
        lex(text, splits_fstrings=True)
    assert str(caught.value) == problem


# The machine.


def test_lexer_goes_from_state_to_state() -> None:
    machine = lexer.start(scan=Scan("x = .5 # c\n"))
    steps = [step.state for step in machine]
    assert steps == [
        "line_start", "name", "operator", "dot", "number", "comment", "newline",
        "line_start", "end",
    ]  # fmt: skip
    assert machine.done
    assert [each.type for each in machine.value][-2:] == ["NEWLINE", "ENDMARKER"]


def test_every_state_is_reached() -> None:
    reached = set()
    for text in [*PIECES, "'''a'''"]:
        reached |= {step.state for step in lexer.start(scan=Scan(text, splits_fstrings=True))}
    assert reached == set(lexer.nodes)


def test_machine_is_valid_and_remembers_one_visit() -> None:
    assert lexer.is_valid
    run = lexer.execute(scan=Scan("x = 1\n" * 5_000), max_cycles=100_000)
    assert run.cycle_count == 25_002
    assert run.state_history == ["end"]


def test_threads_may_lex_at_once() -> None:
    texts = [text_of(path) for path in JSON] * 2
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lex, texts)) == [lex(text) for text in texts]


# The program.


def run_program(
    *arguments: str | Path, encoding: str = "utf-8"
) -> subprocess.CompletedProcess[str]:
    """The program as a user starts it."""
    return subprocess.run(
        [sys.executable, PROGRAM, *arguments],
        capture_output=True,
        encoding=encoding,
        timeout=LONG,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": encoding},
    )


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines that say what is wrong."""
    lines = done.stderr.splitlines()
    assert all(line.startswith("lexer: error: ") for line in lines), done.stderr
    return [line.removeprefix("lexer: error: ") for line in lines]


def test_summary_counts_the_tokens_of_the_json_package() -> None:
    done = run_program("--check")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    expected = [each for path in JSON for each in by_tokenize(text_of(path))]
    assert lines[0].split() == ["tokens", f"{len(expected):,}"]
    names = sum(each.type == "NAME" for each in expected)
    assert f"{names:,}" in next(line for line in lines if line.startswith("  NAME "))
    assert re.match(rf"{len(JSON)} files, [\d,]+ lines, [\d,]+ tokens a second", lines[-3])
    assert lines[-1] == "every token is that of tokenize"


def test_list_of_tokens_is_that_of_python_m_tokenize() -> None:
    command = [sys.executable, "-m", "tokenize", str(PROGRAM)]
    theirs = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    ours = run_program(PROGRAM, "--tokens")
    assert (ours.returncode, ours.stderr) == (0, "")
    assert ours.stdout.splitlines() == theirs.splitlines()[1:]  # the first one is the encoding


def write(root: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (root / f"{name}.py").write_bytes(data)
    return root


def test_declared_encodings_and_line_ends_are_understood(tmp_path: Path) -> None:
    write(tmp_path, latin=b"# coding: latin-1\r\nx = '\xe9'\r\n", bom=b"\xef\xbb\xbfx = 1\r")
    done = run_program(tmp_path, "--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 files, 3 lines" in done.stdout
    assert "every token is that of tokenize" in done.stdout


def test_file_that_cannot_be_decoded_is_a_failure(tmp_path: Path) -> None:
    write(tmp_path, a=b"x = '\xff'\n")
    done = run_program(tmp_path / "a.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert "a.py: cannot be decoded: " in complaints(done)[0]
    write(tmp_path, b=b"# coding: nonsense\n")
    done = run_program(tmp_path / "b.py")
    assert "b.py: cannot be decoded: unknown encoding" in complaints(done)[0]
    done = run_program(tmp_path)
    assert done.returncode == 1
    assert complaints(done)[0].endswith("(and 1 more)")


def test_bad_files_of_a_directory_are_told_beside_the_others(tmp_path: Path) -> None:
    write(tmp_path, good="x = 1\n", bytes=b"'\xff'", open="x = (\n")
    (tmp_path / "gone.py").symlink_to("nowhere")
    done = run_program(tmp_path, "--check")
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.partition("tokens a second\n")[2].splitlines()
    assert told[:3] == [
        "refused: 1",
        f"  {tmp_path}/open.py:1:5: '(' is never closed",
        "not read: 2",
    ]
    assert told[3].startswith(f"  {tmp_path}/bytes.py: cannot be decoded: ")
    assert told[4] == f"  {tmp_path}/gone.py: No such file or directory"
    listed = run_program(tmp_path, "--tokens")
    assert listed.stdout.startswith("1,0-1,1:            NAME           'x'")
    assert len(complaints(listed)) == 3


def test_missing_path_is_a_usage_error(tmp_path: Path) -> None:
    done = run_program(tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert complaints(done) == [f"{tmp_path}/nowhere: No such file or directory"]


def test_directory_without_source_is_a_usage_error(tmp_path: Path) -> None:
    done = run_program(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaints(done) == [f"there are no .py files in {tmp_path}"]


@pytest.mark.skipif(IS_SPLIT, reason="newer versions of tokenize agree with the parser")
def test_differing_tokens_are_told_and_end_with_status_1(tmp_path: Path) -> None:
    write(tmp_path, a="if x:\n  y\n\\\n  z\n", b="x\n", c="℘ = 1\n")
    done = run_program(tmp_path, "--check")
    assert done.returncode == 1
    assert f"  {tmp_path}/a.py:3:1: NAME 'z' 4,2-4,3 here, DEDENT '' 3,0-3,0 by tokenize" in (
        done.stdout.splitlines()
    )
    assert "refused by tokenize alone: 1\n" in done.stdout
    assert "every token" not in done.stdout


@pytest.mark.parametrize(
    ("tokens", "expected", "words"),
    [
        ([], [], None),
        ([Token("OP", "(", (1, 0), (1, 1))], [Token("OP", "(", (1, 0), (1, 1))], None),
        (
            [Token("OP", "(", (1, 0), (1, 1))],
            [Token("NAME", "x" * 50, (1, 0), (1, 50))],
            f"1:1: OP '(' 1,0-1,1 here, NAME '{'x' * 37}...' 1,0-1,50 by tokenize",
        ),
        ([Token("OP", "(", (1, 0), (1, 1))], [], "1 tokens here, 0 by tokenize"),
    ],
)
def test_first_difference_is_told_in_words(
    tokens: Sequence[Token], expected: Sequence[Token], words: str | None
) -> None:
    assert program.difference(tokens, expected) == words


def test_reader_that_leaves_early_gets_no_traceback() -> None:
    big = STDLIB / "_pydecimal.py"
    command = [sys.executable, str(PROGRAM), str(big), "--tokens"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=LONG) == 1


def test_terminal_that_lacks_letters_gets_escapes(tmp_path: Path) -> None:
    write(tmp_path, a="ñ = 1\n")
    done = run_program(tmp_path, "--tokens", encoding="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "'\\xf1'" in done.stdout
