"""Runs that diverged: counted, named, in no mean, never an improvement; in every file alike."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from helpers.written_runs import COVERS, seal_runs, write_partition, write_runs
from mmfl.reporting import results
from mmfl.reporting.gather import key, read_confusions
from mmfl.reporting.writers import read_csv
from mmfl.steps import page as pages
from mmfl.steps import report


def diverge(run: dict, number: int | None = 4, broken_in: tuple[str, ...] = ("s1", "s2")) -> None:
    """What train and evaluate write of a run that diverged in a round, in some modalities."""
    described = json.loads((run["run"] / "run.json").read_text())
    (run["run"] / "run.json").write_text(json.dumps(described | {"diverged": number}))
    rounds = pd.read_csv(run["run"] / "rounds.csv").astype({"state": object})
    late = (rounds["round"] >= (number or 99)) & (rounds["client"] == "server")
    rounds.loc[late, "val_score"], rounds.loc[late, "state"] = None, "diverged"
    rounds.to_csv(run["run"] / "rounds.csv", index=False)
    scores = pd.read_csv(run["scores"] / "scores.csv").astype({"state": object})
    broken = scores["metric"].notna()
    for q in {"s1", "s2"} - set(broken_in):
        broken &= scores["modalities"] != q
    scores = scores[~(broken & (scores["kind"] == "class"))]
    broken = broken[scores.index]
    scores.loc[broken, ["value", "classes"]] = None
    scores.loc[broken, "state"] = "diverged"
    scores.to_csv(run["scores"] / "scores.csv", index=False)
    table = pd.read_parquet(run["scores"] / "predictions.parquet").assign(state="diverged")
    column = "confusion" if "confusion" in table else "probabilities"
    table[column] = [row * 0 for row in table[column]]
    table.to_parquet(run["scores"] / "predictions.parquet", index=False)
    seal_runs([run])


def build(root, lost, task="multilabel", seeds=(1, 2, 3), methods=None, **changes):
    """The results where `lost` (run -> seeds) diverged."""
    runs = write_runs(root, seeds, task)
    runs = [run for run in runs if methods is None or key(run) in methods]
    for run in runs:
        if run["seed"] in lost.get(key(run), ()):
            diverge(run, **changes)
    archive = "simulated-tiles" if task == "pixel" else "simulated"
    out = root / "results" / archive / "c"
    report.tables_of(archive=archive, clients="c", runs=runs, out=out)
    return {"runs": runs, "out": out, "manifest": write_partition(root, task), "archive": archive}


def table(made, name):
    return read_csv(made["out"] / "tables" / f"{name}.csv").set_index("run")


def row_of(made, name, run):
    """The cells of a run's line in a laid out table."""
    laid = results.laid_out(made["out"])[name]
    return next(row for row in laid.rows if row[0].startswith(run))


def scores(made, run, metric="ap_macro"):
    """Seed -> the score on all modalities."""
    found = {}
    for item in made["runs"]:
        if key(item) == run:
            frame = pd.read_csv(item["scores"] / "scores.csv").query(
                "kind == 'subset' and policy == 'modality' and modalities == 's1+s2'"
            )
            found[item["seed"]] = frame.set_index("metric")["value"][metric]
    return pd.Series(found)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Seed 2 of mf+fw diverged in round 4; the others are good enough to be an improvement."""
    root = tmp_path_factory.mktemp("one")
    runs = write_runs(root)
    for run in runs:
        if key(run) == "mf+fw":
            frame = pd.read_csv(run["scores"] / "scores.csv")
            frame.loc[frame["metric"] == "ap_macro", "value"] += 0.2
            frame.to_csv(run["scores"] / "scores.csv", index=False)
            seal_runs([run])
            if run["seed"] == 2:
                diverge(run)
    out = root / "results" / "simulated" / "c"
    report.tables_of(archive="simulated", clients="c", runs=runs, out=out)
    return {"runs": runs, "out": out, "manifest": write_partition(root), "archive": "simulated"}


def test_one_of_three_seeds(one):
    compared = table(one, "comparison")
    own, base = scores(one, "mf+fw"), scores(one, "mf")
    assert np.isnan(own[2])
    row = compared.loc["mf+fw"]
    assert (row["seeds"], row["ap_macro_n"], row["ap_macro_diff_n"]) == (3, 2, 2)
    assert row["diverged"] == "seed 2 in round 4"
    assert row["ap_macro_mean"] == pytest.approx(own[[1, 3]].mean())
    assert row["ap_macro_sd"] == pytest.approx(own[[1, 3]].std())
    assert row["ap_macro_diff"] == pytest.approx((own - base)[[1, 3]].mean())
    expected = stats.ttest_rel(own[[1, 3]], base[[1, 3]]).confidence_interval()
    assert row[["ap_macro_diff_low", "ap_macro_diff_high"]].tolist() == pytest.approx(expected)
    assert row[["ap_macro_p", "ap_macro_p_holm"]].isna().all() and row["ap_macro_diff"] > 0.15
    assert compared.drop(index=["mf", "mf+fw"])["ap_macro_p_holm"].notna().all()
    assert (compared.drop(index=["mf", "mf+fw"])["ap_macro_tests"] == len(compared) - 2).all()


def test_its_cells_say_so_in_every_table(one):
    for name in ("comparison", "ablation", "missing", "policies", "cost"):
        row = row_of(one, name, "mf+fw")
        assert row[0] == "mf+fw (1 of 3 seeds diverged)"
        notes = " ".join(results.laid_out(one["out"])[name].notes)
        assert "Diverged: mf+fw (1 of 3 seeds diverged): seed 2 in round 4." in notes
        assert not re.search(r"above mf:[^;.]*mf\+fw \(", notes)
        if name != "cost":
            assert all("(2 of 3)" in cell for cell in row[1:] if "±" in cell or "[" in cell)
            assert sum("(2 of 3)" in cell for cell in row[1:]) >= 2
        for end in ("md", "tex"):
            text = (one["out"] / "tables" / f"{name}.{end}").read_text()
            assert "(1 of 3 seeds diverged)" in text and "seed 2 in round 4" in text
        others = [r for r in results.laid_out(one["out"])[name].rows if r is not row]
        assert not any("of 3)" in cell for r in others for cell in r if r[0] != row[0])


def test_its_figures_metrics_headline_and_page_say_so(one, tmp_path):
    metrics = json.loads((one["out"] / "metrics.json").read_text())
    assert metrics["mf+fw"]["diverged"] == 1 and "diverged" not in metrics["mf"]
    for name in ("differences", "learning", "missing", "classes"):
        text = " ".join((one["out"] / "figures" / f"{name}.svg").read_text().split())
        assert "seeds" in text and "diverged)" in text, name
    drawn = read_csv(one["out"] / "figures" / "differences.csv").set_index(["run", "metric"])
    assert drawn.loc[("mf+fw", "ap_macro"), "diff_n"] == 2
    assert np.isnan(drawn.loc[("mf+fw", "ap_macro"), "p_holm"])
    curve = read_csv(one["out"] / "figures" / "learning.csv").query("run == 'mf+fw'")
    ends = curve.dropna(subset=["value"]).groupby("seed")["round"].max()
    assert ends.to_dict() == {1: 12, 2: 3, 3: 12}
    assert curve.query("seed == 2 and round == 4")["state"].item() == "diverged"
    assert "mf+fw (1 of 3 seeds diverged)" in results.headline(one["out"])
    text = page(one, tmp_path / "p.html")
    assert text.count("mf+fw (1 of 3 seeds diverged)") >= 5 and "seed 2 in round 4" in text


def page(made, out):
    pages.write_page(
        archive=made["archive"], clients="c", results=made["out"], params_text="", others=[],
        source_digest="", measured=[r["measured"] for r in made["runs"]], out=out,
        partition=made["manifest"],
    )  # fmt: skip
    return out.read_text()


@pytest.mark.parametrize("task", ["multilabel", "pixel"])
def test_every_run_diverged(tmp_path, task):
    runs = [key(run) for run in write_runs(tmp_path / "names", (1, 2))]
    made = build(tmp_path, dict.fromkeys(runs, (1, 2)), task, (1, 2), number=1)
    first = "iou_macro" if task == "pixel" else "ap_macro"
    compared = table(made, "comparison")
    assert (compared[f"{first}_n"] == 0).all() and compared[f"{first}_mean"].isna().all()
    for line in results.laid_out(made["out"])["comparison"].rows:
        assert line[0].endswith("(all 2 seeds diverged)")
        assert line[1:-2] == ["diverged"] * (len(line) - 3) and line[-2:] == ["–", "–"]
    metrics = json.loads((made["out"] / "metrics.json").read_text())
    assert metrics == {run: {"diverged": 2} for run in runs}
    assert np.isnan(table(made, "cost").loc["mf", "target"])
    notes = " ".join(results.laid_out(made["out"])["comparison"].notes)
    assert "can be taken, as mf diverged" in notes and "lies between" not in notes
    text = page(made, tmp_path / "p.html")
    assert "all 2 seeds diverged" in text and "nan" not in re.sub(r"<pre>.*</pre>", "", text)


def test_a_baseline_of_which_a_seed_diverged(tmp_path):
    made = build(tmp_path, {"mf": (1,)})
    compared = table(made, "comparison")
    others = compared.drop(index="mf")
    assert (others["ap_macro_n"] == 3).all() and (others["ap_macro_diff_n"] == 2).all()
    assert others["ap_macro_p"].isna().all() and (others["ap_macro_tests"] == 0).all()
    own, base = scores(made, "mf+mim"), scores(made, "mf")
    expected = (own - base)[[2, 3]].mean()
    assert compared.loc["mf+mim", "ap_macro_diff"] == pytest.approx(expected)
    for name in ("comparison", "ablation", "missing"):
        notes = " ".join(results.laid_out(made["out"])[name].notes)
        assert "A seed of mf diverged" in notes and "above" not in notes
    left = [r["run"] for r in made["runs"] if key(r) == "mf" and r["seed"] > 1]
    rounds = [pd.read_csv(folder / "rounds.csv") for folder in left]
    last = [frame["val_score"].dropna().iloc[-1] for frame in rounds]
    assert table(made, "cost")["target"].iloc[0] == pytest.approx(0.9 * np.mean(last))


def test_a_baseline_that_diverged_in_every_seed(tmp_path):
    made = build(tmp_path, {"mf": (1, 2, 3)}, "pixel")
    compared = table(made, "comparison")
    assert compared["iou_macro_diff"].isna().all() and compared["tiles_low"].isna().all()
    assert compared.drop(index="mf")["iou_macro_mean"].notna().all()
    assert (
        "differences in mean intersection over union to mf can be taken, as mf diverged"
        in (made["out"] / "tables" / "comparison.md").read_text()
    )
    assert "(all 3 seeds diverged)" in (made["out"] / "figures" / "differences.svg").read_text()
    assert "No seed of the baseline" in (made["out"] / "figures" / "confusion.svg").read_text()
    drawn = read_csv(made["out"] / "figures" / "classes.csv")
    assert drawn["positives"].notna().all() and drawn["positives"].max() > 0
    page(made, tmp_path / "p.html")


def test_one_modality_alone_diverged(tmp_path):
    """Late fusion keeps a federation per modality: what Sentinel-2 scores alone is still there."""
    made = build(tmp_path, {"late-fusion": (1, 2, 3)}, broken_in=("s1",))
    assert row_of(made, "comparison", "late-fusion")[1] == "diverged"
    frame = read_csv(made["out"] / "tables" / "missing.csv").query("run == 'late-fusion'")
    subset = frame.query("kind == 'subset' and metric == 'ap_macro'").set_index("modalities")
    assert subset["n"].to_dict() == {"s1+s2": 0, "s1": 0, "s2": 3}
    assert np.isfinite(subset.loc["s2", "diff"]) and np.isnan(subset.loc["s2", "p_holm"])
    notes = " ".join(results.laid_out(made["out"])["missing"].notes)
    assert not re.search(r"(above|below) mf:[^;.]*late-fusion", notes)


def test_answers_that_are_not_finite_count_without_a_round(tmp_path):
    made = build(tmp_path, {"mf+mim": (3,)}, number=None)
    assert table(made, "comparison").loc["mf+mim", "diverged"] == "seed 3"


def test_a_best_round_before_is_scored_but_no_improvement(tmp_path):
    """`evaluate.round: best`: the scores are finite, and it is said that training diverged."""
    runs = write_runs(tmp_path)
    for run in runs:
        described = json.loads((run["run"] / "run.json").read_text())
        if key(run) == "mf+fw" and run["seed"] == 1:
            (run["run"] / "run.json").write_text(json.dumps(described | {"diverged": 9}))
            seal_runs([run])
    out = tmp_path / "results/simulated/c"
    report.tables_of(archive="simulated", clients="c", runs=runs, out=out)
    row = read_csv(out / "tables" / "comparison.csv").set_index("run").loc["mf+fw"]
    assert row["ap_macro_n"] == 3 and np.isnan(row["ap_macro_p"])
    assert row["diverged"] == "seed 1 in round 9"


def test_a_seed_that_diverged_reaches_no_target(tmp_path):
    whole = build(tmp_path / "whole", {})
    made = build(tmp_path / "one", {"mf+fw": (1,)}, number=12)
    before, after = (table(m, "cost").loc["mf+fw"] for m in (whole, made))
    assert before["target"] == after["target"]
    assert after["seeds_to_target"] == before["seeds_to_target"] - 1
    assert after["bytes_up"] == before["bytes_up"]  # what it cost, it cost


def test_confusions_are_of_the_seeds_that_are_left(tmp_path):
    runs = [run for run in write_runs(tmp_path, task="pixel") if key(run) == "mf"]
    whole = read_confusions(runs, len(COVERS)).matrices
    diverge(runs[1])
    found = read_confusions(runs, len(COVERS))
    np.testing.assert_array_equal(found.matrices, whole[[0, 2]])
    assert (found.seeds, found.asked) == (2, 3)
    made = build(tmp_path / "all", {"mf": (2,)}, "pixel")
    notes = " ".join(results.laid_out(made["out"])["comparison"].notes)
    assert "bootstrap over tiles, mean over 2 of 3 seeds" in notes
    expected = found.matrices.sum(axis=1).mean(axis=0)
    frame = read_csv(made["out"] / "figures" / "confusion.csv")
    assert frame["pixels"].to_numpy() == pytest.approx(expected.ravel())


def test_one_seed_that_diverged(tmp_path):
    made = build(tmp_path, {"mf+fw": (1,)}, seeds=(1,))
    assert row_of(made, "comparison", "mf+fw")[:2] == ["mf+fw (diverged)", "diverged"]


def test_a_client_that_diverged_is_not_left_out_of_a_mean(tmp_path):
    """The mean of the others would be another number; own models of two clients."""
    runs = write_runs(tmp_path)
    for run in runs:
        if key(run) in ("local", "mf+fw") and run["seed"] == 1:
            frame = pd.read_csv(run["scores"] / "scores.csv").astype({"state": object})
            lost = (frame["client"] == "austria-s1") & (frame["policy"].isin(["local", "modality"]))
            frame.loc[lost, "value"], frame.loc[lost, "state"] = None, "diverged"
            frame.to_csv(run["scores"] / "scores.csv", index=False)
            seal_runs([run])
    out = tmp_path / "results/simulated/c"
    report.tables_of(archive="simulated", clients="c", runs=runs, out=out)
    row = read_csv(out / "tables" / "comparison.csv").set_index("run").loc["local"]
    assert (row["client_s1_n"], row["client_s1_asked"], row["client_s2_n"]) == (3, 4, 4)
    notes = " ".join(results.laid_out(out)["comparison"].notes)
    assert "; 3 of 4 clients)" in notes
    row = read_csv(out / "tables" / "policies.csv").set_index("run").loc["mf+fw"]
    assert row["own_modality_n"] == row["own_local_n"] == 2 and row["own_average_n"] == 3
    assert row["own_modality_models"] == row["own_modality_models_asked"] == 8
