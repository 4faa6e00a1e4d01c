"""The example of docs/your-own-archive.md, run as it stands."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from sklearn.metrics import confusion_matrix
from typer.testing import CliRunner

from mmfl import cli
from mmfl.facts.description import read_description
from mmfl.params import load, trials
from mmfl.patches.reader import Patches

PAGE = Path(__file__).resolve().parents[2] / "docs/your-own-archive.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[list[str]]:
    lines = re.findall(r"^    \$ mmfl (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [line.split() for line in lines]


def said(text: str) -> list[str]:
    """Lines without blanks, which depend on the terminal."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


@pytest.fixture
def example(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMFL_CACHE", str(tmp_path / "cache"))
    (code,) = blocks("python")
    exec(compile(code, "your-own-archive.md", "exec"), {"__name__": "example"})
    description, params, real = blocks("yaml")
    Path("floods/floods.yaml").write_text(description)
    Path("floods.params.yaml").write_text(params)
    Path("real.yaml").write_text(real)
    return tmp_path


@pytest.mark.slow
def test_from_files_to_scores(example):
    runner = CliRunner()
    for arguments in commands():
        result = runner.invoke(cli.app, arguments)
        assert result.exit_code == 0, (arguments, result.output, result.exception)
        if arguments[0] == "check":
            shown = re.search(r"\$ mmfl check .*?\n(.*?)\n\n", PAGE.read_text(), re.DOTALL)
            wanted = [line for line in said(shown[1]) if line != "..."]
            assert len(wanted) == 8 and set(wanted) <= set(said(result.stdout))
    steps = ["check", "download", "split", "partition", "train", "evaluate", "report", "page"]
    assert [c[0] for c in commands()] == steps
    store = example / "data/patches/floods"
    assert [len(Patches(store / q).pairs) for q in ("s1", "s2", "mask")] == [18, 16, 18]
    labels = pd.read_parquet(store / "labels/index.parquet").set_index("pair")
    for path in sorted((example / "floods/Label").iterdir()):
        with rasterio.open(path) as source:
            row, codes = labels.loc[path.stem], source.read(1)
            assert tuple(row["transform"]) == tuple(source.transform)[:6]
            assert set(row["labels"]) == set(codes[codes >= 0].tolist())
    (table,) = (example / "data/clients/floods").glob("*.csv")
    clients = pd.read_csv(table)
    assert set(clients["group"]) == {"ghana", "india", "spain"} and clients["train"].sum() == 24
    (named,) = re.findall(r"^`(scores/.*?)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    scores = pd.read_csv(example / named / "scores.csv")
    subsets = scores[scores["kind"] == "subset"]
    assert set(subsets["modalities"]) == {"s1", "s2", "s1+s2"} and set(subsets["patches"]) == {2}
    table = pd.read_parquet(example / named / "predictions.parquet")
    assert table["pair"].tolist() == ["chip-05", "chip-11", "chip-17"]
    for row in table.itertuples():
        label = example / "floods/Label" / f"{row.pair}.tif"
        with (
            rasterio.open(example / named / "predictions" / row.file) as found,
            rasterio.open(label) as mask,
        ):
            assert (found.bounds, found.crs) == (mask.bounds, mask.crs)
            codes, classes = mask.read(1), found.read(1)
        counted = confusion_matrix(codes[codes >= 0], classes[codes >= 0], labels=[0, 1])
        assert np.array_equal(row.confusion.reshape(2, 2), counted)
    assert "data:image/png" in (example / "page/floods.html").read_text(encoding="utf-8")


def test_a_real_run(example):
    """Its parameters are valid for the archive; every method is tuned with as many trials."""
    params = load("real.yaml").of("floods")
    assert params.partition.modalities == ["s1", "s2"] and len(params.train.seeds) == 3
    assert params.train.methods == ["mf", "mf+fw", "mf+mim", "mf+fw+mim"]
    assert [trial.method for trial in trials(params)] == np.repeat(params.train.methods, 3).tolist()


def test_descriptions_of_published_archives(tmp_path):
    """What the page says of Sen1Floods11 is a description, and its table has the columns."""
    (code,) = blocks("py")
    (text,) = blocks("yml")
    path = tmp_path / "sen1floods11.yaml"
    path.write_text(text)
    described = read_description(path)
    assert described.task == "pixel" and len(described.modalities["s2"].bands) == 13
    splits = tmp_path / "splits/flood_handlabeled"
    splits.mkdir(parents=True)
    for i, name in enumerate(("train", "valid", "test")):
        line = f"Ghana_{i}_S1Hand.tif,Ghana_{i}_LabelHand.tif\n"
        (splits / f"flood_{name}_data.csv").write_text(line)
    code = code.replace('f"splits/', f'f"{tmp_path}/splits/')
    exec(
        compile(
            code.replace('"sen1floods11.csv"', f'"{tmp_path}/sen1floods11.csv"'), "page", "exec"
        )
    )
    table = pd.read_csv(tmp_path / yaml.safe_load(text)["table"])
    assert table["id"].tolist() == ["Ghana_0", "Ghana_1", "Ghana_2"]
    assert table["split"].tolist() == ["train", "validation", "test"]
    assert table["country"].unique().tolist() == ["Ghana"]
