"""Fetch many pages at once, but not too many, from a server that often fails.

    python examples/cookbook/fetch_pages.py
    python examples/cookbook/fetch_pages.py --at-once 8

The server is started by the program. It is busy at first for every third page, does not answer the
first request for every tenth, and one page is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
from collections import Counter
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from fast_dag import DAG

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = [f"/page/{number}" for number in range(1, 25)]
GONE = "/page/7"


class BusyError(ConnectionError):
    """Raised where the server asks to come again."""


class GoneError(Exception):
    """Raised where there is no such page: asking again does not help."""


async def fetch(port: int, path: str) -> str:
    """The body of a page."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    finally:
        writer.close()
    status = head.split()[1]
    if status == "503":
        raise BusyError(f"{path} is busy")
    if status != "200":
        raise GoneError(f"{path} has the status {status}")
    return body


def index(*pages: str | None) -> str:
    """What was found on the pages; None stands for one that could not be fetched."""
    found = [page for page in pages if page is not None]
    return f"{len(found)} of {len(pages)} pages, {sum(map(len, found))} characters"


def crawler(port: int) -> DAG:
    """A node for each page, and one that waits for all of them."""
    dag = DAG("crawler").add_node("index", index, type="any", wait=True)
    for path in PAGES:
        dag.add_node(
            path,
            partial(fetch, port, path),
            timeout=2,
            retry=3,
            retry_delay=0.02,
            retry_on=(BusyError, TimeoutError),
        )
        dag.connect(path, "index")
    return dag


@contextmanager
def flaky_server() -> Iterator[tuple[int, Counter[str]]]:
    """A server in threads of this process: its port, and the requests for each page."""
    requests: Counter[str] = Counter()
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests[self.path] += 1
            number = int(self.path.rpartition("/")[2])
            is_first = requests[self.path] == 1
            if is_first and number % 10 == 0:
                closing.wait()  # the client has to give up
                return
            busy = is_first and number % 3 == 0
            self.send_response(404 if self.path == GONE else 503 if busy else 200)
            self.end_headers()
            self.wfile.write(f"<h1>Page {number:02}</h1>".encode())

        def log_message(self, format: str, *args: object) -> None:
            """Keep the terminal clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port, requests
        finally:
            closing.set()
            server.shutdown()


def main() -> None:
    """Fetch all pages and tell how that went."""
    parser = argparse.ArgumentParser(description="Fetch many pages at once.")
    parser.add_argument("--at-once", type=int, default=4, metavar="N")
    options = parser.parse_args()
    with flaky_server() as (port, requests):
        run = crawler(port).execute(
            mode="async", max_workers=options.at_once, error_strategy="continue", timeout=30
        )
    print(run.value)
    print(f"{requests.total()} requests, of which {run.metrics['retries']} came again")
    for path, error in run.errors.items():
        print(f"{path} failed: {error}")


if __name__ == "__main__":
    main()
