"""Means, intervals and paired differences over seeds.

Seeds cover the randomness of training only: not that of the partition, of the test set or of the
choice of hyper-parameters. With one seed there is no interval, and none is invented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # scipy.stats takes a second to import


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
    half = float(stdtrit(x.size - 1, (1 + level) / 2)) * sd / np.sqrt(x.size)
    return Estimate(mean, x.size, sd, mean - half, mean + half)


def paired(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of the differences a − b of the same seeds, with t-interval and two-sided p-value.

    Differences without any spread have p = 1 where they are 0, and 0 elsewhere.

    Raises:
        ValueError: different lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values: found {len(a)} and {len(b)}, expected as many")
    found = interval((np.asarray(a, np.float64) - np.asarray(b, np.float64)).tolist(), level)
    if found.sd is None:
        return found
    error = found.sd / np.sqrt(found.n)
    if error:
        p = float(2 * stdtr(found.n - 1, -abs(found.mean / error)))
    else:
        p = 0.0 if found.mean else 1.0
    return Estimate(found.mean, found.n, found.sd, found.low, found.high, p)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p-values after Holm's step-down correction; None stays None and is not counted."""
    known = [place for place, p in enumerate(ps) if p is not None]
    adjusted: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, place in enumerate(sorted(known, key=lambda place: ps[place] or 0.0)):
        largest = max(largest, min(1.0, (len(known) - rank) * (ps[place] or 0.0)))
        adjusted[place] = largest
    return adjusted


def summarise(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """A row per group of equal `by` (empty cells are a value of their own), in order of appearance.

    Args:
        frame: a row per seed, with the column `value`; empty values are in no mean.

    Returns:
        `by`, mean, sd, low, high, n: what `interval` gives for each group; n counts the values,
        and where it is 0 there is no mean.
    """
    groups = frame.groupby(list(by), sort=False, dropna=False)["value"]
    found = groups.agg(mean="mean", sd="std", n="count").reset_index()
    half = _half(found["sd"], found["n"])
    found["low"], found["high"] = found["mean"] - half, found["mean"] + half
    return found[[*by, "mean", "sd", "low", "high", "n"]]


def differences(
    frame: pd.DataFrame, by: Sequence[str], entity: str, baseline: str, family: Sequence[str]
) -> pd.DataFrame:
    """Paired differences to one value of the column `entity`, over the seeds that both have.

    Args:
        frame: a row per seed, with the columns seed and value; perhaps tested: a p-value is taken
            where it holds in all rows of both sides.
        by: what is held equal in a comparison.
        family: columns within which p-values are corrected together (Holm).

    Returns:
        `by`, `entity`, diff, diff_sd, diff_low, diff_high, diff_n, p, p_holm, tests
        (p-values corrected together): what `paired` gives;
        no row for the baseline itself, nor where there is no common seed.
    """
    known = frame.assign(tested=frame.get("tested", True)).dropna(subset=["value"])
    own, base = known[known[entity] != baseline], known[known[entity] == baseline]
    keys = [*by, "seed"]
    both = own.merge(base[[*keys, "value", "tested"]], on=keys, suffixes=("", "_base"))
    both["value"] = both["value"] - both["value_base"]
    both["tested"] = both["tested"] & both["tested_base"]
    found = summarise(both, [*by, entity])
    groups = both.groupby([*by, entity], sort=False, dropna=False)
    tested = groups["tested"].all().to_numpy(bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = found["mean"].abs() / (found["sd"] / np.sqrt(found["n"]))
    p = pd.Series(2 * stdtr((found["n"] - 1).clip(lower=1), -t), found.index)
    p = p.mask((found["sd"] == 0) & (found["mean"] == 0), 1.0)
    found["p"] = p.where(tested)  # and none where there is one difference
    found["p_holm"], found["tests"] = np.nan, 0
    for _, group in found.groupby(list(family), sort=False, dropna=False):
        listed = [None if pd.isna(p) else float(p) for p in group["p"]]
        found.loc[group.index, "p_holm"] = np.array(holm(listed), np.float64)
        found.loc[group.index, "tests"] = len(listed) - listed.count(None)
    return found.rename(
        columns={c: f"diff_{c}" for c in ("sd", "low", "high", "n")} | {"mean": "diff"}
    )


def _half(sd: pd.Series, n: pd.Series, level: float = 0.95) -> pd.Series:
    """Half the width of the t-interval of a mean; empty with one value."""
    return sd * stdtrit((n - 1).clip(lower=1), (1 + level) / 2) / np.sqrt(n)
