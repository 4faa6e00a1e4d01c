"""A user's mistake is one line on stderr and exit status 2; nothing half-written."""

import subprocess
from pathlib import Path

import pytest

from helpers.warm_python import python
from mmfl.files import atomic

PARAMS = "archives: {bigearthnet-v2: {}}\ntrain: {methods: [mf]}\n"


def mmfl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [python(), "-m", "mmfl.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        (None, ["split"], "params.yaml: not found"),
        ("trian: {}\n", ["split"], "unknown key trian; did you mean train?"),
        ("", ["split"], "found nothing, expected sections"),
        ("- 1\n", ["split"], "found a list, expected sections"),
        ("split:\n  snow: true\n  snow: false\n", ["split"], "the key snow is given twice"),
        ("split: [\n", ["split"], "not readable as YAML"),
        (PARAMS, ["split", "--params", "."], ".: is a folder"),
        (PARAMS, ["split", "--archive", "simulated"], "--archive: found simulated"),
        (PARAMS, ["split"], "root.json: not found; run download first"),
        (PARAMS, ["partition"], "run split first"),
        (PARAMS, ["train", "--method", "mf"], "run split first"),
        (PARAMS + "download: {local: {bigearthnet-v2: nowhere}}\n", ["download"], "nowhere"),
        (PARAMS + "download: {local: {simulated: x}}\n", ["download"], "unknown archive"),
    ],
)
def test_mistakes(tmp_path, text, arguments, expected):
    if text is not None:
        (tmp_path / "params.yaml").write_text(text)
    more = [] if "--archive" in arguments else ["--archive", "bigearthnet-v2"]
    result = mmfl(tmp_path, *arguments, *more)
    assert result.returncode == 2
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) in ([], ["params.yaml"])


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "params.yaml").write_text("simulate: {pairs: 40}\n")
    (tmp_path / ".cache").write_text("a file where a folder is needed")
    result = mmfl(tmp_path, "simulate")
    assert result.returncode == 2
    assert result.stderr.startswith("mmfl: .cache") and result.stderr.count("\n") == 1


def test_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
