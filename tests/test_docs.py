"""The documentation says what is there: tables of results, files, commands, options, parameters."""

from __future__ import annotations

import importlib
import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel

from mmfl.cli import app
from mmfl.params import Params

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "config/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FOLDERS = "benchmarks|configs|data/manifests|docs|profiles|src|tests|workflow"
ENDINGS = "cff|csv|html|json|lock|md|png|py|sh|smk|svg|toml|yaml|yml"
MADE = (
    "page/",
    "results/",
    "runs/",
    "scores/",
    "logs/",
    "data/raw",
    "data/patches",
    "data/clients",
)
OWN = {  # files that the reader of a page is to write
    "data/manifests/ponds.yaml",
    "profiles/mine",
    "src/mmfl/archives/ponds.py",
    "src/mmfl/clients/scenarios/half_year.py",
    "src/mmfl/models/backbones/plain.py",
    "src/mmfl/strategies/fedyogi.py",
}
OWN_MODULES = {name.removeprefix("src/").removesuffix(".py").replace("/", ".") for name in OWN}
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def load_script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"workflow/scripts/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = load_script("docs_tables")


# Tables


def test_tables_are_those_of_the_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["docs_tables.py", "--check"])
    assert tables.main() == 0, capsys.readouterr().err


def test_every_table_is_on_a_page() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert [name for name in tables.BLOCKS if f"<!-- table: {name} -->" not in text] == []
    top = (ROOT / "docs/comparison.md").read_text().splitlines()[:4]
    assert "<!-- table: comparison state -->" in top


def test_a_stale_table_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One digit of a result changes: the check fails, writing mends it, nothing else moves."""
    folder = tmp_path / "results/simulated/region-duplicate-p0/tables"
    folder.mkdir(parents=True)
    source = ROOT / folder.relative_to(tmp_path) / "comparison.md"
    (folder / "comparison.md").write_text(source.read_text())
    page = tmp_path / "docs/page.md"
    page.parent.mkdir()
    page.write_text("Before.\n\n<!-- table: default simulated -->\n<!-- end -->\n\nAfter.\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "PAGES", ("docs/*.md",))

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["docs_tables.py", *arguments])
        return tables.main()

    assert (run("--check"), run(), run("--check")) == (1, 0, 0)
    text = page.read_text()
    assert text.startswith("Before.\n\n<!--") and text.endswith("<!-- end -->\n\nAfter.\n")
    first = next(line for line in source.read_text().splitlines() if line.startswith("| mf |"))
    cells = first.split(" | ")
    (folder / "comparison.md").write_text(source.read_text().replace(cells[1], "99.9"))
    assert run("--check") == 1 and page.read_text() == text
    assert run() == 0 and "| mf | 99.9 |" in page.read_text()
    page.write_text("<!-- table: nothing -->\n<!-- end -->\n")
    assert run("--check") == 2
    page.write_text("<!-- table: default simulated -->\n")
    assert run("--check") == 2


def test_what_was_chosen_is_what_is_committed() -> None:
    """Against chosen.yaml, which the tables do not read."""
    file = ROOT / "results/tuning/simulated/region-duplicate-p0/chosen.yaml"
    shown = {row[0]: row[2] for row in tables.rows_of(tables.chosen())[1:]}
    committed = yaml.safe_load(file.read_text())
    assert set(shown) == set(committed)
    for method, values in committed.items():
        numbers = [float(word.split()[-1]) for word in shown[method].split(", ")]
        assert numbers == [float(value) for value in values.values()], method


def test_pictures_of_earlier_results_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "shown", lambda archive: "another")
    assert tables.pictures().startswith("(docs/page.png and docs/tiles.png: taken of earlier")


# Names


def code(text: str) -> list[str]:
    """Code spans, and the lines of indented and fenced blocks."""
    fence = re.compile(r"^```\w*\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in fence.findall(text) for line in block.splitlines()]
    text = fence.sub("", text)
    lines += [line.strip() for line in text.splitlines() if line.startswith("    ")]
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    return [*lines, *(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))]


@cache
def tracked() -> tuple[str, ...]:
    """Every file of the project, by git or, in a copy without it, by the disk."""
    git = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout:
        return tuple(done.stdout.splitlines())
    return tuple(str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file())


@cache
def sources() -> str:
    """All code in one string, but for this file."""
    ends = (".py", ".sh", ".smk", "Makefile", ".ci/run")
    own = "tests/test_docs.py"
    return "".join((ROOT / f).read_text() for f in tracked() if f.endswith(ends) and f != own)


def unknown_links(text: str) -> list[str]:
    """Relative links whose file, or heading in it, is not there; from the folder docs/."""
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = ROOT / "docs" / path
        if re.match(r"\w+:", target):
            continue
        if path and not file.exists():
            wrong.append(target)
        elif anchor:
            page = file.read_text() if path else text
            heads = re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
            wrong += [target] * (anchor not in slugs)
    return wrong


def unknown_files(text: str) -> list[str]:
    """Whole paths, and scripts by the last parts of their path (`simulation/facts.py`)."""
    wrong = []
    for line in code(text):
        for path in re.findall(
            rf"(?<![\w/.~-])((?:{FOLDERS})/[\w./-]*\w)(?![\w./-]*[<*{{…$])", line
        ):
            wrong += [path] * (not (ROOT / path).exists())
        for path in re.findall(r"(?<![\w/.<>*~-])([\w/]+\.(?:py|smk|sh))\b", line):
            wrong += [path] * (not any(f"/{file}".endswith(f"/{path}") for file in tracked()))
    return [path for path in dict.fromkeys(wrong) if path not in OWN]


def unknown_commands(text: str) -> list[str]:
    """`mmfl COMMAND --option`, `make target`, `python script --option`, `python -m module`."""
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    make = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    wrong = []
    for line in code(text):
        start = r"(?:^|; |&& |\| |-- )"
        for command, rest in re.findall(rf"{start}mmfl ([a-z]+)((?: [^|;#]*)?)", line):
            if command not in known:
                wrong.append(f"mmfl {command}")
                continue
            options = {o for p in known[command].params for o in (*p.opts, *p.secondary_opts)}
            given = set(re.findall(r"(?<= )(--[a-z-]+)", rest)) - options - {"--help"}
            wrong += [f"mmfl {command} {option}" for option in sorted(given)]
        wrong += [
            f"make {t}" for t in re.findall(rf"{start}make ([a-z][\w-]*)", line) if t not in make
        ]
        for script, rest in re.findall(r"python ([\w/]+\.py)((?: [^|;#]*)?)", line):
            file = ROOT / script
            source = file.read_text() if file.exists() else ""
            for option in re.findall(r"(?<= )(--[a-z-]+)", rest):
                wrong += [f"{script} {option}"] * (f'"{option}"' not in source)
        for module in re.findall(r"python -m ([\w.]+)", line):
            wrong += [module] * (importlib.util.find_spec(module) is None)
    return wrong


def importable(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def is_file_name(name: str) -> bool:
    return name.endswith(tuple(f".{end}" for end in (*ENDINGS.split("|"), "sif", "zst")))


def unknown_names(text: str) -> list[str]:
    """Environment variables `MMFL_...` and dotted names `mmfl.module.name`."""
    variables = set(re.findall(r"\bMMFL_[A-Z_]+", text))
    wrong = [name for name in sorted(variables) if not re.search(rf"\b{name}\b", sources())]
    for line in code(text):
        for name in re.findall(r"(?<![\w./-])(mmfl(?:\.[A-Za-z_]+)+)(?![\w/])", line):
            known = is_file_name(name) or name in OWN_MODULES or importable(name)
            wrong += [name] * (not known)
    return wrong


def has_key(model: type[BaseModel], keys: list[str]) -> bool:
    """Whether a parameter file may hold that path of keys."""
    name, *rest = keys
    field = model.model_fields.get(name)
    if field is None:
        return False
    inner = field.annotation
    is_section = isinstance(inner, type) and issubclass(inner, BaseModel)
    return not rest or not is_section or has_key(inner, rest)  # type: ignore[arg-type]


def unknown_parameters(text: str) -> list[str]:
    """`section.key` in code spans, `-S section.key=`, and keys of shown pieces of params.yaml."""
    sections = "|".join(Params.model_fields)
    names = []
    for line in code(text):
        names += re.findall(rf"^((?:{sections})(?:\.[a-z_]+)+)(?:$|: |\[| = )", line)
        names += re.findall(r"-S ([a-z_.]+)=", line)
    for block in re.findall(r"(?:^ {4}.*\n)+", text, flags=re.MULTILINE):
        try:
            found = yaml.safe_load(re.sub(r"^ {4}", "", block, flags=re.MULTILINE))
        except yaml.YAMLError:
            continue
        if isinstance(found, dict) and set(found) <= set(Params.model_fields):
            shown = {s: values for s, values in found.items() if isinstance(values, dict)}
            names += [f"{section}.{key}" for section, values in shown.items() for key in values]
    return [n for n in names if not is_file_name(n) and not has_key(Params, n.split("."))]


CHECKS = [unknown_links, unknown_files, unknown_commands, unknown_names, unknown_parameters]


@every_page
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_a_page_names_is_there(page: Path, check: Callable[[str], list[str]]) -> None:
    text = page.read_text()
    if page.parent == ROOT:  # as if it lay in docs/
        text = re.sub(r"\]\((?!\w+:|#)", "](../", text)
    assert check(text) == []


BAD = """# A page
See [gone](gone.md), [a heading](method.md#nowhere), [fine](method.md), `src/mmfl/nowhere.py` and
`simulation/nothing.py`. `configs/<yours>.yaml` and `tests/cluster/` are fine, so is `MMFL_CACHE`,
unlike `MMFL_CASH`, `mmfl.nowhere`, `mmfl.pipeline.jobs.nothing` and `train.learning_speed: 3`.

    mmfl trane --archive simulated
    mmfl train --speed 3
    make everything
    python workflow/scripts/docs_tables.py --verify
    dvc exp run -S mim.wait=3

and

    train: {rounds: 3, rouns: 4}
"""


def test_what_is_not_there_is_found() -> None:
    assert unknown_links(BAD) == ["gone.md", "method.md#nowhere"]
    assert unknown_files(BAD) == ["src/mmfl/nowhere.py", "simulation/nothing.py"]
    assert unknown_commands(BAD) == [
        "mmfl trane", "mmfl train --speed", "make everything",
        "workflow/scripts/docs_tables.py --verify",
    ]  # fmt: skip
    assert unknown_names(BAD) == ["MMFL_CASH", "mmfl.nowhere", "mmfl.pipeline.jobs.nothing"]
    assert unknown_parameters(BAD) == ["mim.wait", "train.learning_speed", "train.rouns"]


def scripts() -> list[str]:
    """Every script with options that a page tells to run."""
    text = "".join(page.read_text() for page in PAGES)
    found = sorted(set(re.findall(r"python ((?:benchmarks|workflow)/[\w/]+\.py)", text)))
    return [script for script in found if "argparse" in (ROOT / script).read_text()]


@pytest.mark.parametrize("script", scripts())
def test_scripts_start(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.setattr(sys, "path", [str((ROOT / script).parent), *sys.path])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert end.value.code == 0


def test_shell_lines_can_be_pasted() -> None:
    """Quotes are closed."""
    for page in PAGES:
        for line in code(page.read_text()):
            if re.match(r"(mmfl|snakemake|dvc|make|python|docker|apptainer) ", line):
                shlex.split(line, comments=True)
