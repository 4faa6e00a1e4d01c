"""The bench of the pixel task against a slow one: a loop over windows, scikit-learn on pixels."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, jaccard_score
from torch import nn

from mmfl.evaluation.pixels import PixelBench, _alike
from mmfl.evaluation.protocol import (
    client_rows,
    loses,
    own_rows,
    subsets,
    union_rows,
    validation_score,
)
from mmfl.facts.tasks import IGNORED
from mmfl.models.ensemble import Expert
from mmfl.models.network import Network, initialise

torch.set_num_threads(1)
BANDS = {"dem": 1, "s1": 2, "s2": 3}
NAMES = ["water", "trees", "grass", "crops"]
P, SIZE, OVERLAP = 4, 32, 0.5
SHAPES = [(32, 32), (40, 33), (20, 25), (32, 32), (47, 64), (32, 7), (33, 32), (32, 32)]
LACKING = {2: "s1", 5: "dem"}  # tile -> modality that the archive does not hold of it


def tensors(seed):
    """A network's tensors, with running statistics and biases that are not those of the start."""
    network = Network(BANDS, P, task="pixel", width=4, projection=8)
    initialise(network, seed)
    source = torch.Generator().manual_seed(seed)
    for key, value in network.state_dict().items():
        if key.endswith(("running_mean", "bias")):
            value.copy_(torch.randn(value.shape, generator=source) * 0.3)
        elif key.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=source) + 0.5)
    return {k: v.clone() for k, v in network.state_dict().items()}


def expert(seed, modalities=tuple(BANDS)):
    own = {
        k: v
        for k, v in tensors(seed).items()
        if k.split(".")[1] in modalities or k.startswith("classifier")
    }
    return Expert(f"expert-{seed}", modalities, own)


@pytest.fixture(scope="module")
def archive():
    """(masks, images): a class's pixels have its level in every band, with noise."""
    rng = np.random.default_rng(0)
    masks, images = [], []
    for height, width in SHAPES:
        coarse = rng.integers(0, P, (height // 4 + 1, width // 4 + 1)).astype(np.uint8)
        mask = coarse.repeat(4, 0).repeat(4, 1)[:height, :width].copy()
        mask[rng.random(mask.shape) < 0.15] = IGNORED
        level = mask % P - 1.5
        masks.append(mask)
        images.append(
            {
                q: torch.from_numpy(level + rng.normal(0, 0.7, (bands, *mask.shape))).float()
                for q, bands in BANDS.items()
            }
        )
    return masks, images


def bench_of(archive, network=None, **changes):
    masks, images = archive
    network = network or Network(BANDS, P, task="pixel", width=4, projection=8)
    count = len(masks)
    held = {q: np.array([LACKING.get(i) != q for i in range(count)]) for q in BANDS}
    settings = {"size": SIZE, "overlap": OVERLAP, "batch": 3} | changes
    return PixelBench(
        network, np.array([f"tile/{i}" for i in range(count)]), held, NAMES,
        lambda q, location: images[location][q], lambda location: masks[location], **settings,
    )  # fmt: skip


# ---- the slow way ------------------------------------------------------------------------------
def slow_probabilities(one, images, members):
    """(P, H, W) float64 of one tile from the plain forward pass of one window after the other."""
    network = Network(BANDS, P, task="pixel", width=4, projection=8)
    network.load_state_dict(one.tensors, strict=False)
    network.eval()
    _, height, width = images[members[0]].shape
    tall, wide = max(height, SIZE), max(width, SIZE)
    total, weights = np.zeros((P, tall, wide)), np.zeros((tall, wide))
    x = (np.arange(SIZE) + 0.5) / SIZE
    bell = np.outer(np.sin(np.pi * x) ** 2, np.sin(np.pi * x) ** 2)
    padding = ((0, 0), (0, tall - height), (0, wide - width))
    for top in sorted({min(a, tall - SIZE) for a in range(0, tall, SIZE // 2)}):
        for left in sorted({min(a, wide - SIZE) for a in range(0, wide, SIZE // 2)}):
            part = np.s_[top : top + SIZE, left : left + SIZE]
            inputs = {
                q: torch.from_numpy(np.pad(images[q].numpy(), padding, "reflect")[:, *part])[None]
                for q in members
            }
            with torch.no_grad():
                found = torch.softmax(network(inputs), 1)[0].double().numpy()
            total[:, *part] += found * bell
            weights[part] += bell
    return (total / weights)[:, :height, :width]


def slow_mean(ensemble, images, members):
    found = [
        slow_probabilities(one, images, [q for q in members if q in one.modalities])
        for one in ensemble
        if set(members) & set(one.modalities)
    ]
    return np.mean(found, axis=0)


def slow_scores(truth, predicted):
    """scikit-learn on the pixels of all tiles."""
    y, p = np.concatenate([t.ravel() for t in truth]), np.concatenate(predicted, axis=None)
    y, p = y[y != IGNORED], p[y != IGNORED]
    some = np.unique(y)
    return {
        "accuracy": accuracy_score(y, p),
        "f1_macro": f1_score(y, p, labels=some, average="macro", zero_division=0),
        "f1_weighted": f1_score(y, p, labels=some, average="weighted", zero_division=0),
        "iou_macro": jaccard_score(y, p, labels=some, average="macro", zero_division=0),
        "iou": jaccard_score(y, p, labels=range(P), average=None, zero_division=0),
    }


def slow_subset(archive, ensemble, locations, members):
    """Scores when each tile keeps `members[i]` of its modalities."""
    masks, images = archive
    predicted = [
        slow_mean(ensemble, images[i], kept).argmax(0)
        for i, kept in zip(locations, members, strict=True)
    ]
    return slow_scores([masks[i] for i in locations], predicted)


def values(rows, **wanted):
    return {
        row["metric"]: row["value"]
        for row in rows
        if all(row.get(key) == value for key, value in wanted.items())
    }


def close(found, expected):
    return found == pytest.approx({k: expected[k] for k in found}, abs=2e-4) and len(found) > 0


ENSEMBLES = {
    "one network": [(expert(1),)],
    "late fusion": [tuple(expert(i, (q,)) for i, q in enumerate(BANDS))],
    "local": [(expert(4, ("dem", "s1")), expert(5, ("s2",))), (expert(6),)],
}


@pytest.mark.parametrize("name", ENSEMBLES)
def test_rows_are_those_of_the_slow_way(archive, name):
    bench, ensembles = bench_of(archive), ENSEMBLES[name]
    test, validation = np.array([0, 1, 2, 4, 5, 7]), np.array([3, 6])
    rows, _ = union_rows(bench, ensembles, "modality", test, validation, [0, 50], detailed=True)
    whole = [0, 1, 4, 7]
    asked = subsets(list(BANDS))
    for subset in asked[:1] if name == "local" else asked:
        each = [slow_subset(archive, e, whole, [subset] * 4) for e in ensembles]
        expected = {k: np.mean([s[k] for s in each]) for k in each[0] if k != "iou"}
        assert close(values(rows, kind="subset", modalities="+".join(subset)), expected)
    if name == "local":
        return
    ensemble = ensembles[0]
    lost = loses(bench.pairs[whole], "s2", 50)
    assert 0 < lost.sum() < 4
    kept = [("dem", "s1") if gone else tuple(BANDS) for gone in lost]
    found = values(rows, kind="missing", removed="s2", rate=50)
    assert close(found, slow_subset(archive, ensemble, whole, kept))
    found = values(rows, kind="incomplete")
    assert close(found, slow_subset(archive, ensemble, [2, 5], [("dem", "s2"), ("s1", "s2")]))
    found = values(rows, kind="validation")
    assert close(found, slow_subset(archive, ensemble, [3, 6], [tuple(BANDS)] * 2))
    assert validation_score(bench, ensembles, validation) == found["iou_macro"]
    full = slow_subset(archive, ensemble, whole, [tuple(BANDS)] * 4)
    found = {row["class"]: row["value"] for row in rows if row["metric"] == "iou"}
    assert found == pytest.approx(dict(zip(NAMES, full["iou"], strict=True)), abs=2e-4)
    counts = {row["kind"]: (row["patches"], row.get("classes")) for row in rows}
    assert counts == {"subset": (4, 4), "missing": (4, 4), "class": (4, None),
                      "incomplete": (2, 4), "validation": (2, 4)}  # fmt: skip


def test_all_missing_is_the_subset_exactly_and_none_is_everything(archive):
    test = np.array([0, 1, 4, 7])
    rows, _ = union_rows(
        bench_of(archive), [(expert(1),)], "modality", test, test[:0], [0, 100], detailed=True
    )
    for q in BANDS:
        rest = "+".join(m for m in BANDS if m != q)
        assert values(rows, removed=q, rate=100) == values(rows, kind="subset", modalities=rest)
        assert values(rows, removed=q, rate=0) == values(
            rows, kind="subset", modalities="+".join(BANDS)
        )


@pytest.mark.parametrize("changes", [{"room": 1}, {"room": 20_000}, {"batch": 1}, {"batch": 50}])
def test_order_and_chunks_change_nothing(archive, changes):
    ensemble = (expert(1), expert(2, ("s2",)))
    order = np.array([4, 7, 0, 3, 1, 6])
    masks = [
        {q: np.full(6, True) for q in BANDS},
        {q: loses(bench_of(archive).pairs[order], q, 50) | (q == "dem") for q in BANDS},
    ]
    expected = bench_of(archive).ask(ensemble, order, masks)
    back = np.argsort(order)
    found = bench_of(archive, **changes).ask(
        ensemble, order[back], [{q: m[back] for q, m in mask.items()} for mask in masks]
    )
    for one, two in zip(expected, found, strict=True):
        assert one.sum() > 5000
        np.testing.assert_array_equal(one[back], two)


def test_maps_are_those_of_the_mean_over_experts(archive):
    masks, images = archive
    test = np.array([1, 2, 4])
    ensemble = ENSEMBLES["local"][0]
    for bench in (bench_of(archive), bench_of(archive, room=1)):
        found = {row: (classes, counts) for row, classes, counts in
                 bench.class_maps(ensemble, test)}  # fmt: skip
        assert sorted(found) == [0, 1, 2]
        for row, location in enumerate(test):
            members = [q for q in BANDS if LACKING.get(location) != q]
            mean = slow_mean(ensemble, images[location], members)
            classes, counts = found[row]
            assert classes.dtype == np.uint8
            assert (classes != mean.argmax(0)).mean() < 1e-3
            kept = masks[location] != IGNORED
            assert counts.sum() == kept.sum()
            assert np.trace(counts) == (classes == masks[location])[kept].sum()


class SinglePixels(nn.Module):
    """Logits of a pixel from its own bands and those of no other; the fusion is a mean."""

    def __init__(self):
        super().__init__()
        weights = torch.randn(P, 3, generator=torch.Generator().manual_seed(0))
        self.weights = {q: weights[:, :bands] for q, bands in BANDS.items()}

    def features(self, q, x):
        return torch.einsum("pc,nchw->nphw", self.weights[q], x)

    def classify(self, features):
        return torch.stack(list(features.values())).mean(0)


NOTHING_LEARNED = (Expert("fixed", tuple(BANDS), {}),)


def test_ignored_pixels_never_influence_a_score(archive):
    """Garbage in the images where the mask says ignored: other predictions, the same rows."""
    masks, images = archive
    spoilt = []
    for mask, image in zip(masks, images, strict=True):
        noise = torch.randn(3, *mask.shape, generator=torch.Generator().manual_seed(1)) * 50
        where = torch.from_numpy(mask == IGNORED)
        spoilt.append({q: torch.where(where, noise[: len(x)], x) for q, x in image.items()})
    test, rates = np.arange(len(masks)), [0, 50, 100]
    found = []
    for bench in (
        bench_of(archive, SinglePixels(), overlap=0),
        bench_of((masks, spoilt), SinglePixels(), overlap=0),
    ):
        rows, _ = union_rows(
            bench, [NOTHING_LEARNED], "modality", test, test[:2], rates, detailed=True
        )
        maps = sorted(bench.class_maps(NOTHING_LEARNED, test), key=lambda item: item[0])
        found.append((rows, [m for _, m, _ in maps], np.stack([c for *_, c in maps])))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][2], found[1][2])
    for mask, one, two in zip(masks, found[0][1], found[1][1], strict=True):
        assert ((one != two) <= (mask == IGNORED)).all() and (one != two).any()


def test_a_class_that_is_ignored_is_not_there(archive):
    """Pixels of class 3 ignored: the scores are scikit-learn's of the other pixels."""
    masks, images = archive
    without = [np.where(mask == 3, IGNORED, mask).astype(np.uint8) for mask in masks]
    bench = bench_of((without, images), SinglePixels())
    test = np.array([0, 1, 4])
    rows, _ = union_rows(bench, [NOTHING_LEARNED], "modality", test, test[:0], [], detailed=True)
    maps = {row: classes for row, classes, _ in bench.class_maps(NOTHING_LEARNED, test)}
    expected = slow_scores([without[i] for i in test], [maps[row] for row in range(3)])
    full = values(rows, kind="subset", modalities="dem+s1+s2")
    assert full == pytest.approx({k: expected[k] for k in full}, abs=1e-12)
    assert {row["class"] for row in rows if row["kind"] == "class"} == set(NAMES[:3])


def test_a_prior_predicts_its_most_frequent_class_everywhere(archive):
    masks, _ = archive
    prior = Expert("prior", tuple(BANDS), {}, torch.tensor([0.1, 0.2, 0.4, 0.3]))
    bench, test = bench_of(archive), np.arange(len(masks))
    answer = bench.ask((prior,), test, [{q: np.full(len(test), True) for q in BANDS}])[0]
    for mask, counts in zip(masks, answer, strict=True):
        expected = np.zeros((P, P), int)
        expected[:, 2] = [(mask == k).sum() for k in range(P)]
        np.testing.assert_array_equal(counts, expected)
    assert all((classes == 2).all() for _, classes, _ in bench.class_maps((prior,), test))


def test_what_no_expert_sees_leaves_a_row_empty(archive):
    """Tile 2 has no s1: an expert of s1 alone has no row over it, and no map."""
    bench, lonely = bench_of(archive), (expert(1, ("s1",)),)
    test, none = np.array([2, 0]), np.empty(0, np.int64)
    rows, answers = union_rows(bench, [lonely], "modality", test, none, [], detailed=True)
    assert values(rows, kind="subset", modalities="s1")
    assert not values(rows, kind="subset", modalities="s2") and not values(rows, kind="incomplete")
    assert bench.seen(answers[0]).tolist() == [False, True]
    maps = {row: (classes, counts) for row, classes, counts in bench.class_maps(lonely, test)}
    assert (maps[0][0] == IGNORED).all() and not bench.seen(maps[0][1][None]).any()
    assert maps[1][1].sum() == (archive[0][0] != IGNORED).sum()
    np.testing.assert_array_equal(maps[1][1], answers[0][1])
    both = validation_score(bench, [lonely], test)
    assert both == validation_score(bench, [lonely], test[1:])
    assert validation_score(bench, [lonely], test[:1]) is None
    assert validation_score(bench, [lonely], none) is None


@pytest.mark.parametrize(("room", "most"), [(1, 2), (2**25, len(SHAPES))])
def test_few_tiles_are_in_memory_at_a_time(archive, room, most):
    """Masks of tiles whose images are still to be read: one chunk, and the next one's first."""
    bench, waiting, found = bench_of(archive, SinglePixels(), room=room), set(), []

    def mask(location):
        waiting.add(location)
        found.append(len(waiting))
        return archive[0][location]

    def tile(q, location):
        waiting.discard(location)
        return archive[1][location][q]

    bench.mask, bench.tile = mask, tile
    test = np.arange(len(SHAPES))
    bench.ask(NOTHING_LEARNED, test, [{q: np.full(len(test), True) for q in BANDS}])
    assert max(found) == most


def test_rows_of_clients(archive):
    bench, test = bench_of(archive), np.array([0, 1, 2, 4])
    one = expert(3, ("s1",))
    rows = client_rows(bench, [one], test, test[:0], "modality")
    expected = slow_subset(archive, (one,), [0, 1, 4], [("s1",)] * 3)
    assert close(values(rows, client="expert-3"), expected)
    assert {row["patches"] for row in rows} == {3}
    own = {"A": np.array([1]), "B": np.array([0])}
    rows = own_rows(bench, {"local": {"A": one}}, own, test[:0])
    assert close(values(rows, policy="local"), slow_subset(archive, (one,), [1], [("s1",)]))


def test_without_any_true_pixel_there_is_no_validation_score(archive):
    blank = [np.full_like(mask, IGNORED) for mask in archive[0]]
    bench = bench_of((blank, archive[1]), SinglePixels())
    assert validation_score(bench, [NOTHING_LEARNED], np.array([0, 1])) is None


def test_a_model_that_diverged_has_no_score_and_no_map(archive):
    """NaN in what s1 gives: no class is the highest, and no class is predicted."""
    network, test = SinglePixels(), np.array([0, 1, 2])  # tile 2 has no s1
    network.weights["s1"] = network.weights["s1"] * torch.nan
    bench = bench_of(archive, network)
    rows, answers = union_rows(
        bench, [NOTHING_LEARNED], "modality", test, test, [100], detailed=True
    )
    lost = {(r["kind"], r["modalities"], r.get("removed")) for r in rows if "value" not in r}
    kept = {(r["kind"], r["modalities"], r.get("removed")) for r in rows if "value" in r}
    assert {r["state"] for r in rows if "value" not in r} == {"diverged"}
    assert kept == {("subset", s, None) for s in ("dem", "s2", "dem+s2")} | {
        ("missing", "mixed", "s1"), ("incomplete", "fewer", None),
    }  # fmt: skip
    assert ("validation", "dem+s1+s2", None) in lost and ("subset", "s1", None) in lost
    assert bench.finite(answers[0]).tolist() == [False, False, True]
    assert bench.seen(answers[0]).all() and np.isnan(
        validation_score(bench, [NOTHING_LEARNED], test)
    )
    for row, classes, counts in bench.class_maps(NOTHING_LEARNED, test):
        assert (classes == IGNORED).all() == (row < 2) == (not bench.finite(counts[None]).all())


def test_one_pixel_that_is_not_finite_spoils_its_tile_and_no_other(archive):
    masks, images = archive
    spoilt = [{q: x.clone() for q, x in image.items()} for image in images]
    spoilt[1]["s2"][0, 3, 5] = torch.nan
    bench, test = bench_of((masks, spoilt), SinglePixels(), overlap=0), np.array([0, 1, 4])
    (answer,) = bench.ask(NOTHING_LEARNED, test, [{q: np.full(3, True) for q in BANDS}])
    assert bench.finite(answer).tolist() == [True, False, True] and bench.seen(answer).all()
    for row, classes, _ in bench.class_maps(NOTHING_LEARNED, test):
        assert (classes == IGNORED).all() == (row == 1)


def test_as_many_tiles_as_fit_are_predicted_at_a_time(archive):
    """Of 32 x 32 pixels, 4 classes and 3 maps each: two take 2 * 1024 * 4 * 3 probabilities."""
    rows, tiles = [0, 1, 2, 3], np.array([0, 3, 7, 0])
    for room, expected in ((24576, [2, 2]), (24575, [1] * 4), (36864, [3, 1]), (1, [1] * 4)):
        bench = bench_of(archive, SinglePixels(), room=room)
        chunks = list(bench._chunks(tiles, rows, 3))
        assert [len(part) for part, _ in chunks] == expected
        assert np.concatenate([part for part, _ in chunks]).tolist() == rows


def test_rows_that_are_asked_the_same_go_together_in_a_fixed_order():
    subsets = [("a",), ("a", "b"), ("a", "c"), ("b",), ("b", "c"), ("c",), ("c", "d"), ("d",)]
    some, other = frozenset(subsets), frozenset(subsets[:5])
    assert _alike([some, other, some]) == [(subsets, [0, 2]), (subsets[:5], [1])]
