"""dvc.yaml says what the rules read and write, and both tools pick the same work."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from helpers.project_copy import environment
from helpers.stub_project import ROOT, Project
from helpers.warm_python import python
from mmfl.files import digest
from mmfl.params import load, step_values
from mmfl.pipeline import code, jobs
from mmfl.pipeline.jobs import FIGURES

STEPS = ("download", "split", "partition", "train", "evaluate", "report")
RULES = {"simulate": "download"}  # helper rules belong to a step's stage
ARCHIVE = "simulated"
COLUMNS = {  # a test of the figures holds what they show
    "learning.csv": {"run", "seed", "round", "value", "state"},
    "missing.csv": {"run", "label", "removed", "rate", "mean", "low", "high"},
}
REAL = f"{Path(sys.executable).parent}:/usr/bin:/bin"  # a stage looks for --force among its parents


@pytest.fixture(scope="module")
def stages() -> dict[str, dict]:
    """Stages with the parameters' values in place."""
    params = load(ROOT / "params.yaml")
    text = (ROOT / "dvc.yaml").read_text()
    text = text.replace("${key}", ARCHIVE)
    for name in ("scenario", "assignment", "seed"):
        text = text.replace(f"${{partition.{name}}}", str(getattr(params.partition, name)))
    found = yaml.safe_load(text)["stages"]
    assert found.pop("start")["deps"] == ["params.yaml", "requirements.lock", "src/mmfl"]
    return {name: stage["do"] for name, stage in found.items()}


@pytest.fixture(scope="module")
def rules(finished: Project) -> dict[str, tuple[set[str], set[str]]]:
    """Rule -> files read, files written, as Snakemake sees them."""
    table = finished.run("snakemake", "--detailed-summary").stdout.splitlines()
    start = next(i for i, line in enumerate(table) if line.startswith("output_file\t"))
    found: dict[str, tuple[set[str], set[str]]] = {}
    for line in table[start + 1 :]:
        output, _, rule, _, inputs, *_ = line.split("\t")
        read, written = found.setdefault(RULES.get(rule, rule), (set(), set()))
        read |= {item for item in inputs.split(",") if item not in ("", "-")}
        written.add(output)
    return found


def paths(entries: list) -> set[str]:
    """Names of DVC entries, with or without options."""
    return {next(iter(item)) if isinstance(item, dict) else item for item in entries}


def within(path: str, folders: set[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def test_six_stages_with_fixed_commands(stages: dict[str, dict]) -> None:
    assert tuple(stages) == STEPS
    assert (ROOT / "dvc.yaml").read_text().count("\n") < 150, "for people"
    for step, stage in stages.items():
        assert stage["cmd"] == f"python workflow/scripts/stage.py {step} {ARCHIVE}"


def test_plots_name_columns_that_are_there() -> None:
    """By a template of the project, whose panels are the rows of the tables."""
    params = load(ROOT / "params.yaml")
    text = (ROOT / "dvc.yaml").read_text()
    for name in ("scenario", "assignment", "seed"):
        text = text.replace(f"${{partition.{name}}}", str(getattr(params.partition, name)))
    plots = [item for found in yaml.safe_load(text)["plots"] for item in found.items()]
    assert len(plots) == 2 * len(params.archives)
    for title, plot in plots:
        ((path, column),) = plot["y"].items()
        assert path.split("/")[1] in params.archives and path.split("/")[1] in title
        assert Path(path).name.split(".")[0] in FIGURES
        assert (ROOT / f".dvc/plots/{plot['template']}.json").is_file()
        assert {plot["x"], column, "run"} <= COLUMNS[Path(path).name]


@pytest.mark.parametrize("step", STEPS)
def test_outs_are_what_the_rules_write(step: str, stages: dict, rules: dict) -> None:
    outs = {
        out for kind in ("outs", "metrics", "plots") for out in paths(stages[step].get(kind, []))
    }
    written = {path for path in rules[step][1] if not Path(path).name.startswith(".")}
    assert {path for path in written if not within(path, outs)} == set()
    assert {out for out in outs if not any(within(path, {out}) for path in written)} == set()


@pytest.mark.parametrize("step", STEPS)
def test_deps_are_what_the_rules_read(step: str, stages: dict, rules: dict) -> None:
    deps = {dep for dep in paths(stages[step]["deps"]) if not dep.startswith("src/")}
    read = {path for path in rules[step][0] if not Path(path).name.startswith(".")}
    assert {path for path in read if not within(path, deps)} == set()
    # a simulated archive has no manifest in git
    unread = {dep for dep in deps if not any(within(path, {dep}) for path in read)}
    assert unread - {"data/manifests"} == set()


@pytest.mark.parametrize("step", STEPS)
def test_params_are_the_digests_of_the_start(step: str, stages: dict[str, dict]) -> None:
    assert stages[step]["params"] == [{f"data/start/{ARCHIVE}.json": [step]}]


def test_the_start_has_the_values_and_the_code_of_every_job() -> None:
    params = load(ROOT / "params.yaml")
    start = jobs.start(params, ARCHIVE)
    assert tuple(start) == STEPS
    for step in ("split", "partition", "report"):
        values = digest(step_values(params, step, ARCHIVE))
        assert start[step] == {step: {"values": values, "code": jobs.source(step, params, ARCHIVE)}}
    for step in ("train", "evaluate"):
        assert start[step]["mf/default"] == {
            "values": digest(step_values(params, step, ARCHIVE, "mf")),
            "code": jobs.source(step, params, ARCHIVE, "mf"),
        }
        assert len(start[step]) == len(params.train.methods)
    drawn = jobs.modules("simulate", params, ARCHIVE)
    assert start["download"]["download"]["code"].endswith(code.digest("simulate", drawn))


class Repeated:
    """A project under git and DVC in which everything is up to date, step by step edited."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.path = {"PATH": f"{Path(python()).parent}:/usr/bin:/bin"}
        for command in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *command], cwd=project.folder, check=True)

    def ran(self) -> set[str]:
        """Run `dvc repro` and the pages; the jobs that ran, as `step archive method`."""
        calls = self.project.folder / "calls.txt"
        before = len(calls.read_text().splitlines()) if calls.exists() else 0
        done = self.project.run("dvc", "repro", **self.path)
        assert done.returncode == 0, done.stdout
        jobs = [" ".join(line.split()[:3]) for line in calls.read_text().splitlines()[before:]]
        assert len(jobs) == len(set(jobs)), "no job runs twice"
        page = [python(), "workflow/scripts/stage.py", "page", "all"]
        subprocess.run(page, cwd=self.project.folder, check=True, capture_output=True)
        assert "up to date" in self.project.run("dvc", "status", **self.path).stdout
        assert self.project.wanted() == {}, "Snakemake agrees"
        return {job.removesuffix(" None") for job in jobs}


def start(project: Project) -> None:
    """The first stage."""
    command = [python(), "workflow/scripts/stage.py", "start", "all"]
    subprocess.run(command, cwd=project.folder, check=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.slow
def test_repro_then_nothing_then_only_what_changed(fresh: Project, tmp_path: Path) -> None:
    project = fresh.copy(tmp_path / "dvc")
    row = {"method": "mf", "label": "slow", "set": {"train.learning_rate": 0.1}}
    project.edit(
        archives={"simulated": {}, "simulated-tiles": {"train": {"methods": ["mf"]}}},
        train__methods=["mf", row, "mf+fw"],
    )
    repeated = Repeated(project)
    tiles = {f"{step} simulated-tiles" for step in ("simulate", "download", "split", "partition")}
    tiles |= {"train simulated-tiles mf", "evaluate simulated-tiles mf", "report simulated-tiles"}
    first = project.run("dvc", "repro", **repeated.path)
    assert first.returncode == 0, first.stdout
    calls = project.calls()
    assert [calls.count(step) for step in STEPS] == [2, 2, 2, 4, 4, 2]

    (project.folder / "tests").mkdir()
    (project.folder / "tests/test_new.py").write_text("")
    (project.folder / "README.md").write_text("text")
    assert repeated.ran() == set(), "tests and docs, and a second time"

    row["set"] = {"train.learning_rate": 0.05}
    own = {"train": {"methods": ["mf"], "learning_rate": 0.2}}
    project.edit(
        train__methods=["mf", row, "mf+fw"], archives={"simulated": {}, "simulated-tiles": own}
    )
    one = {"train simulated mf", "evaluate simulated mf", "report simulated"}
    assert repeated.ran() == one | {job for job in tiles if job.startswith(("tr", "ev", "re"))}
    slow = list((project.folder / "runs/simulated").glob("*/mf/*"))
    assert len(slow) == 2, "the run of the old learning rate is gone"

    project.edit(simulate__tiles=50)
    assert repeated.ran() == tiles, "a parameter of a generator: all of that archive"

    module = project.folder / "src/mmfl/reporting/tables.py"
    text = module.read_text()
    module.write_text(f"# a comment\n{text}\n")
    assert repeated.ran() == set(), "a comment decides nothing"
    module.write_text(f"{text}\nEDITED = 1\n")
    assert repeated.ran() == {"report simulated", "report simulated-tiles"}

    before = len(project.calls())
    project.run("dvc", "repro", "-sf", "train@simulated", PATH=REAL)
    assert project.calls()[before:] == ["train"] * 3, "forced: every job of the stage"
    assert repeated.ran() == set(), "and what came out the same re-runs nothing"


@pytest.mark.parametrize("key", ["archives", "partition.scenario", "partition.seed"])
def test_what_dvc_names_its_outputs_by_is_written_out(
    fresh: Project, tmp_path: Path, key: str
) -> None:
    project = fresh.copy(tmp_path / "short")
    params = yaml.safe_load((project.folder / "params.yaml").read_text())
    section, _, name = key.partition(".")
    if name:
        params[section].pop(name)
    else:
        params.pop(section)
    (project.folder / "params.yaml").write_text(yaml.safe_dump(params))
    command = [python(), "workflow/scripts/stage.py", "start", "all"]
    done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"mmfl: params.yaml: {key} is not written out")
    assert done.stderr.count("\n") == 1
    assert not (project.folder / "data/start").exists()


@pytest.mark.slow
def test_an_edit_during_a_run_belongs_to_the_next(fresh: Project, tmp_path: Path) -> None:
    """The lock of a run has the digests of its own values, and its models are those."""
    project = fresh.copy(tmp_path / "while")
    project.edit(train__methods=["mf"], train__seeds=[1])
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=project.folder, check=True)
    before = jobs.start(load(project.folder / "params.yaml"), ARCHIVE)["train"]
    waiting = environment() | {"STUB_WAITS": str(tmp_path / "go on")}
    command = [sys.executable, "-m", "dvc", "repro"]
    with subprocess.Popen(
        command, cwd=project.folder, env=waiting, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as running:  # fmt: skip
        while not project.calls() and running.poll() is None:
            time.sleep(0.05)
        project.edit(train__learning_rate=0.9)
        (tmp_path / "go on").touch()
        text, _ = running.communicate()
    assert running.returncode == 0, text
    (model,) = project.folder.glob("runs/simulated/*/mf/default/seed-1/model.safetensors")
    assert "'learning_rate': 0.3" in model.read_text()
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]
    recorded = lock[f"train@{ARCHIVE}"]["params"][f"data/start/{ARCHIVE}.json"]["train"]
    assert recorded["mf/default"] == before["mf/default"]
    assert project.changed() == ["start"]
    before_next = len(project.calls())
    done = project.run("dvc", "repro")
    assert done.returncode == 0, done.stdout
    assert project.calls()[before_next:] == ["train", "evaluate", "report"]
    assert "'learning_rate': 0.9" in model.read_text()


@pytest.mark.slow
def test_what_another_parameter_file_wrote_does_not_stay(finished: Project, tmp_path: Path) -> None:
    """Also where every input is the same: outputs are those of the record, or they go."""
    project = finished.copy(tmp_path / "other")
    start(project)
    stage = [python(), "workflow/scripts/stage.py", "evaluate", ARCHIVE]
    before = len(project.calls())
    subprocess.run(stage, cwd=project.folder, check=True, capture_output=True)
    assert len(project.calls()) == before + 2, "without a record nothing is trusted"
    subprocess.run(stage, cwd=project.folder, check=True, capture_output=True)
    assert len(project.calls()) == before + 2
    score = next(project.folder.glob("scores/simulated/*/mf/default/seed-1/scores.csv"))
    content = score.read_text()
    score.write_text("of another experiment")
    stale = score.parents[2] / "0badf00d/seed-1"
    stale.mkdir(parents=True)
    subprocess.run(stage, cwd=project.folder, check=True, capture_output=True)
    assert project.calls()[before + 2 :] == ["evaluate"]
    assert score.read_text() == content
    assert not stale.parent.exists()


def test_a_stage_never_rebuilds_another_ones_outputs(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "broken")
    start(project)
    shutil.rmtree(project.folder / "data/patches")
    shutil.rmtree(project.folder / "runs")
    before = len(project.calls())
    stage = [python(), "workflow/scripts/stage.py", "train", ARCHIVE]
    done = subprocess.run(stage, cwd=project.folder, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "data/patches/simulated" in done.stdout + done.stderr
    assert len(project.calls()) == before
