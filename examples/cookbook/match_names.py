"""One small workflow, used twice inside another one, each time with other options.

    python examples/cookbook/match_names.py
    python examples/cookbook/match_names.py --least 0.9

Two lists of firms are to be matched, in which the same firm is never written in the same way. Both
are cleaned by the same steps, but each list has words of its own that mean nothing.
"""

from __future__ import annotations

import argparse
import re
import unicodedata
from functools import partial

from fast_dag import DAG

LISTS = {
    "customers": (
        ["Müller & Söhne GmbH", "ACME Corp.", "Blue Sea Travel", "Tea House Ltd"],
        {"gmbh", "corp", "ltd"},
    ),
    "suppliers": (
        ["No. 7: Acme", "No. 8: Sohne, Muller", "No. 9: Travel by Sea", "No. 10: Zenith"],
        {"no", "by"},
    ),
}


def plain(names: list[str]) -> list[str]:
    """Without accents and capitals."""
    decomposed = (unicodedata.normalize("NFKD", name).casefold() for name in names)
    return ["".join(c for c in name if not unicodedata.combining(c)) for name in decomposed]


def words(plain: list[str]) -> list[set[str]]:
    """The words of each name, without numbers and signs."""
    return [set(re.findall(r"[^\W\d_]+", name)) for name in plain]


def telling(words: list[set[str]], noise: set[str]) -> list[set[str]]:
    """Without the words that mean nothing."""
    return [each - noise for each in words]


def cleaning() -> DAG:
    """The workflow that is used twice: it takes `names` and `noise`."""
    dag = DAG("cleaning")
    for step in (plain, words, telling):
        dag.add_node(step.__name__, step)
    return dag.connect("plain", "words").connect("words", "telling")


def read(name: str) -> tuple[list[str], set[str]]:
    """A list, and the words that mean nothing in it."""
    return LISTS[name]


def pairs(
    customers: list[set[str]], suppliers: list[set[str]], least: float
) -> list[tuple[int, int, float]]:
    """For each customer the most similar supplier, where there is one: places and similarity."""
    found = []
    for place, customer in enumerate(customers):
        shares = [len(customer & each) / len(customer | each) for each in suppliers]
        best = max(range(len(shares)), key=shares.__getitem__)
        if shares[best] >= least:
            found.append((place, best, shares[best]))
    return found


def matching() -> DAG:
    """The whole workflow. The same one is two of its nodes."""
    dag, clean = DAG("matching").add_node("pairs", pairs), cleaning()
    for name in LISTS:
        source = f"read {name}"
        dag.add_node(source, partial(read, name), outputs=["names", "noise"])
        dag.add_node(name, clean).connect(name, "pairs")
        dag.connect(source, name, output="names").connect(source, name, output="noise")
    return dag


def main() -> None:
    """Match the lists, and show what the steps inside made of them."""
    parser = argparse.ArgumentParser(description="Match two lists of names.")
    parser.add_argument("--least", type=float, default=0.6, help="how similar, from 0 to 1")
    options = parser.parse_args()
    dag = matching()
    found = dag.run(least=options.least)
    customers, suppliers = (dag[f"read {name}"][0] for name in LISTS)
    for one, other, share in found:
        print(f"{customers[one]:<20} is {suppliers[other]:<21} {share:.0%}")
    print(f"the second supplier, in plain: {dag['suppliers.plain'][1]}")
    print(f"the second supplier, cleaned: {sorted(dag['suppliers.telling'][1])}")


if __name__ == "__main__":
    main()
