"""Modules and digests of the steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmfl import code
from mmfl.errors import UserError

SOURCES = {
    "__init__.py": "",
    "files.py": "",
    "unused.py": "",
    "steps/__init__.py": "",
    "steps/train.py": "from mmfl.models import build\ndef run():\n    import mmfl.files\n",
    "steps/report.py": "",
    "models/__init__.py": "from .network import build\nfrom mmfl.models import whitening\n",
    "models/network.py": "from __future__ import annotations\nimport json\nbuild = 1\n",
    "models/whitening.py": "from ..errors import Fault\n",
    "models/table.csv": "1\n",
    "errors.py": "class Fault(Exception): ...\n",
}
TRAIN = [
    "mmfl/__init__.py",
    "mmfl/errors.py",
    "mmfl/files.py",
    "mmfl/models/__init__.py",
    "mmfl/models/network.py",
    "mmfl/models/table.csv",
    "mmfl/models/whitening.py",
    "mmfl/steps/__init__.py",
    "mmfl/steps/train.py",
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, text in SOURCES.items():
        path = tmp_path / "mmfl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_follows_every_kind_of_import(source: Path) -> None:
    assert list(code.modules("train", source)) == TRAIN


def test_a_step_without_imports_is_its_own_file(source: Path) -> None:
    assert list(code.modules("report", source)) == [
        "mmfl/__init__.py",
        "mmfl/steps/__init__.py",
        "mmfl/steps/report.py",
    ]


@pytest.mark.parametrize(
    ("name", "changes"),
    [("models/network.py", True), ("models/table.csv", True), ("unused.py", False)],
)
def test_digest_changes_with_the_files_in_use(source: Path, name: str, changes: bool) -> None:
    before = code.digest("train", source)
    code.digest.cache_clear()
    (source / "mmfl" / name).write_text("# edited\n")
    code.modules.cache_clear()
    assert (code.digest("train", source) != before) is changes


def test_unknown_step(source: Path) -> None:
    with pytest.raises(UserError, match="step: found trian, expected one of download"):
        code.modules("trian", source)


def test_modules_of_the_project() -> None:
    assert "mmfl/steps/train.py" in code.modules("train")
    assert "mmfl/steps/evaluate.py" not in code.modules("train")
    assert "mmfl/cli.py" not in code.modules("train")
    for step in ("partition", "train", "evaluate"):  # they see stores, whatever the archive
        assert not [name for name in code.modules(step) if name.startswith("mmfl/archives/")]
