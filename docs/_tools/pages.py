"""Pages of the site that do not lie in docs/, and the links to them.

Links in this repository are relative paths, as GitHub follows them: `../benchmarks/README.md`. Here
the pages outside of docs/ get a place on the site, and links to them are written anew. A link that
leads to neither a page of docs/ nor one of these stays as it is, and fails a strict build. Links
that say the name of a file say the title of the page instead.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",  # the site's home says the same in fewer words
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
}
LINK = re.compile(r"\[(?P<text>[^]]+)\]\((?!https?:|#)(?P<file>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def places() -> dict[str, str]:
    """Where files outside of docs/ stand on the site, by their path in the repository."""
    files = sorted(each.relative_to(ROOT) for each in (ROOT / "examples").rglob("*.*"))
    examples = [each for each in files if each.suffix in (".py", ".md")]
    return PAGES | {each.as_posix(): each.with_suffix(".md").as_posix() for each in examples}


def on_files(files: Any, *, config: Any) -> Any:
    for path, place in places().items():
        if place == "index.md":
            continue
        text = (ROOT / path).read_text(encoding="utf-8")
        content = as_page(path, text) if path.endswith(".py") else text
        files.append(File.generated(config, place, content=content))
    return files


def as_page(path: str, source: str) -> str:
    """A module as a page: what its docstring says, and the code."""
    doc = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return f"# {path}\n\n{doc}\n\n```python\n{source}```\n"


def title(file: File) -> str:
    """The first heading of a page."""
    heading = re.search(r"^# (.+)$", file.content_string, re.MULTILINE)
    return file.src_uri if heading is None else heading[1]


def on_page_markdown(text: str, *, page: Any, config: Any, files: Any) -> str:
    outside = {place: path for path, place in places().items() if place != "index.md"}
    uri = page.file.src_uri
    here = PurePosixPath(outside.get(uri, f"docs/{uri}")).parent

    def rewritten(match: re.Match[str]) -> str:
        path = os.path.normpath(here / match["file"])
        place = places().get(path, path.removeprefix("docs/"))
        file = files.get_file_from_path(place)
        if file is None:
            return match[0]
        says = title(file) if match["text"].endswith(".md") else match["text"]
        target = os.path.relpath(place, PurePosixPath(uri).parent)
        return f"[{says}]({target}{match['anchor'] or ''})"

    blocks = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    blocks[::2] = [LINK.sub(rewritten, each) for each in blocks[::2]]
    return "".join(blocks)
