"""What the report calls things in each task: places, counts, captions of figures."""

from __future__ import annotations

from dataclasses import dataclass

from mmfl.facts.tasks import Task

SENSORS = {"s1": "Sentinel-1", "s2": "Sentinel-2"}


@dataclass(frozen=True)
class Words:
    """Nouns of a task.

    Attributes:
        places, place: what a row of the archive is.
        items: what is held in one modality.
        support: what a class has that can be scored.
        count: how often a class is there, in the figure of the classes.
    """

    places: str
    place: str
    items: str
    support: str
    count: str


WORDS = {
    "multilabel": Words(
        "locations", "location", "patches", "positives", "test locations that have the class"
    ),
    "pixel": Words("tiles", "tile", "tiles", "pixels", "test pixels of the class"),
}


CLIENTS = (
    "Locations of each client, its classes and its divergence",
    "Locations of each client by split; share (%) of its training locations that have a class; "
    "divergence of its labels from those of all clients.",
)


def captions(task: Task) -> dict[str, tuple[str, str]]:
    """Figure -> alternative text and caption, of the figures that a page of this task shows."""
    words, first = WORDS[task.name], capital(task.words[task.first])
    drawn = next(iter(task.of_class.values()))
    found = {
        "clients": CLIENTS,
        "differences": (
            "Paired differences to the baseline",
            "Paired differences to the baseline with 95 % intervals over seeds, all modalities. "
            "Filled: p < 0.05 after Holm's correction. The intervals themselves are not corrected.",
        ),
        "learning": (
            "Validation score by round for each method",
            f"{first} on the validation {words.places} after each round. Thin: seeds; bold: "
            "their mean, as long as all have a score; grey: mean of the baseline; ×: diverged.",
        ),
        "missing": (
            "Score by missing rate for each removed modality",
            f"{first} when a share of the test {words.items} lacks a modality, the same "
            f"{words.items} for all methods, with 95 % intervals over seeds. Where each method has "
            "a panel, the broad pale lines are the baseline's.",
        ),
        "classes": (
            f"{capital(drawn)} per class and method",
            f"{capital(drawn)} (%) per class on all modalities, mean over seeds. In brackets: "
            f"{words.count}. Few of them make a score unreliable. Grey: no score.",
        ),
    }
    if task.name == "pixel":
        found["confusion"] = (
            "Confusion matrix of the baseline",
            "Confusion matrix of the baseline: where the test pixels of each class go (%), all "
            "test tiles of the comparison together, mean over the seeds with a score. A row sums "
            "to 100; an empty one is a class without a test pixel.",
        )
    return found


def seeds(task: Task) -> str:
    """What the intervals over seeds leave out."""
    return (
        "The seeds cover the randomness of training only, not the choice of the partition, of the "
        f"test {WORDS[task.name].places} or of hyper-parameters."
    )


def title(archive: str, simulated: bool) -> str:
    """An archive's name in the heading: `simulated data` for a simulated one."""
    if not simulated:
        return archive
    return archive.replace("-", " ") if "-" in archive else f"{archive} data"


def lead(task: Task, modalities: str) -> str:
    """What is learned, and from what."""
    names = [SENSORS.get(name, modality_names(name)) for name in modalities.split("+")]
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return f"{capital(task.title)} from {listed}"


def modality_names(names: str) -> str:
    """`s1+s2` as `S1 + S2`; codes in capitals, words with one: `DEM`, `Elevation`.

    A code has a digit or at most four letters.
    """
    return " + ".join(
        part.upper() if len(part) <= 4 or any(c.isdigit() for c in part) else capital(part)
        for part in str(names).split("+")
    )


def capital(text: str) -> str:
    """The text with a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]
