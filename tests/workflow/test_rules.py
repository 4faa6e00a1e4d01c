"""What runs, and what runs again after a change."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from helpers.stub_project import ROOT, Project

STEPS = ["download", "split", "partition", "train", "evaluate", "report"]


def test_every_step_runs_once_and_in_order(finished: Project) -> None:
    calls = finished.calls()
    assert [calls.count(step) for step in STEPS] == [1, 1, 1, 2, 2, 1]
    assert list(dict.fromkeys(calls)) == ["simulate", *STEPS, "page"]


def test_second_run_has_nothing_to_do(finished: Project) -> None:
    assert "Nothing to be done" in finished.snakemake()
    assert finished.wanted() == {}


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({"train__learning_rate": 0.01}, {"train": 2, "evaluate": 2, "report": 1, "page": 1}),
        ({"train__seeds": [1, 2, 3]}, {"train": 2, "evaluate": 2, "report": 1, "page": 1}),
        ({"evaluate__rates": [0, 100]}, {"evaluate": 2, "report": 1, "page": 1}),
        ({"mim": {"weight": 9.0}}, {}),
        ({"report__gallery": 1}, {"report": 1, "page": 1}),
    ],
)
def test_a_parameter_reruns_what_it_changes(
    edited: Callable[..., Project], change: dict, rules: dict[str, int]
) -> None:
    assert edited(**change).wanted() == rules


def test_one_more_method_leaves_the_others_alone(edited: Callable[..., Project]) -> None:
    wanted = edited(train__methods=["mf", "mf+fw", "mf+mim"]).wanted()
    assert wanted == {"train": 1, "evaluate": 1, "report": 1, "page": 1}


def test_an_edited_module_reruns_the_first_step_that_imports_it(
    edited: Callable[..., Project],
) -> None:
    project = edited()
    module = project.folder / "src/mmfl/strategies/mf.py"
    with module.open("a", encoding="utf-8") as handle:
        handle.write("\nEDITED = True\n")
    assert set(project.wanted()) == {"train", "evaluate", "report", "page"}


def test_another_parameter_file_replaces_the_first(fresh: Project, tmp_path: Path) -> None:
    project = fresh.copy(tmp_path / "other")
    other = project.folder / "other.yaml"
    other.write_text(yaml.safe_dump({"train": {"methods": ["mf"], "seeds": [5]}}))
    project.snakemake("--configfile", "other.yaml")
    (copy,) = {line.split()[-1] for line in (project.folder / "calls.txt").open()}
    assert (project.folder / copy).read_text() == other.read_text()
    assert list(project.folder.glob("runs/simulated/*/*/*/*")) == [
        project.folder / "runs/simulated/region-duplicate-p0/mf/default/seed-5"
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--configfile", "bad.yaml"],
            r"mmfl: .*bad\.yaml:1: unknown key train\.round; did you mean",
        ),
        (["--config", "rounds=3"], r"mmfl: --config: found rounds; .*use --configfile"),
    ],
)
def test_bad_parameters_are_one_line_and_status_2(
    fresh: Project, tmp_path: Path, arguments: list[str], text: str
) -> None:
    project = fresh.copy(tmp_path / "bad")
    (project.folder / "bad.yaml").write_text("train: {round: 3}\n")
    done = project.run("snakemake", "--dry-run", *arguments)
    assert done.returncode == 2
    assert re.search(text, done.stdout)
    assert "Traceback" not in done.stdout


def test_a_job_asks_for_more_in_its_next_attempt() -> None:
    text = (ROOT / "workflow/rules/common.smk").read_text()
    assert "megabytes * attempt" in text and "number * attempt" in text


def test_every_rule_has_all_its_parts() -> None:
    wanted = ("output", "params", "log", "benchmark", "conda", "threads", "resources", "message")
    for file in sorted((ROOT / "workflow/rules").glob("*.smk")):
        assert "lambda" not in file.read_text()
        for rule in re.split(r"^rule ", file.read_text(), flags=re.M)[1:]:
            missing = [part for part in wanted if not re.search(rf"^    {part}:", rule, re.M)]
            assert not missing, f"{file.name}: {rule.split(':')[0]} lacks {missing}"


def test_format_and_lint(fresh: Project) -> None:
    files = ["Snakefile", *sorted(str(p) for p in (ROOT / "workflow/rules").glob("*.smk"))]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("snakefmt")), "--check", *files],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert fresh.run("snakemake", "--lint").returncode == 0
