"""Retrieval scores against a slow loop, under each convention, and the health of codes."""

import numpy as np
import pytest

from umbel.evaluation.hashing import BASELINES, Convention, code_health, make_task, pack, score_codes, score_features
from umbel.evaluation.hashing.evaluate import score_hasher


def slow_map(
    distances: np.ndarray, database_label: np.ndarray, query_label: np.ndarray, k: int, denominator: str
) -> float:
    """One query after the other; ties by the lowest row."""
    values = []
    for row, label in zip(distances, query_label, strict=True):
        relevant = [database_label[i] == label for i in sorted(range(len(row)), key=row.__getitem__)]
        hits, total = 0, 0.0
        for rank, hit in enumerate(relevant[:k], start=1):
            hits += hit
            total += hits / rank if hit else 0
        divisor = {"found": hits, "min": min(k, sum(relevant)), "all": sum(relevant)}[denominator]
        values.append(total / divisor if hits else 0.0)
    return float(np.mean(values))


@pytest.mark.parametrize("denominator", ["found", "min", "all"])
@pytest.mark.parametrize("k", [5, 40, 1000])
def test_equals_a_slow_loop(denominator: str, k: int) -> None:
    generator = np.random.default_rng(0)
    label, split = generator.integers(-1, 4, 400), generator.integers(0, 3, 400)
    features = (generator.normal(size=(400, 10)) + label[:, None]).astype(np.float32)
    task = make_task(label, split, ("val", "test", "train"))
    assert len(task.queries) + len(task.database) == (label >= 0).sum()
    assert not set(task.queries) & set(task.database)
    hasher = BASELINES["itq"](6).fit(features)
    scores = score_hasher("itq", hasher, features, task, Convention(k=k, denominator=denominator))  # type: ignore[arg-type]
    bits, logits = hasher.encode(features), hasher.logits(features).astype(float)
    hamming = (bits[task.queries][:, None] != bits[task.database][None]).sum(-1)
    soft = np.abs(1 / (1 + np.exp(-logits[task.queries]))[:, None] - bits[task.database][None]).sum(-1).round(9)
    assert [score.distance for score in scores] == ["Hamming", "asymmetric"]
    for score, distances in zip(scores, (hamming, soft), strict=True):
        slow = slow_map(distances, task.database_label, task.query_label, k, denominator)
        assert score.map == pytest.approx(slow, rel=1e-9)
        assert score.health == code_health(bits[task.database])


def test_unlabeled_photographs_and_other_splits_stand_aside() -> None:
    label = np.array([0, -1, 1, 0, -1, 1, 0])
    task = make_task(label, np.array([0, 0, 1, 2, 2, 3, 3]), ("train", "val", "test", "unlabeled"))
    assert task.database.tolist() == [0, 2]
    assert task.queries.tolist() == [3]


def test_codes_alone_have_no_asymmetric_score() -> None:
    label, split = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    codes = pack(np.array([[0, 1], [1, 0], [0, 1], [0, 1]], bool))
    (score,) = score_codes("mine", codes, 2, make_task(label, split, ("train", "test")), Convention(k=2))
    # Query 0 finds its own first (AP 1), query 1 finds it second (AP 1/2).
    assert score.map == pytest.approx(0.75)


def test_centering_shows_where_features_share_a_mean() -> None:
    generator = np.random.default_rng(0)
    label, split = np.arange(200) % 2, np.arange(200) // 100
    features = generator.normal(size=(200, 4)) + 100 + np.where(label, 1.5, -1.5)[:, None]
    plain, centered = score_features(features, make_task(label, split, ("train", "test")), Convention(k=100))
    assert centered.map > plain.map + 0.1


def test_a_convention_tells_itself() -> None:
    assert "mAP@7" in str(Convention(k=7))
    assert "min(K, R)" in str(Convention(k=7, denominator="min"))


def test_health() -> None:
    bits = np.array([[0, 0, 1, 1], [0, 1, 0, 1], [1, 0, 1, 1], [1, 1, 0, 1]], bool)
    health = code_health(bits)
    assert health.imbalance == 0.5
    assert health.constant == 1
    # Of three varying bits, the second and third are each other's complement and the first has no part in them.
    assert health.correlation == pytest.approx(1 / 3)
    assert code_health(bits[:, 3:]).correlation == 0
