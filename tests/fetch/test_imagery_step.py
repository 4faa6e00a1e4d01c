"""The step with imagery: one root for labels and images, and a table that is kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from helpers.imagery import B02, choice, read
from helpers.stac_server import Fault, Site, tiles
from mmfl.archives import recorded
from mmfl.errors import UserError
from mmfl.facts.bands import IMAGERY as BANDS
from mmfl.fetch.stac.listing import COLUMNS
from mmfl.fetch.stac.web import ATTEMPTS
from mmfl.steps import download

HEADER = ",".join(COLUMNS) + "\n"


@dataclass
class Labels:
    """An archive that is only its list of tiles."""

    metadata_files = ("table.xlsx",)

    def tiles(self, root: Path) -> pd.DataFrame:
        assert (root / "table.xlsx").is_file()
        return tiles(2)


@pytest.fixture
def site(stac: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The working directory holds the labels' files and their manifest."""
    stac.s2(bands=BANDS["s2"])
    stac.s1()
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "table.xlsx").write_bytes(b"table")
    files = [{"name": "table.xlsx", "url": (labels / "table.xlsx").as_uri()}]
    manifest = {"archive": "expert", "licence": "CC-BY-4.0", "files": files}
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "get", lambda *_: Labels())
    monkeypatch.setattr(recorded, "get", lambda *_: Labels())
    return stac


def run(site: Site, **changed: object) -> tuple[Path, str]:
    """The root, and the kept table."""
    given = {"manifest": Path("manifest.yaml"), "local": None, "imagery": choice(site)} | changed
    out = Path("data/raw/expert")
    download.run("expert", store=Path("store"), out=out, pause=0.01, **given)  # type: ignore[arg-type]
    assert {item.name for item in out.iterdir()} == {"files.csv", "root.json", "scenes.csv"}
    root = Path(json.loads((out / "root.json").read_text())["root"])
    return root, (out / "scenes.csv").read_text()


def test_one_root(site: Site) -> None:
    root, table = run(site)
    assert root.parent == Path("store") and (root / "table.xlsx").read_bytes() == b"table"
    assert {item.name for item in root.iterdir()} == {"table.xlsx", "imagery"}
    assert read(root / "imagery", "s2", "dw_1").shape == (10, 48, 40)
    assert table.startswith(HEADER) and table.count(",ok,") == 4
    site.asked.clear()
    assert run(site) == (root, table) and not site.asked


def test_another_choice_has_another_root(site: Site) -> None:
    site.items.clear()
    site.s2(baseline="05.00", bands=BANDS["s2"])
    site.s1()
    first, table = run(site)
    second, other = run(site, imagery=choice(site, catalogue={"offset": "none"}))
    assert first != second and table != other
    assert not np.array_equal(*[read(root / "imagery", "s2") for root in (first, second)])


def test_no_choice(site: Site) -> None:
    root, table = run(site, imagery=None)
    assert table == HEADER and not (root / "imagery").exists() and not site.asked


def test_a_local_copy_of_the_labels(site: Site) -> None:
    """It is not written to; the root has links to it."""
    labels = Path("labels")
    root, table = run(site, manifest=None, local=labels)
    assert root.parent == Path("store") and table.count(",ok,") == 4
    assert (root / "table.xlsx").resolve() == (labels / "table.xlsx").resolve()
    assert [item.name for item in labels.iterdir()] == ["table.xlsx"]


def test_a_local_copy_with_images_is_used_in_place(site: Site) -> None:
    (Path("labels") / "imagery/s2").mkdir(parents=True)
    assert run(site, manifest=None, local=Path("labels")) == (Path("labels"), HEADER)
    assert not site.asked


def test_a_root_with_images_goes_elsewhere(site: Site) -> None:
    """Its table goes with it."""
    root, table = run(site)
    site.asked.clear()
    assert run(site, manifest=None, local=root) == (root, table) and not site.asked


def test_failures_end_the_step_and_keep_the_rest(site: Site) -> None:
    site.fail(B02, *[Fault(503)] * (2 * ATTEMPTS))
    with pytest.raises(UserError, match=r"data/raw/expert/scenes.csv: found 2 of 4 images failed"):
        run(site, parallel=1)
    out = Path("data/raw/expert")
    assert [item.name for item in out.iterdir()] == ["scenes.csv"]
    assert (out / "scenes.csv").read_text().count(",failed,") == 2
    site.asked.clear()
    assert run(site)[1].count(",ok,") == 4
    assert site.asked["/search"] == 2


def test_a_checksum_that_is_not_published_is_told(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """So that it can be put into the manifest, which then is quiet."""
    found = f"sha256:{hashlib.sha256(b'table').hexdigest()}"
    with caplog.at_level("INFO"):
        run(site, imagery=None)
    assert f"table.xlsx: no checksum in manifest.yaml, found {found}" in caplog.text
    manifest = yaml.safe_load(Path("manifest.yaml").read_text())
    manifest["files"][0]["checksum"] = found
    Path("manifest.yaml").write_text(yaml.safe_dump(manifest))
    caplog.clear()
    with caplog.at_level("INFO"):
        run(site, imagery=None)
    assert "no checksum" not in caplog.text


def test_the_tables_are_the_same_bytes(site: Site) -> None:
    first = run(site, parallel=1)
    Path("store").rename("before")
    assert run(site, parallel=4) == first
