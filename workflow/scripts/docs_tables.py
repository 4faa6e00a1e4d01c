"""Write the tables of the documentation that come from results, or check that they are current.

    python workflow/scripts/docs_tables.py              # after `dvc repro` or `snakemake tuned`
    python workflow/scripts/docs_tables.py --check      # exit status 1 where one is out of date
    python workflow/scripts/docs_tables.py --keep-comparison  # configs/comparison.yaml has just run
    python workflow/scripts/docs_tables.py --keep-pictures    # docs/*.png have just been taken

A block of a page begins with `<!-- table: NAME -->` and ends with `<!-- end -->`; what stands
between them is written here. The comparison runs in the folder of the default experiment, so its
tables are copied to docs/comparison/, with the commit of the code that made them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = "region-duplicate-p0"
PAGES = ("README.md", "docs/*.md")
BLOCK = re.compile(r"<!-- table: (.+?) -->\n(.*?)<!-- end -->", re.DOTALL)
PICTURES = {"docs/page.png": "simulated", "docs/tiles.png": "simulated-tiles"}
KINDS = {
    "score": "score (mean over seeds)",
    "difference": "difference to the baseline",
    "sd": "standard deviation over seeds",
    "end": "end of an interval",
    "rounds": "rounds until the target, median of seeds",
    "seeds": "seeds that reach it",
}


class Fault(Exception):
    """A block cannot be written: a line that says why."""


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Fault(
            f"{path}: {error.strerror}; run `dvc repro`, or check the block's name"
        ) from None


def rows_of(text: str) -> list[list[str]]:
    """The cells of the lines of a Markdown table, heading first, without its ruler."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in lines]
    return [row for row in cells if not all(re.fullmatch(r"[:|-]+", cell) for cell in row)]


def table(rows: list[list[str]], left: int = 1) -> str:
    """A Markdown table; the first `left` columns are text."""
    ruler = ["---"] * left + ["---:"] * (len(rows[0]) - left)
    ruled = ["|" + "|".join(ruler) + "|"]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], *ruled, *lines[1:]]) + "\n"


def columns(text: str, wanted: Callable[[int, str], bool]) -> str:
    """Some columns of the table in a report's Markdown file."""
    rows = rows_of(text)
    kept = [i for i, name in enumerate(rows[0]) if wanted(i, name)]
    if len(kept) < 2:
        raise Fault(f"found the columns {', '.join(rows[0])}, and none that is asked for")
    return table([[row[i] for i in kept] for row in rows])


def note(text: str) -> str:
    """The sentence under the table of a report's Markdown file."""
    return text.rstrip().rpartition("\n\n")[2] + "\n"


def comparison(text: str) -> str:
    """Method, the first two scores, difference and p-value; the sentence below."""
    shown = columns(text, lambda i, name: i < 3 or name.startswith(("Δ", "p (")))
    return f"{shown}\n{note(text)}"


def default(archive: str) -> str:
    """The comparison of the default experiment."""
    return comparison(read(ROOT / f"results/{archive}/{SCENARIO}/tables/comparison.md"))


def kept(name: str) -> str:
    return read(ROOT / f"docs/comparison/{name}")


def cost() -> str:
    wanted = ("FLOPs per sample", "Up", "Down", "Rounds to target", "Traffic to target")
    text = kept("cost.md")
    if missing := set(wanted) - set(rows_of(text)[0]):
        raise Fault(f"docs/comparison/cost.md: has no column {', '.join(sorted(missing))}")
    return columns(text, lambda i, name: i == 0 or name in wanted)


def trials() -> list[dict[str, str]]:
    text = read(ROOT / f"results/tuning/simulated/{SCENARIO}/trials.csv")
    return list(csv.DictReader(text.splitlines()))


def short(value: str) -> str:
    """`train.learning_rate=2.8` as `2.8`, and with its own name where it is another key."""
    key, _, number = value.partition("=")
    name = key.rpartition(".")[2]
    return number if name == "learning_rate" else f"{name} {number}"


def chosen() -> str:
    """What was chosen by validation, and whether it lies at the edge of what was tried."""
    found = trials()
    rows = [["Method", "trials", "chosen rate and value", "validation AP macro (%)", "at the edge"]]
    for trial in found:
        if trial["chosen"] == "True":
            number = sum(other["method"] == trial["method"] for other in found)
            values = ", ".join(short(value) for value in trial["values"].split(", "))
            edges = ", ".join(edge.rpartition(".")[2] for edge in trial["at_edge"].split(", "))
            score = f"{100 * float(trial['validation']):.1f}"
            rows.append([trial["method"], str(number), values, score, edges or "–"])
    seeds = f"{len(found)} trials of {len(rows) - 1} methods."
    return f"{table(rows)}\n{seeds}\n"


def tolerance() -> str:
    """How far cells may move between machines: what `mmfl verify` uses."""
    from mmfl.verification.tolerance import MEASURED, limit, typical_limit

    def digits(value: float) -> str:  # points, two digits that count
        points = 100 * value
        return f"{points:.0f}" if points >= 9.95 else f"{points:.{1 if points >= 0.995 else 2}f}"

    heads = ["largest", "median", "limits"]
    rows = [["kind of cell", *(f"{task}: {head}" for task in MEASURED for head in heads)]]
    for kind, name in KINDS.items():
        row = [name]
        for task, measured in MEASURED.items():
            cell = measured[kind]
            if cell.typical is None:
                row += [f"{cell.largest:.2g}", "", f"{limit(task, kind):.2g}"]
            else:
                both = f"{digits(limit(task, kind))}, {digits(typical_limit(task, kind))}"
                row += [digits(cell.largest), digits(cell.typical), both]
        rows.append(row)
    return table(rows)


def shown(archive: str) -> str:
    """Digest of the table whose numbers a picture of an archive's page shows."""
    text = read(ROOT / f"results/{archive}/{SCENARIO}/tables/comparison.csv")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pictures() -> str:
    """Whether the README's pictures are of the committed results."""
    taken = yaml.safe_load(read(ROOT / "docs/pictures.yaml"))
    old = [name for name, archive in PICTURES.items() if taken[name] != shown(archive)]
    if old:
        return f"({' and '.join(old)}: taken of earlier results; the numbers of today differ.)\n"
    return "(Both pictures are of the committed results.)\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "default simulated": lambda: default("simulated"),
    "default simulated-tiles": lambda: default("simulated-tiles"),
    "comparison state": lambda: yaml.safe_load(kept("state.yaml"))["note"].strip() + "\n",
    "comparison": lambda: comparison(kept("comparison.md")),
    "comparison cost": cost,
    "chosen": chosen,
    "pictures": pictures,
    "tolerance": tolerance,
}


def written(text: str, page: Path) -> str:
    """A page with its blocks as they should be."""

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in BLOCKS:
            raise Fault(f"{page}: found table {name}, expected one of {', '.join(BLOCKS)}")
        return f"<!-- table: {name} -->\n{BLOCKS[name]()}<!-- end -->"

    if text.count("<!-- table:") != len(BLOCK.findall(text)):
        raise Fault(f"{page}: a block `<!-- table: NAME -->` has no `<!-- end -->`")
    return BLOCK.sub(fill, text)


def keep_comparison() -> None:
    """Copy the tables that configs/comparison.yaml has just written; note the commit."""
    results = ROOT / f"results/simulated/{SCENARIO}"
    source = results / "tables"
    rows = len(rows_of(read(source / "comparison.md"))) - 1
    config = yaml.safe_load(read(ROOT / "configs/comparison.yaml"))
    expected = len(config["train"]["methods"])
    if rows != expected:
        raise Fault(
            f"{source}/comparison.md: found {rows} rows, expected the {expected} of "
            "configs/comparison.yaml; run `snakemake --configfile configs/comparison.yaml` first"
        )
    for name in ("comparison.md", "cost.md"):
        shutil.copy(source / name, ROOT / "docs/comparison" / name)
    shutil.copy(results / "figures/differences.svg", ROOT / "docs/comparison.svg")
    git = ["git", "log", "-1", "--format=%h of %cs"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    state = {"note": f"Computed with the code of commit {commit.strip()}."}
    (ROOT / "docs/comparison/state.yaml").write_text(yaml.safe_dump(state), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--keep-comparison", action="store_true", help="take its tables over")
    parser.add_argument("--keep-pictures", action="store_true", help="they are of these results")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT / "src"))
    stale = []
    try:
        if given.keep_comparison:
            keep_comparison()
        if given.keep_pictures:
            taken = {name: shown(archive) for name, archive in PICTURES.items()}
            (ROOT / "docs/pictures.yaml").write_text(yaml.safe_dump(taken), encoding="utf-8")
        for page in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
            text = read(page)
            if (new := written(text, page)) != text:
                stale.append(page.relative_to(ROOT))
                if not given.check:
                    page.write_text(new, encoding="utf-8")
    except Fault as fault:
        print(f"docs_tables: {fault}", file=sys.stderr)
        return 2
    for page in stale:
        done = "out of date; run workflow/scripts/docs_tables.py" if given.check else "written"
        print(f"docs_tables: {page}: {done}", file=sys.stderr)
    return 1 if given.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
