"""A copy of the project in which a page of docs/ is followed word by word.

A page's edits are code blocks whose first line is a comment with a file's name: `python` blocks are
new files, `diff` blocks add lines to one that exists (lines of a space are what stands around).
Blocks of `sh` are commands.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from helpers.project_copy import ROOT, copy_project

MORE = ("docs", "tests", "dvc.yaml", "pyproject.toml")
BLOCK = re.compile(r"^( *)```(python|diff|sh)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\S+/\S+|params\.yaml)\n")


class Copy:
    """The copy; `changed`: the files that a page edited or added."""

    def __init__(self, folder: Path) -> None:
        self.folder = copy_project(folder)
        for part in MORE:
            subprocess.run(["cp", "-r", str(ROOT / part), str(folder / part)], check=True)
        self.changed: list[str] = []
        places = [str(folder / "src"), str(folder / "tests")]
        self.env = os.environ | {
            "PYTHONPATH": os.pathsep.join(places),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }

    def follow(self, page: str, heading: str = "") -> None:
        """Do what a page says, or a part of it from a heading to the next one of its level."""
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        if heading:
            start = text.index(f"\n{heading}\n") + 1
            level = heading.split()[0]
            ends = re.search(rf"^{level} ", text[start + len(heading) :], re.MULTILINE)
            text = text[start:][: ends.start() + len(heading)] if ends else text[start:]
        done = 0
        for _, kind, block in BLOCK.findall(text):
            block = textwrap.dedent(block)
            named = FILE.match(block)
            if kind == "sh":
                self.run("bash", "-ec", block)
            elif named is not None:
                self._edit(kind, named[1], block[named.end() :])
            else:
                continue
            done += 1
        assert done > 1, f"{page}: nothing to follow"

    def _edit(self, kind: str, name: str, block: str) -> None:
        path = self.folder / name
        self.changed.append(name)
        if kind == "python":
            assert not path.exists(), f"{name} is there already"
            path.write_text(block.lstrip("\n"), encoding="utf-8")
            return
        lines = block.splitlines()
        assert all(line[:1] in ("", " ", "+", "-") for line in lines), f"{name}: no diff"
        old = [line[1:] for line in lines if line[:1] != "+"]
        new = [line[1:] for line in lines if line[:1] != "-"]
        text = path.read_text(encoding="utf-8").splitlines()
        places = [k for k in range(len(text)) if text[k : k + len(old)] == old]
        assert len(places) == 1, f"{name}: {old} stands there {len(places)} times"
        text[places[0] : places[0] + len(old)] = new
        path.write_text("\n".join(text) + "\n", encoding="utf-8")

    def run(self, *command: str) -> str:
        """Run a command in the copy; what it printed."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout + done.stderr

    def test(self, expression: str, *files: str) -> int:
        """Run some tests of the copy, and `ruff` over what was edited; how many passed."""
        python = [name for name in self.changed if name.endswith(".py")]
        self.run("ruff", "check", *python)
        self.run("ruff", "format", "--check", *python)
        pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", "--tb=short"]
        said = self.run(*pytest, "-o", "addopts=", "-k", expression, *files)
        found = re.search(r"(\d+) passed", said)
        return int(found[1]) if found else 0
