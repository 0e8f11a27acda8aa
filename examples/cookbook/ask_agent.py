"""An agent: it thinks, uses a tool, looks at what came back, and thinks again, until it knows.

    python examples/cookbook/ask_agent.py
    python examples/cookbook/ask_agent.py "what do 3 cups and 2 pots cost?" --steps 4

What thinks is a function from the messages so far to the next action. Here it is a stand-in that
knows a few rules; a language model would take its place. A failing tool ends nothing: its error is
one more message. `--steps` bounds how many states there may be.
"""

from __future__ import annotations

import argparse
import ast
import operator
import re
from typing import Any

from fast_dag import FSM, FSMReturn

PRICES = {"cup": 4.5, "pot": 22.0, "spoon": 1.25}
OPERATORS = {ast.Add: operator.add, ast.Mult: operator.mul}
QUESTION = "what do 3 cups, 12 forks and 2 pots cost?"

Message = tuple[str, str]  # who says it, and what
agent = FSM("agent", keep_history=20, on_max_cycles="stop")


def stand_in(messages: list[Message]) -> tuple[str, str]:
    """The next action, and what it is about."""
    wanted = re.findall(r"(\d+) (\w+?)s?\b", messages[0][1])
    known = dict(text.split(": ") for who, text in messages if who == "price")
    for _, item in wanted:
        if item not in known:
            return "look_up", item
    sums = [text for who, text in messages if who == "sum"]
    if not sums:
        terms = [f"{count} * {known[item]}" for count, item in wanted if known[item] != "unknown"]
        return "calculate", " + ".join(terms)
    unknown = [item for item, price in known.items() if price == "unknown"]
    without = f", without the {', '.join(unknown)}" if unknown else ""
    return "answer", f"{sums[-1]}{without}"


@agent.state(initial=True)
def think(question: str, messages: list[Message] | None = None) -> FSMReturn:
    """Ask the model what to do next: it names the state, and what that is given."""
    messages = messages or [("user", question)]
    action, subject = stand_in(messages)
    return FSMReturn(action, {"subject": subject, "messages": messages})


@agent.state
def look_up(subject: str, messages: list[Message]) -> FSMReturn:
    """A tool: the price of a thing."""
    price = PRICES.get(subject, "unknown")
    return observe(messages, "price", f"{subject}: {price}")


@agent.state
def calculate(subject: str, messages: list[Message]) -> FSMReturn:
    """A tool: sums and products."""
    try:
        return observe(messages, "sum", f"{evaluate(ast.parse(subject, mode='eval').body):g}")
    except (SyntaxError, TypeError, KeyError) as error:
        return observe(messages, "sum", f"no sum: {type(error).__name__}")


@agent.state(terminal=True)
def answer(subject: str) -> str:
    """The end."""
    return subject


def observe(messages: list[Message], who: str, text: str) -> FSMReturn:
    """Back to thinking, with one more message. The former list stays as it was."""
    return FSMReturn("think", {"messages": [*messages, (who, text)]})


def evaluate(tree: ast.expr) -> float:
    """The value of an expression, of which nothing but sums and products is understood."""
    match tree:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.BinOp(left=left, op=op, right=right):
            return float(OPERATORS[type(op)](evaluate(left), evaluate(right)))
    raise TypeError("neither a sum nor a product")


def tell(fsm: FSM, from_state: str, to_state: str, result: dict[str, Any]) -> None:
    """A state hook: follow the agent."""
    if from_state == "think":
        print(f"{to_state:<10}{result['subject']}")
    else:
        print(f"          -> {result['messages'][-1][1]}")


agent.add_state_hook(tell)


def main() -> int:
    """Ask one question; the exit status is 1 where there is no answer."""
    parser = argparse.ArgumentParser(description="Ask an agent.")
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--steps", type=int, default=20, metavar="N")
    options = parser.parse_args()
    run = agent.execute(question=options.question, max_cycles=options.steps)
    run.raise_for_error()
    if run.current_state != "answer":
        print(f"no answer after {run.cycle_count} steps")
        return 1
    print(f"{run.value}, in {run.cycle_count} steps")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
