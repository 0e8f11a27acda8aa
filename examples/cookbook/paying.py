"""Calls of a service that takes money: an id for each call, and at most one call.

The service knows a call again by its id. So a node that was interrupted can be called again, with the
same id. Where a service has no such thing, `once=True` stops and asks.
"""

from __future__ import annotations

from fast_dag import DAG
from fast_dag.store import InDoubtError, Store


class Service:
    """Takes money once for each key."""

    def __init__(self) -> None:
        self.paid: dict[str, int] = {}

    def pay(self, amount: int, key: str) -> str:
        self.paid.setdefault(key, amount)
        return f"receipt {len(self.paid)}"


service = Service()
crashes = iter([True, False, True])
shop = DAG("shop")


@shop.node
def charge(amount: int, call_id: str) -> str:
    receipt = service.pay(amount, key=call_id)
    if next(crashes, False):
        raise KeyboardInterrupt  # after the money was taken
    return receipt


@shop.node(once=True)
def parcel(charge: str) -> str:
    if next(crashes, False):
        raise KeyboardInterrupt
    return f"sent for {charge}"


charge >> parcel

if __name__ == "__main__":
    with Store(":memory:") as store:
        while True:
            try:
                print(shop.run(store=store, run_id="order-17", amount=5))
                break
            except KeyboardInterrupt:
                print("interrupted")
            except InDoubtError as doubt:
                print(f"in doubt: {doubt.node}")
                store.decide("order-17", doubt.node, value="sent, says the carrier")
    print(service.paid)
