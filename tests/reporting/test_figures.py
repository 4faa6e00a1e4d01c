import numpy as np
import pandas as pd

from mmfl.facts.tasks import TASKS
from mmfl.pipeline.jobs import FIGURES
from mmfl.reporting import figures, texts
from mmfl.reporting.page import picture
from mmfl.reporting.style import looks, numbered

MULTI, PIXEL = TASKS["multilabel"], TASKS["pixel"]
LABELS = {"mf": "mf", "a": "a method with a rather long name"}
DELTAS = pd.DataFrame(
    {"run": ["a", "a"], "metric": ["ap_macro", "f1_micro"], "diff": [0.01, 0.02],
     "diff_low": [0.0, np.nan], "diff_high": [0.02, np.nan], "p_holm": [0.04, np.nan]}
)  # fmt: skip


def test_equal_data_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        figures.save(tmp_path / name, "d", figures.forest(DELTAS, LABELS, "mf", MULTI), DELTAS)
    for end in ("svg", "csv"):
        one, two = ((tmp_path / name / f"d.{end}").read_bytes() for name in ("one", "two"))
        assert one == two
    assert b"<dc:date>" not in (tmp_path / "one" / "d.svg").read_bytes()


def test_a_figure_without_data_says_so(tmp_path):
    empty = {
        "learning": figures.learning(
            pd.DataFrame(columns=["run", "seed", "round", "value", "state"]), LABELS, "mf", MULTI
        ),
        "missing": figures.missing(
            pd.DataFrame(columns=["run", "removed", "rate", "mean"]),
            LABELS,
            "mf",
            MULTI,
            several=False,
        ),
        "classes": figures.classes(pd.DataFrame(), LABELS),
        "differences": figures.forest(DELTAS[:0], LABELS, "mf", MULTI),
        "confusion": figures.confusion(pd.DataFrame(), MULTI),
    }
    assert {*empty, "clients"} == set(texts.captions(PIXEL)) == set(FIGURES)
    for name, figure in empty.items():
        figures.save(tmp_path, name, figure, DELTAS)
        assert "<text" in (tmp_path / f"{name}.svg").read_text()


def test_many_methods_have_a_panel_each(tmp_path):
    labels = {f"r{i}": f"method {i}" for i in range(figures.TOGETHER + 1)}
    curves = pd.DataFrame(
        [
            {"run": run, "removed": q, "rate": rate, "mean": 0.5, "low": 0.4, "high": 0.6}
            for run in labels for q in ("s1", "s2") for rate in (0, 50, 100)
        ]
    )  # fmt: skip
    apart = figures.missing(curves, labels, "r0", MULTI, several=True)
    shown = [ax for ax in apart.axes if ax.get_visible()]
    assert [ax.get_title("left") for ax in shown] == list(labels.values())
    assert len(shown[0].lines) == 2 and len(shown[1].lines) == 4  # with the baseline's
    few = {run: labels[run] for run in list(labels)[:3]}
    assert len(figures.missing(curves, few, "r0", MULTI, several=True).axes) == 2
    for name in ("one", "two"):
        drawn = figures.missing(curves, labels, "r0", MULTI, several=True)
        figures.save(tmp_path / name, "missing", drawn, curves)
    one, two = ((tmp_path / name / "missing.svg").read_bytes() for name in ("one", "two"))
    assert one == two


def test_every_run_looks_different():
    runs = [f"r{i}" for i in range(12)]
    found = {tuple(look.values()) for look in looks(runs, "r3").values()}
    assert len(found) == 12


def test_inline_pictures_have_their_own_ids(tmp_path):
    figures.save(tmp_path, "d", figures.forest(DELTAS, LABELS, "mf", MULTI), DELTAS)
    svg = str(picture(tmp_path / "d.svg", 'an "alt" <text>', "caption").svg)
    assert svg.startswith('<svg role="img" aria-label="an &#34;alt&#34; &lt;text&gt;"')
    ids = {part.split('"')[0] for part in svg.split(' id="')[1:]}
    assert ids and all(name.startswith("d-") for name in ids)
    for mark in ('href="#', "url(#"):
        for part in svg.split(mark)[1:]:
            assert part.replace(")", '"').split('"')[0] in ids
    assert "http" not in svg.replace("http://www.w3.org/", "")


def test_ids_do_not_depend_on_the_last_digits_of_positions():
    """The same picture with other hashes is the same text; what is no id stays."""
    one = '<clipPath id="p0123456789"/><use xlink:href="#mabcdef0123"/><path id="mabcdef0123"'
    one += ' clip-path="url(#p0123456789)" d="M 1 2"/> deadbeef01 pffffffffff'
    two = one.replace("p0123456789", "p9876543210").replace("mabcdef0123", "mffffffff00")
    assert numbered(one) == numbered(two)
    assert "url(#i0)" in numbered(one) and 'href="#i1"' in numbered(one)
    assert numbered(one).endswith("deadbeef01 pffffffffff")
