import gc
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from helpers.written_runs import CLASSES, COVERS, TILES, seal_runs, write_partition, write_runs
from mmfl.errors import UserError
from mmfl.evaluation.bootstrap import mean_iou
from mmfl.facts.tasks import TASKS
from mmfl.fetch.stac.listing import SCENES, table
from mmfl.files import digest, write_json, write_text
from mmfl.intact import digests
from mmfl.params import load
from mmfl.patches.faults import COLUMNS
from mmfl.patches.labels import write_store
from mmfl.pipeline.jobs import FIGURES
from mmfl.reporting import layout, results
from mmfl.reporting.gallery import Gallery, Location, Tile
from mmfl.reporting.gather import key, policy_scores, read_confusions, read_scores
from mmfl.reporting.texts import captions
from mmfl.reporting.writers import read_csv
from mmfl.steps import page as pages
from mmfl.steps import report

PLACE = Path("simulated", "region-duplicate-p0")
MULTI, PIXEL = TASKS["multilabel"], TASKS["pixel"]


def build(root: Path, seeds: tuple[int, ...] = (1, 2, 3), task: str = "multilabel") -> dict:
    runs, manifest = write_runs(root, seeds, task), write_partition(root, task)
    archive = "simulated-tiles" if task == "pixel" else "simulated"
    out = root / "results" / archive / PLACE.name
    report.tables_of(archive=archive, clients="c", runs=runs, out=out)
    return {"runs": runs, "manifest": manifest, "out": out}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict:
    return build(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> dict:
    return build(tmp_path_factory.mktemp("tiles"), task="pixel")


def write_page(made: dict, out: Path, **changes) -> str:
    values = {
        "archive": "simulated", "clients": "region-duplicate-p0", "results": made["out"],
        "measured": [run["measured"] for run in made["runs"]], "params_text": "a: <b>&</b>",
        "source_digest": "abc", "others": [], "partition": made["manifest"],
        "out": out,
    }  # fmt: skip
    pages.write_page(**(values | changes))
    return out.read_text()


def test_files(made):
    names = {str(p.relative_to(made["out"])) for p in made["out"].rglob("*") if p.is_file()}
    tables = {f"tables/{n}.{e}" for n in layout.LAYOUTS for e in ("csv", "md", "tex")}
    drawn = {f"figures/{n}.{e}" for n in FIGURES for e in ("svg", "csv")}
    assert names == tables | drawn | {"metrics.json"}
    assert [p.name for p in made["out"].parent.iterdir()] == [made["out"].name]  # no leftovers


def test_numbers_can_be_traced_to_scores(made):
    """Mean and difference of mf+fw, from the nine numbers that are in scores.csv."""

    def values(method: str) -> np.ndarray:
        found = []
        for run in made["runs"]:
            if (run["method"], run["variant"]) == (method, "default"):
                frame = pd.read_csv(run["scores"] / "scores.csv")
                asked = ["kind", "policy", "modalities", "metric"]
                frame = frame.set_index(asked)["value"]
                found.append(frame["subset", "modality", "s1+s2", "ap_macro"])
        return np.array(found)

    compared = read_csv(made["out"] / "tables" / "comparison.csv").set_index("run")
    own, base = values("mf+fw"), values("mf")
    assert compared.loc["mf+fw", "ap_macro_mean"] == pytest.approx(own.mean(), abs=1e-12)
    assert compared.loc["mf+fw", "ap_macro_sd"] == pytest.approx(own.std(ddof=1), abs=1e-12)
    assert compared.loc["mf+fw", "ap_macro_diff"] == pytest.approx((own - base).mean(), abs=1e-12)
    assert np.isnan(compared.loc["mf", "ap_macro_diff"])
    assert list(compared.index)[:2] == ["prior", "local"] and "mf@1f2e3d4c" in compared.index
    metrics = json.loads((made["out"] / "metrics.json").read_text())
    assert metrics["mf+fw"]["ap_macro"] == compared.loc["mf+fw", "ap_macro_mean"]


def test_ablation_has_the_modules_and_the_rival_under_both_policies(made):
    frame = read_csv(made["out"] / "tables" / "ablation.csv")
    assert list(frame["run"]) == ["mf", "mf@1f2e3d4c", "mf+fw", "mf+mim", "mf+fw+mim"]
    assert frame["average_ap_macro_mean"].to_numpy() == pytest.approx(
        frame["modality_ap_macro_mean"].to_numpy() - 0.03
    )


def test_full_missing_rate_equals_the_subset(made):
    frame = read_csv(made["out"] / "tables" / "missing.csv")
    frame = frame[frame["metric"] == "ap_macro"].set_index("run")
    lost = frame[(frame["removed"] == "s1") & (frame["rate"] == 100)]["mean"]
    alone = frame[(frame["kind"] == "subset") & (frame["modalities"] == "s2")]["mean"]
    assert lost[alone.index].to_numpy() == pytest.approx(alone.to_numpy())


def test_policies_are_paired_over_clients_that_all_policies_have(made):
    scores = read_scores([r for r in made["runs"] if r["method"] == "mf+fw"])
    drop = (scores["kind"] == "own") & (scores["policy"] == "local")
    scores.loc[drop & (scores["client"] == "austria-s1"), "value"] = np.nan
    found = policy_scores(scores, MULTI)
    kept = scores[(scores["kind"] == "own") & (scores["metric"] == "ap_macro")
                  & (scores["client"] != "austria-s1")]  # fmt: skip
    expected = kept.groupby(["seed", "policy"])["value"].mean()
    own = found[found["kind"] == "own"].set_index(["seed", "policy"])["value"]
    assert own[expected.index].to_numpy() == pytest.approx(expected.to_numpy())


def test_cost_has_no_seconds(made):
    frame = read_csv(made["out"] / "tables" / "cost.csv").set_index("run")
    assert not [c for c in frame if "second" in c or "memory" in c]
    assert frame.loc["mf", "bytes_up"] == 12 * 8 * 400_000
    assert frame.loc["local", "bytes_to_target"] != frame.loc["mf", "bytes_to_target"]
    assert np.isnan(frame.loc["prior", "rounds_to_target"])


def test_twice_the_same_bytes(made, tmp_path):
    again = build(tmp_path)
    for path in sorted(made["out"].rglob("*.*")):
        other = again["out"] / path.relative_to(made["out"])
        assert path.read_bytes() == other.read_bytes(), path.name


def test_one_seed_claims_nothing(tmp_path):
    out = build(tmp_path, seeds=(1,))["out"]
    text = (out / "tables" / "comparison.md").read_text()
    assert "± n/a" in text and "± 0.0" not in text and "nothing is claimed" in text


def test_results_stay_whole_when_a_run_is_damaged(tmp_path):
    made = build(tmp_path, seeds=(1,))
    before = {p: p.read_bytes() for p in made["out"].rglob("*.*")}
    (made["runs"][3]["scores"] / "scores.csv").write_text("kind,policy\n")
    seal_runs(made["runs"])
    with pytest.raises(UserError, match=r"scores\.csv: lacks the column modalities"):
        report.tables_of(archive="simulated", clients="c", runs=made["runs"], out=made["out"])
    (made["runs"][3]["scores"] / "scores.csv").unlink()
    with pytest.raises(UserError, match=r"scores\.csv: is missing; run evaluate again"):
        report.tables_of(archive="simulated", clients="c", runs=made["runs"], out=made["out"])
    assert before == {p: p.read_bytes() for p in made["out"].rglob("*.*")}
    with pytest.raises(UserError, match=r"report\.baseline: found fedsgd"):
        choice = {"runs": made["runs"], "out": made["out"], "baseline": "fedsgd"}
        report.tables_of(archive="simulated", clients="c", **choice)


class Outside(HTMLParser):
    """Collects every reference that leaves the page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            leaves = not (value or "").startswith(("#", "data:"))
            if name in ("src", "href", "xlink:href", "action", "data") and leaves:
                self.found.append(f"{tag} {name}={value}")


def test_the_page_is_self_contained_and_escaped(made, tmp_path):
    rng = np.random.default_rng(0)
    places = [
        Location(
            f"p{i}", {"s2": rng.random((3, 8, 8)), "s1": rng.random((2, 8, 8))}, (CLASSES[i],),
            (CLASSES[0],),
        )
        for i in range(3)
    ]  # fmt: skip
    shown = Gallery(places, {"s2": ["B04", "B03", "B02"], "s1": ["VV", "VH"]}, "mf, seed 1")
    text = write_page(made, tmp_path / "p.html", gallery=shown)
    page = Outside()
    page.feed(text)
    assert page.found == [] and "script" not in page.tags and "link" not in page.tags
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert "a: &lt;b&gt;&amp;&lt;/b&gt;" in text
    body = text[text.index("<body>") + 6 :].lstrip()
    assert body.startswith('<p class="simulated">The data of this report are simulated')
    assert text.count("<svg ") == len(captions(MULTI)) and "data:image/png;base64," in text
    for number in ("belgium-s1", "31 of S1", "Peak memory", "0f0f0f"):
        assert number in text


def test_a_real_archive_is_not_called_simulated(made, tmp_path):
    text = write_page(made, tmp_path / "p.html", archive="bigearthnet-v2", measured=[])
    assert "data of this report are simulated" not in text and "No measurements were found" in text


def test_headline(made):
    text = results.headline(made["out"])
    assert "\nThe data are simulated.\n" in text and "mf+fw+mim" in text
    assert text.startswith("simulated: multi-label scene classification\n")
    assert "randomness of training only" in " ".join(text.split())
    with pytest.raises(UserError, match="run report again"):
        results.headline(made["out"] / "nothing")


@pytest.mark.parametrize("methods", [("mf",), ("mf", "prior"), ("prior",)])
def test_few_methods_are_a_report_too(tmp_path, methods):
    """One method, no difference, perhaps no policy and no validation score."""
    runs = [run for run in write_runs(tmp_path, (1, 2)) if run["method"] in methods]
    runs = [run for run in runs if run["variant"] == "default"]
    made = {
        "runs": runs,
        "out": tmp_path / "results" / PLACE,
    }
    report.tables_of(archive="simulated", clients="c", **made, baseline=methods[0])
    made["manifest"] = write_partition(tmp_path)
    text = write_page(made, tmp_path / "p.html")
    assert text.count("<svg ") == len(captions(MULTI))
    assert methods[0] in results.headline(made["out"])


def test_one_modality(tmp_path):
    runs = write_runs(tmp_path, (1, 2))
    for run in runs:
        frame = pd.read_csv(run["scores"] / "scores.csv")
        keep = (frame["modalities"] == "s1+s2") | frame["kind"].isin(["own", "client"])
        frame = frame[keep].replace({"modalities": {"s1+s2": "s2"}})
        frame.to_csv(run["scores"] / "scores.csv", index=False)
    seal_runs(runs)
    made = {
        "runs": runs,
        "out": tmp_path / "results" / PLACE,
    }
    report.tables_of(archive="simulated", clients="c", runs=made["runs"], out=made["out"])
    assert "none can be missing" in (made["out"] / "figures" / "missing.svg").read_text()


def test_patches_left_out_are_shown(made, tmp_path):
    rows = [("s2", f"patch-{i}", f"BigEarthNet-S2/{i}_B02.tif", "cut <off>") for i in range(29)]
    rows.append(("", "twice", "metadata.parquet", "lists twice 2 times"))
    text = write_page(made, tmp_path / "a.html", skipped=pd.DataFrame(rows, columns=COLUMNS))
    assert 'id="skipped"' in text and "29 of S2, 1 of every modality" in text
    assert "patch-19" in text and "patch-20" not in text and "cut &lt;off&gt;" in text
    text = write_page(made, tmp_path / "b.html", skipped=pd.DataFrame(columns=list(COLUMNS)))
    assert "skipped" not in text


def test_images_that_contradict_their_item_are_shown(made, tmp_path):
    """With every outcome that leaves a tile without an image, and how many there are of each."""
    said = "baseline 05.09, but 3.1% of B02 would be below zero"
    rows = [(f"dw_{i}", "s2", "ok", said if i < 3 else np.nan) for i in range(30)]
    rows += [(f"dw_{i}", "s1", "doubtful values" if i < 25 else "ok", np.nan) for i in range(30)]
    frame = pd.DataFrame(rows, columns=["tile", "modality", "outcome", "reason"])
    text = write_page(made, tmp_path / "a.html", scenes=frame)
    assert 'id="scenes"' in text and said in text and "dw_16" in text and "dw_17" not in text
    assert "Of 60 images searched: 25 of S1 doubtful values; 3 of S2 ok, against a state" in text
    for none in (frame[28:30], frame[:0]):
        assert "scenes" not in write_page(made, tmp_path / "b.html", scenes=none)


def scores_of(made: dict, method: str) -> pd.DataFrame:
    frames = [
        pd.read_csv(run["scores"] / "scores.csv")
        for run in made["runs"]
        if (run["method"], run["variant"]) == (method, "default")
    ]
    return pd.concat(frames)


def test_pixel_tables_have_the_task_s_scores(tiles):
    frame = read_csv(tiles["out"] / "tables" / "comparison.csv").set_index("run")
    asked = scores_of(tiles, "mf+fw").query(
        "kind == 'subset' and policy == 'modality' and modalities == 's1+s2'"
    )
    for metric, values in asked.groupby("metric")["value"]:
        assert frame.loc["mf+fw", f"{metric}_mean"] == pytest.approx(values.mean(), abs=1e-12)
    table = results.laid_out(tiles["out"])
    assert table["comparison"].header[1:5] == [
        "Mean IoU (%)", "F1 macro (%)", "Overall accuracy (%)", "F1 weighted (%)",
    ]  # fmt: skip
    metrics = json.loads((tiles["out"] / "metrics.json").read_text())
    assert set(metrics["mf"]) == set(PIXEL.metrics)
    text = "".join(p.read_text() for p in tiles["out"].rglob("*.md"))
    assert "mean intersection over union" in text and "test tiles" in text
    assert "AP macro" not in text and "average precision" not in text and "locations" not in text


def test_the_bootstrap_stands_in_the_baseline_s_row_and_in_the_notes(tiles, made):
    frame = read_csv(tiles["out"] / "tables" / "comparison.csv").set_index("run")
    found = read_confusions([r for r in tiles["runs"] if key(r) == "mf"], len(COVERS))
    confusions = found.matrices
    assert (found.seeds, found.asked, found.complete) == (3, 3, True)
    assert confusions.shape == (3, TILES - TILES // 8, len(COVERS), len(COVERS))  # complete ones
    low, high = frame.loc["mf", ["tiles_low", "tiles_high"]]
    assert low < np.mean([mean_iou(m) for m in confusions.sum(axis=1)]) < high
    assert frame["tiles_low"].notna().sum() == 1
    notes = " ".join(results.laid_out(tiles["out"])["comparison"].notes)
    assert f"mf's mean IoU lies between {100 * low:.1f} and {100 * high:.1f} %" in notes
    assert "tiles_low" not in read_csv(made["out"] / "tables" / "comparison.csv")


def test_confusions_are_those_of_the_predictions(tiles, made):
    frame = read_csv(tiles["out"] / "figures" / "confusion.csv")
    expected = np.zeros((len(COVERS), len(COVERS)))
    for run in tiles["runs"]:
        if key(run) == "mf":
            table = pd.read_parquet(run["scores"] / "predictions.parquet")
            rows = table["confusion"][table["complete"]]
            expected += np.stack(list(rows)).sum(axis=0).reshape(len(COVERS), -1) / 3
    grid = frame.pivot(index="true", columns="predicted", values="pixels").loc[COVERS, COVERS]
    assert grid.to_numpy() == pytest.approx(expected)
    shares = frame.groupby("true", sort=False)["share"].sum(min_count=1)
    assert shares[COVERS[:-1]].to_numpy() == pytest.approx(1) and np.isnan(shares[COVERS[-1]])
    drawn = read_csv(tiles["out"] / "figures" / "classes.csv")
    counts = dict(zip(drawn["class"], drawn["positives"], strict=True))
    assert counts["Water"] == expected[0].sum().round()
    assert read_csv(made["out"] / "figures" / "confusion.csv").empty
    assert "several classes" in (made["out"] / "figures" / "confusion.svg").read_text()


def test_other_confusions_are_refused(tmp_path):
    runs = [run for run in write_runs(tmp_path, (1, 2), "pixel") if key(run) == "mf"]
    with pytest.raises(UserError, match="found confusions of 81 numbers, expected 64"):
        read_confusions(runs, 8)
    table = pd.read_parquet(runs[1]["scores"] / "predictions.parquet")
    table.iloc[:-1].to_parquet(runs[1]["scores"] / "predictions.parquet")
    seal_runs(runs)
    with pytest.raises(UserError, match="holds other tiles than"):
        read_confusions(runs, len(COVERS))


def test_the_page_of_tiles(tiles, tmp_path):
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 9, (12, 12)).astype(np.uint8)
    mask[:3] = 255
    places = [Tile("t", {"s2": rng.random((3, 12, 12)), "dem": None}, mask, mask)]
    shown = Gallery(places, {"s2": ["B04", "B03", "B02"], "dem": ["height"]}, "mf", tuple(COVERS))
    changes = {"archive": "simulated-tiles", "others": ["simulated"], "gallery": shown}
    text = write_page(tiles, tmp_path / "p.html", **changes)
    assert "learning on simulated tiles" in text and "Pixel-based classification from" in text
    assert text.count("<svg ") == len(captions(PIXEL)) and 'id="figure-confusion"' in text
    assert "B04, B03, B02" in text and "data:image/png;base64," in text
    page = Outside()
    page.feed(text)
    assert page.found == ["a href=simulated.html"]
    assert "pixel-based classification" in results.headline(tiles["out"])


def test_pages_of_one_parameter_file_link_to_one_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        "archives: {simulated: {}, simulated-tiles: {partition: {countries: null}}}\n"
        "partition: {scenario: random, assignment: duplicate}\n"
        "train: {methods: [mf], seeds: [1, 2]}\nreport: {gallery: 0}\n"
    )
    for task, archive in (("multilabel", "simulated"), ("pixel", "simulated-tiles")):
        write_runs(Path(), (1, 2), task, "random-duplicate-p0")
        write_partition(Path(), task, "random-duplicate-p0")
        labels = Path("data/patches", archive, "labels")
        labels.mkdir(parents=True)
        (labels / "skipped.csv").write_text(",".join(COLUMNS) + "\n")
        write_store(labels.parent, archive)
        raw = Path("data/raw", archive)
        write_text(raw / SCENES, table([]))
        write_json(raw / "root.json", {"files": digests(raw, [SCENES])})
        params = load(Path("params.yaml")).of(archive)
        report.run(params, archive)
        pages.run(params, archive, Path("params.yaml"))
    for archive, other in (("simulated", "simulated-tiles"), ("simulated-tiles", "simulated")):
        page = Outside()
        page.feed(Path(f"page/{archive}.html").read_text())
        assert page.found == [f"a href={other}.html"]
    with (labels / "skipped.csv").open("a") as handle:
        handle.write("s2,patch-1,file.tif,cut off\n")
    with pytest.raises(UserError, match=r"labels/skipped\.csv: damaged: .* writes it again$"):
        pages.run(params, archive, Path("params.yaml"))


def test_p_values_are_paired_by_seed_and_corrected_within_their_question(
    made, tmp_path, monkeypatch
):
    """scipy's paired test, seeds in any order; statsmodels' Holm over the methods of a question."""
    monkeypatch.setattr(gc, "collect", lambda: 0)  # statsmodels asks for it at every call
    runs = list(made["runs"])
    mixed = [runs[i] for i in np.random.default_rng(0).permutation(len(runs))]
    order = {key(run): None for run in runs}
    mixed.sort(key=lambda run: list(order).index(key(run)))  # seeds out of order, methods in order
    out = tmp_path / "results" / "simulated" / "c"
    report.tables_of(archive="simulated", clients="c", runs=mixed, out=out)
    scores = read_scores(runs)
    asked = ["policy", "modalities", "removed", "rate", "metric"]
    frame = read_csv(out / "tables" / "missing.csv")
    checked = 0
    for (kind, *head), part in frame.groupby(["kind", *asked[1:]], dropna=False):
        own = scores[(scores["kind"] == kind) & (scores["policy"] == "modality")]
        for column, value in zip(asked[1:], head, strict=True):
            own = own[own[column].isna() if pd.isna(value) else own[column] == value]
        values = own.pivot(index="seed", columns="run", values="value")
        others = [run for run in order if run != "mf"]
        ps = stats.ttest_rel(values[others], values[["mf"]]).pvalue
        part = part.set_index("run").loc[others]
        assert part["p"].to_numpy() == pytest.approx(np.array(ps), rel=1e-6, abs=1e-12)
        expected = multipletests(ps, method="holm")[1]
        assert part["p_holm"].to_numpy() == pytest.approx(expected, rel=1e-6, abs=1e-12)
        assert (part["tests"] == len(others)).all()
        checked += 1
    assert checked == 5 * (3 + 10 + 1)  # metrics; subsets, rates of two modalities, incomplete
    policies = read_csv(out / "tables" / "policies.csv").dropna(subset=["own_local_p"])
    expected = multipletests(policies["own_local_p"], method="holm")[1]
    assert policies["own_local_p_holm"].to_numpy() == pytest.approx(expected)
    for run, p in zip(policies["run"], policies["own_local_p"], strict=True):
        own = scores[(scores["kind"] == "own") & (scores["metric"] == "ap_macro")]
        means = own[own["run"] == run].groupby(["seed", "policy"])["value"].mean().unstack()
        assert p == pytest.approx(stats.ttest_rel(means["local"], means["modality"]).pvalue)


def test_no_test_location_holds_every_modality(tmp_path):
    """What there is is compared, and every table says where something is."""
    runs = write_runs(tmp_path, (1, 2))
    for run in runs:
        frame = pd.read_csv(run["scores"] / "scores.csv")
        frame = frame[~frame["kind"].isin(["subset", "missing", "class"])]
        frame.to_csv(run["scores"] / "scores.csv", index=False)
    seal_runs(runs)
    out = tmp_path / "results" / PLACE
    report.tables_of(archive="simulated", clients="c", runs=runs, out=out)
    compared = read_csv(out / "tables" / "comparison.csv").set_index("run")
    assert (compared["kind"] == "incomplete").all() and (compared["modalities"] == "s1+s2").all()
    assert compared["ap_macro_mean"].notna().all() and (compared["patches"] == 39).all()
    assert compared.drop(index="mf")["ap_macro_diff"].notna().all()
    assert set(json.loads((out / "metrics.json").read_text())["mf"]) == set(MULTI.metrics)
    laid = results.laid_out(out)
    assert laid["comparison"].title.startswith("Comparison on locations with fewer modalities")
    assert "compared on those that hold fewer (39)" in laid["comparison"].notes[1]
    assert "no score of a subset" in " ".join(laid["missing"].notes)
    for name in ("comparison", "ablation", "missing", "policies"):
        assert all("±" in cell for row in laid[name].rows for cell in row[1:2]), name
    assert "holds every modality" in (out / "figures" / "missing.svg").read_text()
    made = {"runs": runs, "out": out, "manifest": write_partition(tmp_path)}
    text = write_page(made, tmp_path / "p.html")
    assert "from Sentinel-1 and Sentinel-2" in text


def test_a_mean_over_fewer_groups_says_so(tmp_path):
    """Of local, groups whose clients see nothing of some locations are in no mean."""
    runs = write_runs(tmp_path, (1, 2))
    for run in runs:
        if run["method"] == "local":
            frame = pd.read_csv(run["scores"] / "scores.csv")
            frame["models_asked"] = 4
            frame["models"] = np.where(frame["modalities"] == "s1", 2 + run["seed"] % 2, 4)
            frame.to_csv(run["scores"] / "scores.csv", index=False)
    seal_runs(runs)
    out = tmp_path / "results" / PLACE
    report.tables_of(archive="simulated", clients="c", runs=runs, out=out)
    notes = " ".join(results.laid_out(out)["missing"].notes)
    assert "local, S1: the mean over the models of 2 of 4 groups" in notes
    assert notes.count("the mean over the models") == 2  # in each of the two scores
    frame = read_csv(out / "tables" / "missing.csv").query("run == 'local'")
    assert set(frame["models"]) == {2, 4}


def test_nothing_is_exchanged(tmp_path):
    runs = [run for run in write_runs(tmp_path, (1, 2)) if run["method"] in ("prior", "local")]
    out = tmp_path / "results" / PLACE
    report.tables_of(archive="simulated", clients="c", runs=runs, out=out, baseline="local")
    table = results.laid_out(out)["policies"]
    assert table.rows == [] and table.notes[0].startswith("No method here exchanges anything")


@pytest.mark.parametrize(
    ("end", "old", "new", "said"),
    [
        ("json", '"without_holder": 3', '"without_holder": 4', "p0.json: not as it was written"),
        ("csv", ",150,", ",151,", "p0.csv: damaged: found SHA-256"),
        ("json", None, "{}", "p0.json: not as it was written"),
        ("csv", None, "a,b", "p0.csv: damaged: found SHA-256"),
    ],
)
def test_a_partition_that_was_edited_is_refused(tmp_path, end, old, new, said):
    """By the report, which draws it, by the page and by `mmfl inspect`."""
    runs = write_runs(tmp_path)
    path = write_partition(tmp_path)
    file = Path(f"{path}.{end}")
    text = file.read_text()
    assert old is None or old in text
    file.write_text(new if old is None else text.replace(old, new, 1))
    with pytest.raises(UserError, match=said):
        report.tables_of(
            archive="simulated", clients="c", runs=runs, out=tmp_path / "r", partition=path
        )
    assert not (tmp_path / "r").exists()


def test_the_partition_is_that_of_the_runs(tmp_path):
    runs, path = write_runs(tmp_path), write_partition(tmp_path)
    summary = json.loads(Path(f"{path}.json").read_text())
    summary["sha256"] = "1e" * 32
    summary["digest"] = digest({k: v for k, v in summary.items() if k != "digest"})
    Path(f"{path}.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match="is not the partition of the runs"):
        report.tables_of(
            archive="simulated", clients="c", runs=runs, out=tmp_path / "r", partition=path
        )
