"""Which source files decide a step's result, found without importing them.

Snakemake does not notice edits below `src/`; the digest given here is a parameter of each rule, and
DVC finds the same digest in what a run starts with (`mmfl.pipeline.frozen`). It ends at
`mmfl.params`, whose effect is in the values of a job, and at other packages, of which their version
in requirements.lock counts.
"""

from __future__ import annotations

import ast
import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path

from mmfl.errors import UserError

STEPS = ("download", "split", "partition", "train", "evaluate", "report")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
STRING_OR_COMMENT = re.compile(  # what begins first; as of Python 3.11, no quote nests in itself
    r'"""(?:[^"\\]|\\.|"(?!""))*"""'
    r"|'''(?:[^'\\]|\\.|'(?!''))*'''"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'(?:[^'\\\n]|\\.)*'"
    r"|#[^\n]*",
    re.DOTALL,
)
SOURCE = Path(__file__).resolve().parents[2]
LOCK = "requirements.lock"  # beside the source folder
NAMES = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}  # package -> distribution
READ_OR_SHOWN = {  # no result depends on their version
    "psutil", "pydantic", "pyyaml", "requests", "tenacity", "tqdm", "typer", "urllib3",
}  # fmt: skip
VALUES = "mmfl.params"  # what it decides is in a job's values


@cache
def modules(step: str, chosen: tuple[str, ...] = (), source: Path = SOURCE) -> tuple[str, ...]:
    """Files that `mmfl.steps.<step>` imports, directly or not, relative to the source folder.

    Follows every `import` statement, also those inside functions, and each package's
    `__init__`. Files beside a module that are not Python (templates, tables) count as well.

    Args:
        step: a module of `mmfl.steps`.
        chosen: modules that the step imports by a name in the parameters (`mmfl.chosen`).
        source: the folder that holds `mmfl`.

    Raises:
        UserError: there is no such step.
    """
    start = f"mmfl.steps.{step}"
    if _file(start, source) is None:
        raise UserError(f"step: found {step}, expected one of {', '.join(STEPS)}")
    seen: dict[str, Path] = {}
    todo = [start, *chosen]
    while todo:
        name = todo.pop()
        file = _file(name, source)
        if name in seen or file is None or f"{name}.".startswith(f"{VALUES}."):
            continue
        seen[name] = file
        todo += [*_parents(name), *_imports(name, file)]
    files = set(seen.values()) | {extra for file in seen.values() for extra in _extras(file)}
    return tuple(sorted(file.relative_to(source).as_posix() for file in files))


@cache
def digest(step: str, chosen: tuple[str, ...] = (), source: Path = SOURCE) -> str:
    """First 16 hex digits of the SHA-256 over `packages` and the content of `modules`.

    Comments, docstrings and blank lines of a module do not count: no result depends on them.
    """
    total = hashlib.sha256("\n".join(packages(step, chosen, source)).encode())
    for name in modules(step, chosen, source):
        total.update(f"{name}\0{_read(source / name)[0]}\n".encode())
    return total.hexdigest()[:16]


@cache
def packages(step: str, chosen: tuple[str, ...] = (), source: Path = SOURCE) -> tuple[str, ...]:
    """The lines of requirements.lock that pin what the modules of a job import."""
    files = (source / name for name in modules(step, chosen, source) if name.endswith(".py"))
    wanted = {NAMES.get(name, name) for file in files for name in _roots(file)} - READ_OR_SHOWN
    return tuple(line for line in _locked(source) if line.partition("==")[0].lower() in wanted)


@cache
def _locked(source: Path) -> tuple[str, ...]:
    lock = source.parent / LOCK
    return tuple(lock.read_text(encoding="utf-8").splitlines()) if lock.is_file() else ()


@cache
def _roots(file: Path) -> frozenset[str]:
    """First parts of the names that a file imports from anywhere."""
    found: set[str] = set()
    for node in _read(file)[1]:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif not node.level:
            found.add((node.module or "").partition(".")[0])
    return frozenset(found)


@cache
def _read(file: Path) -> tuple[str, list[ast.Import | ast.ImportFrom]]:
    """SHA-256 of what counts in a file, and its imports."""
    data, imports = file.read_bytes(), []
    if file.suffix == ".py":
        text = data.decode("utf-8")
        tree = ast.parse(text)  # not kept: the collector would go through all trees again and again
        data = statements(text, tree).encode("utf-8")
        imports = [n for n in _statements(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    return hashlib.sha256(data).hexdigest(), imports


def statements(text: str, tree: ast.Module | None = None) -> str:
    """The lines of a module without comments, docstrings, blank lines and spaces at their ends.

    What is left does not depend on the version of Python that reads it, unlike a dumped syntax
    tree. Lines of a string that is a value stay as they are.
    """
    lines = text.split("\n")
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    kept = set()  # numbers of lines that end within a string
    cut: dict[int, list[tuple[int, int]]] = {}  # line -> columns, in characters
    for found in STRING_OR_COMMENT.finditer(text):
        number = bisect_right(starts, found.start())
        if found[0].startswith("#"):
            cut[number] = [(found.start() - starts[number - 1], len(lines[number - 1]))]
        elif "\n" in found[0]:
            kept |= set(range(number, number + found[0].count("\n")))
    for node in _statements(tree or ast.parse(text)):
        if not isinstance(node, DOCUMENTED) or not ast.get_docstring(node, clean=False):
            continue
        held = node.body[0]
        end, last = held.end_lineno or held.lineno, held.end_col_offset or 0
        for number in range(held.lineno, end + 1):
            line = lines[number - 1]
            first = _column(line, held.col_offset) if number == held.lineno else 0
            cut.setdefault(number, []).append(
                (first, _column(line, last) if number == end else len(line))
            )
    left = []
    for number, line in enumerate(lines, 1):
        if number in kept and number not in cut:
            left.append(line)
            continue
        for first, last in sorted(cut.get(number, []), reverse=True):
            line = line[:first] + line[last:]
        if line.strip():
            left.append(line.rstrip())
    return "\n".join(left)


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """A module and all its statements; no expressions, which are ten times as many."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, part, [])
            todo += inner if isinstance(inner, list) else []


def _column(line: str, offset: int) -> int:
    """A column in characters; the syntax tree counts bytes."""
    return len(line.encode("utf-8")[:offset].decode("utf-8"))


@cache
def _file(name: str, source: Path) -> Path | None:
    base = source.joinpath(*name.split("."))
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if file.is_file():
            return file
    return None


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


@cache
def _imports(name: str, file: Path) -> tuple[str, ...]:
    """Names below `mmfl` that a file imports; names that are no module are dropped later."""
    found: list[str] = []
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in _read(file)[1]:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        else:
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    found = [item for item in found if item.split(".")[0] == "mmfl"]
    return (*found, *(parent for item in found for parent in _parents(item)))


def _extras(file: Path) -> list[Path]:
    """Data files beside a package's `__init__`, such as a template."""
    if file.name != "__init__.py":
        return []
    ignored = {".py", ".pyc", ".typed", ".tmp"}
    return [
        item
        for item in file.parent.iterdir()
        if item.is_file() and item.suffix not in ignored and not item.name.startswith(".")
    ]
