"""A clone whose outputs came from a DVC remote: report, page, and experiments from there on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from helpers.project_copy import environment
from helpers.stub_project import ROOT, Project, create
from helpers.warm_python import python
from mmfl.params import load
from mmfl.pipeline.jobs import every

pytestmark = pytest.mark.slow

SMALL = {
    "simulate": {"pairs": 60, "countries": ["Austria", "Finland"]},
    "model": {"width": 4, "projection": 8},
    "train": {"seeds": [1], "methods": ["mf"], "size": 16, "rounds": 1, "batch": 16},
    "evaluate": {"rates": [0, 100]},
    "report": {"gallery": 1},
}


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The real steps on a few patches, pushed to a folder; a clone of it after `make sync`."""
    folder = tmp_path_factory.mktemp("pull")
    origin = create(folder / "origin")
    shutil.copy2(ROOT / "src/mmfl/cli.py", origin.folder / "src/mmfl/cli.py")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in SMALL.items():
        params[section].update(values)
    params["archives"] = {"simulated": {}}
    (origin.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    origin.snakemake()
    start = [python(), "workflow/scripts/stage.py", "start", "all"]
    subprocess.run(start, cwd=origin.folder, check=True)
    git(origin.folder, "init", "--quiet")
    git(origin.folder, "add", "--all")
    for command in (
        ["remote", "add", "--default", "store", str(folder / "store")],
        ["commit", "--force"],
        ["push"],
    ):
        done = origin.run("dvc", *command)
        assert done.returncode == 0, done.stdout
    git(origin.folder, "add", "--all")
    git(origin.folder, "commit", "--quiet", "--message", "small")
    git(folder, "clone", "--quiet", "origin", "clone")
    clone = Project(folder / "clone")
    assert not (clone.folder / "runs").exists(), "nothing but the remote can have them"
    done = subprocess.run(
        [python(), "workflow/scripts/sync.py"],
        cwd=clone.folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return clone


def git(folder: Path, *command: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *who, *command], cwd=folder, check=True)


def test_snakemakes_report(pulled: Project) -> None:
    said = pulled.snakemake("--report", "report.html")
    assert "Missing metadata" not in said
    page = (pulled.folder / "report.html").read_text()
    found = re.search(r"var categories = (.*);", page)
    assert found
    params = load(pulled.folder / "params.yaml")
    wanted = {
        kind.capitalize(): {"simulated": sorted(files)}
        for kind, suffix in (("tables", ".csv"), ("figures", ".svg"))
        if (
            files := [
                path
                for path in every("report", params, "simulated")
                if Path(path).parent.name == kind and path.endswith(suffix)
            ]
        )
    }
    shown = json.loads(found[1])
    assert {k: {a: sorted(f) for a, f in v.items()} for k, v in shown.items()} == wanted
    assert set(wanted) == {"Tables", "Figures"}
    assert "Table of the comparison" in page and "Figure of the comparison" in page
    assert "Multi-modal federated learning: download" in page, "text of its first page"


def test_the_page_is_complete(pulled: Project) -> None:
    """As where it was computed, but for what was measured there, which no remote has."""
    here = (pulled.folder / "page/simulated.html").read_text()
    origin = pulled.folder.parent / "origin/page/simulated.html"
    lacking = '<p class="note">No measurements were found: the models came from elsewhere.</p>\n'
    assert here.count(lacking) == 1
    before, after = here.split(lacking)
    there = origin.read_text()
    assert there.startswith(before) and there.endswith(after)
    assert "Seconds per round" in there[len(before) : -len(after)]


def test_nothing_is_left_to_do(pulled: Project) -> None:
    assert pulled.wanted() == {}
    assert "up to date" in pulled.run("dvc", "status").stdout


def test_an_archive_is_fetched_again_where_it_is_encoded_anew(pulled: Project) -> None:
    """A pull brings no downloaded bytes."""
    assert not (pulled.folder / ".cache/download").exists()
    stage = [python(), "workflow/scripts/stage.py", "split", "simulated"]
    module = pulled.folder / "src/mmfl/steps/split.py"
    module.write_text(module.read_text() + "\nEDITED = 1\n")
    refused = subprocess.run(stage, cwd=pulled.folder, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "not the code that the run started with" in refused.stderr
    start = [python(), "workflow/scripts/stage.py", "start", "all"]
    subprocess.run(start, cwd=pulled.folder, check=True)
    store = pulled.folder / "data/patches/simulated/store.json"
    before = store.read_bytes(), store.stat().st_mtime_ns
    subprocess.run(stage, cwd=pulled.folder, check=True, capture_output=True)
    assert "fetching the archive again" in (pulled.folder / "logs/split/simulated.log").read_text()
    assert (store.read_bytes(), store.stat().st_mtime_ns) == before, "as it was, for Snakemake too"
    git(pulled.folder, "checkout", "--quiet", "src")
    subprocess.run(start, cwd=pulled.folder, check=True)


def test_what_is_edited_before_sync_is_not_taken_for_done(pulled: Project, tmp_path: Path) -> None:
    """Else pulled runs would be registered as trained with the edited learning rate."""
    git(tmp_path, "clone", "--quiet", str(pulled.folder.parent / "origin"), "clone")
    clone = Project(tmp_path / "clone")
    clone.edit(train__learning_rate=0.05)
    env = environment()
    sync = [python(), "workflow/scripts/sync.py"]
    done = subprocess.run(
        sync, cwd=clone.folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "from train on, outputs are of other code or parameters: dvc repro" in done.stdout
    assert not list((clone.folder / ".cache").glob("train/*/.done"))
    assert {"train", "evaluate", "report"} <= set(clone.wanted())
    assert not {"download", "split", "partition"} & set(clone.wanted())


def test_experiments_are_compared(pulled: Project, tmp_path: Path) -> None:
    """A sweep as in docs/workflow.md."""
    git(pulled.folder, "config", "user.name", "test")
    git(pulled.folder, "config", "user.email", "test@example.org")
    for rate in ("0.1", "0.2"):
        change = ("-S", f"train.learning_rate={rate}", "-n", f"rate-{rate.replace('.', '-')}")
        done = pulled.run("dvc", "exp", "run", *change)
        assert done.returncode == 0, done.stdout
    shown = tmp_path / "shown.csv"
    shown.write_text(pulled.run("dvc", "exp", "show", "--only-changed", "--csv").stdout)
    table = pd.read_csv(shown).set_index("Experiment")
    assert table.loc["rate-0-1", "train.learning_rate"] == 0.1
    assert table.loc["rate-0-2", "train.learning_rate"] == 0.2
    assert table.loc[["rate-0-1", "rate-0-2"], "mf.ap_macro"].nunique() == 2
    compared = pulled.run("dvc", "metrics", "diff", "rate-0-1", "rate-0-2", "--json").stdout
    lines = compared.splitlines()
    scores = json.loads(next(line for line in lines if line.startswith("{")))
    (file,) = scores
    value = scores[file]["mf.ap_macro"]
    assert value["new"] - value["old"] == pytest.approx(value["diff"])
    assert value["new"] == table.loc["rate-0-2", "mf.ap_macro"]
    out = tmp_path / "plots"
    done = pulled.run("dvc", "plots", "diff", "rate-0-1", "rate-0-2", "-o", str(out))
    assert done.returncode == 0, done.stdout
    names = [path.name for path in (out / "static").iterdir()]
    for rate in ("rate-0-1", "rate-0-2"):
        assert any(name.startswith(rate) and name.endswith("learning.svg") for name in names)
