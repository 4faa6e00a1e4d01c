import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mmfl.evaluation.statistics import differences, holm, interval, paired, summarise


def test_interval_by_hand():
    """1, 2, 3: sd 1, t(0.975, 2) = 4.302653, half = 4.302653 / sqrt(3) = 2.484138."""
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.sd, found.n, found.p) == (2, 1, 3, None)
    assert found.half == pytest.approx(2.484138, abs=1e-6)
    assert found.low == pytest.approx(2 - 2.484138, abs=1e-6)


def test_one_seed_has_no_interval():
    found = interval([0.4])
    assert (found.mean, found.sd, found.low, found.high, found.half) == (
        0.4,
        None,
        None,
        None,
        None,
    )
    assert paired([0.4], [0.3]).p is None


def test_paired_equals_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=5), rng.normal(size=5)
    found, expected = paired(a, b), stats.ttest_rel(a, b)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_paired_without_spread():
    assert paired([1.0, 2.0], [1.0, 2.0]).p == 1
    assert paired([2.0, 3.0], [1.0, 2.0]).p == 0


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.04 times 3, 2, 1, made monotone: 0.03, 0.04, 0.04."""
    assert holm([0.04, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert holm([None]) == [None] and holm([]) == []


def test_holm_equals_statsmodels():
    ps = np.random.default_rng(2).random(9) ** 4
    expected = multipletests(ps, method="holm")[1]
    assert holm(list(ps)) == pytest.approx(list(expected), abs=1e-15)


def test_faults():
    with pytest.raises(ValueError, match="as many"):
        paired([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="finite"):
        interval([])


def test_summaries_and_differences_of_a_frame():
    rows = [
        ("mf", 1, 0.5), ("mf", 2, 0.6), ("mf", 3, 0.55),
        ("a", 1, 0.6), ("a", 2, 0.72), ("a", 3, 0.64),
        ("b", 1, 0.5), ("b", 2, np.nan), ("c", 9, 0.1),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["run", "seed", "value"]).assign(metric="ap", rate=np.nan)
    found = summarise(frame, ["run", "metric", "rate"]).set_index("run")
    assert found.loc["mf", "mean"] == pytest.approx(0.55) and found.loc["mf", "n"] == 3
    assert np.isnan(found.loc["b", "sd"]) and found.loc["b", "n"] == 1

    delta = differences(frame, ["metric", "rate"], "run", "mf", ["metric"]).set_index("run")
    assert list(delta.index) == ["a", "b"]  # c shares no seed with the baseline
    assert delta.loc["a", "diff"] == pytest.approx((0.1 + 0.12 + 0.09) / 3)
    assert delta.loc["a", "p_holm"] == pytest.approx(delta.loc["a", "p"])  # b has no p-value
    assert np.isnan(delta.loc["b", "p"]) and np.isnan(delta.loc["b", "p_holm"])


def test_frames_agree_with_single_estimates():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {"run": np.repeat(["mf", "a"], 4), "seed": [1, 2, 3, 4] * 2, "metric": "ap"}
    )
    frame["value"] = rng.random(8)
    base, own = frame["value"].to_numpy().reshape(2, 4)
    row = summarise(frame, ["run"]).set_index("run").loc["a"]
    one = interval(own)
    assert row[["mean", "sd", "low", "high"]].tolist() == pytest.approx(
        [one.mean, one.sd, one.low, one.high]
    )
    row = differences(frame, ["metric"], "run", "mf", ["metric"]).iloc[0]
    one = paired(own, base)
    assert row[["diff", "diff_sd", "diff_low", "diff_high", "p"]].tolist() == pytest.approx(
        [one.mean, one.sd, one.low, one.high, one.p]
    )
    same = differences(frame.assign(value=0.5), ["metric"], "run", "mf", ["metric"]).iloc[0]
    assert same["p"] == 1 and same["diff_sd"] == 0
    shifted = frame.assign(value=np.repeat([0.25, 0.5], 4))
    apart = differences(shifted, ["metric"], "run", "mf", ["metric"]).iloc[0]
    assert (apart["diff"], apart["p"], apart["p_holm"]) == (0.25, 0, 0)


def test_holm_never_exceeds_one():
    """0.4 times 2 is 0.8; 0.9 times 1 is 0.9; but 0.6 and 0.7 become 1 and 1."""
    assert holm([0.9, 0.4]) == pytest.approx([0.9, 0.8])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def drawn_questions():
    """A row per question, run and seed: two questions in a table, the second one has no rate."""
    rng = np.random.default_rng(5)
    rows = [
        {"kind": kind, "rate": rate, "run": run, "seed": seed, "value": rng.random() + shift}
        for kind, rate in (("subset", np.nan), ("missing", 10.0), ("missing", 50.0))
        for run, shift in (("mf", 0.0), ("d", 0.9), ("c", 0.1), ("b", 0.3), ("a", 0.5))
        for seed in (1, 2, 3, 4)
    ]
    return pd.DataFrame(rows)


def test_differences_are_scipys_and_corrected_within_a_question():
    """By scipy's paired t-test and statsmodels' Holm, a question after the other."""
    frame = drawn_questions()
    asked = ["kind", "rate"]
    found = differences(frame, asked, "run", "mf", asked)
    assert len(found) == 12 and list(found["run"][:4]) == ["d", "c", "b", "a"]
    for kind, rate in (("subset", np.nan), ("missing", 10.0), ("missing", 50.0)):
        here = (frame["kind"] == kind) & (frame["rate"].isna() | (frame["rate"] == rate))
        wide = frame[here].pivot(index="seed", columns="run", values="value")
        rows = found[(found["kind"] == kind) & (found["rate"].isna() | (found["rate"] == rate))]
        rows = rows.set_index("run")
        expected = {run: stats.ttest_rel(wide[run], wide["mf"]) for run in "dcba"}
        for run, one in expected.items():
            assert rows.loc[run, "diff"] == pytest.approx((wide[run] - wide["mf"]).mean())
            assert rows.loc[run, "p"] == pytest.approx(one.pvalue)
            low, high = one.confidence_interval()
            assert (rows.loc[run, "diff_low"], rows.loc[run, "diff_high"]) == pytest.approx(
                (low, high)
            )
        corrected = multipletests([one.pvalue for one in expected.values()], method="holm")[1]
        assert rows["p_holm"].tolist() == pytest.approx(corrected.tolist())
        assert rows["tests"].tolist() == [4] * 4


def test_a_family_may_span_several_comparisons():
    """All rates of a kind are corrected together, or all runs of a kind and rate apart."""
    found = differences(drawn_questions(), ["kind", "rate"], "run", "mf", ["kind"])
    assert found["tests"].tolist() == [4] * 4 + [8] * 8
    for _, rows in found.groupby("kind"):
        corrected = multipletests(rows["p"], method="holm")[1]
        assert rows["p_holm"].tolist() == pytest.approx(corrected.tolist())
    apart = differences(drawn_questions(), ["kind", "rate"], "run", "mf", ["kind", "rate", "run"])
    assert apart["tests"].tolist() == [1] * 12
    assert apart["p_holm"].tolist() == pytest.approx(apart["p"].tolist())


def test_only_what_both_sides_allow_is_tested_and_counted():
    """A run that is not tested has no p-value and does not count for those of the others."""
    frame = drawn_questions()
    asked = ["kind", "rate"]
    frame["tested"] = True
    subset = frame["kind"] == "subset"
    frame.loc[subset & (frame["run"] == "a") & (frame["seed"] == 2), "tested"] = False
    fifty = frame["rate"] == 50
    frame.loc[fifty & (frame["run"] == "mf") & (frame["seed"] == 4), "tested"] = False
    ten = frame["rate"] == 10
    frame.loc[ten & (frame["run"] == "b") & (frame["seed"] > 1), "value"] = np.nan
    frame.loc[ten & (frame["run"] == "c"), "value"] = np.nan
    found = differences(frame, asked, "run", "mf", asked)
    rows = found[found["kind"] == "subset"].set_index("run")
    assert rows["p"].isna().to_dict() == {"d": False, "c": False, "b": False, "a": True}
    assert rows["tests"].tolist() == [3] * 4 and np.isnan(rows.loc["a", "p_holm"])
    corrected = multipletests(rows["p"].dropna(), method="holm")[1]
    assert rows["p_holm"].dropna().tolist() == pytest.approx(corrected.tolist())
    rows = found[found["rate"] == 50]  # its baseline is not tested
    assert len(rows) == 4 and rows["p"].isna().all() and (rows["tests"] == 0).all()
    rows = found[found["rate"] == 10].set_index("run")  # c has no value, b one
    assert list(rows.index) == ["d", "b", "a"]
    assert rows["tests"].tolist() == [2] * 3 and rows["diff_n"].tolist() == [4, 1, 4]
    assert np.isnan(rows.loc["b", "p"])


def test_groups_stay_in_the_order_in_which_they_come():
    frame = pd.DataFrame({"run": ["z", "a", "m", "a"], "value": [1.0, 2.0, 3.0, 4.0]})
    found = summarise(frame, ["run"])
    assert found["run"].tolist() == ["z", "a", "m"] and found["mean"].tolist() == [1, 3, 3]
