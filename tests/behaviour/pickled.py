"""A module as users write them: what pickle finds here are nodes, not functions."""

from __future__ import annotations

from fast_dag import DAG

dag = DAG("pickled")


@dag.node(retry=2)
def load(x):
    """Where it begins."""
    return x


@dag.condition
def is_even(load):
    return load % 2 == 0


@dag.node
def even(x):
    return f"even {x}"


@dag.node
def odd(x):
    return f"odd {x}"


@dag.any
def show(text):
    return text


load >> is_even
is_even.on_true >> even >> show
is_even.on_false >> odd >> show
