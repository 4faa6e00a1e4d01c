"""How far scores may move between machines: measured by benchmarks/exactness.py, not guessed.

Scores are fractions in [0, 1]. `largest`: the largest difference of any table cell between any two
settings that change rounding only; `typical`: the largest median difference over the cells of
one table. A limit is FACTOR times what was measured, as few settings were. docs/reproduction.md.
"""

from __future__ import annotations

from dataclasses import dataclass

FACTOR = 1.5
MANY = 100  # cells of a kind in a table from which on their median is judged, too


@dataclass(frozen=True)
class Measured:
    """Largest difference of a cell, and largest median over a table (None: not judged)."""

    largest: float
    typical: float | None = None


# task -> kind of cell: scores (means), standard deviations, ends of intervals, differences to the
# baseline; rounds until a score is reached, and how many seeds reach it
MEASURED: dict[str, dict[str, Measured]] = {
    "multilabel": {
        "score": Measured(0.0187, 0.0018),
        "sd": Measured(0.0314, 0.0021),
        "end": Measured(0.0786, 0.0052),
        "difference": Measured(0.0143, 0.0025),
        "rounds": Measured(1.0),
        "seeds": Measured(1.0),
    },
    "pixel": {
        "score": Measured(0.0342, 0.0072),
        "sd": Measured(0.0461, 0.0060),
        "end": Measured(0.1433, 0.0145),
        "difference": Measured(0.0485, 0.0056),
        "rounds": Measured(1.0),
        "seeds": Measured(1.0),
    },
}


def limit(task: str, kind: str) -> float:
    """Most that a cell may move; no limit for a kind that is not judged (p-values)."""
    measured = MEASURED[task].get(kind)
    return FACTOR * measured.largest if measured else float("inf")


def typical_limit(task: str, kind: str) -> float:
    """Most that the median cell of a large table may move."""
    measured = MEASURED[task].get(kind)
    return FACTOR * measured.typical if measured and measured.typical else float("inf")
