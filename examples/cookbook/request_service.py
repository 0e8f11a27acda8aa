"""A server that runs one workflow for each request, many at a time, and ends in good order.

    python examples/cookbook/request_service.py

A request is a line of JSON, and so is its answer. The program starts the server, sends it thirty
requests at once, and ends it while one more is waiting for a supplier who sleeps.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from functools import partial
from typing import Any

from fast_dag import DAG, Context, ExecutionError, FastDAGError

DELAYS = {"near": 0.01, "far": 0.03, "abroad": 0.05}
asleep = asyncio.Event()


def item(request: dict[str, Any]) -> str:
    """What is asked for."""
    if not isinstance(request.get("item"), str):
        raise ValueError("a request names an item")
    return str(request["item"])


async def ask(item: str, context: Context, supplier: str) -> tuple[float, str]:
    """The price of one supplier."""
    context.metadata["asked"] = context.metadata.get("asked", 0) + 1
    if item == "bed":
        asleep.set()
        await asyncio.sleep(60)
    await asyncio.sleep(DELAYS[supplier])
    return len(item) * 10 - 50 * DELAYS[supplier], supplier


def best(prices: dict[str, tuple[float, str]]) -> str:
    """The lowest price, and whose that is."""
    return "{:.2f} from {}".format(*min(prices.values()))


def offers() -> DAG:
    """The workflow: all suppliers are asked at once."""
    dag = DAG("offers").add_node("item", item).add_node("best", best, type="all")
    for supplier in DELAYS:
        dag.add_node(supplier, partial(ask, supplier=supplier), inputs=["item", "context"])
        dag.connect("item", supplier).connect(supplier, "best")
    return dag


class Service:
    """A server of one DAG: each request has a run and a context of its own."""

    def __init__(self, dag: DAG) -> None:
        self.dag = dag
        self.statuses: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[Any]] = set()

    async def answer(self, line: bytes) -> dict[str, Any]:
        """Run the workflow for one request."""
        context = Context()
        try:
            offer = await self.dag.run_async(request=json.loads(line), context=context, timeout=5)
            return {"offer": offer, "asked": context.metadata["asked"]}
        except ExecutionError as error:
            return {"error": str(error.__cause__ or error)}
        except (FastDAGError, ValueError) as error:
            return {"error": str(error)}
        except asyncio.CancelledError:
            return {"error": "the server is closing"}
        finally:
            self.statuses[context.metadata.get("execution_status", "refused")] += 1

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client: one line, one answer."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        reply = await self.answer(await reader.readline())
        writer.write(json.dumps(reply).encode() + b"\n")
        await writer.drain()
        writer.close()

    async def cancel(self) -> None:
        """Cancel what is in progress, and wait until all clients have been told."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks)


async def request(port: int, data: object) -> dict[str, Any]:
    """What a client does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(json.dumps(data).encode() + b"\n")
    reply: dict[str, Any] = json.loads(await reader.readline())
    writer.close()
    return reply


async def main() -> None:
    """Start the server, use it, end it."""
    service = Service(offers())
    async with await asyncio.start_server(service.connected, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        items = [{"item": "x" * length} for length in range(1, 31)]
        replies = await asyncio.gather(*(request(port, item) for item in items))
        lengths = [(float(reply["offer"].split()[0]) + 2.5) / 10 for reply in replies]
        print(f"{len(replies)} requests at once; answers in order: {lengths == [*range(1, 31)]}")
        print(f"x: {replies[0]}")
        print(f"nothing: {await request(port, {})}")

        waiting = asyncio.create_task(request(port, {"item": "bed"}))
        await asleep.wait()
        server.close()
        await service.cancel()
        print(f"bed: {await waiting}")
    print(f"runs: {dict(service.statuses)}")


if __name__ == "__main__":
    asyncio.run(main())
