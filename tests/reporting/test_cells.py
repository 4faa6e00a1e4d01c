import pandas as pd

from mmfl.reporting.cells import claim, delta, estimate, p_value, points, quantity

SEVERAL = pd.DataFrame(
    {
        "run": ["mf", "a", "b", "c"],
        "label": ["mf", "a", "b", "c"],
        "seeds": 3,
        "diverged": "",
        "diff": [None, 0.031, -0.02, 0.01],
        "diff_low": [None, 0.02, -0.03, -0.02],
        "diff_high": [None, 0.042, -0.01, 0.04],
        "diff_n": [None, 3, 3, 3],
        "p_holm": [None, 0.01, 0.04, 0.2],
        "tests": [None, 3, 3, 3],
    }
)


def test_numbers():
    assert (
        points(0.1234) == "12.3"
        and points(-0.012, True) == "−1.2"
        and points(0.012, True) == "+1.2"
    )
    assert points(-0.0001, True) == "0.0"
    assert [p_value(p) for p in (0.0002, 0.04, None, float("nan"))] == [
        "<0.001",
        "0.040",
        "n/a",
        "n/a",
    ]
    assert [quantity(v) for v in (12_345_678, 0, None)] == ["12.3 M", "0", "–"]
    assert quantity(1500, "B") == "1.5 kB"


def test_one_seed_is_not_a_spread_of_zero():
    row = pd.Series({"mean": 0.5, "sd": None, "low": None, "high": None, "n": 1, "seeds": 1,
                     "diff": 0.02, "diff_low": None, "diff_high": None, "diff_n": 1})  # fmt: skip
    assert estimate(row, "") == "50.0 ± n/a"
    assert delta(row, "") == "+2.0\nn/a"


def test_estimates_and_differences():
    row = pd.Series({"mean": 0.5, "sd": 0.01, "low": 0.475, "high": 0.525, "n": 3, "seeds": 3})
    assert estimate(row, "") == "50.0 ± 1.0\n[47.5, 52.5]"
    assert estimate(row, "", spread=False) == "50.0 ± 1.0"
    assert delta(SEVERAL.loc[1], "") == "+3.1\n[+2.0, +4.2]"
    assert delta(SEVERAL.loc[0], "") == "–"


def test_the_sentence_claims_what_the_correction_allows():
    text = claim(SEVERAL, "", "mf", "F1")
    assert "over 3 differences, above mf: a (+3.1); below mf: b (−2.0)." in text
    assert "Not resolved (which is not the same as equal): c;" in text and "± 3.0" in text


def test_an_interval_without_zero_is_no_claim_by_itself():
    """Interval [+0.1, +1.9] leaves 0 out, but Holm's p is 0.08: not resolved."""
    frame = SEVERAL.assign(diff=0.01, diff_low=0.001, diff_high=0.019, p_holm=0.08)
    text = claim(frame, "", "mf", "F1")
    assert "no row differs from mf" in text and "above" not in text


def test_no_claim_without_intervals():
    text = claim(SEVERAL.assign(p_holm=None), "", "mf", "F1")
    assert text.startswith("One seed: no interval, so nothing is claimed")
    assert claim(SEVERAL.assign(diff=None), "", "mf", "F1").startswith("No differences")


def test_a_cell_says_over_how_many_seeds_it_is_and_that_none_is_left():
    row = pd.Series({"mean": 0.5, "sd": 0.01, "low": 0.475, "high": 0.525, "n": 2, "seeds": 3,
                     "diverged": "seed 2 in round 4"})  # fmt: skip
    assert estimate(row, "") == "50.0 ± 1.0 (2 of 3)\n[47.5, 52.5]"
    one = row.copy()
    one["n"], one["sd"] = 1, None
    assert estimate(one, "") == "50.0 ± n/a (1 of 3)"
    one["n"], one["mean"] = 0, None
    assert estimate(one, "") == "diverged"
    one["diverged"] = ""
    assert estimate(one, "") == "–"
    one["diff"], one["diff_low"], one["diff_n"] = 0.02, None, 1
    assert delta(one, "") == "+2.0 (1 of 3)\nn/a"
    one["diff_low"], one["diff_high"], one["diff_n"] = 0.01, 0.03, 2
    assert delta(one, "") == "+2.0 (2 of 3)\n[+1.0, +3.0]"


def test_nothing_is_claimed_about_what_diverged():
    lost = SEVERAL.assign(diverged=["", "seed 2 in round 1", "", ""])
    lost.loc[1, ["p_holm", "tests"]] = None
    text = claim(lost, "", "mf", "F1")
    assert "above" not in text and "below mf: b" in text
    assert text.endswith("Nothing is claimed about a.")
    every = lost.assign(p_holm=None)
    assert claim(every, "", "mf", "F1") == "In F1: Nothing is claimed about a."


def test_nothing_is_claimed_if_the_baseline_diverged():
    lost = SEVERAL.assign(diverged=["seed 1", "", "", ""])
    text = claim(lost, "", "mf", "F1")
    assert text.startswith("A seed of mf diverged") and "above" not in text
    assert claim(lost.assign(diff=None), "", "mf", "F1").endswith("can be taken, as mf diverged.")
