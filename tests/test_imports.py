"""Imports point one way: cli, steps, then the packages below (docs/workflow.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src/mmfl"
BASE = {
    "cache",
    "chosen",
    "errors",
    "facts",
    "files",
    "intact",
    "params",
    "processes",
    "randomness",
    "sealed",
    "tar",
}  # everyone may import these
BELOW = {
    "cache": {"errors", "files"},
    "chosen": set(),
    "errors": set(),
    "facts": {"errors", "files"},
    "files": {"errors"},
    "params": {"errors", "facts", "files"},
    "pipeline": {"cache", "chosen", "errors", "facts", "files", "params", "cluster"},
    "federation": BASE | {"strategies", "evaluation", "clients", "patches", "models"},
    "strategies": BASE | {"models"},
    "evaluation": BASE | {"models", "patches"},
    "clients": BASE | {"patches"},
    "patches": BASE | {"archives"},
    "archives": BASE,
    "models": BASE,
    "fetch": BASE,
    "reporting": BASE,
    "inspection": BASE | {"archives", "patches", "clients", "reporting"},
    "verification": BASE | {"fetch", "reporting", "steps", "pipeline"},  # no step imports it
    "cluster": BASE,
}
PACKAGES = {"federation", "strategies", "evaluation", "clients", "patches", "archives", "models",
            "fetch", "reporting", "inspection"}  # fmt: skip
FILES = sorted(SOURCE.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """First names below `mmfl` that a file imports, type checking included."""
    package = ("mmfl", *file.relative_to(SOURCE).parts[:-1])
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "mmfl" else [base]
        found |= {name.split(".")[1] for name in names if name.startswith("mmfl.")}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_one_way(file: Path) -> None:
    owner = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    if owner in ("cli", "__main__"):
        return
    steps = BASE | PACKAGES | {"pipeline"}
    allowed = steps if owner == "steps" else BELOW.get(owner, BASE)
    assert imported(file) <= allowed | {owner}


def test_clients_open_no_shard() -> None:
    for file in (SOURCE / "clients").glob("*.py"):
        text = file.read_text()
        assert "patches.reader" not in text and "import torch" not in text


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_can_be_found_without_running(file: Path) -> None:
    """The code digests follow import statements, and what `chosen` imports by name."""
    if file.name != "chosen.py":
        assert "import_module" not in file.read_text()
        assert "__import__(" not in file.read_text()


@pytest.mark.parametrize(
    ("steps", "slow"),
    [
        ("train, evaluate", {"sklearn", "scipy.stats", "rasterio", "openpyxl", "matplotlib"}),
        ("report", {"torch", "sklearn", "scipy.stats", "openpyxl"}),
    ],
)
def test_a_step_imports_nothing_slow_that_it_does_not_need(steps: str, slow: set[str]) -> None:
    """A method has a process per step, and each of these takes up to a second."""
    program = f"import sys; from mmfl.steps import {steps}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not slow & set(done.stdout.split())
