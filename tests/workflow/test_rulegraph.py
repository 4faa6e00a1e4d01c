"""The graph of rules in docs/workflow.md is Snakemake's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from helpers.stub_project import ROOT


def test_the_docs_show_the_rules_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location(
        "rulegraph", ROOT / "workflow/scripts/rulegraph.py"
    )
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr("sys.argv", ["rulegraph.py", "--check"])
    assert script.main() == 0, "run python workflow/scripts/rulegraph.py"

    now = script.PAGE.read_text()
    monkeypatch.setattr(script, "graph", lambda: now.split(script.MARKS[0])[1].split("<!--")[0])
    monkeypatch.setattr(script, "PAGE", tmp_path / "workflow.md")
    script.PAGE.write_text(now.replace("    split --> train\n", ""))
    assert script.main() == 1, "a missing arrow is noticed"
    monkeypatch.setattr("sys.argv", ["rulegraph.py"])
    assert script.main() == 0
    assert script.PAGE.read_text() == now
