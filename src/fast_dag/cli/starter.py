"""The programs that `fast-dag new` writes."""

from __future__ import annotations

_DAG = '''"""A first workflow. Change it, and run it again:

    fast-dag run {file}
    fast-dag run {file} --input text="to be or not to be"
    fast-dag show {file}
"""

from fast_dag import DAG

dag = DAG("{name}", description="Tells about the words of a text")


@dag.node
def words(text: str = "the quick brown fox jumps over the lazy dog") -> list[str]:
    """The words of the text. Whatever no edge feeds is an input: --input text=..."""
    return text.split()


@dag.node
def longest(words: list[str]) -> str:
    """The longest word."""
    return max(words, key=len)


@dag.node
def count(words: list[str]) -> int:
    """How many words there are."""
    return len(words)


@dag.node
def report(longest: str, count: int) -> str:
    """One sentence."""
    return f"{{count}} words, the longest is {{longest!r}}"


# Each edge feeds the parameter of its source's name.
words >> [longest, count] >> report


if __name__ == "__main__":
    print(dag.run())
'''

_FSM = '''"""A first state machine. Change it, and run it again:

    fast-dag run {file}
    fast-dag run {file} --input coins=5
    fast-dag show {file}
"""

from fast_dag import FSM, FSMReturn

fsm = FSM("{name}", description="Sells a ticket for some coins")


@fsm.state(initial=True)
def waiting(coins: int = 3, price: int = 2) -> FSMReturn:
    """Where to go next, and with what."""
    if coins < price:
        return FSMReturn("refused", {{"missing": price - coins}})
    return FSMReturn("paid", {{"change": coins - price}})


@fsm.state(terminal=True)
def paid(change: int) -> str:
    """A terminal state ends the machine; its value is that of the run."""
    return f"a ticket, and {{change}} back"


@fsm.state(terminal=True)
def refused(missing: int) -> str:
    """Parameters take the keys of the value before."""
    return f"{{missing}} more, please"


if __name__ == "__main__":
    print(fsm.run())
'''


def starter(file: str, name: str, *, machine: bool) -> str:
    """The text of a small program."""
    return (_FSM if machine else _DAG).format(file=file, name=name)
