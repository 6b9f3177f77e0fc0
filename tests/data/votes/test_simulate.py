"""The simulated crowd has the traits that it is asked for, and the strategies tell its kinds apart."""

from typing import Any

import numpy as np
import pytest

from umbel.data.votes import aggregate
from umbel.data.votes.simulate import COLLUDER, EXPERT, NOVICE, SPAMMER, Crowd, CrowdConfig, simulate

CONFIG = CrowdConfig(observations=20_000, users=2_000, species=400, experts=0.005, spammers=0.05, colluders=0.05)


@pytest.fixture(scope="module")
def crowd() -> Crowd:
    return simulate(CONFIG)


def right(crowd: Crowd, kind: int) -> float:
    mine = crowd.kind[crowd.user] == kind
    return float((crowd.label == crowd.truth[crowd.observation])[mine].mean())


def test_the_same_seed_gives_the_same_crowd(crowd: Crowd) -> None:
    again, other = simulate(CONFIG), simulate(CrowdConfig(**{**vars(CONFIG), "seed": 1}))
    for name in vars(crowd):
        np.testing.assert_array_equal(getattr(crowd, name), getattr(again, name))
    assert not np.array_equal(crowd.truth, other.truth)


def test_every_author_votes_once_and_first(crowd: Crowd) -> None:
    first = np.flatnonzero(np.diff(crowd.observation, prepend=-1))
    np.testing.assert_array_equal(crowd.user[first], crowd.author)
    assert len(first) == CONFIG.observations
    pair = crowd.observation * CONFIG.users + crowd.user
    assert len(np.unique(pair)) == len(pair)


def test_most_observations_have_one_vote(crowd: Crowd) -> None:
    once = (np.bincount(crowd.observation) == 1).mean()
    assert 0.6 < once < 0.8


def test_species_and_activity_are_long_tailed(crowd: Crowd) -> None:
    by_species = np.sort(np.bincount(crowd.truth, minlength=CONFIG.species))[::-1]
    by_user = np.sort(np.bincount(crowd.author, minlength=CONFIG.users))[::-1]
    for counts in (by_species, by_user):
        assert counts[: len(counts) // 10].sum() > 0.5 * counts.sum()
    assert np.median(by_user) < by_user.mean() / 2


def test_kinds_differ_as_they_should(crowd: Crowd) -> None:
    shares = np.bincount(crowd.kind, minlength=4) / CONFIG.users
    np.testing.assert_allclose(shares, [0.895, 0.005, 0.05, 0.05])
    assert right(crowd, EXPERT) > 0.97 > 0.92 > right(crowd, NOVICE) > 0.75
    assert right(crowd, COLLUDER) < 0.7
    assert right(crowd, SPAMMER) < 0.1
    np.testing.assert_array_equal(np.isneginf(crowd.ability), crowd.kind == SPAMMER)


def test_novices_who_do_more_are_better(crowd: Crowd) -> None:
    novices = np.flatnonzero(crowd.kind == NOVICE)
    done = np.bincount(crowd.author, minlength=CONFIG.users)[novices]
    assert crowd.ability[novices[done >= 20]].mean() > crowd.ability[novices[done <= 2]].mean() + 1


def test_colluders_confirm_each_other(crowd: Crowd) -> None:
    others = crowd.user != crowd.author[crowd.observation]
    theirs = others & (crowd.kind[crowd.author[crowd.observation]] == COLLUDER)
    first = np.flatnonzero(np.diff(crowd.observation, prepend=-1))
    agrees = crowd.label == crowd.label[first][crowd.observation]
    allied = theirs & (crowd.kind[crowd.user] == COLLUDER)
    assert allied.sum() > 2.5 * (crowd.kind[crowd.author] == COLLUDER).sum()
    assert agrees[allied].mean() > 0.97


def test_mistakes_draw_votes_and_are_followed(crowd: Crowd) -> None:
    first = np.flatnonzero(np.diff(crowd.observation, prepend=-1))
    honest = crowd.kind[crowd.author] != COLLUDER
    wrong = crowd.label[first] != crowd.truth
    later = np.bincount(crowd.observation) - 1
    assert later[wrong & honest].mean() > 2 * later[~wrong & honest].mean()
    at_wrong = wrong[crowd.observation] & (crowd.user != crowd.author[crowd.observation])
    missed = at_wrong & (crowd.kind[crowd.user] == NOVICE) & (crowd.label != crowd.truth[crowd.observation])
    assert (crowd.label == crowd.label[first][crowd.observation])[missed].mean() > 0.5


def test_the_machine_is_surer_where_it_is_right(crowd: Crowd) -> None:
    hits = crowd.machine == crowd.truth
    assert 0.7 < hits.mean() < 0.9
    assert hits[crowd.score >= 0.7].mean() > 0.93


def test_a_given_truth_is_kept() -> None:
    truth = np.arange(50) % 24
    crowd = simulate(CrowdConfig(observations=50, users=20, species=24), truth)
    np.testing.assert_array_equal(crowd.truth, truth)
    for wrong in (truth[:-1], truth + 1, truth - 1):
        with pytest.raises(ValueError, match="truth must be of shape"):
            simulate(CrowdConfig(observations=50, users=20, species=24), wrong)


def test_experts_outweigh_and_spammers_do_not(crowd: Crowd) -> None:
    found = aggregate(crowd.observation, crowd.user, crowd.label, authors=crowd.author)
    kind = crowd.kind[found.user]
    assert found.self_validating[kind == EXPERT].all()
    assert not found.self_validating[kind == SPAMMER].any()
    assert found.weight[kind == EXPERT].mean() > 4 * found.weight[kind == NOVICE].mean()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"observations": 0}, "observations must be at least 1, not 0"),
        ({"species": 5}, "species must be at least 6, not 5"),
        ({"group": 1}, "group must be at least 2"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"extra_votes": -0.1}, "extra_votes must lie between 0 and 100"),
        ({"experts": 0.5, "spammers": 0.6}, "together at most 1"),
        ({"colluders": -0.1}, "together at most 1"),
        ({"experts": float("nan")}, "together at most 1"),
        ({"observations": 10**20}, "observations must be at most 100,000,000"),
    ],
)
def test_settings_out_of_range_are_named(settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CrowdConfig(**settings)
