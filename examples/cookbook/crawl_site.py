"""Fetch ten thousand pages, no more than the site allows, and write them away as they come.

    python examples/cookbook/crawl_site.py
    python examples/cookbook/crawl_site.py --pages 500 --per-second 250

The site is part of the program. It refuses whoever has more than 50 requests open, is busy at first
for every seventh page, and lacks every thousandth.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
from collections import Counter
from typing import TYPE_CHECKING

from fast_dag import DAG, Limits, Rate

if TYPE_CHECKING:
    from collections.abc import Iterator


class BusyError(ConnectionError):
    """Raised where the site asks to come again."""


class Site:
    """What is on the other side of the network."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self.open = self.most_open = 0

    async def get(self, page: int) -> str:
        """The text of a page."""
        self.requests[page] += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            if self.open > 50:
                raise PermissionError("too many requests at once")
            await asyncio.sleep(0)
            if page % 7 == 0 and self.requests[page] == 1:
                raise BusyError(f"page {page}: busy")
            if page % 1000 == 999:
                raise LookupError(f"page {page}: not found")
            return f"This is page {page}. " * 20
        finally:
            self.open -= 1


def stored(texts: Iterator[tuple[int, str]]) -> tuple[int, int]:
    """Write pages to a database as they come: how many there were, and how many characters."""
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE pages (number INTEGER PRIMARY KEY, text TEXT)")
        database.executemany("INSERT INTO pages VALUES (?, ?)", texts)
        found: tuple[int, int] = database.execute(
            "SELECT count(*), sum(length(text)) FROM pages"
        ).fetchone()
    database.close()
    return found


def crawler(site: Site, per_second: int) -> DAG:
    """One node, for all pages."""
    dag = DAG("crawler", limits=Limits(site=Rate(per_second, burst=50)))

    @dag.map(
        over="page",
        uses="site",
        max_concurrency=50,
        retry=3,
        retry_delay=0.01,
        retry_on=BusyError,
        timeout=10,
        on_error="drop",
        min_success=0.99,
        into=stored,
        ordered=False,
    )
    async def fetch(page: int) -> tuple[int, str]:
        return page, await site.get(page)

    return dag


def main() -> None:
    """Crawl, and tell how that went."""
    parser = argparse.ArgumentParser(description="Fetch all pages of a site.")
    parser.add_argument("--pages", type=int, default=10_000, metavar="N")
    parser.add_argument("--per-second", type=int, default=20_000, metavar="N")
    options = parser.parse_args()
    site = Site()
    run = crawler(site, options.per_second).execute(page=range(options.pages), mode="async")
    count, characters = run.value
    items = run.items("fetch")
    print(f"{count:,} of {items.total:,} pages, {characters:,} characters")
    print(f"{site.requests.total():,} requests, of which {items.retries:,} came again")
    print(f"at most {site.most_open} at once")
    for page, error in sorted(items.errors.items())[:2]:
        print(f"fetch[{page}] failed: {error}")
    print(f"and {items.failed - 2} more")


if __name__ == "__main__":
    main()
