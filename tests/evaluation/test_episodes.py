"""Episodes: equal to a plain loop over what they draw, drawn without favor, the same however many follow."""

from typing import Any

import numpy as np
import pytest

from umbel.evaluation import episodes
from umbel.evaluation.episodes import _ByClass, episodic
from umbel.evaluation.estimates import over_draws

LABELS = np.repeat([1, 4, 6, 9, 11], [20, 12, 9, 30, 8])


def features(labels: np.ndarray = LABELS, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(12, 5))
    return generator.normal(size=(len(labels), 5)) + 0.8 * centers[labels] + 1


def plain(x: np.ndarray, asked: np.ndarray, support: np.ndarray, queries: np.ndarray) -> float:
    """One episode: (W, S) and (W, Q) rows."""

    def unit(v: np.ndarray) -> np.ndarray:
        return v / np.sqrt((v**2).sum())

    s = [[unit(x[row]) for row in rows] for rows in support]
    mean = np.mean([v for rows in s for v in rows], axis=0)
    centroids = [np.mean([unit(v - mean) for v in rows], axis=0) for rows in s]
    right = total = 0
    for way, rows in enumerate(queries):
        for row in rows:
            q = unit(unit(asked[row]) - mean)
            right += int(np.argmin([((q - c) ** 2).sum() for c in centroids])) == way
            total += 1
    return right / total


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_equal_to_a_plain_loop(apart: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "CHUNK", chunk)
    drawn: list[np.ndarray] = []
    draw = _ByClass.draw

    def watch(self: _ByClass, classes: np.ndarray, *rest: Any) -> np.ndarray:
        rows = draw(self, classes, *rest)
        drawn.extend(rows)
        return rows

    monkeypatch.setattr(_ByClass, "draw", watch)
    x, given = features(), {"ways": 3, "shots": 2, "episodes": 7, "seed": 5, "per_class": 4}
    if apart:
        asked, labels = features(LABELS[::2], seed=1), LABELS[::2]
        made = episodic(x, LABELS, queries=asked, query_labels=labels, **given)
        pairs = (
            [(drawn[2 * i], drawn[2 * i + 1]) for i in range(7)]
            if chunk == 1
            else list(zip(drawn[:7], drawn[7:], strict=True))
        )
    else:
        asked, labels = x, LABELS
        made = episodic(x, LABELS, **given)
        pairs = [(rows[:, :2], rows[:, 2:]) for rows in drawn]
    want = [plain(x, asked, *pair) for pair in pairs]
    np.testing.assert_allclose(made.accuracies, want, atol=1e-12)
    assert len(set(want)) > 1
    for support, queries in pairs:
        assert (LABELS[support] == LABELS[support][:, :1]).all()
        assert (labels[queries] == LABELS[support][:, :1]).all()
        assert len(np.unique(LABELS[support])) == 3
        if not apart:
            assert not np.intersect1d(support, queries).size


def test_an_episode_is_the_same_however_many_follow() -> None:
    given: dict[str, Any] = {"ways": 3, "shots": 1, "seed": 0}
    ten = episodic(features(), LABELS, episodes=10, **given).accuracies
    assert episodic(features(), LABELS, episodes=4, **given).accuracies.tolist() == ten[:4].tolist()
    assert episodic(features(), LABELS, episodes=10, **given | {"seed": 1}).accuracies.tolist() != ten.tolist()


def test_every_image_is_drawn_as_often_in_every_place() -> None:
    by_class = _ByClass(LABELS)
    streams = [np.random.default_rng([0, number]) for number in range(4000)]
    rows = by_class.draw(np.full((4000, 1), 6), 4, streams)[:, 0]  # (4000, 4), of 9 images
    assert (LABELS[rows] == 6).all()
    assert (np.diff(np.sort(rows, axis=1), axis=1) > 0).all()
    counts = np.stack([np.bincount(rows[:, place] - 32, minlength=9) for place in range(4)])
    assert counts.shape == (4, 9)
    assert abs(counts - 4000 / 9).max() < 5 * np.sqrt(4000 / 9)


def test_small_classes_ask_less_and_then_are_left_out() -> None:
    made = episodic(features(), LABELS, ways=5, shots=5, episodes=2, seed=0)
    assert (made.ways, made.queries) == (5, 3)  # the smallest of five has 8
    made = episodic(features(), LABELS, ways=20, shots=10, episodes=2, seed=0)
    assert (made.ways, made.queries) == (3, 2)
    with pytest.raises(ValueError, match="1 of 5 classes have images enough"):
        episodic(features(), LABELS, ways=5, shots=20, episodes=2, seed=0)
    with pytest.raises(ValueError, match="ways 2, not 1, 1, 15, 1"):
        episodic(features(), LABELS, ways=1, shots=1, episodes=1, seed=0)


def test_the_interval_covers_the_mean_of_all_episodes() -> None:
    accuracies = episodic(features(), LABELS, ways=3, shots=1, episodes=4000, seed=0).accuracies
    truth = accuracies.mean()
    found = [over_draws(row) for row in accuracies[:3600].reshape(-1, 12)]
    assert 0.91 < np.mean([one.low <= truth <= one.high for one in found]) < 0.985
