"""Which source files decide a step's result, found without importing them.

Snakemake does not notice edits below `src/`; the digest given here is a parameter of each rule, and
the same list is the dependencies of the DVC stage of that name.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

from mmfl.errors import UserError

STEPS = ("download", "split", "partition", "train", "evaluate", "report")
SOURCE = Path(__file__).resolve().parents[1]


@cache
def modules(step: str, source: Path = SOURCE) -> tuple[str, ...]:
    """Files that `mmfl.steps.<step>` imports, directly or not, relative to the source folder.

    Follows every `import` statement, also those inside functions, and each package's
    `__init__`. Files beside a module that are not Python (templates, tables) count as well.

    Raises:
        UserError: there is no such step.
    """
    start = f"mmfl.steps.{step}"
    if _file(start, source) is None:
        raise UserError(f"step: found {step}, expected one of {', '.join(STEPS)}")
    seen: dict[str, Path] = {}
    todo = [start]
    while todo:
        name = todo.pop()
        file = _file(name, source)
        if name in seen or file is None:
            continue
        seen[name] = file
        todo += [*_parents(name), *_imports(name, file)]
    files = set(seen.values()) | {extra for file in seen.values() for extra in _extras(file)}
    return tuple(sorted(file.relative_to(source).as_posix() for file in files))


@cache
def digest(step: str, source: Path = SOURCE) -> str:
    """First 16 hex digits of the SHA-256 over names and bytes of `modules(step)`."""
    total = hashlib.sha256()
    for name in modules(step, source):
        content = hashlib.sha256((source / name).read_bytes()).hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()[:16]


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
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
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
