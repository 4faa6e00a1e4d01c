"""Draw the graph of rules into docs/workflow.md, or check that it is up to date.

python workflow/scripts/rulegraph.py [--check]
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/workflow.md"
# The smallest parameters with every rule.
SMALL = """
archives: {simulated: {}}
train: {methods: [mf], seeds: [1]}
tune: {trials: {mf: {train.learning_rate: [0.1, 0.2]}}}
"""
MARKS = ("<!-- rules: workflow/scripts/rulegraph.py -->\n", "<!-- end of rules -->\n")


def graph() -> str:
    """Snakemake's own graph, with names for its numbers and in a fixed order."""
    command = [sys.executable, "-m", "snakemake", "--quiet", "all", "--forceall", "--rulegraph"]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(SMALL)
        file.flush()
        command += ["mermaid-js", "all", "tuned", "--configfile", file.name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", done.stdout))
    edges = re.findall(r"(id\d+) --> (id\d+)", done.stdout)
    lines = sorted(f"    {names[one]} --> {names[other]}\n" for one, other in edges)
    return "```mermaid\nflowchart LR\n" + "".join(lines) + "```\n"


def drawn(page: str) -> str:
    """The page with the graph between its marks."""
    head, _, rest = page.partition(MARKS[0])
    _, end, tail = rest.partition(MARKS[1])
    if not end:
        sys.exit(f"docs/workflow.md: expected the lines {MARKS[0].strip()} and {MARKS[1].strip()}")
    return head + MARKS[0] + graph() + MARKS[1] + tail


def main() -> int:
    """Write the page, or check it."""
    page = PAGE.read_text(encoding="utf-8")
    wanted = drawn(page)
    if page == wanted:
        return 0
    if "--check" in sys.argv[1:]:
        print(
            "docs/workflow.md: out of date; run python workflow/scripts/rulegraph.py",
            file=sys.stderr,
        )
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
