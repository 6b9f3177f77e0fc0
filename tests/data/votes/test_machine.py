"""A machine's votes: bounds of its weight, scores, species of its own; each mode on a worked example."""

from typing import Any

import numpy as np
import pytest

from umbel.data.votes import MachineConfig, MachineVotes, PlantnetConfig, aggregate
from umbel.data.votes.machine import MachineMode

GAMMA = float(np.log(2.1))
ROWS = ([1, 1, 1, 2], ["a", "b", "c", "a"], ["rosa", "rosa", "rosa", "salvia"])


def run(mode: MachineMode, says: dict[int, str], scores: Any = None, weight: float = 1.7, **more: Any) -> Any:
    machine = MachineVotes(observations=list(says), labels=list(says.values()), scores=scores)
    return aggregate(*ROWS, machine=machine, machine_config=MachineConfig(mode=mode, weight=weight), **more)


def test_ignored_changes_nothing() -> None:
    assert run("ignored", {1: "thymus"}).conf.tolist() == aggregate(*ROWS).conf.tolist()
    assert run("ignored", {1: "thymus"}).machine_weight is None


def test_fixed_adds_its_weight_once() -> None:
    found = run("fixed", {1: "rosa", 2: "thymus"})
    np.testing.assert_allclose(found.conf, [3 * GAMMA + 1.7, 1.7], rtol=1e-9)
    np.testing.assert_allclose(found.acc, [1.0, 1.7 / (1.7 + GAMMA)], rtol=1e-9)
    assert found.label.tolist() == ["rosa", "thymus"]
    assert found.votes.tolist() == [3, 1]
    assert found.machine_weight == pytest.approx(1.7)
    assert found.user.tolist() == ["a", "b", "c"]
    for name in ("weight", "n_author", "n_vote", "n", "self_validating"):
        assert getattr(found, name).shape == (3,), name


def test_invalidating_never_turns_a_label_or_validity_on() -> None:
    against = run("invalidating", {1: "thymus"})
    np.testing.assert_allclose(against.acc, [3 * GAMMA / (3 * GAMMA + 1.7), 1.0], rtol=1e-9)
    np.testing.assert_allclose(against.conf, [3 * GAMMA, GAMMA], rtol=1e-9)
    assert (against.label.tolist(), against.valid.tolist()) == (["rosa", "salvia"], [False, False])
    agreeing = run("invalidating", {1: "rosa", 2: "salvia"})
    np.testing.assert_allclose(agreeing.conf, [3 * GAMMA + 1.7, GAMMA + 1.7], rtol=1e-9)
    assert agreeing.valid.tolist() == [True, False]  # 2.44 >= 2, but people alone do not reach it
    assert run("fixed", {2: "salvia"}).valid.tolist() == [True, True]


def test_confident_votes_at_the_threshold_and_not_below() -> None:
    for score, conf in ((0.7, 3 * GAMMA + 1.7), (0.69, 3 * GAMMA)):
        assert run("confident", {1: "rosa"}, {1: score}).conf[0] == pytest.approx(conf)
        assert run("confident", {1: "rosa"}, np.array([score])).conf[0] == pytest.approx(conf)
    unscored = run("confident", {1: "rosa"}, {5: 1.0})
    assert unscored.conf[0] == pytest.approx(3 * GAMMA)
    assert unscored.counts["machine votes below the threshold"] == 1


def test_as_a_user_its_weight_is_learned() -> None:
    rows = [(i, j, i) for i in range(40) for j in ("a", "b")]
    machine = MachineVotes(observations=list(range(40)), labels=list(range(40)))
    found = aggregate(*zip(*rows, strict=True), machine=machine, machine_config=MachineConfig(mode="user"))
    assert found.machine_weight == pytest.approx(4**0.5 - 4**0.2 + GAMMA)
    assert found.machine_weight == pytest.approx(found.weight[0])
    assert found.valid.all()


@pytest.mark.parametrize("strategy", ["majority", "soft", "wawa", "two-thirds", "dawid-skene"])
def test_other_strategies_take_it_as_a_user_or_not_at_all(strategy: Any) -> None:
    machine = MachineVotes(observations=[2], labels=["salvia"])
    asuser = MachineConfig(mode="user")
    found = aggregate(*ROWS, strategy=strategy, machine=machine, machine_config=asuser)
    person = aggregate([*ROWS[0], 2], [*ROWS[1], "z"], [*ROWS[2], "salvia"], strategy=strategy)
    for name in ("label", "valid", "conf", "acc"):
        assert getattr(found, name).tolist() == getattr(person, name).tolist()
    assert found.user.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="ignore the machine or let it vote as a user"):
        aggregate(*ROWS, strategy=strategy, machine=machine, machine_config=MachineConfig(mode="fixed"))


@pytest.mark.parametrize("mode", ["fixed", "invalidating", "confident"])
def test_weights_that_break_the_thresholds_are_refused_unless_forced(mode: MachineMode) -> None:
    for weight in (0.857, 2.0):
        with pytest.raises(ValueError, match=r"between 0\.857 and 2 .* not be"):
            run(mode, {1: "rosa"}, {1: 1.0}, weight)
        machine = MachineVotes(observations=[1], labels=["rosa"], scores={1: 1.0})
        forced = MachineConfig(mode=mode, weight=weight, any_weight=True)
        assert aggregate(*ROWS, machine=machine, machine_config=forced).conf[0] == pytest.approx(3 * GAMMA + weight)
    run(mode, {1: "rosa"}, {1: 1.0}, 0.858)
    run(mode, {1: "rosa"}, {1: 1.0}, 3.9, plantnet_config=PlantnetConfig(theta_conf=4.0))


@pytest.mark.parametrize(
    ("machine", "mode", "words"),
    [
        (None, "fixed", "machine.mode fixed needs a machine's votes"),
        (MachineVotes(observations=[1], labels=["rosa"]), "confident", "needs the machine's scores"),
        (
            MachineVotes(observations=[1, 1], labels=["rosa", "a"]),
            "fixed",
            "observation 1 has more than one machine vote",
        ),
        (MachineVotes(observations=[1], labels=["rosa", "a"]), "fixed", "1 observations and 2 species"),
        (MachineVotes(observations=[1], labels=[5]), "fixed", "species are numbers and those of the votes text"),
        (MachineVotes(observations=[1], labels=["a"], scores=[1, 2]), "confident", "1 votes and 2 scores"),
    ],
)
def test_machines_that_cannot_be_counted_are_refused(machine: Any, mode: MachineMode, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        aggregate(*ROWS, machine=machine, machine_config=MachineConfig(mode=mode))


def test_votes_on_unknown_observations_are_counted() -> None:
    assert run("fixed", {8: "rosa", 9: "rosa"}).counts["machine votes on observations without votes"] == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "loud"}, "machine.mode must be one of ignored"),
        ({"weight": 0.0}, "machine.weight must be positive, not 0"),
        ({"threshold": 1.1}, "machine.threshold must lie between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_named(settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MachineConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"theta_conf": 0.0}, "theta_conf must be positive"),
        ({"theta_acc": 1.0}, "theta_acc must lie between 0 and 1"),
        ({"alpha": 0.1}, "0 < beta <= alpha <= 1"),
        ({"gamma": -1.0}, "gamma must be positive"),
        ({"rounds": 0}, "rounds must be at least 1"),
    ],
)
def test_settings_of_the_recursion_out_of_range_are_named(settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PlantnetConfig(**settings)


def test_unknown_strategies_and_ties_are_named() -> None:
    with pytest.raises(ValueError, match="strategy must be one of plantnet, "):
        aggregate(*ROWS, strategy="plant")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ties must be one of lowest, random, abstain"):
        aggregate(*ROWS, ties="highest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ties of plantnet-compatible go to the lowest"):
        aggregate(*ROWS, strategy="plantnet-compatible", ties="random")


def test_drawn_ties_depend_on_the_seed_alone() -> None:
    rows = [(i, j, j) for i in range(200) for j in range(2)]
    drawn = [aggregate(*zip(*rows, strict=True), ties="random", seed=seed).label.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert 60 < sum(drawn[0]) < 140
