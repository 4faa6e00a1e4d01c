"""Tables as csv, Markdown and LaTeX."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mmfl.files import atomic, write_text
from mmfl.reporting.layout import Table

SIMULATED = "The data are simulated."
TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "−": r"$-$", "Δ": r"$\Delta$", "–": "--", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Every digit, so that a reader gets the same numbers back."""
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


def read_csv(path: Path) -> pd.DataFrame:
    """The frame that `write_csv` wrote, to the bit (pandas 3.1 parses floats exactly)."""
    return pd.read_csv(path)


def write_table(folder: Path, frame: pd.DataFrame, table: Table, simulated: bool) -> None:
    """`<name>.csv`, `.md` and `.tex` in a folder."""
    write_csv(folder / f"{table.name}.csv", frame)
    write_text(folder / f"{table.name}.md", markdown(table, simulated))
    write_text(folder / f"{table.name}.tex", latex(table, simulated))


def markdown(table: Table, simulated: bool) -> str:
    """A pipe table with its title above and its sentence below."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    rule = "|" + "|".join(["---"] + ["---:"] * (len(table.header) - 1)) + "|"
    body = "\n".join([line(table.header), rule, *map(line, table.rows)])
    return f"**{table.title}**\n\n{body}\n\n{_note(table, simulated)}\n"


def latex(table: Table, simulated: bool) -> str:
    """A `table*` environment for booktabs."""
    columns = "l" + "r" * (len(table.header) - 1)
    lines = [" & ".join(map(escape, cells)) + r" \\" for cells in (table.header, *table.rows)]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs} and \\usepackage{graphicx}",
            r"\begin{table*}",
            rf"\caption{{{escape(table.title)}. {escape(_note(table, simulated))}}}",
            rf"\label{{tab:{table.name}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
            "",
        ]
    )


def plain(table: Table, columns: int = 4) -> str:
    """The first columns for a terminal, aligned, scores without intervals; the notes not."""
    scores = range(1, columns)
    picked = [0, *scores, *range(len(table.header) - 2, len(table.header))]
    rows = [
        [cells[i].split("\n")[0] if i in scores else cells[i].replace("\n", " ") for i in picked]
        for cells in (table.header, *table.rows)
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(picked))]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def escape(text: str) -> str:
    """Text for LaTeX."""
    return "".join(TEX.get(character, character) for character in text.replace("\n", " "))


def _note(table: Table, simulated: bool) -> str:
    return " ".join([SIMULATED, *table.notes] if simulated else table.notes)
