"""`mmfl verify` in clones of a small experiment: every verdict, every exit status."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from helpers.project_clone import Clone
from mmfl.files import read_json, write_json
from mmfl.intact import digests
from mmfl.pipeline.code import STEPS, modules
from mmfl.verification.tolerance import limit

pytestmark = pytest.mark.slow

NAME = "region-duplicate-p0"
PATCHES = {a: f"data/patches/{a}" for a in ("simulated", "simulated-tiles")}
RESULTS = f"results/simulated/{NAME}"


def flip(path: Path) -> None:
    """Change the last bit of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()  # it may be a hard link
    path.write_bytes(content)


def test_no_step_imports_it():
    assert not [m for step in STEPS for m in modules(step) if "verification" in m]


def test_where_it_was_made_and_in_another_clone(origin, reproduced):
    assert "up to date" in origin.dvc("status"), "DVC's own word on the lock"
    for place in (origin, reproduced):
        for options in ([], ["--exact"]):
            status, text = place.verify(*options)
            assert status == 0, text
            assert "reproduced: 32 artifacts, 32 to the bit" in text.splitlines()[-1]
    done = reproduced.run("-m", "mmfl.cli", "verify", "--against", "nonsense")
    assert done.returncode == 2 and done.stdout.startswith("mmfl: --against: found nonsense")
    assert len(done.stdout.splitlines()) == 1


def test_other_instructions(origin, tmp_path):
    """Tables by other vector instructions: patches and partitions are the same bits."""
    origin.git("clone", "--quiet", str(origin.folder), str(tmp_path / "other"))
    other = type(origin)(tmp_path / "other")
    other.steps(
        interpreter=sys.executable,  # torch and numpy read these when they are imported
        ATEN_CPU_CAPABILITY="default",
        ONEDNN_MAX_CPU_ISA="SSE41",
        MKL_CBWR="COMPATIBLE",
        NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL",
    )
    status, rows = other.verdicts()
    assert status == 0, rows
    assert {row[0] for row in rows.values()} <= {"tolerance"}
    assert not [name for name in rows if name.startswith("data/")]
    assert f"runs/simulated/{NAME}" in rows, "these do change bits on every x86-64 with AVX2"
    assert other.verify("--exact")[0] == 1


def test_a_bit_of_an_image_or_a_mask(clone, origin, tmp_path):
    """Images are reported, masks may not differ; the list of committed files tells them apart."""
    images, tiles = PATCHES["simulated"], PATCHES["simulated-tiles"]
    flip(clone.folder / images / "s2/20m-00000.npy")
    status, rows = clone.verdicts()
    assert status == 0 and list(rows) == [images]
    verdict, note = rows[images]
    assert verdict == "reported" and "in which store cannot be known" in note
    assert clone.verify("--exact")[0] == 1

    flip(clone.folder / tiles / "mask/10m-00000.npy")
    status, rows = clone.verdicts()
    assert status == 1 and rows[tiles][0] == "differs" and "images or masks" in rows[tiles][1]

    made = origin.copy(tmp_path / "made")  # what the note says, with a remote
    for place, command in ((made, "push"), (clone, "fetch")):
        place.dvc("remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
        place.dvc(command, "split@simulated", "split@simulated-tiles")
    status, rows = clone.verdicts()
    assert status == 1
    assert rows[images] == ("reported", "decoded pixels differ: s2")
    assert rows[tiles] == ("differs", "other labels or indices: mask/10m-00000.npy")


@pytest.mark.parametrize(
    ("path", "artifact", "verdict", "said"),
    [
        ("data/raw/simulated/files.csv", None, "differs", "to the bit on every machine"),
        ("data/raw/simulated/root.json", None, "reported", "on this machine"),
        ("data/patches/simulated/labels/classes.json", "data/patches/simulated", "differs",
         "other labels"),
        (f"data/clients/simulated/{NAME}.parquet", None, "differs", "to the bit"),
        (f"{RESULTS}/figures/learning.svg", f"{RESULTS}/figures", "reported", "drawn otherwise"),
        (f"runs/simulated/{NAME}/mf/default/seed-1/model.safetensors", f"runs/simulated/{NAME}",
         "tolerance", "other bits, judged by the tables"),
    ],
)  # fmt: skip
def test_one_bit(clone, path, artifact, verdict, said):
    flip(clone.folder / path)
    status, rows = clone.verdicts()
    assert list(rows) == [artifact or path]
    found, note = rows[artifact or path]
    assert (found, status) == (verdict, int(verdict == "differs")) and said in note
    assert clone.verify("--exact")[0] == 1


@pytest.mark.parametrize(
    ("path", "artifact"),
    [
        (f"{RESULTS}/metrics.json", None),
        (f"{RESULTS}/tables/cost.md", f"{RESULTS}/tables/cost"),
        (f"scores/simulated/{NAME}", None),
        (f"data/clients/simulated/{NAME}.csv", None),
        ("data/raw/simulated/scenes.csv", None),
    ],
)
def test_missing(clone, path, artifact):
    target = clone.folder / path
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink()
    status, rows = clone.verdicts()
    assert status == 1 and rows[artifact or path][0] == "missing"
    if path.startswith("scores"):
        assert rows[f"{RESULTS}/tables"][0] == "missing", "they are git's, not of a run here"


def test_files_more_and_less(clone):
    runs = clone.folder / f"runs/simulated/{NAME}"
    (runs / "mf/default/seed-1/best.safetensors").unlink()
    (clone.folder / f"scores/simulated/{NAME}/left-over").write_text("")
    (clone.folder / RESULTS / "tables/other.csv").write_text("a\n1\n")
    status, rows = clone.verdicts()
    assert status == 1
    assert rows[f"runs/simulated/{NAME}"] == ("differs", "15 files, expected 16")
    assert rows[f"scores/simulated/{NAME}"] == ("differs", "13 files, expected 12")
    assert rows[f"{RESULTS}/tables/other.csv"][0] == "differs"


def seal_scores(folder: Path) -> None:
    """List the digests of the scores that are there now."""
    listed = read_json(folder / "evaluation.json", "evaluate")
    write_json(folder / "evaluation.json", listed | {"files": digests(folder, listed["files"])})


def add(clone: Clone, moved: float, everywhere: bool) -> None:
    """Raise mf+fw's scores, of every seed by as much, and write the tables again.

    All scores, or those on all modalities only.
    """
    for path in clone.folder.glob(f"scores/simulated/{NAME}/mf+fw/default/*/scores.csv"):
        table = pd.read_csv(path)
        whole = (table["modalities"] == "s1+s2") & (table["kind"] == "subset")
        table.loc[whole | everywhere, "value"] += moved
        table.to_csv(path, index=False, lineterminator="\n")
        seal_scores(path.parent)
    clone.report()


@pytest.mark.parametrize(("share", "verdict"), [(0.99, "tolerance"), (1.01, "differs")])
def test_scores_at_the_tolerance(clone, share, verdict):
    add(clone, share * min(limit("multilabel", k) for k in ("score", "difference")), False)
    status, rows = clone.verdicts()
    assert status == int(verdict == "differs")
    for name in ("tables/comparison", "tables/missing", "tables/ablation"):
        assert rows[f"{RESULTS}/{name}"][0] == verdict
    assert rows[f"scores/simulated/{NAME}"][0] == verdict
    assert f"{RESULTS}/tables/cost" not in rows
    assert f"runs/simulated/{NAME}" not in rows


def test_a_shift_of_many_scores(clone):
    """No cell is out of its tolerance, but rounding does not move half of them so far."""
    add(clone, 0.9 * limit("multilabel", "score"), True)
    status, rows = clone.verdicts()
    verdict, note = rows[f"{RESULTS}/tables/missing"]
    assert status == 1 and verdict == "differs" and "a shift of all" in note


def test_tables_that_no_run_gave(clone):
    """A number within tolerance, but written by hand; and a text that is not its csv's."""
    path = clone.folder / RESULTS / "metrics.json"
    values = json.loads(path.read_text())
    values["mf"]["ap_macro"] += limit("multilabel", "score") / 2
    path.write_text(json.dumps(values))
    flip(clone.folder / RESULTS / "tables/cost.md")
    status, rows = clone.verdicts()
    assert status == 1
    for name in ("metrics.json", "tables/cost"):
        verdict, note = rows[f"{RESULTS}/{name}"]
        assert verdict == "differs" and "not what the runs and scores here give" in note


def test_tables_checked_out_over_the_reproduction(clone):
    """Tables are the committed ones, the scores are not theirs."""
    path = clone.folder / f"scores/simulated/{NAME}/mf/default/seed-1/scores.csv"
    table = pd.read_csv(path)
    table["value"] *= 0.5
    table.to_csv(path, index=False, lineterminator="\n")
    seal_scores(path.parent)
    status, rows = clone.verdicts()
    assert status == 1 and rows[f"{RESULTS}/tables/comparison"][0] == "differs"
    assert rows[f"scores/simulated/{NAME}"][0] == "differs"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'a,b\n1,2,3\n"', b"{}"])
def test_unreadable_tables(clone, content):
    (clone.folder / RESULTS / "tables/missing.csv").write_bytes(content)
    (clone.folder / RESULTS / "metrics.json").write_bytes(content)
    status, rows = clone.verdicts()
    assert status == 1
    assert {rows[f"{RESULTS}/{n}"][0] for n in ("tables/missing", "metrics.json")} == {"differs"}


def test_unreadable_scores(clone):
    path = clone.folder / f"scores/simulated/{NAME}/mf/default/seed-1/scores.csv"
    path.write_bytes(b"\xff")
    status, rows = clone.verdicts()
    assert status == 1 and "cannot be made" in rows[f"{RESULTS}/tables/cost"][1]
    assert "seed-1/scores.csv: damaged: found" in rows[f"{RESULTS}/tables/cost"][1]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def commit(clone) -> None:
    clone.git("commit", "--quiet", "--all", "--message", "changed")


def other_parameter(clone):
    edit(clone.folder / "params.yaml", "rounds: 2", "rounds: 3")


def archive_gone(clone):
    edit(clone.folder / "params.yaml", "  simulated: {}\n", "")


def other_code(clone):
    edit(clone.folder / "src/mmfl/federation/loop.py", "import math", "import math\n\nEDITED = 1")


def stale_lock(clone):
    other_code(clone)
    commit(clone)


def no_git(clone):
    shutil.rmtree(clone.folder / ".git")


def no_lock(clone):
    clone.git("rm", "--quiet", "dvc.lock")
    commit(clone)


def conflict(clone):
    edit(clone.folder / "dvc.lock", "stages:", "<<<<<<< HEAD\nstages:")
    commit(clone)


def half_a_lock(clone):
    edit(clone.folder / "dvc.lock", "evaluate@simulated:", "evaluated@simulated:")
    commit(clone)


def no_stages(clone):
    (clone.folder / "dvc.lock").write_text("stages: [1]\n")
    commit(clone)


def tables_of_another_run(clone):
    edit(clone.folder / RESULTS / "metrics.json", "0.", "0.1")
    commit(clone)


def two_runs_in_a_lock(clone):
    text = (clone.folder / "dvc.lock").read_text()
    head, _, tail = text.partition("train@simulated:")
    place = tail.index("md5: ", tail.index("path: data/patches/simulated")) + 5
    tail = tail[:place] + ("0" if tail[place] != "0" else "1") + tail[place + 1 :]
    (clone.folder / "dvc.lock").write_text(f"{head}train@simulated:{tail}")
    commit(clone)


def no_outputs(clone):
    for folder in ("data/raw", "data/patches", "data/clients", "runs", "scores"):
        shutil.rmtree(clone.folder / folder)
    for archive in PATCHES:
        shutil.rmtree(clone.folder / f"results/{archive}/{NAME}/figures")


def no_parameters(clone):
    (clone.folder / "params.yaml").unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_parameter, "train.rounds: found 3, expected 2"),
        (archive_gone, "archives.simulated: found None"),
        (other_code, "check out HEAD"),
        (stale_lock, "older than the code that is committed with it"),
        (no_git, "git: found no repository"),
        (no_lock, "dvc.lock: not found in HEAD"),
        (conflict, "not readable as yaml"),
        (half_a_lock, "'evaluate@simulated' is missing"),
        (no_stages, "not a lock of DVC"),
        (tables_of_another_run, "not what dvc.lock lists there"),
        (two_runs_in_a_lock, "expected the lock of one run"),
        (no_outputs, "make reproduce"),
        (no_parameters, "params.yaml: not found"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_nothing_to_compare(clone, change, said):
    change(clone)
    status, text = clone.verify()
    assert status == 2 and said in text, text
    assert len(text.splitlines()) == 1 and text.startswith("mmfl: ")


def test_against(clone):
    """An older revision still has the lock of these outputs."""
    no_lock(clone)
    assert clone.verify()[0] == 2
    assert clone.verify("--against", "HEAD~1")[0] == 0
    status, text = clone.verify("--against", "nonsense")
    assert status == 2 and "--against: found nonsense" in text
    assert clone.verify("--against=--help")[0] == 2
