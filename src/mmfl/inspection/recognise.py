"""What is in an archive, a store of patches, a partition or a run, and what of it is damaged."""

from __future__ import annotations

from pathlib import Path

from mmfl.errors import UserError
from mmfl.files import read_json
from mmfl.inspection.archive import inspect_archive
from mmfl.inspection.check import check
from mmfl.inspection.findings import Findings
from mmfl.inspection.partition import inspect_partition
from mmfl.inspection.run import inspect_run
from mmfl.inspection.store import inspect_store


def inspect(path: Path, *, archive: str | None = None, full: bool = False) -> Findings:
    """Recognise what lies at `path` and look at it; nothing is written.

    Args:
        archive: name of the archive, where its folder is meant; recognised by its tables else.
        full: read every band of an archive, not only some.

    Raises:
        UserError: there is nothing at `path` that the project knows.
    """
    path = Path(path)
    if (path / "root.json").is_file():  # data/raw/<archive>
        archive = archive or path.resolve().name
        path = Path(read_json(path / "root.json", "download").get("root", ""))
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        return check(path, full=full)
    if path.is_file() and path.suffix == ".parquet":
        return inspect_partition(path)
    if (path / "run.json").exists():
        return inspect_run(path)
    if (path / "labels").is_dir() and any(path.glob("*/modality.json")):
        return inspect_store(path)
    name = archive or recognise(path)
    if name is not None:
        return inspect_archive(path, name, full)
    found = "nothing" if not path.exists() else "a file" if path.is_file() else "a folder"
    raise UserError(
        f"{path}: found {found}, expected an archive's folder with its tables, data/raw/<archive>, "
        "data/patches/<archive>, a partition (.parquet), a run's folder with run.json, or the "
        "description (.yaml) of an archive of your own"
    )


def recognise(root: Path) -> str | None:
    """The name of the archive whose tables lie in `root`."""
    if (root / "metadata.parquet").is_file():
        return "bigearthnet-v2"
    if any(root.glob("s1_s2_name_country_season.csv*")):
        return "bigearthnet-v1"
    if any(root.glob("v1_dw_tile_metadata*.xlsx")):
        return "dynamicworld-expert"
    return None
