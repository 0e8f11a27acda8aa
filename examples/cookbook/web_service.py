"""A web service that ends a workflow when the client who asked for it has left.

    python examples/cookbook/web_service.py

Needs fastapi, uvicorn and httpx. Frameworks do not cancel a handler when its client disconnects:
`while_connected` does that here. The program starts the server, and is its client, too: it asks for
three offers, and leaves before it has the third.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request

from fast_dag import DAG, Context, ExecutionError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

T = TypeVar("T")
CLIENT_CLOSED_REQUEST = 499
DELAYS = {"near": 0.01, "far": 0.02}

app = FastAPI()
asleep, ended = asyncio.Event(), asyncio.Event()


# The workflow.

offers = DAG("offers")


@offers.resource("connection")
async def connect() -> AsyncIterator[str]:
    """Opened by the first node that needs it, closed when the run ends, however it ends."""
    yield "connection"
    print("  connection closed")


async def ask(item: str, connection: str, supplier: str) -> tuple[float, str]:
    """The price of one supplier."""
    if item == "soap":
        raise LookupError(f"{supplier} has no soap")
    if item == "bed":
        asleep.set()
        await asyncio.sleep(3600)
    await asyncio.sleep(DELAYS[supplier])
    return len(item) * 10 - 50 * DELAYS[supplier], supplier


@offers.all
def best(prices: dict[str, tuple[float, str]]) -> str:
    """The lowest price, and whose that is."""
    return "{:.2f} from {}".format(*min(prices.values()))


for name in DELAYS:
    offers.add_node(name, partial(ask, supplier=name), inputs=["item", "connection"])
    offers.connect(name, "best")


# The service.


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await the work, and cancel it when the client disconnects."""
    task = asyncio.ensure_future(work)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        return await task
    except asyncio.CancelledError:
        if watcher.done():
            raise HTTPException(CLIENT_CLOSED_REQUEST, "the client is gone") from None
        raise  # the server itself is closing
    finally:
        watcher.cancel()


@app.get("/offers/{item}")
async def offer(item: str, request: Request) -> dict[str, str]:
    """Run the workflow for one request: its run and its context are its own."""
    context = Context()
    try:
        run = offers.run_async(item=item, context=context, timeout=5)
        return {"offer": await while_connected(request, run)}
    except ExecutionError as error:
        raise HTTPException(502, str(error.__cause__)) from error
    finally:
        print(f"  {item}: {context.metadata['execution_status']}")
        if item == "bed":
            ended.set()


# A client.


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    """The URL of the service, while it is running."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def main() -> None:
    """Ask for some offers, and leave before the last one comes."""
    async with served() as url, httpx.AsyncClient(base_url=url, timeout=None) as client:
        for item in ("tea", "soap"):
            answer = await client.get(f"/offers/{item}")
            print(answer.status_code, answer.text)
        waiting = asyncio.ensure_future(client.get("/offers/bed"))
        await asleep.wait()
        waiting.cancel()
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
