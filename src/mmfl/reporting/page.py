"""One HTML page that needs no other file and no network."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from mmfl.reporting import templates
from mmfl.reporting.cells import quantity
from mmfl.reporting.layout import Table
from mmfl.reporting.style import save_svg, style
from mmfl.reporting.texts import modality_names

FOLDER = Path(templates.__file__).parent
TEMPLATE = FOLDER / "page.html"
PACKAGES = ("mmfl", "torch", "numpy", "pandas", "scipy", "rasterio", "matplotlib")


@dataclass(frozen=True)
class Picture:
    """An inline figure; `data` names the csv file that it shows."""

    name: str
    svg: Markup
    alt: str
    caption: str
    data: str = ""


def render(template: Path = TEMPLATE, **values: Any) -> str:
    """A page's text. Every value is escaped, except figures and style, which are the project's."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["quantity"] = quantity
    stylesheet = Markup((FOLDER / "page.css").read_text(encoding="utf-8"))
    text = template.read_text(encoding="utf-8")
    return environment.from_string(text).render(stylesheet=stylesheet, **values)


def picture(path: Path, alt: str, caption: str) -> Picture:
    """An svg file for inlining: without its XML header, ids made unique on the page, scalable."""
    return _inline(path.stem, path.read_text(encoding="utf-8"), alt, caption)


def picture_of(name: str, figure: Figure, alt: str, caption: str) -> Picture:
    """The same of a figure that lies in no file."""
    with tempfile.TemporaryDirectory() as folder, style():
        path = Path(folder, f"{name}.svg")
        save_svg(figure, path)
        return replace(picture(path, alt, caption), data="")


def _inline(stem: str, text: str, alt: str, caption: str) -> Picture:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\bid="', f'id="{stem}-', text)
    text = re.sub(r"url\(#", f"url(#{stem}-", text)
    text = re.sub(r'href="#', f'href="#{stem}-', text)
    text = re.sub(r'<svg ([^>]*?)\bwidth="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)\bheight="[^"]*"', r"<svg \1", text, count=1)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(alt)}" ', 1)
    return Picture(stem, Markup(text), alt, caption, f"figures/{stem}.csv")


def environment() -> dict[str, str]:
    """Interpreter, machine and the packages that decide results. No host or user name."""
    found = {
        "Python": platform.python_version(),
        "Platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def measured_table(frame: pd.DataFrame, labels: dict[str, str]) -> Table:
    """Seconds, memory and device per run: mean over seeds.

    Args:
        frame: run, seconds, seconds_per_round, peak_memory_mb, device, started.
    """
    rows = []
    for run, label in labels.items():
        own = frame[frame["run"] == run]
        if len(own):
            mean = own[["seconds", "seconds_per_round", "peak_memory_mb"]].mean()
            dates = sorted(own["started"].astype(str).str[:10].unique())
            rows.append(
                [
                    label,
                    str(len(own)),
                    f"{mean['seconds']:,.1f}",
                    f"{mean['seconds_per_round']:.2f}",
                    f"{mean['peak_memory_mb']:,.0f}",
                    ", ".join(sorted(own["device"].unique())),
                    dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
                ]
            )
    header = [
        "Method",
        "Runs",
        "Seconds",
        "Seconds per round",
        "Peak memory (MB)",
        "Device",
        "Begun",
    ]
    note = [
        "Measured on the machine that trained, mean over seeds; not part of the versioned tables.",
        "Peak memory is that of the process, which may have trained several seeds.",
    ]
    return Table("measured", "Measured: time and memory", header, rows, note, [False] * len(rows))


def clients_table(clients: pd.DataFrame, summary: dict[str, Any]) -> Table:
    """Who holds what: the partition's table and what its summary says of all clients together."""
    rows = [
        [
            row["client"],
            row["group"],
            modality_names(row["modalities"]),
            *(f"{row[column]:,}" for column in ("train", "validation", "test", "partners")),
            str(row["classes"]),
            "–" if pd.isna(row["divergence"]) else f"{row['divergence']:.3f}",
        ]
        for row in clients.to_dict("records")
    ]
    empty = _listed(summary.get("empty_clients", []))
    lonely = summary.get("without_partner", {})
    lonely_text = _listed(
        [f"{count:,} of {modality_names(q)}" for q, count in sorted(lonely.items())]
    )
    shared = summary.get("shared_training_pairs", 0)
    note = [
        "Partners: training locations that another client holds in another modality. Divergence: "
        "Jensen-Shannon (base 2) between the client's labels and those of all clients.",
        f"Clients without training patches: {empty}.",
        f"Locations of the archive that lack another modality: {lonely_text}; that no client "
        f"holds: {summary.get('without_holder', 0):,}.",
        f"Training locations held in several modalities: {shared:,}.",
    ]
    header = ["Client", "Group", "Modality", "Training", "Validation", "Test", "Partners",
              "Classes", "Divergence"]  # fmt: skip
    return Table("clients", "Who holds what", header, rows, note, [False] * len(rows))


def attendance_table(rounds: pd.DataFrame) -> Table:
    """How often each client was asked and what became of it; empty if all always trained.

    Args:
        rounds: seed, round, client, state of one method's runs.
    """
    own = rounds[rounds["client"] != "server"]
    total = own[["seed", "round"]].drop_duplicates().shape[0]
    rows = []
    for client, part in own.groupby("client", sort=True):
        state = part["state"].value_counts()
        counts = [int(state.get(name, 0)) for name in ("trained", "failed", "late")]
        rows.append([str(client), str(len(part)), *map(str, counts)])
    if all(row[1] == row[2] == str(total) for row in rows):
        rows = []
    header = ["Client", "Asked", "Trained", "Failed", "Late"]
    note = [
        f"Of {total:,} rounds, all seeds together; the same for every federated method. A client "
        "that is late trains, and its answer is left. rounds.csv of a run names them by round."
    ]
    return Table("attendance", "Who took part", header, rows, note, [False] * len(rows))


def skipped_table(frame: pd.DataFrame, shown: int = 20) -> Table:
    """Patches that the split left out: modality, patch, file, reason; empty if there is none."""
    rows = [
        [_modality(row["modality"]), row["patch"], row["file"], row["reason"]]
        for row in frame.head(shown).to_dict("records")
    ]
    counts = frame["modality"].map(_modality).value_counts().sort_index()
    note = [
        "Left out because split.on_error is skip: "
        + ", ".join(f"{count:,} of {q}" for q, count in counts.items())
        + f". The first {len(rows)} are shown, all are in labels/skipped.csv of the patches."
    ]
    header = ["Modality", "Patch", "File", "Reason"]
    return Table("skipped", "Patches left out", header, rows, note, [False] * len(rows))


def scenes_table(frame: pd.DataFrame, shown: int = 20) -> Table:
    """Images that are not there or contradict their item: modality, tile, outcome, why.

    Empty where every image that was searched is there, or none was.
    """
    frame = frame.fillna({"reason": ""})
    odd = frame[(frame["outcome"] != "ok") | (frame["reason"] != "")]
    against = (odd["outcome"] == "ok").map({True: "ok, against a statement", False: ""})
    odd = odd.assign(outcome=against.where(against != "", odd["outcome"]))
    rows = [
        [_modality(row["modality"]), str(row["tile"]), row["outcome"], row["reason"]]
        for row in odd.head(shown).to_dict("records")
    ]
    kinds = odd["modality"].map(_modality) + " " + odd["outcome"]
    told = [f"{count:,} of {kind}" for kind, count in kinds.value_counts().sort_index().items()]
    note = [
        f"Of {len(frame):,} images searched: {'; '.join(told)}. An image against a statement is "
        "used: its pixels contradict what its item says of their offset. The first "
        f"{len(rows)} are shown, all are in scenes.csv of the download (docs/imagery.md)."
    ]
    header = ["Modality", "Tile", "Outcome", "Reason"]
    return Table("scenes", "Images searched", header, rows, note, [False] * len(rows))


def _modality(name: str) -> str:
    return modality_names(name) if name else "every modality"


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items) if items else "none"
