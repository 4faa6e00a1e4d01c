"""Another workflow uses this one as a module, from a folder of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from helpers.project_copy import ROOT, copy_project, environment
from helpers.warm_python import python
from mmfl.pipeline.jobs import published

SNAKEFILE = """
configfile: "own.yaml"

module mmfl:
    snakefile: "{project}/Snakefile"
    config: {{"params": "experiment.yaml"}}

use rule * from mmfl

rule mine:
    default_target: True
    input: "data/raw/simulated/files.csv",
    output: "mine.txt",
    params: word=config["word"],
    shell: "wc -l < {{input}} > {{output}}; echo {{params.word}} >> {{output}}"
"""


@pytest.mark.slow
def test_a_module_runs_from_another_folder(tmp_path: Path) -> None:
    """Its rules run the project's code with its parameters; the host keeps its configuration."""
    project = copy_project(tmp_path / "project")
    (project / "params.yaml").unlink()
    host = tmp_path / "host"
    host.mkdir()
    (host / "Snakefile").write_text(SNAKEFILE.format(project=project))
    (host / "own.yaml").write_text("word: hello\n")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= yaml.safe_load((ROOT / "configs/ci.yaml").read_text())
    params["archives"] = {"simulated": {}}
    params["simulate"] |= {"pairs": 100}
    (host / "experiment.yaml").write_text(yaml.safe_dump(params))
    env = environment()
    env.pop("PYTHONPATH", None)
    line = [python(), "-m", "snakemake", "--cores", "1"]
    done = subprocess.run(line, cwd=host, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    count, word = (host / "mine.txt").read_text().split()
    assert int(count) > 1 and word == "hello"
    assert {path.name for path in project.iterdir()}.isdisjoint({"logs", ".cache", "runs"})
    again = subprocess.run([*line, "--dry-run"], cwd=host, env=env, capture_output=True, text=True)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_manifests_are_those_of_the_project(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        published("bigearthnet-v2").read_bytes()
        == (ROOT / "data/manifests/bigearthnet-v2.yaml").read_bytes()
    )
    own = tmp_path / "data/manifests/bigearthnet-v2.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert published("bigearthnet-v2") == own.relative_to(tmp_path)
    assert published("nowhere") == Path("data/manifests/nowhere.yaml")
