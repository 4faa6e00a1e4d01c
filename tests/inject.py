"""Puts faults into lines of src/mmfl, one at a time in a copy, and lists those that no test sees.

    python tests/inject.py federation/loop.py [clients ...] [--sample 40 --seed 1] [--lines 60-120]

First the chosen tests run once on the intact copy; which lines each of them runs is noted. Then
every fault is met by the tests that run its line, the quickest first, until one fails. What
survives is either equivalent to the line as it was, or a test that is missing.

Faults are those that a hurried reviewer lets pass: another operator, bound, axis or constant, two
names or values exchanged, a weight, cap, condition, sort, `detach` or `no_grad` that is not there,
an item that the key of a draw lacks, a loop that ends after its first round. A `--sample` has every
kind in turn. Faults in messages and in the log are not made, nor those that only end in a crash
(a required argument dropped). `--list` shows them, `--tests` names other tests than those of the
package.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import dataclasses
import functools
import inspect
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FEDERATION = ["tests/federation", "tests/strategies"]
TESTS = {  # package -> its tests; whole pipelines are left out
    "federation": [*FEDERATION, "tests/steps/test_train.py"],
    "strategies": FEDERATION,
    "clients": ["tests/clients", "tests/federation", "tests/steps/test_partition.py"],
    "patches": ["tests/patches", "tests/federation"],
    "evaluation": ["tests/evaluation", "tests/federation", "tests/steps/test_evaluate.py",
                   "tests/steps/test_evaluate_pixels.py"],
    "models": ["tests/models", "tests/federation"],
}  # fmt: skip
LEFT_OUT = ("test_mutations.py", "test_adding", "test_devices.py")  # slow, or about themselves
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
COMPARISONS = {
    ast.Lt: [ast.LtE, ast.Gt], ast.LtE: [ast.Lt, ast.GtE], ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.LtE], ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq],
    ast.In: [ast.NotIn], ast.NotIn: [ast.In], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is],
}  # fmt: skip
NAMES = {  # functions and attributes
    "min": "max", "max": "min", "sum": "mean", "mean": "sum", "any": "all", "all": "any",
    "sorted": "list", "zeros": "ones", "zeros_like": "ones_like", "std": "var", "var": "std",
    "argmin": "argmax", "argmax": "argmin", "clamp_min": "clamp_max", "floor": "ceil",
    "maximum": "minimum", "minimum": "maximum", "round": "int", "unique": "sort",
    "permutation": "sort", "cumsum": "asarray", "train": "eval",
    "no_grad": "enable_grad", "flatnonzero": "argsort",
    "intersect1d": "union1d", "union1d": "intersect1d",
}  # fmt: skip
OPPOSITES = (  # names of which one is easily taken for the other, where a function has both
    "rows columns", "row column", "height width", "top left", "low high", "first last",
    "before after", "truth predicted", "true predicted", "mean std", "own other", "here there",
    "test validation", "locations rows", "samples locations", "client group", "one two",
    "start stop", "source target", "images targets", "wanted found", "known found", "a b", "u v",
    "left right", "own base", "kept sent", "part rows", "seed epoch", "whole rest",
)  # fmt: skip
WORDS = {
    "train": ["test", "validation"], "test": ["validation"], "validation": ["test"],
    "s1": ["s2"], "s2": ["s1"], "client": ["group", "modality"], "group": ["client"],
    "modality": ["client", "average"], "average": ["modality"], "local": ["modality"],
    "trained": ["late"], "failed": ["late"], "late": ["failed"], "fails": ["late"],
    "size": ["uniform"], "global": ["client"], "mean": ["std"], "std": ["mean"],
    "position": ["client"], "pair": ["group"], "sum": ["mean"], "macro": ["micro"],
    "country": ["group"], "month": ["country"], "round": ["client"],
}  # fmt: skip
PLAIN = {"min", "max", "sum", "any", "all", "sorted", "round"}
BOUNDS = {"min", "max", "maximum", "minimum", "clip", "clamp"}  # a cap that is never applied
SYMMETRIC = {*BOUNDS, "generator", "intersect1d", "union1d"}
BARE = {"detach", "clone", "copy", "double", "float", "abs", "eval", "train", "lower"}
HARMLESS = {
    "strict",
    "frozen",
    "device",
    "dtype",
    "observed",
    "kind",
}  # arguments: speed, or a crash
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "no:warnings"]
QUIET = {"log", "logging", "warnings"}
Fault = tuple[int, int, str, str]
"""First line, last line, what, the changed source."""


class Faults(ast.NodeTransformer):
    """Makes the n-th possible fault; `done` is (first line, last line, what), `seen` how many."""

    def __init__(self, number: int = -1) -> None:
        self.number, self.seen = number, 0
        self.done: tuple[int, int, str] | None = None
        self.kinds: list[str] = []
        self._line = (0, 0)
        self._names: set[str] = set()
        self._known: set[str] = set()  # what the file defines and imports

    def hit(self, what: str) -> bool:
        self.seen += 1
        if self.number < 0:
            self.kinds.append(what)
        if self.seen - 1 == self.number:
            self.done = (*self._line, what)
            return True
        return False

    def visit(self, node: ast.AST) -> ast.AST | None:
        if isinstance(node, ast.stmt):
            inner = getattr(node, "body", None)
            last = inner[0].lineno - 1 if isinstance(inner, list) else node.end_lineno
            before, self._line = self._line, (node.lineno, max(node.lineno, last or 0))
            found = super().visit(node)
            self._line = before
            return found
        return super().visit(node)

    # ---- what is left alone --------------------------------------------------------------------
    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_Module(self, node: ast.Module) -> ast.AST:
        for one in ast.walk(node):
            if isinstance(one, ast.FunctionDef | ast.ClassDef):
                self._known.add(one.name)
            elif isinstance(one, ast.Import | ast.ImportFrom):
                self._known |= {alias.asname or alias.name for alias in one.names}
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = [self.visit(s) for s in node.body]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        outside, self._names = self._names, {n.id for n in ast.walk(node) if _is(n, ast.Name)}
        node = self._function(node)
        self._names = outside
        return node

    def _function(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self._names |= {argument.arg for argument in node.args.args}
        for place, decorator in enumerate(node.decorator_list):
            if "no_grad" in ast.dump(decorator) and self.hit("no_grad dropped"):
                del node.decorator_list[place]
                return node
        node.args.defaults = [self.visit(d) for d in node.args.defaults]
        node.args.kw_defaults = [d and self.visit(d) for d in node.args.kw_defaults]
        node.body = [self.visit(s) for s in node.body]
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        return node

    visit_Import = visit_Assert = visit_ImportFrom  # type: ignore[assignment]

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """The key of a draw or of a cache lacks an item; texts of errors are not visited."""
        for place, value in enumerate(node.values):
            if isinstance(value, ast.FormattedValue) and self.hit("item of an f-string dropped"):
                del node.values[place]
                return node
        return node

    # ---- statements ----------------------------------------------------------------------------
    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant) or _quiet(node.value):
            return node
        if self.hit("statement dropped"):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if isinstance(node.targets[0], ast.Name) and node.targets[0].id.startswith("__"):
            return node
        stored = isinstance(node.targets[0], ast.Subscript | ast.Attribute)
        if stored and self.hit("assignment dropped"):
            return ast.copy_location(ast.Pass(), node)
        if self._pair(node.value):
            return node
        node.value = self.visit(node.value)
        if stored:
            node.targets = [self.visit(target) for target in node.targets]
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        if self.hit("statement dropped"):
            return ast.copy_location(ast.Pass(), node)
        if self.hit("only assigned"):
            target = copy.copy(node.target)
            return ast.copy_location(ast.Assign([target], node.value), node)
        other = OPERATORS.get(type(node.op))
        if other and self.hit(f"{type(node.op).__name__} to {other.__name__}"):
            node.op = other()
            return node
        node.value = self.visit(node.value)
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        return node if node.value and self._pair(node.value) else self.generic_visit(node)

    def _pair(self, value: ast.expr) -> bool:
        """Whether the two values of `value` were exchanged."""
        pair = isinstance(value, ast.Tuple) and len(value.elts) == 2
        if pair and self.hit("two values exchanged"):
            value.elts.reverse()  # type: ignore[attr-defined]
            return True
        return False

    def visit_For(self, node: ast.For) -> ast.AST:
        if self.hit("only the first of a loop"):
            node.iter = ast.parse(f"list({ast.unparse(node.iter)})[:1]", mode="eval").body
            return node
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.copy_location(ast.Pass(), node) if self.hit("raise dropped") else node

    def visit_Continue(self, node: ast.Continue) -> ast.AST:
        return ast.copy_location(ast.Pass(), node) if self.hit("continue dropped") else node

    def visit_Break(self, node: ast.Break) -> ast.AST:
        return ast.copy_location(ast.Pass(), node) if self.hit("break dropped") else node

    def visit_If(self, node: ast.If) -> ast.AST:
        for value in (True, False):
            if self.hit(f"if {value}"):
                node.test = ast.copy_location(ast.Constant(value), node.test)
                return node
        node.test = self.visit(node.test)
        own = self._line
        node.body = [self.visit(s) for s in node.body]
        node.orelse = [self.visit(s) for s in node.orelse]
        self._line = own
        return node

    # ---- expressions ---------------------------------------------------------------------------
    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        for other in COMPARISONS.get(type(node.ops[0]), []):
            if self.hit(f"{type(node.ops[0]).__name__} to {other.__name__}"):
                node.ops[0] = other()
                return node
        return self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        for place in range(len(node.values)):
            if self.hit(f"term {place + 1} of and/or dropped"):
                del node.values[place]
                return node.values[0] if len(node.values) == 1 else node
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            if self.hit(f"{type(node.op).__name__} dropped"):
                return node.operand
            if isinstance(node.operand, ast.Constant):
                return node
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if isinstance(node.left, ast.JoinedStr) or isinstance(node.right, ast.JoinedStr):
            return node
        other = OPERATORS.get(type(node.op))
        if other and self.hit(f"{type(node.op).__name__} to {other.__name__}"):
            node.op = other()
            return node
        for side in ("left", "right"):
            if self.hit(f"only the {side} of {type(node.op).__name__}"):
                return getattr(node, side)
        return self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        if self.hit("always the first of if/else"):
            return node.body
        if self.hit("always the second of if/else"):
            return node.orelse
        return self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        if node.ifs and self.hit("condition of a comprehension dropped"):
            node.ifs = []
            return node
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = node.value
        others: list[object] = []
        if isinstance(value, bool):
            others = [not value]
        elif isinstance(value, int):
            others = [value + 1, value - 1]
        elif isinstance(value, float):
            others = [value * 2 + 1]
        elif isinstance(value, str):
            others = list(WORDS.get(value, []))
        for other in others:
            if self.hit(f"{value!r} to {other!r}"):
                return ast.copy_location(ast.Constant(other), node)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        for pair in OPPOSITES if isinstance(node.ctx, ast.Load) else ():
            one, two = pair.split()
            opposite = {one: two, two: one}.get(node.id)
            if opposite in self._names and self.hit(f"{node.id} to {opposite}"):
                return ast.copy_location(ast.Name(str(opposite), node.ctx), node)
        other = NAMES.get(node.id)
        known = other and isinstance(node.ctx, ast.Load) and node.id in PLAIN
        if known and self.hit(f"{node.id} to {other}"):
            return ast.copy_location(ast.Name(str(other), node.ctx), node)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        other = NAMES.get(node.attr)
        if other and isinstance(node.ctx, ast.Load) and self.hit(f".{node.attr} to .{other}"):
            return ast.copy_location(ast.Attribute(node.value, other, node.ctx), node)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "Literal":
            return node
        sliced = isinstance(node.slice, ast.Slice) and isinstance(node.ctx, ast.Load)
        if sliced and self.hit("slice dropped"):
            return node.value
        for bound in ("lower", "upper") if sliced else ():
            value = getattr(node.slice, bound)
            if value and not _is(value, ast.Constant) and self.hit(f"{bound} bound of a slice + 1"):
                setattr(node.slice, bound, ast.BinOp(value, ast.Add(), ast.Constant(1)))
                return node
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _quiet(node):
            return node
        name = _name(node)
        plain = not any(isinstance(a, ast.Starred) for a in node.args)
        for place in range(len(node.args)) if plain and name == "generator" else ():
            if place and self.hit("item of a generator's key dropped"):
                del node.args[place]
                return node
        if plain and name in BOUNDS and isinstance(node.func, ast.Name) and len(node.args) == 2:
            for place in (0, 1):
                if self.hit(f"argument {place + 1} of {name} alone"):
                    return node.args[place]
        if (
            plain
            and name == "where"
            and len(node.args) == 3
            and self.hit("where's values exchanged")
        ):
            node.args[1:] = node.args[:0:-1]
            return node
        if plain and len(node.args) >= 2:
            alike = all(isinstance(a, ast.Name | ast.Attribute) for a in node.args[:2])
            if alike and name not in SYMMETRIC and self.hit("first two arguments exchanged"):
                node.args[0], node.args[1] = node.args[1], node.args[0]
                return node
            own = isinstance(node.func, ast.Name) and name in self._known
            if not own and name not in BOUNDS and self.hit("last argument dropped"):
                node.args.pop()
                return node
        of_module = (
            isinstance(node.func, ast.Attribute)
            and _is(node.func.value, ast.Name)
            and (
                node.func.value.id in self._known  # type: ignore[attr-defined]
            )
        )
        if isinstance(node.func, ast.Attribute) and plain and not of_module:
            bare = name in BARE if not node.args else len(node.args) == 1 and name != "append"
            if bare and self.hit(f".{name}() left out"):
                return node.func.value
        for place, keyword in enumerate(node.keywords):
            if keyword.arg not in HARMLESS and self.hit(f"argument {keyword.arg} dropped"):
                del node.keywords[place]
                return node
        return self.generic_visit(node)


def _is(node: ast.AST, kind: type[ast.AST]) -> bool:
    return isinstance(node, kind)


def _quiet(node: ast.AST) -> bool:
    """Whether a call goes to the log or makes an error's text."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func
    while isinstance(name, ast.Attribute):
        name = name.value
    return isinstance(name, ast.Name) and (name.id in QUIET or name.id.endswith("Error"))


def _name(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def kinds(source: str) -> list[str]:
    """What every fault of a file would be, by its number."""
    counter = Faults()
    counter.visit(ast.parse(source))
    return counter.kinds


def faults(source: str, numbers: Sequence[int]) -> Iterator[Fault]:
    """The faults of a file by their numbers; without those that change nothing."""
    intact = ast.unparse(ast.parse(source))
    for number in numbers:
        one = Faults(number)
        tree = ast.fix_missing_locations(one.visit(ast.parse(source)))
        assert one.done is not None
        changed = ast.unparse(tree)
        if changed != intact:
            yield (*one.done, changed)


def drawn(kinds: Sequence[str], count: int, seed: int) -> list[int]:
    """Numbers of `count` faults, of every kind in turn: most would be constants and calls."""
    by_kind: dict[str, list[int]] = defaultdict(list)
    for number in random.Random(seed).sample(range(len(kinds)), len(kinds)):
        by_kind[kinds[number]].append(number)
    turns = itertools.zip_longest(*by_kind.values())
    return sorted([n for turn in turns for n in turn if n is not None][:count])


# ---- running tests ------------------------------------------------------------------------------


class Noted:
    """A pytest plugin: which lines of some files every test runs, how long it takes, what fails."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.lines: dict[str, dict[str, set[int]]] = {str(f): defaultdict(set) for f in files}
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: list[str] = []
        self.now = "import"

    def trace(self, frame, event, argument):  # type: ignore[no-untyped-def]
        found = self.lines.get(frame.f_code.co_filename)
        if found is None:
            return None
        own = found[self.now]
        own.add(frame.f_lineno)

        def line(frame, event, argument):  # type: ignore[no-untyped-def]
            own.add(frame.f_lineno)
            return line

        return line

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.now = nodeid

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed or report.skipped:
            self.failed.append(report.nodeid)


def functions(tree: ast.Module) -> dict[str, ast.AST]:
    """The functions of a file by qualified name, those within functions apart."""
    found: dict[str, ast.AST] = {}

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                found[prefix + node.name] = node

    walk(tree.body, "")
    return found


def codes(code: types.CodeType) -> dict[str, types.CodeType]:
    """All code within a code object by qualified name."""
    found = {}
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found |= {inner.co_qualname: inner} | codes(inner)
    return found


def exchange(file: Path, name: str, intact: str, changed: str) -> None:
    """Put a changed function into its imported module.

    Where more than the body of a function changed, forget the modules: all is imported anew.
    """
    before, after = ast.parse(intact), ast.parse(changed)
    one, two = functions(before), functions(after)
    different = [n for n in one if n in two and ast.dump(one[n]) != ast.dump(two[n])]
    module = sys.modules.get("mmfl." + name.removesuffix(".py").replace("/", "."))
    try:
        (path,) = different
        place: Any = module
        for part in path.split("."):
            place = inspect.getattr_static(place, part)
        place = getattr(place, "fget", None) or getattr(place, "func", None) or place
        place = inspect.unwrap(getattr(place, "__func__", place))
        for node in (one[path], two[path]):
            node.body = []  # type: ignore[attr-defined]
        if ast.dump(before) != ast.dump(after):
            raise ValueError("more than the body")
        place.__code__ = codes(compile(changed, str(file), "exec"))[path]
    except (AttributeError, KeyError, TypeError, ValueError):
        for found, held in list(sys.modules.items()):
            where = getattr(held, "__file__", None) or ""
            if found.partition(".")[0] == "mmfl" or where.startswith(str(ROOT / "tests")):
                del sys.modules[found]


def child(
    src: Path,
    arguments: list[str],
    limit: float,
    prepare: Callable[[], Any],
    noted: Noted | None = None,
) -> tuple[int, dict[str, Any]]:
    """Run pytest in a fork of this process, which has imported everything; (status, notes)."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as answer:
        pid = os.fork()
        if pid == 0:
            code = 3
            with contextlib.suppress(BaseException):
                os.setpgid(0, 0)
                quiet = os.open(os.devnull, os.O_RDWR)
                for number in (0, 1, 2):
                    os.dup2(quiet, number)
                prepare()
                if noted:
                    threading.settrace(noted.trace)
                    sys.settrace(noted.trace)
                code = int(pytest.main([*OPTIONS, *arguments], [noted] if noted else []))
                sys.settrace(None)
                if noted:
                    notes = {"seconds": noted.seconds, "failed": noted.failed}
                    lines = {
                        file: {test: sorted(found) for test, found in tests.items()}
                        for file, tests in noted.lines.items()
                    }
                    Path(answer.name).write_text(json.dumps(notes | {"lines": lines}))
            os._exit(code)
        deadline = time.monotonic() + limit
        code, done = -1, 0
        while not done and time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if done else -1
            time.sleep(0.01)
        with contextlib.suppress(OSError):  # the child, if it is still there, and what it started
            os.killpg(pid, signal.SIGKILL)
        if not done:
            os.waitpid(pid, 0)
        text = answer.read()
        return code, json.loads(text) if text else {}


def preload(src: Path, tests: list[str]) -> None:
    """Import the copy and the tests once; every child inherits them."""
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(src), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.path.insert(0, str(src))
    os.chdir(ROOT)
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):  # noqa: PTH123
        pytest.main([*OPTIONS, "--collect-only", *tests])
    import torch

    import mmfl
    from helpers.warm_python import python

    torch.set_num_threads(1)
    assert Path(str(mmfl.__file__)).is_relative_to(src)
    python()  # or each child would start one


def chosen_tests(package: str, given: list[str]) -> list[str]:
    """The files of tests for a package, or those that were named."""
    if given:
        return given
    files = [f for name in TESTS.get(package, [f"tests/{package}"]) for f in _files(ROOT / name)]
    return [str(f.relative_to(ROOT)) for f in files if not f.name.startswith(LEFT_OUT)]


def _files(path: Path) -> list[Path]:
    return sorted(path.rglob("test_*.py")) if path.is_dir() else [path]


@dataclasses.dataclass
class Known:
    """What the tests do to the intact copy: how long each takes, and who runs a line of a file."""

    seconds: dict[str, float]
    runs: dict[str, dict[int, list[str]]]


def look(src: Path, names: Sequence[str], tests: list[str]) -> Known:
    """Run the tests once on the intact copy."""
    files = [src / "mmfl" / name for name in names]
    code, found = child(src, tests, 7200, lambda: None, Noted(files))
    if code not in (0, 1) or not found:
        raise SystemExit(f"the tests do not run on the intact copy (pytest ended {code})")
    bad = set(found["failed"])
    known = Known({t: s for t, s in found["seconds"].items() if t not in bad}, {})
    for name, file in zip(names, files, strict=True):
        known.runs[name] = defaultdict(list)
        for test, lines in found["lines"][str(file)].items():
            for line in lines if test in known.seconds else ():
                known.runs[name][line].append(test)
    return known


def chosen_faults(source: str, options: argparse.Namespace) -> list[Fault]:
    """The faults of a file that the options ask for."""
    named = kinds(source)
    first, _, last = options.lines.partition("-")
    if first:
        every = list(faults(source, range(len(named))))
        every = [f for f in every if int(first) <= f[0] <= int(last or first)]
        chosen = drawn([f[2] for f in every], options.sample or len(every), options.seed)
        return [every[number] for number in chosen]
    return list(faults(source, drawn(named, options.sample or len(named), options.seed)))


def inject(src: Path, name: str, every: Sequence[Fault], known: Known, budget: float) -> list[str]:
    """The survivors of one file, a line each; prints as it goes."""
    file = src / "mmfl" / name
    source = file.read_text()
    seconds, runs = known.seconds, known.runs[name]
    survivors = []
    text = source.splitlines()
    for path in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        path.unlink()
    for start, stop, what, changed in every:
        able = {t for line in range(start, stop + 1) for t in runs.get(line, ())}
        ordered = sorted(able or seconds, key=lambda t: seconds[t])
        picked, spent = [], 0.0
        for test in ordered:
            spent += seconds[test]
            if picked and spent > budget:
                break
            picked.append(test)
        file.write_text(changed)
        prepare = functools.partial(exchange, file, name, source, changed)
        code, _ = child(src, ["-x", *picked], 10 * budget + 60, prepare)
        if code == 0:
            why = f"{len(picked)} of {len(able)} tests" if able else "no test runs it"
            survivors.append(f"{name}:{start}: {what} ({why}): {text[start - 1].strip()}")
            print("survived", survivors[-1], flush=True)
    file.write_text(source)
    print(f"{name}: {len(survivors)} of {len(every)} survived", flush=True)
    return survivors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", help="files or folders below src/mmfl")
    parser.add_argument("--tests", nargs="+", default=[], help="tests as pytest names them")
    parser.add_argument(
        "--sample", type=int, default=0, help="so many faults of each file, of every kind in turn"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", default="", help="only these lines: 60 or 60-120")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of tests for a fault")
    parser.add_argument("--list", action="store_true", help="only list the faults")
    options = parser.parse_args()
    names: list[str] = []
    for given in options.files:
        path = ROOT / "src/mmfl" / given
        found = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        names += [str(p.relative_to(ROOT / "src/mmfl")) for p in found]
    if options.list:
        for name in names:
            for start, _, what, _ in chosen_faults((ROOT / "src/mmfl" / name).read_text(), options):
                print(f"{name}:{start}: {what}")
        return
    with tempfile.TemporaryDirectory() as folder:
        src = Path(folder, "src")
        shutil.copytree(ROOT / "src", src)
        survivors = []
        packages = {name.partition("/")[0] for name in names}
        preload(src, sorted({t for p in packages for t in chosen_tests(p, options.tests)}))
        for package in sorted(packages):
            own = [name for name in names if name.partition("/")[0] == package]
            known = look(src, own, chosen_tests(package, options.tests))
            for name in own:
                every = chosen_faults((src / "mmfl" / name).read_text(), options)
                survivors += inject(src, name, every, known, options.budget)
    print(f"{len(survivors)} survivors")


if __name__ == "__main__":
    main()
