"""Few-shot: equal to a plain loop of the protocol, the same draws for the same labels, intervals that cover."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from umbel.evaluation import centroid, fewshot
from umbel.evaluation.fewshot import centroid_outcomes, draw_support, interval, left_out_classes, nearest_centroid

LABELS = np.array([0, 3, 7, 3, 0, 7, 7, 3, 0, 3, 7, 0, 3, 7, 0, 3] * 3)


def random_features(count: int, *, width: int = 6, seed: int = 0, labels: np.ndarray | None = None) -> np.ndarray:
    """Features with something of the class in them, off center, of several lengths."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, width)) + 1.5
    if labels is not None:
        features += generator.normal(size=(10, width))[labels]
    return features * generator.uniform(0.1, 10, size=(count, 1))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / math.sqrt(float((vector**2).sum()))


def plain(support: list[tuple[np.ndarray, int]], queries: list[tuple[np.ndarray, int]]) -> float:
    """One draw of the protocol, a sentence a line."""
    support = [(unit(x), y) for x, y in support]
    queries = [(unit(x), y) for x, y in queries]
    mean = sum(x for x, _ in support) / len(support)
    support = [(unit(x - mean), y) for x, y in support]
    queries = [(unit(x - mean), y) for x, y in queries]
    classes = sorted({y for _, y in support})
    centroids = {c: np.mean([x for x, y in support if y == c], axis=0) for c in classes}
    right = 0
    for x, y in queries:
        distances = {c: math.dist(x, centroids[c]) for c in classes}
        right += min(distances, key=distances.__getitem__) == y
    return right / len(queries)


def plain_draws(features: np.ndarray, labels: np.ndarray, shots: int, draws: int, seed: int) -> list[tuple[Any, Any]]:
    """Support and rest of each draw, by the rows that `draw_support` gives."""
    found = []
    numbers = np.searchsorted(np.unique(labels), labels)
    for draw in range(draws):
        rows = set(draw_support(numbers, shots=shots, seed=seed, draw=draw).ravel().tolist())
        both = ([], [])
        for row, (x, y) in enumerate(zip(features, labels.tolist(), strict=True)):
            both[row not in rows].append((x, y))
        found.append(both)
    return found


@pytest.mark.parametrize("shots", [1, 2, 5])
@pytest.mark.parametrize("chunk", [1, 200, 1 << 22])
def test_the_rest_of_the_set_as_queries_equals_the_plain_loop(
    shots: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (centroid, fewshot):
        monkeypatch.setattr(module, "CHUNK", chunk)
    features = random_features(len(LABELS), labels=LABELS)
    got = nearest_centroid(features, LABELS, shots=shots, draws=7, seed=3)
    want = [plain(support, rest) for support, rest in plain_draws(features, LABELS, shots, 7, 3)]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)
    assert 0.3 < got.mean() < 1
    assert got.shape == (7,)
    assert got.dtype == np.float64


@pytest.mark.parametrize("chunk", [1, 200, 1 << 22])
def test_separate_queries_equal_the_plain_loop(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (centroid, fewshot):
        monkeypatch.setattr(module, "CHUNK", chunk)
    asked_labels = np.array([0, 3, 7] * 11)
    both = random_features(len(LABELS) + 33, labels=np.concatenate([LABELS, asked_labels]))
    features, asked = both[: len(LABELS)], both[len(LABELS) :]
    got = nearest_centroid(features, LABELS, shots=2, draws=5, seed=0, queries=asked, query_labels=asked_labels)
    queries = list(zip(asked, asked_labels.tolist(), strict=True))
    want = [plain(support, queries) for support, _ in plain_draws(features, LABELS, 2, 5, 0)]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)
    assert len(set(want)) > 1


@pytest.mark.parametrize("chunk", [1, 200, 1 << 22])
@pytest.mark.parametrize("apart", [True, False])
def test_answers_equal_the_plain_loop_query_by_query(apart: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven classes, so that not all are among the nearest five; one is too small and its queries are not asked."""
    for module in (centroid, fewshot):
        monkeypatch.setattr(module, "CHUNK", chunk)
    labels = np.concatenate([np.arange(42) % 7 + 1, [9]])
    features = random_features(43, labels=labels)
    asked_labels = np.array([1, 9, 2, 3, 4, 5, 6, 7, 1, 1])
    asked: Any = (
        {"queries": random_features(10, seed=1, labels=asked_labels), "query_labels": asked_labels} if apart else {}
    )
    found = centroid_outcomes(features, labels, shots=2, draws=4, seed=0, **asked)
    assert found.rows.tolist() == ([0, 2, 3, 4, 5, 6, 7, 8, 9] if apart else list(range(42)))
    assert found.classes.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found.truth.tolist() == (asked_labels if apart else labels)[found.rows].tolist()
    for draw in range(4):
        rows = draw_support(labels[:42] - 1, shots=2, seed=0, draw=draw)
        assert found.counted[draw].tolist() == [apart or row not in rows for row in range(len(found.rows))]
        support = np.stack([unit(x) for x in features])[rows]  # (7, 2, C)
        mean = support.mean((0, 1))
        means = [np.mean([unit(x - mean) for x in both], axis=0) for both in support]
        for place, row in enumerate(found.rows):
            query = unit(unit((asked["queries"] if apart else features)[row]) - mean)
            distances = [math.dist(query, center) for center in means]
            order = np.argsort(distances).tolist()
            assert found.predicted[draw, place] == order[0] + 1
            assert found.among_top[draw, place] == (int(found.truth[place]) - 1 in order[:5])
    assert not found.among_top.all()
    want = nearest_centroid(features, labels, shots=2, draws=4, seed=0, **asked)
    assert found.accuracies.tolist() == want.tolist()
    assert (found.hits.sum(1) / found.counted.sum(1)).tolist() == want.tolist()


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_what_single_precision_cannot_tell_apart_is_told_by_double_precision(offset: float) -> None:
    """Queries a hair's breadth (2e-9 to 2e-6) to one side of the middle between two centroids."""
    generator = np.random.default_rng(0)
    support = np.array([[1.0, 0, 0], [0, 1, 0]]) + offset
    side = np.tile([1.0, -1.0], 200)
    queries = np.stack([1 + side * np.geomspace(1e-9, 1e-6, 400), np.ones(400), generator.normal(size=400)], 1) + offset
    given: dict[str, Any] = {"shots": 1, "draws": 2, "seed": 0, "queries": queries}
    labels = np.where(side > 0, 0, 1)
    assert nearest_centroid(support, [0, 1], query_labels=labels, **given).tolist() == [1, 1]
    assert nearest_centroid(support, [0, 1], query_labels=1 - labels, **given).tolist() == [0, 0]
    assert centroid_outcomes(support, [0, 1], query_labels=labels, **given).accuracies.tolist() == [1, 1]


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("classes", [3, 40])
def test_answers_are_those_of_double_precision_wherever_they_begin(half: bool, classes: int) -> None:
    """3,000 queries among centroids that are close together, so that half precision leaves a part of them open."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(3000) % classes
    centers = torch.randn((classes, 24), generator=generator, dtype=torch.float64)
    features = 3 + 0.4 * centers[truth] + torch.randn((3000, 24), generator=generator, dtype=torch.float64)
    support = torch.nn.functional.normalize(3 + 0.4 * centers, dim=1)
    mean = support.mean(0)
    centroids = 0.3 * torch.nn.functional.normalize(support - mean, dim=1)
    queries = centroid.Queries(features.float(), truth, half=half)
    asked = torch.nn.functional.normalize(features.float().double(), dim=1) - mean
    distances = torch.cdist(torch.nn.functional.normalize(asked, dim=1), centroids)
    nearest = distances.argmin(1)
    assert torch.equal(queries.hits(mean, centroids), nearest == truth)
    found = queries.answers(mean, centroids)
    assert torch.equal(found.predicted, nearest)
    closer = (distances < distances.gather(1, truth[:, None])).sum(1)
    assert torch.equal(found.among_top, closer < 5)
    assert 0.1 < (nearest == truth).float().mean() < 0.95


def test_half_precision_leaves_few_open_and_never_decides_what_it_cannot() -> None:
    generator = torch.Generator().manual_seed(0)
    features, truth = torch.randn((2000, 48), generator=generator), torch.arange(2000) % 30
    centroids = 0.3 * torch.nn.functional.normalize(
        torch.randn((30, 48), generator=generator, dtype=torch.float64), dim=1
    )
    mean = torch.zeros(48, dtype=torch.float64)
    queries = centroid.Queries(features, truth, half=True)
    first, exact = list(queries._products(mean, centroids))
    scores, doubt = (torch.cat(parts) for parts in list(zip(*first.blocks(None), strict=True))[1:])
    (_, sure, _), length = next(exact.blocks(None)), (queries.moved - (mean - queries.offset).float()).norm(dim=1)
    off = (scores.float() - sure / length[:, None]).abs().amax(1)
    allowed = (doubt + 2 * first.unit * scores.float().abs().amax(1)) / 2
    assert (off <= allowed).all()
    assert off.mean() > allowed.mean() / 50  # and it is no empty promise
    best = scores.float().topk(2, dim=1).values
    assert 0 < (best[:, 0] - best[:, 1] <= 2 * allowed).float().mean() < 0.3


def test_the_rounding_of_the_scores_themselves_is_counted() -> None:
    """Of many terms, as features are wide, and of scores near 1, where it is the larger part."""
    generator = torch.Generator().manual_seed(0)
    centroids = torch.nn.functional.normalize(torch.randn((8, 4000), generator=generator, dtype=torch.float64), dim=1)
    truth = torch.arange(400) % 8
    features = (centroids[truth] + 0.002 * torch.randn((400, 4000), generator=generator)).float()
    queries = centroid.Queries(features, truth, half=True)
    mean = torch.zeros(4000, dtype=torch.float64)
    first, exact = queries._products(mean, centroids)
    (_, scores, doubt), (_, sure, _) = next(first.blocks(None)), next(exact.blocks(None))
    length = (queries.moved - (mean - queries.offset).float()).norm(dim=1)
    off = (scores.float() - sure / length[:, None]).abs().amax(1)
    assert (off <= (doubt + 2 * first.unit * scores.float().abs().amax(1)) / 2).all()
    assert (off > doubt / 2).any()


def test_an_example_by_hand() -> None:
    """Two classes on two axes: whatever is drawn, the query on the right axis is right and the astray one wrong."""
    features = np.array([[9.0, 0], [1, 0], [0, 2], [0, 5]])
    queries = np.array([[3.0, 1], [1, 3], [1, 3]])
    got = nearest_centroid(
        features, [0, 0, 1, 1], shots=1, draws=4, seed=0, queries=queries, query_labels=np.array([0, 1, 0])
    )
    assert got.tolist() == [2 / 3] * 4


def test_centering_is_of_the_support_and_counts() -> None:
    """Class 1 lies around the common mean's direction: without centering every query would be nearest to it."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    features = 100 + generator.normal(size=(80, 4)) * 0.01
    features[labels == 0, 0] += 1
    assert nearest_centroid(features, labels, shots=5, draws=5, seed=0).min() == 1


def test_means_are_not_normalized_again() -> None:
    """By hand: classes 0 and 1 scatter, so that their means are short; the query is 40 degrees off mean 0, 50 off 2."""
    degrees = np.radians([80.0, -80, 100, -100, 90, 90, -90, -90])
    support = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    asked = np.array([[math.cos(math.radians(40)), math.sin(math.radians(40))]])
    labels = [0, 0, 1, 1, 2, 2, 3, 3]
    given: dict[str, Any] = {"shots": 2, "draws": 1, "seed": 0, "queries": asked}
    assert nearest_centroid(support, labels, query_labels=[2], **given).tolist() == [1]


def test_tensors_arrays_and_lists_give_the_same() -> None:
    features = random_features(len(LABELS), labels=LABELS).astype(np.float32)
    got = [
        nearest_centroid(x, y, shots=2, draws=5, seed=1).tolist()
        for x, y in (
            (features, LABELS),
            (torch.from_numpy(features), torch.from_numpy(LABELS)),
            (torch.from_numpy(features).requires_grad_(), LABELS.tolist()),
            (features * 17, LABELS.astype(np.uint8)),
        )
    ]
    assert got == [got[0]] * 4


def test_draws_are_paired_repeatable_and_seeded() -> None:
    labels = np.array([0] * 10 + [1] * 10)
    features = random_features(20, labels=labels)
    ten = nearest_centroid(features, labels, shots=1, draws=10, seed=0)
    assert nearest_centroid(features, labels, shots=1, draws=4, seed=0).tolist() == ten[:4].tolist()
    assert nearest_centroid(features, labels, shots=1, draws=10, seed=1).tolist() != ten.tolist()
    assert len(set(ten.tolist())) > 1
    # Mirrored features are another backbone: the same images are drawn.
    assert nearest_centroid(-features, labels, shots=1, draws=10, seed=0).tolist() == ten.tolist()


def test_support_has_its_shots_of_each_class_and_every_image_gets_its_turn() -> None:
    numbers = np.searchsorted(np.unique(LABELS), LABELS)
    times = np.zeros(len(LABELS))
    for draw in range(600):
        rows = draw_support(numbers, shots=3, seed=0, draw=draw)
        assert rows.shape == (3, 3)
        assert (numbers[rows] == np.arange(3)[:, None]).all()
        assert len(set(rows.ravel().tolist())) == 9
        times[rows] += 1
    expected = 600 * 3 / np.bincount(numbers)[numbers]
    assert (abs(times - expected) < 5 * np.sqrt(expected)).all()


def test_small_classes_are_left_out_with_their_queries() -> None:
    labels = np.concatenate([LABELS, [1, 1, 2, 2, 2]])
    features = random_features(len(labels), labels=labels)
    got = nearest_centroid(features, labels, shots=2, draws=6, seed=0)
    kept = labels != 1  # class 2 has two for the support and one query
    want = nearest_centroid(features[kept], labels[kept], shots=2, draws=6, seed=0)
    assert got.tolist() == want.tolist()
    assert left_out_classes(labels, shots=2) == (1,)
    assert left_out_classes(labels, shots=3) == (1, 2)


def test_with_queries_as_many_images_as_shots_are_enough() -> None:
    labels = np.concatenate([LABELS, [1, 1]])
    features = random_features(len(labels), labels=labels)
    asked_labels = np.array([0, 3, 7, 1, 1, 9])
    asked = random_features(6, seed=1)
    got = nearest_centroid(features, labels, shots=2, draws=3, seed=0, queries=asked, query_labels=asked_labels)
    assert np.isin(got * 5, range(6)).all()  # five queries are asked, class 9 is in no support
    assert left_out_classes(labels, shots=2, query_labels=asked_labels) == (9,)
    assert left_out_classes(labels, shots=3, query_labels=asked_labels) == (1, 9)
    fewer = nearest_centroid(features, labels, shots=3, draws=3, seed=0, queries=asked, query_labels=asked_labels)
    assert np.isin(fewer * 3, range(4)).all()


GOOD: dict[str, Any] = {"embeddings": np.ones((8, 2)), "labels": [0, 1] * 4, "shots": 1, "draws": 2, "seed": 0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embeddings": np.ones(8)}, "embeddings must be of shape"),
        ({"embeddings": np.ones((8, 0))}, "embeddings must be of shape"),
        ({"embeddings": np.full((8, 2), np.nan)}, "not finite"),
        ({"labels": [0, 1]}, r"labels must be of shape \(8,\)"),
        ({"labels": np.zeros((8, 1), int)}, "labels must be of shape"),
        ({"labels": np.linspace(0, 1, 8)}, "whole numbers"),
        ({"labels": [-1, 0, 1, 1, 0, 0, 1, 1]}, "negative"),
        ({"labels": [0] * 8}, "0 of 1|1 of 1"),
        ({"shots": 0}, "at least 1"),
        ({"draws": 0}, "at least 1"),
        ({"shots": 4}, "0 of 2 classes have images enough for 4 shots"),
        ({"seed": -1}, "negative"),
        ({"queries": np.ones((2, 2))}, "go together"),
        ({"query_labels": [0, 1]}, "go together"),
        ({"queries": np.ones((2, 3)), "query_labels": [0, 1]}, "width 3, embeddings 2"),
        ({"queries": np.ones((2, 2)), "query_labels": [0]}, r"query_labels must be of shape \(2,\)"),
        ({"queries": np.ones((2, 2)), "query_labels": [5, 6]}, "no query is of a class"),
    ],
)
def test_wrong_input_is_a_value_error(change: dict[str, Any], words: str) -> None:
    assert nearest_centroid(**GOOD).shape == (2,)
    with pytest.raises(ValueError, match=words):
        nearest_centroid(**GOOD | change)


def test_an_interval_by_hand() -> None:
    mean, half = interval([0.5, 0.6, 0.7])
    assert mean == pytest.approx(0.6)
    assert half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)  # t(0.975, 2 degrees of freedom)
    assert interval(np.full(9, 0.25)) == (0.25, 0.0)


@pytest.mark.parametrize("values", [[], [0.5], [[0.5, 0.6]]])
def test_an_interval_needs_two_draws(values: list[Any]) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        interval(values)


@pytest.mark.slow
@pytest.mark.parametrize("draws", [3, 10])
def test_the_interval_covers_the_mean_of_all_draws_at_the_nominal_rate(draws: int) -> None:
    labels = np.repeat([0, 1, 2], 20)
    features = random_features(60, labels=labels)
    accuracies = nearest_centroid(features, labels, shots=2, draws=4000, seed=0)
    truth = accuracies.mean()
    inside = [abs(mean - truth) <= half for mean, half in map(interval, accuracies[:3600].reshape(-1, draws))]
    assert 0.92 < np.mean(inside) < 0.98
