"""Modules and digests of the steps."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from mmfl.errors import UserError
from mmfl.params import load
from mmfl.pipeline import code, jobs

ROOT = Path(__file__).resolve().parents[2]
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
    "errors.py": "class Fault(Exception): ...\nfrom mmfl.params import load\n",
    "params/__init__.py": "from mmfl.params.schema import load\n",
    "params/schema.py": "import mmfl.unused\nload = 1\n",
    "strategies/__init__.py": "",
    "strategies/late_fusion.py": "import mmfl.unused\n",
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
    assert list(code.modules("train", (), source)) == TRAIN


def test_a_step_without_imports_is_its_own_file(source: Path) -> None:
    assert list(code.modules("report", (), source)) == [
        "mmfl/__init__.py",
        "mmfl/steps/__init__.py",
        "mmfl/steps/report.py",
    ]


def test_what_a_parameter_chooses_counts_where_it_is_chosen(source: Path) -> None:
    more = code.modules("train", ("mmfl.strategies.late_fusion",), source)
    assert {*more} - {*TRAIN} == {
        "mmfl/strategies/__init__.py", "mmfl/strategies/late_fusion.py", "mmfl/unused.py"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes"),
    [("models/network.py", True), ("models/table.csv", True), ("unused.py", False),
     ("params/schema.py", False), ("strategies/late_fusion.py", False)],
)  # fmt: skip
def test_digest_changes_with_the_files_in_use(source: Path, name: str, changes: bool) -> None:
    before = code.digest("train", (), source)
    code.digest.cache_clear()
    (source / "mmfl" / name).write_text("edited = 1\n")
    code.modules.cache_clear()
    code._read.cache_clear()
    assert (code.digest("train", (), source) != before) is changes


ONE = '''"""What it is."""
import os  # the first


class Kind(Exception):
    """A kind."""


def run(x=1):
    """Runs.

    Twice.
    """
    # a comment
    text = """a

    # no comment
    """  # one
    return f"{x}#{text}"
'''
SAME = '''import os
class Kind(Exception):
    # ü: other bytes
    r"""Ünother kind."""
def run(x=1):
    "Runs."; text = """a

    # no comment
    """
    return f"{x}#{text}"   # so
'''


@pytest.mark.parametrize("other", [SAME.replace('"Runs."; ', ""), ONE, "\n\n" + ONE])
def test_comments_docstrings_and_blank_lines_do_not_count(other: str) -> None:
    assert code.statements(other) == code.statements(ONE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x=1", "x=2"), ("import os", "import io"), ("# no comment", "# a comment"),
        ("a\n\n", "a\n"), ("Kind(Exception)", "Kind(OSError)"), ("}#{", "} {"),
        ("    return", "return"),
    ],
)  # fmt: skip
def test_anything_else_counts(old: str, new: str) -> None:
    assert ONE.count(old) == 1
    assert code.statements(ONE.replace(old, new)) != code.statements(ONE)


def test_every_statement_of_the_project_is_kept() -> None:
    """Token by token, but for comments and for strings that stand alone as a statement."""
    ignored = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)

    def tokens(text: str, without: set[tuple[int, int]]) -> list[str]:
        found = tokenize.generate_tokens(io.StringIO(text).readline)
        return [t.string for t in found if t.type not in ignored and t.start not in without]

    for file in code.SOURCE.rglob("*.py"):
        text = file.read_text()
        documented = {
            (node.body[0].lineno, node.body[0].col_offset)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, code.DOCUMENTED) and ast.get_docstring(node)
        }
        assert tokens(code.statements(text), set()) == tokens(text, documented), file


def test_unknown_step(source: Path) -> None:
    with pytest.raises(UserError, match="step: found trian, expected one of download"):
        code.modules("trian", (), source)


def test_modules_of_the_project() -> None:
    params = load(ROOT / "params.yaml")

    def files(step: str, method: str | None = None) -> set[str]:
        chosen = jobs.modules(step, params, "simulated", method)
        found = code.modules(step, chosen)
        assert f"mmfl/steps/{step}.py" in found
        return {name.removeprefix("mmfl/") for name in found}

    steps = {"download", "split", "partition", "train", "evaluate", "report"}
    for step in steps:
        found = files(step, "mf" if step in ("train", "evaluate") else None)
        assert not {f"steps/{name}.py" for name in steps - {step}} & found
        assert not {"cli.py", "pipeline/outdated.py"} & found
        assert not [name for name in found if name.startswith(("params/", "verification/"))]
    for step in ("partition", "train", "evaluate", "report"):  # they see stores, of any archive
        found = files(step, "mf" if step in ("train", "evaluate") else None)
        assert not [name for name in found if name.startswith("archives/")]
    drawn = {name for name in files("split") if name.startswith("archives/")}
    assert "archives/bigearthnet_v2.py" in drawn
    assert not [name for name in drawn if "tiles" in name or "dynamic" in name or "folder" in name]
    assert not [name for name in files("download") if name.startswith("fetch/stac/imagery")]
    assert not [name for name in files("partition") if name.startswith("reporting/")]
    apart = {"models/whitening.py", "strategies/modules/mim.py", "strategies/scaffold.py",
             "strategies/prior.py", "models/backbones/resnet50.py"}  # fmt: skip
    for step in ("train", "evaluate"):
        assert not apart & files(step, "mf")
        assert files(step, "mf+fw") - files(step, "mf") == {"models/whitening.py"}


def test_only_one_module_imports_by_name() -> None:
    """Everything else is found by following import statements."""
    by_name = [
        file.relative_to(code.SOURCE).as_posix()
        for file in code.SOURCE.rglob("*.py")
        if re.search(r"\bimport_module\b|__import__\(|spec_from_file", file.read_text())
    ]
    assert by_name == ["mmfl/chosen.py"]
