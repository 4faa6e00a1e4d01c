import numpy as np
import pandas as pd

from mmfl.reporting.layout import Table
from mmfl.reporting.writers import escape, latex, markdown, plain, read_csv, write_csv, write_table

TABLE = Table(
    "t", "A title", ["Method", "AP (%)", "F1", "Δ", "p"],
    [["mf|x", "50.0 ± 1.0\n[47.5, 52.5]", "1", "–", "–"],
     ["a_b", "51.0 ± n/a", "2", "−1", "<0.001"]],
    ["A sentence."], [True, False],
)  # fmt: skip


def test_csv_keeps_every_bit(tmp_path):
    frame = pd.DataFrame({"x": np.random.default_rng(0).random(200), "label": "a, b"})
    write_csv(tmp_path / "t.csv", frame)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "t.csv"), frame, check_exact=True)


def test_markdown_says_when_data_are_simulated():
    text = markdown(TABLE, simulated=True)
    assert "| mf\\|x | 50.0 ± 1.0 [47.5, 52.5] |" in text
    assert text.rstrip().endswith("The data are simulated. A sentence.")
    assert "simulated" not in markdown(TABLE, simulated=False)


def test_latex_is_escaped_ascii():
    text = latex(TABLE, simulated=False)
    assert r"AP (\%)" in text and r"a\_b" in text and r"$-$1" in text and r"$<$0.001" in text
    assert text.isascii()
    assert text.count(r"\\") == 3  # heading and two rows
    assert escape("{x} & ~") == r"\{x\} \& \textasciitilde{}"


def test_plain_text_is_aligned():
    lines = plain(TABLE, 3).splitlines()
    assert len({len(line) for line in lines}) == 1 and lines[0].startswith("Method")


def test_three_files(tmp_path):
    write_table(tmp_path, pd.DataFrame({"a": [1]}), TABLE, simulated=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv", "t.md", "t.tex"]
