"""Text of single cells, and the sentence about differences to a baseline."""

from __future__ import annotations

import pandas as pd

ALPHA = 0.05


def points(value: float, signed: bool = False) -> str:
    """A score or a difference in percent points, one decimal, with a true minus sign."""
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return ("0.0" if text in ("+0.0", "-0.0") else text).replace("-", "−")


def estimate(row: pd.Series, prefix: str, *, spread: bool = True) -> str:
    """`52.3 ± 0.8`, and the interval on a second line; n/a for what one seed cannot tell."""
    mean = row.get(f"{prefix}mean")
    if pd.isna(mean):
        return "–"
    if pd.isna(row[f"{prefix}sd"]):
        return f"{points(mean)} ± n/a"
    text = f"{points(mean)} ± {points(row[f'{prefix}sd'])}"
    return text + (f"\n{_range(row[f'{prefix}low'], row[f'{prefix}high'])}" if spread else "")


def delta(row: pd.Series, prefix: str) -> str:
    """`+1.2` with its interval; – where there is no difference to take."""
    value = row.get(f"{prefix}diff")
    if pd.isna(value):
        return "–"
    if pd.isna(row[f"{prefix}diff_low"]):
        return f"{points(value, True)}\nn/a"
    low, high = row[f"{prefix}diff_low"], row[f"{prefix}diff_high"]
    return f"{points(value, True)}\n{_range(low, high, True)}"


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
    """Which rows differ from the baseline after Holm's correction, and what stays open."""
    diff, holm = f"{prefix}diff", f"{prefix}p_holm"
    if diff not in frame or frame[diff].isna().all():
        return f"No differences in {what} to {baseline} can be taken."
    known = frame.dropna(subset=[diff])
    tested = known.dropna(subset=[holm])
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
    return text


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
