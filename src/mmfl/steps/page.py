"""The page of an archive, and the headline in a terminal: not versioned, they show seconds too."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mmfl.fetch.stac.listing import SCENES
from mmfl.files import write_text
from mmfl.inspection.gallery import load_gallery
from mmfl.params import SIMULATED, Params, clients_name, load, runs
from mmfl.patches.faults import COLUMNS, SKIPPED, read_skipped
from mmfl.patches.labels import LABELS, Store
from mmfl.pipeline.jobs import start
from mmfl.reporting import page, tables, texts
from mmfl.reporting.gallery import Gallery
from mmfl.reporting.gather import answered, key, read_measured, read_rounds, scores_of
from mmfl.reporting.results import holders, laid_out, table_of
from mmfl.sealed import Sealed
from mmfl.steps.report import described_runs

SHOWN = ["tile", "modality", "outcome", "reason"]  # of an image that was searched
ATTENDED = ["seed", "round", "client", "state"]


def run(params: Params, archive: str, params_file: Path) -> None:
    """Write `page/<archive>.html`."""
    clients = clients_name(params)
    listed = described_runs(params, archive)
    own = [r for r in listed if key(r) == params.report.baseline]
    shown = answered(own)
    said = f"{own[0]['label']} diverged in every seed, so nothing was predicted"
    if shown is not None:
        said = f"predictions: {shown['label']}, seed {shown['seed']}"
    patches = Path("data/patches", archive)
    Store(patches).of(archive).content(f"{LABELS}/{SKIPPED}")
    write_page(
        archive=archive,
        clients=clients,
        results=Path("results", archive, clients),
        measured=[
            path
            for spec in runs(params, archive)
            if (path := Path("measured", spec.path).with_suffix(".json")).exists()
        ],
        params_text=params_file.read_text(encoding="utf-8"),
        source_digest=", ".join(
            f"{step} {' '.join(sorted({job['code'] for job in found.values()}))}"
            for step, found in start(params, archive).items()
        ),
        out=Path("page", f"{archive}.html"),
        others=[name for name in load(params_file).archives if name != archive],
        partition=Path("data/clients", archive, clients),
        attended=read_rounds(own),
        skipped=read_skipped(patches / LABELS / SKIPPED),
        scenes=Sealed(Path("data/raw", archive), "root.json", "download").table(SCENES),
        gallery=load_gallery(
            patches,
            params.report.gallery,
            predictions=scores_of(shown or own[0]),
            run=said,
        ),
    )


def write_page(
    *,
    archive: str,
    clients: str,
    results: Path,
    measured: list[Path],
    params_text: str,
    source_digest: str,
    out: Path,
    others: list[str],
    partition: Path | None = None,
    skipped: pd.DataFrame | None = None,
    scenes: pd.DataFrame | None = None,
    attended: pd.DataFrame | None = None,
    gallery: Gallery | None = None,
) -> None:
    """Write one self-contained HTML page about a results folder.

    Args:
        others: archives whose pages lie beside this one.
        measured: `<method>/<variant>/seed-<n>.json` of the runs, where they exist.
        partition: the manifest's path without its end, beside which summary and table lie.
        attended: seed, round, client, state of the baseline's runs.
        skipped: patches that the split left out, as `faults.read_skipped` returns them.
        scenes: what became of each image that was searched, as `download` lists them.
        gallery: pictures of test locations with predictions.
    """
    laid = laid_out(results)
    cost, compared = table_of(results, "cost"), table_of(results, "comparison")
    task, simulated = tables.task_of(compared), archive in SIMULATED
    held = (pd.DataFrame(), {}) if partition is None else holders(partition)
    pictures = {
        name: page.picture(results / "figures" / f"{name}.svg", alt, caption)
        for name, (alt, caption) in texts.captions(task).items()
    }
    text = page.render(
        archive=archive,
        title=texts.title(archive, simulated),
        lead=texts.lead(task, str(compared["modalities"].iloc[0])),
        places=texts.WORDS[task.name].places,
        others=others,
        clients=clients,
        simulated=simulated,
        tables=laid,
        measured=page.measured_table(
            read_measured(measured), dict(zip(cost["run"], cost["label"], strict=True))
        ),
        holders=page.clients_table(*held),
        attendance=page.attendance_table(
            pd.DataFrame(columns=ATTENDED) if attended is None else attended
        ),
        skipped=page.skipped_table(pd.DataFrame(columns=COLUMNS) if skipped is None else skipped),
        scenes=page.scenes_table(pd.DataFrame(columns=SHOWN) if scenes is None else scenes),
        pictures=pictures,
        gallery=gallery.png() if gallery else "",
        gallery_caption=gallery.caption() if gallery else "",
        origin={
            "Archive": archive + (" (simulated)" if simulated else ""),
            "Partition": clients,
            "Partition SHA-256": held[1].get("sha256", "not known"),
            "Source of each step": source_digest,
            "Tables": str(results),
        },
        environment=page.environment(),
        params_text=params_text,
        results=str(results),
    )
    write_text(out, text)
