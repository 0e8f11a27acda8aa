"""Build a web site again and again, and do only what has changed, like make.

    python examples/cookbook/incremental_build.py
    python examples/cookbook/incremental_build.py --cache DIRECTORY      to be used again

The program makes some pages, builds them, changes one, and builds again. What was made of a page is
kept in files by the contents of the page, so it is found by other processes and on other days.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import os
import pickle
import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from fast_dag import DAG

PAGES = {
    "tea.md": "# Tea\n\nWater, leaves & five minutes.\n",
    "cake.md": "# Cake\n\nSee [tea](tea.html).\n",
    "soup.md": "# Soup\n\nWhat is there, and water.\n",
}


class Files:
    """A backend: one file for each entry, in a directory that may be shared."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Any:
        """What is kept under a key, or None."""
        try:
            return pickle.loads(self._path(key).read_bytes())
        except FileNotFoundError:
            return None

    def set(self, key: str, entry: Any) -> None:
        """Keep an entry: written beside its place, then moved, so nobody reads half of one."""
        path = self._path(key)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_bytes(pickle.dumps(entry))
        beside.replace(path)

    def delete(self, key: str) -> None:
        """Forget one entry."""
        self._path(key).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget all."""
        for path in self.directory.glob("*.entry"):
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.directory / f"{hashlib.sha256(key.encode()).hexdigest()}.entry"


def look(path: Path) -> tuple[Path, str]:
    """A page, and the digest of what is in it."""
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def render(path: Path, digest: str) -> str:
    """The page as HTML. Called only for a digest that the cache does not know."""
    print(f"  rendering {path.name}")
    heading, *paragraphs = html.escape(path.read_text(encoding="utf-8")).strip().split("\n\n")
    body = "".join(f"<p>{each}</p>" for each in paragraphs)
    linked = re.sub(r"\[(.+?)\]\((.+?)\)", r'<a href="\2">\1</a>', body)
    return f"<h1>{heading.lstrip('# ')}</h1>{linked}"


def contents(*pages: str) -> str:
    """The first page: what the others are called."""
    print("  listing the pages")
    return "".join(f"<li>{page[4 : page.index('</h1>')]}</li>" for page in pages)


def site(source: Path, cache: Files) -> DAG:
    """The workflow for the pages that are there now."""
    dag = DAG("site")
    dag.cached_node(backend=cache, version=1)(contents)
    for path in sorted(source.glob("*.md")):
        name = path.stem
        dag.add_node(f"look at {name}", partial(look, path), outputs=["path", "digest"])
        dag.cached_node(name=name, backend=cache, cache_key=["digest"], version=1)(render)
        dag.connect(f"look at {name}", name, output="path")
        dag.connect(f"look at {name}", name, output="digest")
        dag.connect(name, "contents")
    return dag


def build(source: Path, target: Path, cache: Files) -> None:
    """Write the whole site, and tell how much of it had to be made."""
    run = site(source, cache).execute()
    run.raise_for_error()
    target.mkdir(exist_ok=True)
    for path in source.glob("*.md"):
        (target / f"{path.stem}.html").write_text(run[path.stem], encoding="utf-8")
    (target / "index.html").write_text(run.value, encoding="utf-8")
    print(f"  made {run.metrics['cache_misses']}, found {run.metrics['cache_hits']}")


def main() -> None:
    """Build a site three times."""
    parser = argparse.ArgumentParser(description="Build a web site three times.")
    parser.add_argument("--cache", type=Path, metavar="DIRECTORY", help="to be used again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory, "pages"), Path(directory, "html")
        cache = Files(options.cache or Path(directory, "cache"))
        source.mkdir()
        for name, text in PAGES.items():
            (source / name).write_text(text, encoding="utf-8")
        print("the first build")
        build(source, target, cache)
        print("nothing has changed")
        build(source, target, cache)
        (source / "tea.md").write_text("# Green tea\n\nThree minutes.\n", encoding="utf-8")
        print("tea.md has changed")
        build(source, target, cache)


if __name__ == "__main__":
    main()
