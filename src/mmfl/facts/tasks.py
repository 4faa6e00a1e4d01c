"""What is learned: the tasks, and the scores that speak for them.

Read by every package, so no name of a metric stands anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A task and its scores, all fractions in [0, 1].

    Attributes:
        title: what it is called in text.
        metrics: score -> its short name, in the order of the tables.
        words: score -> its name in a sentence, for `first` and `second`.
        first: the score that decides: validation, differences, curves.
        second: the one that stands beside it.
        of_class: scores of a single class; the first one is drawn.
    """

    name: str
    title: str
    metrics: dict[str, str]
    words: dict[str, str]
    first: str
    second: str
    of_class: dict[str, str]

    @property
    def names(self) -> dict[str, str]:
        """Every score's short name, those of a class included."""
        return self.metrics | self.of_class


TASKS = {
    task.name: task
    for task in (
        Task(
            "multilabel",
            "multi-label scene classification",
            {
                "ap_macro": "AP macro",
                "f1_micro": "F1 micro",
                "f1_weighted": "F1 weighted",
                "f1_macro": "F1 macro",
                "ap_micro": "AP micro",
            },
            {"ap_macro": "macro average precision", "f1_micro": "micro F1"},
            "ap_macro",
            "f1_micro",
            {"ap": "average precision", "f1": "F1"},
        ),
        Task(
            "pixel",
            "pixel-based classification",
            {
                "iou_macro": "mean IoU",
                "f1_macro": "F1 macro",
                "accuracy": "overall accuracy",
                "f1_weighted": "F1 weighted",
            },
            {"iou_macro": "mean intersection over union", "f1_macro": "macro F1"},
            "iou_macro",
            "f1_macro",
            {"iou": "intersection over union", "f1": "F1"},
        ),
    )
}
MASK = "mask"  # the store of the tiles' masks, beside those of the modalities
MASK_COLUMNS = ("labels", "height", "width", "crs", "transform")  # of `labels/index.parquet`
DIVERGED = "diverged"  # state of a round, score or prediction that is not finite
IGNORED = 255  # in a mask: a pixel without a class, in no loss and in no score
