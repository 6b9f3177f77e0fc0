"""Tables, groups, higher taxa, rejection, measures without labels, comparisons: against plain restatements."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from umbel.evaluation.classification import class_rows, confusions
from umbel.evaluation.compare import compare, paired_difference, verdict_in_words
from umbel.evaluation.estimates import Estimate
from umbel.evaluation.groups import by_frequency, by_name
from umbel.evaluation.label_free import alignment, rank_me, uniformity
from umbel.evaluation.open_set import auroc, false_accepts, rejection
from umbel.evaluation.taxonomy import Taxonomy, in_words


def test_classes_and_confusions_by_hand() -> None:
    truth, predicted = np.array([1, 1, 1, 4, 4, 6]), np.array([4, 4, 1, 4, 1, 1])
    asked, right, support = (np.bincount(labels, minlength=10) for labels in (truth, [1, 4], [1, 4, 4, 9]))
    rows = class_rows(asked, right, support)
    assert [(row.label, row.count, row.accuracy, row.support) for row in rows] == [
        (1, 3, 1 / 3, 1),
        (4, 2, 0.5, 2),
        (6, 1, 0.0, 0),
    ]
    pairs = confusions(truth, predicted)
    assert [(pair.true, pair.predicted, pair.count) for pair in pairs] == [(1, 4, 2), (4, 1, 1), (6, 1, 1)]
    assert len(confusions(truth, predicted, most=1)) == 1
    assert confusions(truth, truth) == confusions(truth[:0], truth[:0]) == []


def test_head_middle_and_tail_by_hand() -> None:
    support = np.repeat([0, 1, 2, 3, 4, 5], [50, 40, 8, 8, 2, 1])
    truth = np.array([0, 1, 2, 3, 4, 5, 5])
    right = np.array([1, 0, 1, 1, 0, 0, 1], dtype=bool)
    rows = by_frequency(truth, right, support)
    assert [(row.name, row.classes, row.count, row.accuracy.value) for row in rows] == [
        ("head", 2, 2, 0.5),
        ("middle", 2, 2, 1.0),
        ("tail", 2, 3, 1 / 3),
    ]
    # Equally frequent species stay together: here four are first.
    rows = by_frequency(truth[:6], right[:6], np.repeat(np.arange(6), [9, 9, 9, 9, 2, 2]))
    assert [(row.name, row.classes) for row in rows] == [("head", 4), ("tail", 2)]
    assert by_frequency(truth, right, np.arange(6)) == []


def test_organs_by_hand() -> None:
    rows = by_name(np.array([0, 1, 1, 2]), np.array([True, True, False, True]), ["leaf", "flower", "flower", ""])
    assert [(row.name, row.classes, row.count, row.accuracy.value) for row in rows] == [
        ("flower", 1, 2, 0.5),
        ("leaf", 1, 1, 1.0),
    ]


RECORDS: dict[int, dict[str, Any]] = {
    0: {"genus": "Rosa", "family": "Rosaceae"},
    1: {"genus": "Rosa", "family": "Rosaceae"},
    2: {"genus": "Malus", "family": "Rosaceae"},
    3: {"genus": "Bellis", "family": "Asteraceae"},
    4: {"family": "Asteraceae"},
    5: {"genus": 7},
}


def test_higher_taxa_by_hand() -> None:
    taxonomy = Taxonomy.of(RECORDS, 7)
    assert taxonomy is not None
    assert taxonomy.levels == ("genus", "family")
    truth = np.array([0, 0, 0, 0, 3, 5, 6])
    predicted = np.array([0, 1, 2, 3, 4, 6, 6])
    found = taxonomy.measure(truth, predicted)
    assert found["genus"].value == 2 / 5  # of the queries whose genus is told: 0, 0, 0, 0, 3
    assert found["family"].value == 4 / 5
    assert found["distance"].value == np.mean([1, 2, 3, 2, 3])  # 5 and 6 are of unknown taxa: no one's
    assert "genus 40.0" in in_words(found)[0]
    assert "(1: the same genus)" in in_words(found)[2]
    assert Taxonomy.of({0: {"name": "x"}}, 1) is None


def test_area_and_false_accepts() -> None:
    generator = np.random.default_rng(0)
    known, unknown = generator.integers(0, 12, 40) / 4, generator.integers(0, 9, 30) / 4
    truth = np.repeat([1, 0], [40, 30])
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(truth, np.concatenate([known, unknown])))
    known = np.arange(20.0)
    # 19 of 20 known ones are accepted from 1 on.
    assert false_accepts(known, np.array([0.5, 1, 2, 0])) == 0.5
    assert false_accepts(known, np.array([0.5, 1, 2, 0]), recall=1) == 1


def test_rejection_equals_a_plain_loop() -> None:
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(8, 5))
    labels, asked = np.arange(64) % 8, np.arange(40) % 8
    x = generator.normal(size=(64, 5)) + 1.5 * centers[labels] + 1
    q = generator.normal(size=(40, 5)) + 1.5 * centers[asked] + 1

    def unit(v: np.ndarray) -> np.ndarray:
        return v / np.linalg.norm(v, axis=-1, keepdims=True)

    areas: dict[str, list[float]] = {"centroid": [], "nearest neighbor": []}
    for draw in range(4):
        unknown = set(np.random.default_rng([2, draw]).permutation(8)[:2].tolist())
        kept = [i for i, label in enumerate(labels) if label not in unknown]
        s = unit(x[kept])
        mean = s.mean(0)
        means = [unit(s - mean)[labels[kept] == c].mean(0) for c in sorted(set(labels[kept].tolist()))]
        centroid = [max(float(unit(unit(v) - mean) @ unit(m)) for m in means) for v in q]
        nearest = [max(float(unit(v) @ m) for m in s) for v in q]
        known = [label not in unknown for label in asked.tolist()]
        areas["centroid"].append(roc_auc_score(known, centroid))
        areas["nearest neighbor"].append(roc_auc_score(known, nearest))
    found = rejection(torch.from_numpy(x), labels, torch.from_numpy(q), asked, seed=2, draws=4, share=0.25)
    assert [row.score for row in found] == list(areas)
    for row in found:
        assert row.auroc.value == pytest.approx(np.mean(areas[row.score]), abs=1e-6)
        assert (row.unknown, row.draws) == (2, 4)
        assert 0 <= row.false_accepts.low <= row.false_accepts.value <= row.false_accepts.high <= 1
    with pytest.raises(ValueError, match="needs 3 species with support and queries, not 2"):
        rejection(torch.from_numpy(x), labels % 2, torch.from_numpy(q), asked % 2, seed=0)


def test_rank_and_uniformity_equal_plain_restatements() -> None:
    x = np.random.default_rng(0).normal(size=(90, 7)) * [9, 4, 2, 1, 1, 0.1, 0] + 0.5
    singular = np.linalg.svd(x, compute_uv=False)
    share = singular / singular.sum()
    found = rank_me(x)
    assert found.value == pytest.approx(np.exp(-(share * np.log(share + 1e-12)).sum()), rel=1e-6)
    assert found.low < found.value < found.high
    # More numbers than photographs: the other product of the features. Zeros added change no singular value.
    assert rank_me(np.pad(x, ((0, 0), (0, 90)))).value == pytest.approx(found.value, rel=1e-5)
    assert rank_me(np.pad(x, ((0, 0), (0, 90)))).low == pytest.approx(found.low, rel=1e-3)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [np.exp(-2 * ((a - b) ** 2).sum()) for (i, a), (j, b) in product(enumerate(unit), repeat=2) if i != j]
    assert uniformity(x).value == pytest.approx(np.log(np.mean(pairs)))
    assert uniformity(np.ones((40, 3))).value == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="needs 40 photographs, not 39"):
        rank_me(x[:39])


def test_uniformity_covers_its_truth() -> None:
    """Directions uniform on the sphere in 3 dimensions: the mean of exp(4 (cos - 1)) is (1 - exp(-8)) / 8."""
    generator, truth, inside = np.random.default_rng(4), np.log((1 - np.exp(-8)) / 8), []
    for _ in range(150):
        found = uniformity(generator.normal(size=(60, 3)))
        inside.append(found.low <= truth <= found.high)
    assert np.mean(inside) > 0.89


def test_alignment_by_hand() -> None:
    found = alignment(np.array([[2.0, 0], [0, 3]]), np.array([[0.0, 1], [0, 1]]))
    assert found.value == pytest.approx(1)  # squared distances 2 and 0
    with pytest.raises(ValueError, match=r"one shape, not \(2, 2\) and \(3, 2\)"):
        alignment(np.ones((2, 2)), np.ones((3, 2)))


@pytest.mark.parametrize("draws", [1, 8])
def test_the_paired_interval_covers_the_difference(draws: int) -> None:
    """Queries differ in how hard they are, for both alike; draws shift both; the first is better by 0.06."""
    inside, widths = [], []
    for trial in range(250):
        generator = np.random.default_rng(trial)
        hard = generator.uniform(0.2, 0.8, 300) + generator.uniform(-0.05, 0.05, (draws, 1))
        chance = generator.random((draws, 300))  # the same chance for both: pairs are alike
        found = paired_difference(
            chance < hard + 0.06, chance < hard, np.ones((draws, 300), dtype=bool), seed=trial, resamples=300
        )
        inside.append(found.low <= 0.06 <= found.high)
        widths.append(found.high - found.low)
    assert np.mean(inside) > 0.9
    assert np.mean(inside) < (0.985 if draws == 1 else 1.01)
    # Unpaired intervals of one draw would be three times as wide: 2 * 1.96 * sqrt(2 * 0.25 / 300) = 0.16.
    assert np.mean(widths) < 0.08


def test_what_is_not_counted_has_no_part_in_the_difference() -> None:
    generator = np.random.default_rng(0)
    first, second, counted = (generator.random((5, 40)) < 0.6 for _ in range(3))
    found = paired_difference(first, second, counted, seed=0)
    assert found.value == pytest.approx(first[counted].mean() - second[counted].mean())
    other = paired_difference(first | ~counted, second & counted, counted, seed=0)
    assert other == found


def test_verdicts_in_words() -> None:
    def words(value: float, low: float, high: float) -> str:
        return verdict_in_words("A", "B", "5-shot accuracy", Estimate(value=value, low=low, high=high))

    interval = "(95 % interval 1.2 to 3.0)."
    assert words(0.021, 0.012, 0.03) == f"A is better than B by 2.1 points of 5-shot accuracy {interval}"
    assert words(-0.021, -0.03, -0.012) == f"A is worse than B by 2.1 points of 5-shot accuracy {interval}"
    told = "no difference between A and B can be told in 5-shot accuracy (+0.4 points, 95 % interval -0.1 to +0.9)."
    assert words(0.004, -0.001, 0.009) == told


def test_answers_that_are_alike_do_not_prove_equality() -> None:
    hits, counted = np.ones((3, 50), dtype=bool), np.ones((3, 50), dtype=bool)
    found = compare("A", "B", "accuracy", hits, hits, counted, seed=0)
    # 0.975^(1/50): with a discordant share of 7.1 % all 50 are alike in 2.5 of 100 cases.
    assert found.difference.high == pytest.approx(0.0738, abs=1e-3)
    assert found.verdict.startswith("no difference")
