"""The table of docs/workflow.md, row by row: what an edit causes, in a copy of the source."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mmfl.params import load
from mmfl.pipeline import code, jobs

ROOT = Path(__file__).resolve().parents[2]
LARGE = {"method": "mf", "label": "large", "set": {"model.backbone": "resnet18"}}
PARAMETERS = {
    "archives": {"simulated": {}, "simulated-tiles": {}},
    "train": {"methods": ["mf", "mf+fw", "mf+mim", "scaffold", LARGE], "learning_rate": 0.1},
}
NEW = "found = 1\n"
Edit = tuple[str, str, str]  # file, what stands there, what replaces it; nothing: added at the end
EDITS: dict[str, list[Edit]] = {
    "a comment, a docstring or a blank line": [
        ("src/mmfl/strategies/base.py", "", "\n\n# why\n"),
        ("src/mmfl/files.py", '"""', '"""Read again. '),
        ("src/mmfl/params/sections.py", "", "\n\n# why\n"),
    ],
    "a key, bound or default below `src/mmfl/params/`, while the values stay": [
        ("src/mmfl/params/sections.py", "le=100)", "le=101)"),
        ("src/mmfl/params/schema.py", "", NEW),
    ],
    "an algorithm, such as `strategies/scaffold.py`": [
        ("src/mmfl/strategies/scaffold.py", "", NEW)
    ],
    "a new algorithm": [("src/mmfl/strategies/fedyogi.py", "", NEW)],
    "what all algorithms share, `strategies/base.py`": [("src/mmfl/strategies/base.py", "", NEW)],
    "whitening, `models/whitening.py`": [("src/mmfl/models/whitening.py", "", NEW)],
    "`strategies/modules/mim.py`": [("src/mmfl/strategies/modules/mim.py", "", NEW)],
    "a backbone, such as `models/backbones/resnet18.py`": [
        ("src/mmfl/models/backbones/resnet18.py", "", NEW)
    ],
    "a new backbone": [("src/mmfl/models/backbones/plain.py", "", NEW)],
    "an archive, such as `archives/dynamicworld/table.py`": [
        ("src/mmfl/archives/dynamicworld/table.py", "", NEW)
    ],
    "a new archive, or `archives/folder/` without one of your own": [
        ("src/mmfl/archives/ponds.py", "", NEW),
        ("src/mmfl/archives/folder/units.py", "", NEW),
    ],
    "the search of imagery, `fetch/stac/`": [("src/mmfl/fetch/stac/scenes.py", "", NEW)],
    "the scenario in use": [("src/mmfl/clients/scenarios/region.py", "", NEW)],
    "another scenario, or a new one": [
        ("src/mmfl/clients/scenarios/dirichlet.py", "", NEW),
        ("src/mmfl/clients/scenarios/half_year.py", "", NEW),
    ],
    "a metric, `evaluation/metrics.py`": [("src/mmfl/evaluation/metrics.py", "", NEW)],
    "a figure, `reporting/figures.py`": [("src/mmfl/reporting/figures.py", "", NEW)],
    "the page's style or text": [
        ("src/mmfl/reporting/templates/page.css", "", "/* */"),
        ("src/mmfl/steps/page.py", "", NEW),
    ],
    "commands, `cli.py`, and `pipeline/outdated.py`": [
        ("src/mmfl/cli.py", "", NEW),
        ("src/mmfl/pipeline/outdated.py", "", NEW),
    ],
    "a rule below `workflow/`": [("workflow/rules/train.smk", "", "# why\nseconds = 1\n")],
    "another version of torch in requirements.lock": [
        ("requirements.lock", "torch==", "torch==9.")
    ],
    "another version of matplotlib": [("requirements.lock", "matplotlib==", "matplotlib==9.")],
    "another version of ruff": [("requirements.lock", "ruff==", "ruff==9.")],
    "`train.learning_rate`": [("params.yaml", "learning_rate: 0.1", "learning_rate: 0.2")],
    "`mim.weight`": [("params.yaml", "", "mim: {weight: 0.2}\n")],
    "`evaluate.rates`": [("params.yaml", "", "evaluate: {rates: [0, 10]}\n")],
    "`report.baseline`": [("params.yaml", "", "report: {baseline: scaffold}\n")],
    "one more method": [("params.yaml", "  - scaffold\n", "  - scaffold\n  - fedprox\n")],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "src/mmfl", folder / "src/mmfl")
    shutil.copytree(ROOT / "workflow/rules", folder / "workflow/rules")
    shutil.copy(ROOT / "requirements.lock", folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMETERS))
    return folder


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    yield
    forget()


def forget() -> None:
    for function in vars(code).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def started(project: Path) -> dict[tuple[str, str, str], object]:
    """What decides each job: (step, archive, job) -> digests."""
    forget()
    params = load(project / "params.yaml")
    return {
        (step, archive, name): decided
        for archive in params.archives
        for step, found in jobs.start(params, archive, project / "src").items()
        for name, decided in found.items()
    }


def told(before: dict, after: dict) -> str:
    """Which jobs are not as they were: steps, and of which archive or row if not of all."""
    changed: dict[str, set[tuple[str, str]]] = {}
    for step, archive, name in sorted(after):
        if after[step, archive, name] != before.get((step, archive, name)):
            changed.setdefault(step, set()).add((archive, name))
    parts: dict[str, list[str]] = {}
    for step in jobs.STAGES:
        if step not in changed:
            continue
        every = {(a, n) for s, a, n in after if s == step}
        rows = {n for _, n in changed[step]} if step in ("train", "evaluate") else set()
        archives = {a for a, _ in changed[step]}
        words = ""
        if changed[step] != every and rows:
            names = {"mf/default": "mf"} | {n: n.removesuffix("/default") for n in rows}
            words = " of " + ", ".join(f"`{names[n]}`" for n in sorted(rows))
        elif changed[step] != every:
            words = " of " + ", ".join(f"`{a}`" for a in sorted(archives))
        parts.setdefault(words, []).append(step)
    found = "; ".join(f"{', '.join(steps)}{words}" for words, steps in parts.items())
    digest = LARGE_NAME.search(found)
    return (found.replace(digest[0], "`mf` with that backbone") if digest else found) or "nothing"


LARGE_NAME = re.compile(r"`mf/[0-9a-f]{8}`")


@pytest.mark.parametrize("words", EDITS)
def test_an_edit_causes_what_the_page_says(project: Path, words: str) -> None:
    page = (ROOT / "docs/workflow.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {re.escape(words)} \| (.*) \|$", page, re.MULTILINE)
    before, found = started(project), set()
    for name, old, new in EDITS[words]:
        file = project / name
        text = file.read_text(encoding="utf-8") if file.exists() else None
        assert text is None or old in text, f"{name}: {old}"
        edited = text.replace(old, new, 1) if old else (text or "") + new
        file.write_text(edited, encoding="utf-8")
        try:
            found.add(told(before, started(project)))
        finally:
            file.unlink() if text is None else file.write_text(text, encoding="utf-8")
    assert row is not None and {row[1]} == found


def test_the_page_has_no_other_row() -> None:
    page = (ROOT / "docs/workflow.md").read_text(encoding="utf-8")
    table = page.split("| edited | runs again |\n|---|---|\n")[1].split("\n\n")[0]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()] == list(EDITS)
