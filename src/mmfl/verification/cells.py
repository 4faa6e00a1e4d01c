"""Two versions of a table, cell by cell: counts and names equal, scores within their tolerance."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from mmfl.verification.tolerance import COUNTS, MANY, limit, typical_limit

SCORE = ("mean", "min", "max", "target")
ENDS = ("low", "high", "diff_low", "diff_high")
KINDS = {
    "sd": ("sd", "diff_sd"), "end": ENDS, "difference": ("diff",), "p": ("p", "p_holm"),
    "score": SCORE,
}  # fmt: skip
REACHED = {"rounds_to_target": "rounds", "seeds_to_target": "seeds", "bytes_to_target": "bytes"}
NAMES = ("run", "kind", "modalities", "removed", "rate", "metric")
ALPHA = 0.05
Row = dict[str, str]


@dataclass(frozen=True)
class Cell:
    """A number in both versions, and how far it may move.

    `kind`: one of the table in tolerance.py, or `p`; rounds and seeds are counts, all others
    fractions in [0, 1].
    """

    row: str
    column: str
    kind: str
    committed: float
    fresh: float
    limit: float

    @property
    def moved(self) -> float:
        """How far; inf where only one of the two is a number."""
        if math.isnan(self.committed) and math.isnan(self.fresh):
            return 0.0
        gap = abs(self.fresh - self.committed)
        return math.inf if math.isnan(gap) else gap

    def __str__(self) -> str:
        where = f"({self.row}: {self.column})"
        if math.isinf(self.moved):
            return f"{self.kind} is a number in one of the two only {where}"
        return f"{self.kind} {_of(self.kind, self.moved, self.limit)} {where}"


@dataclass
class Compared:
    """The outcome for a table of a task.

    Attributes:
        faults: cells and lines that must be equal and are not.
        cells: the numbers that may differ.
        claims: p-values that changed sides of 0.05.
    """

    task: str
    faults: list[str] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    claims: int = 0

    @property
    def worst(self) -> Cell | None:
        """The cell that has moved farthest, as a share of its limit; None if none has."""
        moved = [cell for cell in self.cells if cell.kind != "p" and cell.moved]
        return max(moved, key=lambda cell: cell.moved / cell.limit, default=None)

    @property
    def outside(self) -> list[Cell]:
        """Cells out of their tolerance."""
        return [cell for cell in self.cells if cell.moved > cell.limit * (1 + 1e-9)]

    @property
    def shifted(self) -> str:
        """The kind of cell whose median has moved too far in a large table; empty if none has."""
        for kind in sorted({cell.kind for cell in self.cells}):
            moved = [cell.moved for cell in self.cells if cell.kind == kind]
            most = typical_limit(self.task, kind)
            if len(moved) >= MANY and (middle := median(moved)) > most:
                return f"median {kind} {_of(kind, middle, most)} over {len(moved)} cells"
        return ""


def _of(kind: str, moved: float, limit: float) -> str:
    """`1.2 of 2.8 points`."""
    if kind in COUNTS:
        return f"{moved:.3g} of {limit:.3g}"
    return f"{100 * moved:.3g} of {100 * limit:.3g} points"


def kind_of(column: str) -> str | None:
    """What a column holds: a kind of cell in tolerance.py, `p`, or None for what must be equal."""
    if column in REACHED:
        return REACHED[column]
    best = ""
    found = None
    for kind, ends in KINDS.items():
        for end in ends:
            if (column == end or column.endswith(f"_{end}")) and len(end) > len(best):
                best, found = end, kind
    return found


def compare_csv(task: str, committed: bytes, fresh: bytes) -> Compared:
    """Compare two versions of a csv table, line by line in order."""
    old, new = _read(committed), _read(fresh)
    if old is None or new is None:
        return Compared(task, ["not readable as a table"])
    if old[0] != new[0]:
        return Compared(task, ["other columns"])
    if len(old[1]) != len(new[1]):
        return Compared(task, [f"{len(new[1])} lines, expected {len(old[1])}"])
    found = Compared(task)
    for before, after in zip(old[1], new[1], strict=True):
        name = " ".join(before[key] for key in NAMES if before.get(key))
        for column in old[0]:
            _cell(found, name, column, before, after)
    _p_values(found)
    return found


def compare_metrics(task: str, committed: dict, fresh: dict) -> Compared:
    """Compare two versions of metrics.json: run -> metric -> mean over seeds."""
    found = Compared(task)
    old, new = dict(_leaves(committed)), dict(_leaves(fresh))
    for key in sorted(old.keys() ^ new.keys()):
        found.faults.append(f"{' '.join(key)} is in one of the two only")
    for (run, metric), value in old.items():
        other = new.get((run, metric), value)
        if not all(isinstance(v, float | int) and math.isfinite(v) for v in (value, other)):
            found.faults.append(f"{run} {metric}: found {other}, expected a number")
        else:
            found.cells.append(Cell(run, metric, "score", value, other, limit(task, "score")))
    return found


def _leaves(values: dict) -> Iterator[tuple[tuple[str, str], float]]:
    for run, metrics in values.items():
        for metric, value in metrics.items() if isinstance(metrics, dict) else [("", metrics)]:
            yield (run, metric), value


def _read(content: bytes) -> tuple[list[str], list[Row]] | None:
    """Columns and lines of a csv; None if it is damaged."""
    try:
        reader = csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True)
        rows = list(reader)
    except (csv.Error, UnicodeDecodeError):
        return None
    sound = all(None not in row and None not in row.values() for row in rows)
    return (list(reader.fieldnames), rows) if sound and reader.fieldnames else None


def _cell(found: Compared, name: str, column: str, before: Row, after: Row) -> None:
    old, new = before[column], after[column]
    kind = kind_of(column)
    if kind is None:
        if old != new:
            found.faults.append(f"{name}: {column} is {new or 'empty'}, expected {old or 'empty'}")
        return
    values = [_number(text) for text in (old, new)]
    if None in values:
        if old != new:
            found.faults.append(f"{name}: {column} is {new}, expected a number")
        return
    a, b = (math.nan if v is None else v for v in values)
    if kind in ("rounds", "bytes") and math.isnan(a) != math.isnan(b):
        return  # never reached by any seed in one of the two: `seeds` judges that
    if kind == "bytes":  # in rounds: what a run exchanges in one, on average
        per_round = _traffic(before)
        kind, a, b = "rounds", a / per_round, b / per_round
    found.cells.append(Cell(name, column, kind, a, b, limit(found.task, kind)))


def _traffic(row: Row) -> float:
    """Bytes that a run exchanges in a round, from a line of the table of costs; at least 1."""
    total = sum(_number(row.get(f"bytes_{way}", "")) or 0.0 for way in ("up", "down"))
    return max(1.0, total / max(1.0, _number(row.get("rounds", "")) or 1.0))


def _number(text: str) -> float | None:
    """nan for an empty cell, None for what is no finite number."""
    if text == "":
        return math.nan
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _p_values(found: Compared) -> None:
    """A p-value follows from differences: equal where all others are, else only claims count."""
    others = any(cell.moved for cell in found.cells if cell.kind != "p")
    for cell in found.cells:
        if cell.kind != "p":
            continue
        a, b = cell.committed, cell.fresh
        wrong = math.isinf(cell.moved) or not (math.isnan(b) or 0 <= b <= 1)
        if wrong or (cell.moved and not others):
            found.faults.append(f"{cell.row}: {cell.column} is {b:g}, expected {a:g}")
        elif cell.column.endswith("p_holm"):
            found.claims += (a < ALPHA) != (b < ALPHA)
