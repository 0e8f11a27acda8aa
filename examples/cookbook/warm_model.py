"""A service whose model stays loaded in worker processes.

    python examples/cookbook/warm_model.py

The model tells languages by pairs of letters. Each process loads it once, before its first call.
The program asks forty questions at once, one of which kills the process that tries to answer it.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from math import log

from fast_dag import DAG, ExecutionError, Workers

TEXTS = {
    "English": "the quick brown fox jumps over the lazy dog and then it sleeps in the sun all day",
    "German": "der schnelle braune fuchs springt ueber den faulen hund und schlaeft dann in der "
    "sonne",
    "Spanish": "el veloz zorro marron salta sobre el perro perezoso y luego duerme todo el dia al "
    "sol",
}
MODEL: dict[str, dict[str, float]] = {}


def pairs(text: str) -> list[str]:
    """Two letters each."""
    return [text[at : at + 2] for at in range(len(text) - 1)]


def load_model() -> None:
    """What takes long. Workers call it in each process, once."""
    for language, text in TEXTS.items():
        counts = Counter(pairs(text))
        MODEL[language] = {pair: log(1 + count) for pair, count in counts.items()}


dag = DAG("language")


@dag.node
def scores(question: str) -> dict[str, float]:
    """How much the question looks like each language."""
    if question == "crash":
        os._exit(1)  # as a library may do that was written in C
    found = pairs(question.lower())
    return {name: sum(table.get(each, 0.0) for each in found) for name, table in MODEL.items()}


@dag.node
def answer(scores: dict[str, float]) -> tuple[str, int]:
    """The language, and the process that made the answer."""
    return max(scores, key=lambda name: scores[name]), os.getpid()


scores >> answer


async def serve(workers: Workers, question: str) -> tuple[str, int]:
    """One request: a run of its own, on processes that all requests share."""
    try:
        language, process = await dag.run_async(question=question, executor=workers)
    except ExecutionError as error:
        return f"failed in node {error.node_name}", 0
    return language, process


async def main() -> None:
    questions = ["where is the sun", "wo ist der hund", "donde esta el perro", "crash"]
    questions += ["the dog sleeps all day"] * 36
    with Workers(2, initializer=load_model) as workers:
        answers = await asyncio.gather(*[serve(workers, each) for each in questions])
    for question, (language, _) in list(zip(questions, answers, strict=True))[:4]:
        print(f"{question:<20} {language}")
    counts = Counter(language for language, _ in answers[4:])
    print(f"and {counts['English']} more")
    processes = {process for _, process in answers if process}
    print("processes that answered: three at most" if len(processes) <= 3 else "too many processes")


if __name__ == "__main__":
    asyncio.run(main())
