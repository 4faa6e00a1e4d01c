"""Text of single cells, and the sentence about differences to a baseline."""

from __future__ import annotations

from typing import Any

import pandas as pd

ALPHA = 0.05


def points(value: float, signed: bool = False) -> str:
    """A score or a difference in percent points, one decimal, with a true minus sign."""
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return ("0.0" if text in ("+0.0", "-0.0") else text).replace("-", "−")


def estimate(row: pd.Series, prefix: str, *, spread: bool = True) -> str:
    """`52.3 ± 0.8`, and the interval on a second line; n/a for what one seed cannot tell.

    `(2 of 3)` where the mean is over fewer than the row's seeds; `diverged` without any.
    """
    mean, count = row.get(f"{prefix}mean"), row.get(f"{prefix}n", 0)
    if pd.isna(mean):
        return "diverged" if count == 0 and pd.notna(row["diverged"]) and row["diverged"] else "–"
    if pd.isna(row[f"{prefix}sd"]):
        return f"{points(mean)} ± n/a{_of(count, row)}"
    text = f"{points(mean)} ± {points(row[f'{prefix}sd'])}{_of(count, row)}"
    return text + (f"\n{_range(row[f'{prefix}low'], row[f'{prefix}high'])}" if spread else "")


def delta(row: pd.Series, prefix: str) -> str:
    """`+1.2` with its interval; – where there is no difference to take.

    `(2 of 3)` where it is the mean over fewer pairs than the row has seeds.
    """
    value = row.get(f"{prefix}diff")
    if pd.isna(value):
        return "–"
    text = f"{points(value, True)}{_of(row[f'{prefix}diff_n'], row)}"
    if pd.isna(row[f"{prefix}diff_low"]):
        return f"{text}\nn/a"
    return f"{text}\n{_range(row[f'{prefix}diff_low'], row[f'{prefix}diff_high'], True)}"


def diverged(frame: pd.DataFrame) -> pd.Series:
    """Whether a seed of each row diverged (an empty cell of a csv comes back as NaN)."""
    return frame["diverged"].notna() & (frame["diverged"] != "")


def _of(count: Any, row: pd.Series) -> str:
    return f" ({count:.0f} of {row['seeds']:.0f})" if count < row["seeds"] else ""


def p_value(value: float | None) -> str:
    """Three decimals; n/a with one seed."""
    if value is None or pd.isna(value):
        return "n/a"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def quantity(value: float | None, unit: str = "") -> str:
    """Three significant digits with a decimal prefix: 12.3 M."""
    if value is None or pd.isna(value):
        return "–"
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def claim(frame: pd.DataFrame, prefix: str, baseline: str, what: str) -> str:
    """Which rows differ from the baseline after Holm's correction, and what stays open.

    Nothing is claimed about a row of which, or of whose baseline, a seed diverged.
    """
    diff, holm = f"{prefix}diff", f"{prefix}p_holm"
    lost = diverged(frame)
    base = lost[frame["run"] == baseline].any()
    if diff not in frame or frame[diff].isna().all():
        reason = f", as {baseline} diverged" if base else ""
        return f"No differences in {what} to {baseline} can be taken{reason}."
    if base:
        return (
            f"A seed of {baseline} diverged: differences in {what} are over the other seeds, and "
            "nothing is claimed about them."
        )
    known = frame.dropna(subset=[diff])
    tested = known.dropna(subset=[holm])
    left = [f"{r['label']}" for _, r in frame[lost].iterrows()]
    untested = f" Nothing is claimed about {_listed(left)}." if left else ""
    if tested.empty and left:
        return f"In {what}:{untested}"
    if tested.empty:
        return f"One seed: no interval, so nothing is claimed about differences in {what}."
    sure = tested[holm] < ALPHA
    above, below = tested[sure & (tested[diff] > 0)], tested[sure & (tested[diff] < 0)]
    parts = []
    for group, word in ((above, "above"), (below, "below")):
        if len(group):
            items = [f"{r['label']} ({points(r[diff], True)})" for _, r in group.iterrows()]
            parts.append(f"{word} {baseline}: {_listed(items)}")
    found = "; ".join(parts) if parts else f"no row differs from {baseline}"
    count = _count(int(tested[f"{prefix}tests"].max()), "difference")
    text = f"In {what}, after Holm's correction over {count}, {found}."
    rest = tested[~sure]
    if len(rest):
        half = (rest[f"{prefix}diff_high"] - rest[f"{prefix}diff_low"]).max() / 2
        text += (
            f" Not resolved (which is not the same as equal): {_listed(list(rest['label']))}; "
            f"uncorrected intervals of up to ± {points(half)} points."
        )
    return text + untested


def range_of(values: pd.Series) -> str:
    low, high = values.dropna().min(), values.dropna().max()
    if pd.isna(low):
        return "none"
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def _range(low: float, high: float, signed: bool = False) -> str:
    return f"[{points(low, signed)}, {points(high, signed)}]"


def _listed(items: list[str]) -> str:
    return ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 1 else items[0]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
