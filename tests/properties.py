"""How hard the property tests try.

    TIMES=460 pytest -m hypothesis --timeout=0

is a campaign: each property tries 460 times as many examples as usual, a million in all.
Hypothesis keeps those that fail in `.hypothesis/`, and tries them first in the next run.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("TIMES", "1"))


def tries(examples: int) -> settings:
    """The settings of a property that tries half as many examples, or `TIMES` as many as that."""
    return settings(max_examples=examples * TIMES // 2)


# What an example does counts, not how long that took: the machine may be busy.
settings.register_profile(
    "tests",
    deadline=None,
    max_examples=50 * TIMES,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")
