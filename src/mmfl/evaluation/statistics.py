"""Means, intervals and paired differences over seeds.

Seeds cover the randomness of training only: not that of the partition, of the test set or of the
choice of hyper-parameters. With one seed there is no interval, and none is invented.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` values.

    Attributes:
        sd: standard deviation of the values (n − 1); None with one value.
        low, high: ends of the t-interval of the mean; None with one value.
        p: two-sided p-value against a mean of 0 (paired differences only); None with one value.
    """

    mean: float
    n: int
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def half(self) -> float | None:
        """Half the width of the interval, or None."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def interval(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of `values` with Student's t-interval.

    Raises:
        ValueError: no values, or a value that is not finite.
    """
    x = np.asarray(values, np.float64)
    if not x.size or not np.isfinite(x).all():
        raise ValueError(f"expected at least one value, all of them finite; found {list(values)}")
    mean = float(x.mean())
    if x.size == 1:
        return Estimate(mean, 1)
    sd = float(x.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, x.size - 1)) * sd / np.sqrt(x.size)
    return Estimate(mean, x.size, sd, mean - half, mean + half)


def paired(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of the differences a − b of the same seeds, with t-interval and two-sided p-value.

    Differences without any spread have p = 1 where they are 0, and 0 elsewhere.

    Raises:
        ValueError: different lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values: found {len(a)} and {len(b)}, expected as many")
    found = interval(np.asarray(a, np.float64) - np.asarray(b, np.float64), level)
    if found.sd is None:
        return found
    error = found.sd / np.sqrt(found.n)
    if error:
        p = float(2 * stats.t.sf(abs(found.mean / error), found.n - 1))
    else:
        p = 0.0 if found.mean else 1.0
    return Estimate(found.mean, found.n, found.sd, found.low, found.high, p)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p-values after Holm's step-down correction; None stays None and is not counted."""
    known = [p for p in ps if p is not None]
    if not known:
        return [None for _ in ps]
    adjusted = iter(multipletests(known, method="holm")[1])
    return [None if p is None else float(next(adjusted)) for p in ps]


def summarise(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """A row per group of equal `by` (empty cells are a value of their own), in order of appearance.

    Args:
        frame: a row per seed, with the column `value`; empty values are left out.

    Returns:
        `by`, mean, sd, low, high, n (see `Estimate`).
    """
    rows = []
    for key, group in _groups(frame.dropna(subset=["value"]), by):
        found = interval(group["value"].to_numpy())
        rows.append((*key, found.mean, found.sd, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=[*by, "mean", "sd", "low", "high", "n"])


def differences(
    frame: pd.DataFrame, by: Sequence[str], entity: str, baseline: str, family: Sequence[str]
) -> pd.DataFrame:
    """Paired differences to one value of the column `entity`, over the seeds that both have.

    Args:
        frame: a row per seed, with the columns seed and value.
        by: what is held equal in a comparison.
        family: columns within which p-values are corrected together (Holm).

    Returns:
        `by`, `entity`, diff, diff_sd, diff_low, diff_high, diff_n, p, p_holm; no row for the
        baseline itself, nor where there is no common seed.
    """
    rows = []
    for key, group in _groups(frame.dropna(subset=["value"]), by):
        values = {
            name: part.set_index("seed")["value"]
            for name, part in group.groupby(entity, sort=False)
        }
        for name, own in values.items():
            seeds = own.index.intersection(values[baseline].index) if baseline in values else []
            if name == baseline or not len(seeds):
                continue
            found = paired(own[seeds].to_numpy(), values[baseline][seeds].to_numpy())
            rows.append((*key, name, found.mean, found.sd, found.low, found.high, found.n, found.p))
    columns = [*by, entity, "diff", "diff_sd", "diff_low", "diff_high", "diff_n", "p"]
    result = pd.DataFrame(rows, columns=columns).assign(p_holm=np.nan)
    for _, group in _groups(result, family):
        known = [None if pd.isna(p) else float(p) for p in group["p"]]
        result.loc[group.index, "p_holm"] = np.array(holm(known), np.float64)
    return result


def _groups(
    frame: pd.DataFrame, by: Sequence[str]
) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    yield from frame.groupby(list(by), sort=False, dropna=False)
