"""The worked example of docs/adding-an-archive.md, from files to a partition."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.transform import from_origin

from helpers.followed_page import Copy
from mmfl import archives
from mmfl.clients.manifest import build
from mmfl.errors import UserError
from mmfl.inspection.recognise import inspect
from mmfl.params import ARCHIVES as KNOWN
from mmfl.patches.reader import Patches
from mmfl.steps import partition, split

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def ponds(monkeypatch):
    """The archive of the page, registered."""
    text = (DOCS / "adding-an-archive.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    namespace: dict = {"__name__": "ponds"}
    module = type(archives)("mmfl.archives.ponds")
    for name in ("ponds", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    exec(compile(code, "adding-an-archive.md", "exec"), namespace)
    module.ARCHIVE = namespace["ARCHIVE"]
    monkeypatch.setitem(KNOWN, "ponds", KNOWN["bigearthnet-v2"])
    return module.ARCHIVE


@pytest.fixture
def root(ponds, tmp_path) -> Path:
    """Twelve locations, one without Sentinel-1."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        names = {"s1": f"a{i:02d}" if i else None, "s2": f"b{i:02d}"}
        rows.append(
            {
                "id": f"p{i:02d}", **names, "split": ["train", "validation", "test"][i % 3],
                "country": ["Austria", "Finland"][i % 2], "date": f"2020-{i + 1:02d}-05",
                "tile": "T33UUP", "labels": ["pond", "pond;meadow"][i % 2],
            }
        )  # fmt: skip
        for q, modality in ponds.modalities.items():
            for band in modality.bands if names[q] else ():
                path = tmp_path / "ponds" / q / names[q] / f"{names[q]}_{band.name}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(1, 3000, (1, band.size, band.size)).astype(band.dtype)
                with rasterio.open(
                    path, "w", driver="GTiff", width=band.size, height=band.size, count=1,
                    dtype=band.dtype, crs="EPSG:32633", transform=from_origin(0, 0, 10, 10),
                ) as target:  # fmt: skip
                    target.write(pixels)
    pd.DataFrame(rows).to_csv(tmp_path / "ponds/patches.csv", index=False)
    return tmp_path / "ponds"


def test_from_files_to_a_partition(ponds, root, tmp_path):
    out = tmp_path / "data/patches/ponds"
    split.run("ponds", root=root, out=out, store=tmp_path / "store", shard_size=5, snow=False,
              cloud_or_shadow=False)  # fmt: skip
    for q, count in (("s1", 11), ("s2", 12)):
        patches = Patches(out / q)
        assert len(patches.pairs) == count
        values = patches.read(np.arange(count), 10, range(len(patches.bands)))
        for row, name in enumerate(patches.index["patch"]):
            for channel, band in enumerate(ponds.modality(q).bands):
                with rasterio.open(root / q / name / f"{name}_{band.name}.tif") as source:
                    assert np.array_equal(values[row, channel], source.read(1))
    target = tmp_path / "data/clients/ponds/country-both-p0.parquet"
    found = partition.run(patches=out, out=target, scenario="country", assignment="both")
    assert found.summary["locations"] == {"train": 4, "validation": 4, "test": 4}
    assert build(ponds.metadata(root), scenario="country", assignment="both").summary == (
        found.summary
    )
    assert inspect(root, archive="ponds", full=True).damage == []
    assert inspect(out).damage == [] and inspect(target).damage == []


def test_what_is_wrong_is_noticed(root):
    (root / "s2/stranger").mkdir()
    (root / "s1/a05/a05_VH.tif").unlink()
    damage = "\n".join(inspect(root, archive="ponds", full=True).damage)
    assert "stranger: has no row" in damage and "a05_VH.tif: band VH is missing" in damage
    (root / "patches.csv").unlink()
    with pytest.raises(UserError, match="expected the table of the archive ponds"):
        inspect(root, archive="ponds")


STEPS = """
from mmfl.cli import app
for step in ("download", "split", "partition"):
    app([step, "--archive", "ponds", "--params", "ponds.yaml"], standalone_mode=False)
"""


@pytest.mark.slow
def test_what_the_page_says_runs_by_a_parameter_file(ponds, root, tmp_path_factory):
    """In a copy of the project; with the page's own parameter file, but for the folder."""
    copy = Copy(tmp_path_factory.mktemp("project"))
    copy.follow("adding-an-archive.md")
    text = (DOCS / "adding-an-archive.md").read_text(encoding="utf-8")
    (params,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert "/data/ponds" in params
    (copy.folder / "ponds.yaml").write_text(params.replace("/data/ponds", str(root)))
    copy.run("python", "-c", STEPS)
    made = copy.folder / "data/clients/ponds/country-both-p0.json"
    expected = build(ponds.metadata(root), scenario="country", assignment="both").summary
    found = json.loads(made.read_text())
    assert found["classes"] == ["pond", "meadow"]
    assert {key: found[key] for key in expected} == json.loads(json.dumps(expected))
    passed = copy.test(
        "committed or drifted or ponds or know_of_archives",
        "tests/test_params.py", "tests/test_imports.py", "tests/archives/test_adding.py",
    )  # fmt: skip
    assert passed > 8


def test_what_parameters_know_of_archives_is_so():
    for name, known in KNOWN.items():
        archive = archives.get(name)
        assert archive.name == name
        held = {q: tuple(b.name for b in m.bands) for q, m in archive.modalities.items()}
        assert (known.task, known.bands) == (archive.task, held)
        assert all(set(bands) <= set(known.bands[q]) for q, bands in known.trained.items())
