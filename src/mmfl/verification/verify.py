"""Compare what lies in the working tree with what a revision promises, artifact by artifact."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmfl.errors import UserError
from mmfl.facts.tasks import TASKS
from mmfl.params import clients_name, load
from mmfl.pipeline.jobs import code_files, start
from mmfl.steps.report import described_runs, tables_of
from mmfl.verification.cells import Compared, compare_csv, compare_metrics
from mmfl.verification.committed import LOCK, PARAMS, Revision, Stage, mapping
from mmfl.verification.tree import Found, Tree, committed_entry

Verdict = Literal["bit", "tolerance", "reported", "differs", "missing"]
START = "data/start"
LABELS = ("labels/index.parquet", "labels/classes.json")
PIXELS = (".npy", "modality.json", "store.json")  # files that change with a decoded pixel
MASK = "mask"  # the store of a tile archive's labels
WORDS = {
    "bit": "to the bit",
    "tolerance": "within tolerance",
    "reported": "reported",
    "differs": "differ",
    "missing": "missing",
}


@dataclass(frozen=True)
class Row:
    """The verdict on an artifact, and why."""

    archive: str
    step: str
    artifact: str
    verdict: Verdict
    note: str = ""


@dataclass
class Verification:
    """All verdicts, against a revision."""

    against: str
    code: int
    rows: list[Row] = field(default_factory=list)

    def status(self, exact: bool = False) -> int:
        """0 if it is reproduced, else 1. `exact`: only bits count."""
        good = {"bit"} if exact else {"bit", "tolerance", "reported"}
        return 0 if all(row.verdict in good for row in self.rows) else 1

    def text(self, exact: bool = False) -> str:
        """A table and a line that sums it up."""
        head = [("archive", "step", "artifact", "verdict", "")]
        lines = head + [(r.archive, r.step, r.artifact, r.verdict, r.note) for r in self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(4)]
        body = [
            "  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[4]]).rstrip()
            for line in lines
        ]
        body.insert(1, "-" * max(map(len, body)))
        counts = {v: sum(row.verdict == v for row in self.rows) for v in WORDS}
        said = ", ".join(f"{n} {WORDS[v]}" for v, n in counts.items() if n)
        end = "not reproduced" if self.status(exact) else "reproduced"
        only = " (--exact: only bits count)" if exact else ""
        return "\n".join(
            [
                f"Against {self.against}: same parameters, same {self.code} source files.",
                "",
                *body,
                "",
                f"{end}: {len(self.rows)} artifacts, {said}{only}",
            ]
        )


def verify(against: str = "HEAD") -> Verification:
    """Verdicts on every output that the lock of a revision lists, for the working directory.

    Raises:
        UserError: nothing can be compared: no git, no lock, other parameters, other code, no
            outputs.
    """
    revision, tree = Revision(against), Tree()
    stages = revision.stages()
    files = _same_start(stages, revision)
    _same_inputs(stages, tree, revision)
    outs = {path: tree.read(path) for stage in stages for path in stage.outs}
    if not any(found for path, found in outs.items() if not revision.files(path)):
        raise UserError(
            "outputs: no step has written any here, expected those of a whole run; run "
            "make reproduce first"
        )
    found = Verification(str(revision), files)
    for archive in dict.fromkeys(stage.archive for stage in stages):
        own = {stage.step: stage for stage in stages if stage.archive == archive}
        found.rows += _Archive(archive, own, outs, revision, tree).rows()
    return found


def _same_start(stages: list[Stage], revision: Revision) -> int:
    """How many source files decide the steps here.

    Raises:
        UserError: the parameters or the code here are not those that the lock lists.
    """
    params, source = load(PARAMS), Path("src").resolve()
    here = {archive: start(params, archive, source) for archive in params.archives}
    other: list[Stage] = []
    for stage in stages:
        expected = stage.params.get(f"{START}/{stage.archive}.json", {}).get(stage.step)
        if not isinstance(expected, dict) or not all(
            isinstance(v, dict) for v in expected.values()
        ):
            raise UserError(
                f"{LOCK} in {revision}: {stage.step}@{stage.archive} has no digests of values and "
                "code, expected the lock of this version of mmfl; run dvc repro there and commit"
            )
        now = here.get(stage.archive, {}).get(stage.step, {})
        if _values(now) != _values(expected):
            raise UserError(
                f"{PARAMS}: other parameters than in {LOCK} of {revision}, {_edited(revision)} "
                f"({stage.step} of {stage.archive}); restore them and run dvc repro, or name "
                "another revision with --against"
            )
        if now != expected:
            other.append(stage)
    if other:
        steps = ", ".join(dict.fromkeys(stage.step for stage in other))
        step, archive = other[0].step, other[0].archive
        if revision.start(params, archive)[step] == here[archive][step]:
            remedy = (
                f"{LOCK} is older than the code that is committed with it: run dvc repro in "
                f"{revision} and commit, or name the revision of the lock with --against"
            )
        else:
            remedy = f"check out {revision} and run dvc repro"
        raise UserError(
            f"code: src/mmfl differs from that of {LOCK} in {revision} for {steps}; {remedy}"
        )
    return len(
        {name for stage in stages for name in code_files(stage.step, params, stage.archive, source)}
    )


def _values(found: dict[str, Any]) -> dict[str, Any]:
    return {name: job.get("values") for name, job in found.items()}


def _edited(revision: Revision) -> str:
    """The first value in which the parameter files differ, if they do."""
    here = mapping(Path(PARAMS).read_bytes(), PARAMS)
    there = revision.yaml(PARAMS)
    names = dict.fromkeys([*there, *here])
    inner = (_difference(name, here.get(name), there.get(name)) for name in names)
    return next(filter(None, inner), "which is older than the parameters there")


def _difference(key: str, found: Any, expected: Any) -> str:
    """The first value that differs, with its whole name; empty if none does."""
    if isinstance(found, dict) and isinstance(expected, dict):
        names = dict.fromkeys([*expected, *found])
        inner = (_difference(f"{key}.{n}", found.get(n), expected.get(n)) for n in names)
        return next(filter(None, inner), "")
    return "" if found == expected else f"{key}: found {found}, expected {expected}"


def _same_inputs(stages: list[Stage], tree: Tree, revision: Revision) -> None:
    """Raises UserError if an input that no step writes, such as a manifest, is another one here."""
    made_here = {path for stage in stages for path in stage.outs}

    def of_a_step(path: str) -> bool:
        return any(path == out or path.startswith(f"{out}/") for out in made_here)

    listed = {p: e for s in stages for p, e in s.deps.items() if not of_a_step(p)}
    for path, entry in sorted(listed.items()):
        found = tree.read(path)
        if found is None or found.entry.md5 != entry.md5:
            steps = dict.fromkeys(s.step for s in stages if path in s.deps)
            raise UserError(
                f"{path}: not what {LOCK} of {revision} lists, and it decides {', '.join(steps)}; "
                f"check out {revision} and run dvc repro"
            )


class _Archive:
    """The verdicts on one archive's outputs."""

    def __init__(
        self,
        archive: str,
        stages: dict[str, Stage],
        outs: dict[str, Found | None],
        revision: Revision,
        tree: Tree,
    ) -> None:
        self.archive, self.stages, self.outs = archive, stages, outs
        self.revision, self.tree = revision, tree
        kept = ("tables", "metrics.json")  # what git has, to the cell
        self.kept = [p for p in stages["report"].outs if Path(p).name in kept]

    def rows(self) -> list[Row]:
        """In the order of the steps. What has no committed digits is judged by the tables."""
        reported = self._report()
        scores = _worst(row.verdict for row in reported)
        rows = []
        for step, stage in self.stages.items():
            for path in stage.outs:
                if path not in self.kept:
                    rows.append(Row(self.archive, step, path, *self._judge(step, path, scores)))
        return rows + reported

    def _bit(self, step: str, path: str) -> bool:
        found = self.outs[path]
        return found is not None and found.entry.md5 == self.stages[step].outs[path].md5

    def _judge(self, step: str, path: str, scores: Verdict) -> tuple[Verdict, str]:
        found, expected = self.outs[path], self.stages[step].outs[path]
        if found is None:
            return "missing", f"run dvc repro {step}@{self.archive}"
        if self._bit(step, path):
            return "bit", ""
        if found.entry.files != expected.files:
            return "differs", f"{found.entry.files} files, expected {expected.files}"
        if step == "split":
            return self._patches(path, found)
        if Path(path).name == "root.json":
            return "reported", "names where the files lie on this machine"
        if path.endswith(".svg"):
            if all(self._bit(step, p) for p in self.stages[step].outs if p != path):
                return "reported", "drawn otherwise from the same table: matplotlib, fonts"
            return "differs", "drawn from another partition"
        if step in ("download", "partition"):
            return "differs", "expected to the bit on every machine"
        if scores in ("differs", "missing"):
            return "differs", "other bits, and the tables do not agree either"
        if step == "report" and scores == "bit":
            return "reported", "drawn otherwise from the same tables: matplotlib, fonts"
        return "tolerance", "other bits, judged by the tables below"

    def _patches(self, path: str, found: Found) -> tuple[Verdict, str]:
        """Pixels may be decoded otherwise by another GDAL; labels and indices may not differ."""
        deps = self.stages["partition"].deps
        for name in LABELS:
            expected = deps.get(f"{path}/{name}")
            if expected is None or found.listed.get(name) != expected.md5:
                return "differs", f"other labels: {name}"
        before = self.tree.remembered(self.stages["split"].outs[path])
        if before is None:
            unknown = (
                "cannot be known without the list of the committed files, which git restore "
                f"{LOCK} and dvc fetch split@{self.archive} bring from a remote"
            )
            if any(name.startswith(f"{MASK}/") for name in found.listed):
                return "differs", f"images or masks; which {unknown}"
            return "reported", f"decoded pixels differ; in which store {unknown}"
        names = before.keys() | found.listed.keys()
        other = sorted(name for name in names if before.get(name) != found.listed.get(name))
        wrong = [name for name in other if not name.endswith(PIXELS) or name.startswith(f"{MASK}/")]
        if wrong:
            return "differs", f"other labels or indices: {', '.join(wrong[:3])}"
        stores = dict.fromkeys(name.split("/")[0] for name in other if "/" in name)
        return "reported", f"decoded pixels differ: {', '.join(stores)}"

    def _report(self) -> list[Row]:
        """A row for metrics.json and for each table.

        Raises:
            UserError: the revision's tables are not those of its lock.
        """
        outs = self.stages["report"].outs
        for path in self.kept:
            kept = committed_entry(self.revision, path)
            if kept is None or kept.md5 != outs[path].md5:
                raise UserError(
                    f"{path} in {self.revision}: not what {LOCK} lists there, expected the "
                    "tables of the same run; run dvc repro and commit both"
                )
        sources = [(s, p) for s in ("train", "evaluate") for p in self.stages[s].outs]
        lost = [path for _, path in sources if self.outs[path] is None]
        if lost:
            note = f"from git: {lost[0]}, which it is made from, is not here"
            return [self._row(path, "missing", note) for path in self.kept]
        everything = [*sources, *(("report", path) for path in outs)]
        with tempfile.TemporaryDirectory() as folder:
            again = Path(folder, "results")
            fault = ""
            if not all(self._bit(step, path) for step, path in everything):
                fault = self._redraw(again)
            rows = []
            for path in self.kept:
                if Path(path).is_dir():
                    rows += self._folder(Path(path), again / Path(path).name, fault)
                else:
                    rows.append(
                        self._row(path, *self._metrics(Path(path), again / Path(path).name, fault))
                    )
        return rows

    def _redraw(self, out: Path) -> str:
        """Make the tables of the runs and scores here; what is wrong if they cannot be made."""
        params = load(PARAMS).of(self.archive)
        try:
            tables_of(
                archive=self.archive,
                clients=clients_name(params),
                runs=described_runs(params, self.archive),
                out=out,
                partition=Path("data/clients", self.archive, clients_name(params)),
                baseline=params.report.baseline,
            )
        except UserError as error:
            return str(error)
        return ""

    def _row(self, artifact: str | Path, verdict: Verdict, note: str = "") -> Row:
        return Row(self.archive, "report", str(artifact), verdict, note)

    def _task(self) -> str:
        """The task of the archive, by the scores that are committed."""
        path = next(p for p in self.kept if p.endswith(".json"))
        scores = {m for row in json.loads(self.revision.read(path) or b"{}").values() for m in row}
        for task in TASKS.values():
            if task.first in scores:
                return task.name
        raise UserError(
            f"{path} in {self.revision}: found no score of a known task, expected one of "
            f"{', '.join(task.first for task in TASKS.values())}"
        )

    def _metrics(self, path: Path, again: Path, fault: str) -> tuple[Verdict, str]:
        if not path.is_file():
            return "missing", f"run dvc repro report@{self.archive}"
        old, new = self.revision.read(str(path)) or b"", path.read_bytes()
        try:
            compared = compare_metrics(self._task(), json.loads(old), json.loads(new))
        except (ValueError, AttributeError):
            return "differs", "not readable as JSON"
        return _verdict([(old, new, again)], compared, fault)

    def _folder(self, folder: Path, again: Path, fault: str) -> list[Row]:
        """A row per table: its csv, and the Markdown and LaTeX that are laid out from it."""
        kept = {Path(name).name for name in self.revision.files(str(folder))}
        here = {item.name for item in folder.iterdir()} if folder.is_dir() else set()
        rows = []
        for stem in sorted({Path(name).stem for name in kept}):
            names = sorted(name for name in kept if Path(name).stem == stem)
            lost = [name for name in names if name not in here]
            if lost:
                note = f"{', '.join(lost)}; run dvc repro report@{self.archive}"
                rows.append(self._row(folder / stem, "missing", note))
                continue
            files = [
                (self.revision.read(f"{folder}/{n}") or b"", (folder / n).read_bytes(), again / n)
                for n in names
            ]
            old, new, _ = files[names.index(f"{stem}.csv")]
            compared = compare_csv(self._task(), old, new)
            rows.append(self._row(folder / stem, *_verdict(files, compared, fault)))
        for name in sorted(here - kept):
            if not name.startswith("."):
                rows.append(self._row(folder / name, "differs", "a file that is not committed"))
        return rows


def _verdict(
    files: list[tuple[bytes, bytes, Path]], compared: Compared, fault: str
) -> tuple[Verdict, str]:
    """The verdict on a table or metrics.json.

    Args:
        files: each committed, as it lies here, and where the one that the runs and scores here
            give lies (nowhere if all of them agree to the bit).
        compared: its cells. Faults come first, then cells out of tolerance, then where it is from.
        fault: why it cannot be made from the runs and scores here.
    """
    if compared.faults:
        more = len(compared.faults) - 1
        return "differs", compared.faults[0] + (f", and {more} more" if more else "")
    claims = f"; {compared.claims} claims at p < 0.05 change" if compared.claims else ""
    if compared.outside:
        count = f"{len(compared.outside)} of {len(compared.cells)} cells out of tolerance"
        return "differs", f"{count}, most: {compared.worst}{claims}"
    if compared.shifted:
        return "differs", f"{compared.shifted}: a shift of all{claims}"
    if fault:
        return "differs", f"cannot be made from the runs and scores here: {fault}"
    for _, new, again in files:
        if again.exists() and again.read_bytes() != new:
            return "differs", f"{again.name} is not what the runs and scores here give"
    if all(old == new for old, new, _ in files):
        return "bit", ""
    return "tolerance", f"{compared.worst or 'digits of equal numbers'}{claims}"


def _worst(verdicts: Iterable[Verdict]) -> Verdict:
    order: list[Verdict] = ["bit", "reported", "tolerance", "differs", "missing"]
    return max(verdicts, key=order.index, default="missing")
