"""What an inspection found: facts, tables, pictures and damage, as text or as a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmfl.files import write_text
from mmfl.reporting import page
from mmfl.reporting.gallery import Gallery
from mmfl.reporting.layout import Table

SHOWN = 20  # damaged things that are named
TEMPLATE = page.FOLDER / "findings.html"
GALLERY = 12


@dataclass
class Findings:
    """`facts` is what stands at the top; `damage` has one line per damaged thing."""

    title: str
    facts: dict[str, str] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    gallery: Gallery | None = None
    picture: page.Picture | None = None

    def add(self, title: str, frame: pd.DataFrame) -> None:
        """A table of a frame's columns; thousands are marked, what is missing is a dash."""
        if frame.empty:
            return
        rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
        header = [str(column) for column in frame.columns]
        self.tables.append(Table(title, title, header, rows, [], [False] * len(rows)))

    def verdict(self) -> list[str]:
        """Lines on what is damaged."""
        if not self.damage:
            return ["Nothing is damaged."]
        more = len(self.damage) - SHOWN
        lines = [f"Damaged: {len(self.damage):,}", *self.damage[:SHOWN]]
        return [*lines, f"and {more:,} more"] if more > 0 else lines

    def text(self) -> str:
        """For a terminal."""
        parts = [self.title]
        width = max(map(len, self.facts), default=0)
        parts.append("\n".join(f"{key.ljust(width)}  {value}" for key, value in self.facts.items()))
        parts += [f"{table.title}\n{_aligned(table)}" for table in self.tables]
        parts += self.notes
        parts.append("\n  ".join(self.verdict()))
        return "\n\n".join(part for part in parts if part)

    def write_page(self, path: Path) -> None:
        """One self-contained HTML file."""
        values: dict[str, Any] = {
            "title": self.title,
            "facts": self.facts,
            "tables": self.tables,
            "notes": self.notes,
            "verdict": self.verdict(),
            "damaged": bool(self.damage),
            "picture": self.picture,
            "gallery": self.gallery.png() if self.gallery else "",
            "shown": self.gallery.shown() if self.gallery else "",
        }
        write_text(path, page.render(TEMPLATE, **values))


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value:,.4g}"
    return str(value)


def _aligned(table: Table) -> str:
    lines = [table.header, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    return "\n".join(
        "  " + "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )  # fmt: skip
