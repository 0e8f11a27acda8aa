"""What real Mermaid, in a real browser, makes of the text.

The tests need Chromium and, in the directory that MERMAID names, bundles of Mermaid as
`tests/draw/get_mermaid` puts them there."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag.draw.mermaid import mermaid
from fast_dag.draw.picture import Box, Cluster, Form, Link, Picture
from fast_dag.draw.sketch import sketch
from fast_dag.draw.view import view_of
from fast_dag.draw.words import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fast_dag import DAG, FSM

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
BUNDLES = sorted(Path(os.environ.get("MERMAID", "/nowhere")).glob("*.js"))

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed"),
    pytest.mark.skipif(not BUNDLES, reason="MERMAID names no directory with bundles of Mermaid"),
]

PAGE = """<!doctype html><meta charset="utf-8"><body>
<script src="%s"></script>
<script>
const found = (drawn, where) => [...drawn.querySelectorAll(where)].map((each) => each.innerText)
const draw = async (text, number) => {
  try {
    const drawn = document.createElement("div")
    drawn.innerHTML = (await mermaid.render("drawn" + number, text)).svg
    document.body.append(drawn)
    const labels = [".node", ".edgeLabel .edgeLabel", ".cluster-label"].map(
      (where) => found(drawn, where + " .nodeLabel, " + where + ":not(.node)").filter(Boolean))
    drawn.remove()
    return {labels}
  } catch (error) { return {error: String(error)} }
}
(async () => {
  mermaid.initialize({startOnLoad: false})
  const results = []
  for (const [number, text] of %s.entries()) results.push(await draw(text, number))
  const result = document.createElement("pre")
  result.id = "result"
  result.textContent = JSON.stringify(results)
  document.body.append(result)
})()
</script>"""

OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--allow-file-access-from-files", "--virtual-time-budget=1000000", "--dump-dom"),
]


def drawn(bundle: Path, texts: list[str], tmp_path: Path) -> list[dict[str, Any]]:
    """What Mermaid draws of each text: the labels of nodes, links and clusters."""
    page = tmp_path / "page.html"
    as_script = json.dumps(texts).replace("<", "\\u003c")
    page.write_text(PAGE % (bundle.as_uri(), as_script), encoding="utf-8")
    command = [str(BROWSER), *OPTIONS, f"--user-data-dir={tmp_path / 'user'}", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, check=True, timeout=110).stdout.decode()
    result = re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)
    assert result is not None, dom[-500:]
    found: list[dict[str, Any]] = json.loads(unescape(result[1]))
    assert [each["error"] for each in found if "error" in each] == []
    return found


@pytest.fixture(params=BUNDLES, ids=lambda path: path.stem)
def bundle(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


MARKDOWN = [
    *("1. submit", "1) submit", "12. twelve", "1.", "- x", "+ x", "* x", "- - -", "[ ] todo"),
    *("-", "--", "---", "***", "=", "===", "-5", "0. a", "# head", "> quote", "a | b", "|-|-|"),
    *("*em*", "**strong**", "_em_", "__init__", "a_b_c", "~~gone~~", "`code`", "``` x", "\\*"),
    *("www.a.de", "WWW.a.de", "me@a.de", "mailto:me@a.de", "https://a.b/c", "see http://x.y"),
    *("ftp://x", "HTTP://A.B", "<https://x.y>", "[a](b)", "![a](b)", "[a]: b", "[a][b]", "[b] 1x"),
    *("    code", "two  ", "[^1]: note"),
]
OTHER = [
    *("<b>x</b>", "<br>", "&amp;", "&lt;", "#35;", "$$x^2$$", "fa:fa-car", "mdi:home"),
    *("fab:fa-x", "end", "graph", "a:::b", "x;y", "%% no", "{{x}}", "((x))", '"quoted"', "a-->b"),
    *("日本語", "3.14 s", "x" * 60, "->", "'q'", "a\nb", "\\N", "@{ shape: x }"),
]


def random_names() -> Iterator[str]:
    pieces = [*"*_-+=.)(][:/#<>|&;$`~!^@ 1ax\\'\"{}%,?", "www.", "://", "1. ", "- ", "](", "    "]
    chance = random.Random(8)
    for _ in range(100):
        yield "".join(chance.choices(pieces, k=chance.randint(1, 7)))


def picture_of(name: str) -> Picture:
    """A picture with that name in all places where it can be."""
    inner = Box("n3", "", "inner", Form.ROUND, lines=(f"= {name}",))
    frame = Box("n2", "", name, Form.FRAMED)
    boxes = [Box("n0", "", name, Form.BOX), Box("n1", "", name, Form.DIAMOND, lines=(name,))]
    items = [*boxes, Cluster(frame, [inner], [])]
    return Picture(Cluster(Box("root", "", "", Form.FRAMED), items, [Link("n0", "n1", name)]))


def test_labels_are_shown_as_they_are(bundle: Path, tmp_path: Path) -> None:
    names = [shown(name) for name in (*MARKDOWN, *OTHER, *random_names()) if name.strip()]
    found = drawn(bundle, [mermaid(picture_of(name)) for name in names], tmp_path)
    for name, result in zip(names, found, strict=True):
        labels = [sorted(" ".join(each.split()) for each in part) for part in result["labels"]]
        said = " ".join(name.split())
        assert labels == [sorted([said, f"{said} {said}", f"inner = {said}"]), [said], [said]]


def test_all_boxes_are_drawn(bundle: Path, tmp_path: Path, orders: DAG, order: FSM) -> None:
    runs = [each.execute(error_strategy="continue") for each in (orders, order)]
    pictures = [sketch(view_of(each)) for each in (orders, order, *runs)]
    for picture, result in zip(
        pictures, drawn(bundle, [*map(mermaid, pictures)], tmp_path), strict=True
    ):
        names = sorted(each.split("\n")[0] for each in result["labels"][0])
        assert names == sorted(box.name for box in picture.boxes() if box.name)
