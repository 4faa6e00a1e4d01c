"""How far scores may move between machines: measured by benchmarks/exactness.py, not guessed.

Scores are fractions in [0, 1]. `largest`: the largest difference of any table cell between any two
settings that change rounding only; `typical`: the largest median difference over the cells of a
large table. Few settings were measured, so a limit is FACTOR times that. Counts of rounds and seeds
may move as far as measured, and by one in any case. docs/reproduction.md has the measurement.
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
        "score": Measured(0.0259, 0.0028),
        "sd": Measured(0.0444, 0.0021),
        "end": Measured(0.1140, 0.0053),
        "difference": Measured(0.0340, 0.0031),
        "rounds": Measured(0.34),
        "seeds": Measured(2),
    },
    "pixel": {
        "score": Measured(0.0451, 0.0072),
        "sd": Measured(0.0461, 0.0065),
        "end": Measured(0.1492, 0.0175),
        "difference": Measured(0.0534, 0.0187),
        "rounds": Measured(2),
        "seeds": Measured(1),
    },
}
COUNTS = ("rounds", "seeds")


def limit(task: str, kind: str) -> float:
    """Most that a cell may move; no limit for a kind that is not judged (p-values)."""
    measured = MEASURED[task].get(kind)
    if kind in COUNTS and measured:
        return max(1.0, measured.largest)
    return FACTOR * measured.largest if measured else float("inf")


def typical_limit(task: str, kind: str) -> float:
    """Most that the median cell of a large table may move."""
    measured = MEASURED[task].get(kind)
    return FACTOR * measured.typical if measured and measured.typical else float("inf")
