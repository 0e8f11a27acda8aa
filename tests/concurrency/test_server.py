"""A Starlette application that answers with workflows, and real clients, some of which go away."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from fast_dag import DAG
from tests.concurrency.support import wait_until
from tests.patience import LONG

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request
    from starlette.responses import Response

httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
starlette = pytest.importorskip("starlette")

from starlette.applications import Starlette  # noqa: E402  may be missing
from starlette.responses import JSONResponse, StreamingResponse  # noqa: E402
from starlette.routing import Route  # noqa: E402

CLIENTS = 5
REQUESTS = 200


@contextmanager
def served(endpoint: Any) -> Iterator[str]:
    """The URL at which a server, in a thread of its own, answers with this endpoint."""
    app = Starlette(routes=[Route("/", endpoint)])
    config = uvicorn.Config(app, log_level="error", lifespan="off", http="h11", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=REQUESTS) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


class Database:
    """Counts its connections, which take some turns of the loop to be closed."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0

    async def connect(self) -> AsyncIterator[str]:
        self.opened += 1
        yield "connection"
        for _ in range(3):
            await asyncio.sleep(0)
        self.closed += 1


def test_clients_that_disconnect_leave_no_connection_open_and_no_cleanup_undone() -> None:
    databases = Database(), Database()
    held, cleaned, ended = [], [], []
    dag = DAG("report")
    dag.resource("users", databases[0].connect)
    dag.resource("orders", databases[1].connect)

    async def never(users: str, orders: str) -> None:
        held.append(1)
        await asyncio.Event().wait()

    async def cleanup() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        cleaned.append(1)

    for name in ("left", "right"):
        dag.add_node(name, never)
        dag.set_node_hooks(name, cleanup=cleanup)

    async def lines() -> AsyncIterator[str]:
        yield "begun\n"
        try:
            yield str(await dag.run_async())
        finally:
            ended.append(1)

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(lines())

    with served(endpoint) as url:
        for client in range(1, CLIENTS + 1):
            with httpx.stream("GET", url) as response:
                received = response.iter_lines()  # which closes the connection where it is dropped
                assert next(received) == "begun"
                wait_until(lambda client=client: len(held) == 2 * client)
        wait_until(lambda: len(ended) == CLIENTS)
        assert [each.opened for each in databases] == [CLIENTS, CLIENTS]
        assert [each.closed for each in databases] == [CLIENTS, CLIENTS]
        assert len(cleaned) == 2 * CLIENTS


@pytest.mark.stress
def test_requests_at_the_same_time_share_a_bounded_set_of_threads() -> None:
    before = set(threading.enumerate())
    all_came = asyncio.Event()
    came: list[int] = []
    most = 0
    dag = DAG("requests")

    async def gather() -> int:
        came.append(1)
        if len(came) == REQUESTS:
            all_came.set()
        await all_came.wait()
        return 1

    def work(gather: int) -> int:
        nonlocal most
        most = max(most, len(set(threading.enumerate()) - before))
        return gather

    dag.add_node("gather", gather)
    dag.add_node("total", lambda *parts: sum(parts))
    for index in range(6):
        dag.add_node(f"n{index}", work).connect("gather", f"n{index}")
        dag.connect(f"n{index}", "total")

    async def endpoint(request: Request) -> Response:
        return JSONResponse(await dag.run_async())

    async def requests(url: str) -> list[int]:
        limits = httpx.Limits(max_connections=REQUESTS)
        async with httpx.AsyncClient(limits=limits, timeout=LONG) as client:
            responses = await asyncio.gather(*(client.get(url) for _ in range(REQUESTS)))
        return [response.json() for response in responses]

    with served(endpoint) as url:
        assert asyncio.run(requests(url)) == [6] * REQUESTS
    bound = min(32, (os.cpu_count() or 1) + 4)
    assert 0 < most <= bound + 1, "the workers, and the thread of the server"
