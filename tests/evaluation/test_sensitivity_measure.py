"""Movement, centroids that change and their intervals equal plain loops over photographs."""

import numpy as np
import pytest
from numpy.linalg import norm

from umbel.evaluation.sensitivity_measure import RESAMPLES, compare, nearest_species
from umbel.evaluation.sensitivity_operations import Change
from umbel.run import UserError

LABEL = np.array([7, 3, 3, 7, 9, 9, 3, 7, 9, 3])


def change(name: str) -> Change:
    return Change(operation=name, strength=1, unit="", label="", apply=lambda images, _: images)


def features(seed: int = 0, *, signal: float = 2.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(10, 6)) + signal * np.eye(6)[LABEL % 5] + 0.5).astype(np.float32)


def cosine_distance(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(1 - a @ b / norm(a) / norm(b))


def between(start: np.ndarray, label: np.ndarray) -> float:
    pairs = [(i, j) for i in range(len(label)) for j in range(len(label)) if label[i] != label[j]]
    return float(np.mean([cosine_distance(start[i], start[j]) for i, j in pairs]))


def plain_nearest(start: np.ndarray, asked: np.ndarray, label: np.ndarray) -> list[int]:
    start = np.array([row / norm(row) for row in start.astype(np.float64)])
    asked = np.array([row / norm(row) for row in asked.astype(np.float64)])
    center = start.mean(0)
    start = np.array([(row - center) / norm(row - center) for row in start])
    found = []
    for i, row in enumerate(asked):
        row = (row - center) / norm(row - center)
        centroids = {
            one: np.mean([start[j] for j in range(len(label)) if label[j] == one and j != i], axis=0)
            for one in np.unique(label)
        }
        found.append(min(centroids, key=lambda one: norm(row - centroids[one])))
    return found


def test_what_is_measured_equals_plain_loops() -> None:
    start, ends = features(), np.stack([features(1), features(0) + features(2, signal=0) * 2])
    found = compare(start, ends, LABEL, [change("a"), change("b")], seed=4)
    unit, near = between(start, LABEL), plain_nearest(start, start, LABEL)
    assert found.between_species == pytest.approx(unit, rel=1e-6)
    assert found.accuracy == np.mean(np.array(near) == LABEL)
    assert (found.photographs, found.species, found.chance) == (10, 3, 1 / 3)
    assert [one.operation for one in found.moved] == ["a", "b"]
    for one, end in zip(found.moved, ends, strict=True):
        far = [cosine_distance(a, b) for a, b in zip(start, end, strict=True)]
        now = plain_nearest(start, end, LABEL)
        assert one.movement == pytest.approx(np.mean(far) / unit, rel=1e-6)
        assert one.changed == np.mean([a != b for a, b in zip(now, near, strict=True)])
        assert one.accuracy == np.mean(np.array(now) == LABEL)
    assert 0 < found.moved[1].changed < 1
    assert found.moved[0].accuracy != found.accuracy


def test_intervals_are_those_of_photographs_drawn_again() -> None:
    start, end = features(), features(0) + features(2, signal=0) * 2
    found = compare(start, end[None], LABEL, [change("b")], seed=4).moved[0]
    far = np.array([cosine_distance(a, b) for a, b in zip(start, end, strict=True)])
    distance = np.array([[cosine_distance(a, b) for b in start] for a in start])
    near, now = (np.array(plain_nearest(start, asked, LABEL)) for asked in (start, end))
    movements, changes = [], []
    for draw in np.random.default_rng([4, 2]).integers(0, 10, (RESAMPLES, 10)):
        different = LABEL[draw][:, None] != LABEL[draw]
        if different.any():
            movements.append(far[draw].mean() / distance[draw][:, draw][different].mean())
            changes.append((near != now)[draw].mean())
    assert found.movement_interval == pytest.approx(np.quantile(movements, (0.025, 0.975)), rel=1e-6)
    assert found.changed_interval == pytest.approx(np.quantile(changes, (0.025, 0.975)))
    assert found.movement_interval[0] < found.movement < found.movement_interval[1]


def test_nothing_changed_is_no_movement() -> None:
    found = compare(features(), features()[None] * 3, LABEL, [change("scaled")], seed=0).moved[0]
    assert 0 <= found.movement < 1e-12
    assert found.changed == 0


def test_to_another_species_is_a_movement_of_1() -> None:
    label = np.repeat([0, 1], 5)
    start = features()
    # Each photograph becomes, in turn, every one of the other species.
    ends = np.stack([start[(np.arange(10) + 5) // 5 % 2 * 5 + (np.arange(10) + turn) % 5] for turn in range(5)])
    found = compare(start, ends, label, [change(str(turn)) for turn in range(5)], seed=0)
    assert np.mean([one.movement for one in found.moved]) == pytest.approx(1)


def test_the_own_photograph_is_no_part_of_its_centroid() -> None:
    # Beside itself, the last photograph of species 0 has all its kin far away.
    start = np.array([[1.0, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 1, 0.1], [0.1, 1, 0.0]])
    species = np.array([0, 0, 1, 1, 0])
    unit = start / norm(start, axis=1, keepdims=True)
    assert nearest_species(unit, unit, species).tolist() == plain_nearest(start, start, species) == [0, 0, 1, 1, 1]


def test_a_species_left_with_one_photograph_is_left_out() -> None:
    label = LABEL.copy()
    label[0] = 11
    start, end = features(), features(1)
    rest = np.arange(10) > 0
    assert compare(start, end[None], label, [change("a")], seed=0) == compare(
        start[rest], end[None][:, rest], label[rest], [change("a")], seed=0
    )


@pytest.mark.parametrize("label", [[0] * 10, list(range(10)), [0] * 9 + [1]])
def test_two_species_with_two_photographs_are_needed(label: list[int]) -> None:
    with pytest.raises(UserError, match="needs two species with two labeled photographs each"):
        compare(features(), features()[None], np.array(label), [change("a")], seed=0)


def test_features_that_are_all_alike_are_told() -> None:
    same = np.ones((10, 6), dtype=np.float32)
    with pytest.raises(UserError, match="embeds photographs of different species alike"):
        compare(same, same[None], LABEL, [change("a")], seed=0)
