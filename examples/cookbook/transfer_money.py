"""Several nodes in one database transaction: all that they wrote is kept, or nothing.

    python examples/cookbook/transfer_money.py

The connection is a resource of the workflow. It is opened for each run by the first node that needs
it. As a context manager it is told of the failure that ended the run, if there is one.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fast_dag import DAG, Context, ExecutionError

if TYPE_CHECKING:
    from collections.abc import Iterator

dag = DAG("transfer")


@dag.resource("db")
@contextmanager
def connection(context: Context) -> Iterator[sqlite3.Connection]:
    """One connection for each run, with one transaction."""
    db = sqlite3.connect(context.metadata["file"])
    try:
        with db:  # commits in the end, or rolls back
            yield db
    finally:
        db.close()


@dag.node
def withdraw(db: sqlite3.Connection, sender: str, cents: int) -> str:
    """Take the money from one account."""
    take = "update accounts set cents = cents - ? where name = ?"
    if db.execute(take, (cents, sender)).rowcount != 1:
        raise LookupError(f"there is no account of {sender}")
    return sender


@dag.node
def deposit(db: sqlite3.Connection, receiver: str, cents: int) -> str:
    """Add it to the other."""
    add = "update accounts set cents = cents + ? where name = ?"
    if db.execute(add, (cents, receiver)).rowcount != 1:
        raise LookupError(f"there is no account of {receiver}")
    return receiver


@dag.node
def record(db: sqlite3.Connection, withdraw: str, deposit: str, cents: int) -> int:
    """Write it down; returns the number of the transfer."""
    into = "insert into transfers (sender, receiver, cents) values (?, ?, ?)"
    return int(db.execute(into, (withdraw, deposit, cents)).lastrowid or 0)


[withdraw, deposit] >> record


def create(file: Path) -> None:
    """The tables, and two accounts. No account goes below nothing."""
    db = sqlite3.connect(file)
    db.executescript("""
        create table accounts (name text primary key, cents integer check (cents >= 0));
        create table transfers (number integer primary key, sender, receiver, cents);
        insert into accounts values ('Ada', 10000), ('Bob', 500);
    """)
    db.close()


def accounts(file: Path) -> str:
    """What everybody has."""
    db = sqlite3.connect(file)
    rows = db.execute("select name, cents from accounts order by name").fetchall()
    db.close()
    return ", ".join(f"{name} {cents / 100:.2f}" for name, cents in rows)


def transfer(file: Path, sender: str, receiver: str, cents: int) -> str:
    """One run: one transfer."""
    context = Context(metadata={"file": file})
    try:
        number = dag.run(sender=sender, receiver=receiver, cents=cents, context=context)
    except ExecutionError as error:
        return f"refused by {error.node_name}: {error.__cause__}"
    return f"transfer {number}"


def main() -> None:
    """Make some transfers, of which two cannot be made."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "bank.db")
        create(file)
        print(f"{'before':<20}{accounts(file)}")
        for sender, receiver, cents in (
            ("Ada", "Bob", 2500),
            ("Ada", "Eve", 2500),
            ("Bob", "Ada", 9900),
            ("Bob", "Ada", 3000),
        ):
            told = transfer(file, sender, receiver, cents)
            print(f"{sender} to {receiver} {cents / 100:<9.2f}{accounts(file)}   {told}")


if __name__ == "__main__":
    main()
