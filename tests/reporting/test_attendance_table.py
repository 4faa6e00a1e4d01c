"""Who took part, on the page: only where somebody did not."""

import pandas as pd

from mmfl.reporting.page import attendance_table


def rounds(*rows):
    return pd.DataFrame(rows, columns=["seed", "round", "client", "state"])


def test_nothing_is_shown_where_everybody_trained_or_nobody_was_there():
    whole = rounds((1, 1, "a", "trained"), (1, 1, "b", "trained"), (1, 1, "server", None))
    assert attendance_table(whole).rows == []
    assert attendance_table(rounds()).rows == []


def test_absences_are_counted_by_client():
    table = attendance_table(
        rounds(
            (1, 1, "a", "trained"), (1, 1, "b", "late"), (1, 1, "server", None),
            (1, 2, "b", "failed"), (1, 2, "server", None),
            (2, 1, "a", "trained"), (2, 1, "b", "trained"), (2, 1, "server", None),
        )
    )  # fmt: skip
    assert table.rows == [["a", "2", "2", "0", "0"], ["b", "3", "1", "1", "1"]]
    assert "Of 3 rounds" in table.notes[0]
