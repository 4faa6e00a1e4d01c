"""BigEarthNet's real files go through the whole pipeline."""

import json
import shutil

import pandas as pd
import pytest
import yaml

from helpers.project_copy import copy_project, snakemake

pytestmark = pytest.mark.slow


def test_the_real_sample_goes_through_all_six_steps(samples, tmp_path):
    """24 pairs of BigEarthNet v2, of which the default exclusion leaves 6 / 6 / 6."""
    project = copy_project(tmp_path / "real")
    params = project / "real.yaml"
    params.write_text(
        yaml.safe_dump(
            {
                "archives": {"bigearthnet-v2": {}},
                "download": {"local": {"bigearthnet-v2": str(samples / "bigearthnet-v2-sample")}},
                "model": {"width": 8, "projection": 16},
                "train": {"seeds": [1], "methods": ["prior", "mf", "mf+fw+mim"], "rounds": 2},
                "report": {"gallery": 2},
            }
        )
    )
    snakemake(project, params)
    summary = json.loads(next((project / "data/clients/bigearthnet-v2").glob("*.json")).read_text())
    assert summary["locations"] == {"train": 6, "validation": 6, "test": 6}
    assert sorted(summary["clients"]) == ["austria-s1", "austria-s2"]
    page = (project / "page/bigearthnet-v2.html").read_text()
    assert "data:image/png" in page and "are simulated" not in page


def test_v1_goes_through_all_six_steps(samples, tmp_path):
    """Five real pairs that have a split, in a copy with one damaged band; no test pair is lost."""
    project, root = copy_project(tmp_path / "v1"), tmp_path / "archive"
    for name in ("BigEarthNet-S1-Example", "BigEarthNet-S2-Example"):
        shutil.copytree(samples / "bigearthnet-v1-sample" / name, root / name)
    names = {path.name for path in (root / "BigEarthNet-S2-Example").iterdir()}
    for path in (samples / "bigearthnet-metadata").glob("*.csv.bz2"):
        header = 0 if path.name.startswith("s1_s2") else None
        table = pd.read_csv(path, header=header)
        table = table[table.isin(names).any(axis=1)]
        table.to_csv(root / path.name.removesuffix(".bz2"), index=False, header=header == 0)
    damaged = root / "BigEarthNet-S2-Example/S2A_MSIL2A_20170617T113321_4_55"
    damaged /= f"{damaged.name}_B8A.tif"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    params = project / "v1.yaml"
    choice = {
        "archives": {"bigearthnet-v1": {}},
        "download": {"local": {"bigearthnet-v1": str(root)}},
        "split": {"on_error": "skip"},
        "model": {"width": 8, "projection": 16},
        "train": {"seeds": [1], "methods": ["prior", "mf"], "rounds": 1, "batch": 2},
    }
    params.write_text(yaml.safe_dump(choice))
    snakemake(project, params)
    summary = json.loads(next((project / "data/clients/bigearthnet-v1").glob("*.json")).read_text())
    assert summary["locations"] == {"test": 1, "train": 4}
    page = (project / "page/bigearthnet-v1.html").read_text()
    assert "Patches left out" in page and damaged.name in page
