"""Every strategy against a slow version over dictionaries and exact fractions, on random small votes."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from umbel.data.votes import STRATEGIES, Aggregation, MachineConfig, MachineVotes, PlantnetConfig, aggregate
from umbel.data.votes.cells import Cells, Chooser
from umbel.data.votes.encoded import encode
from umbel.data.votes.plantnet import f, tenths

Table = dict[int, dict[int, int]]
"""observation -> user -> species"""
MACHINE = -7
SPECIES = 4
WEIGHT = 1.7


def slow_f(n: int) -> float:
    return n**0.5 - n**0.2 + math.log(2.1)


def exact(weight: float) -> Fraction:
    """A weight as it is summed: a multiple of 2**-36."""
    return Fraction(round(Fraction(weight) * 2**36), 2**36)


def choose(weights: dict[int, Fraction], ties: str, prefer: Callable[[int], Any]) -> tuple[int | None, bool]:
    best = max(weights.values())
    heaviest = sorted((label for label, weight in weights.items() if weight == best), key=prefer)
    tie = len(heaviest) > 1
    return (None if tie and ties == "abstain" else heaviest[0]), tie


def by_label(votes: dict[int, int], weight: Callable[[int], Fraction]) -> dict[int, Fraction]:
    sums: dict[int, Fraction] = defaultdict(Fraction)
    for user, label in votes.items():
        sums[label] += weight(user)
    return dict(sums)


def slow_plantnet(
    people: Table,
    authors: dict[int, int],
    *,
    ties: str,
    prefer: Callable[[int], Callable[[int], Any]],
    mode: str,
    machine: dict[int, int],
    scores: dict[int, float],
) -> dict[str, Any]:
    """The published recursion, word by word."""
    table = {observation: dict(votes) for observation, votes in people.items()}
    for observation, label in machine.items():
        sure = mode in ("user", "fixed") or (mode == "confident" and scores.get(observation, -1) >= 0.7)
        if observation in table and sure:
            table[observation][MACHINE] = label
    users = {user for votes in table.values() for user in votes}
    pinned = {MACHINE: WEIGHT} if mode in ("fixed", "confident") else {}
    weights = {user: math.log(2.1) for user in users} | pinned
    history = [weights]

    def labels_by(weights: dict[int, float]) -> tuple[dict[int, int | None], dict[int, bool], dict[int, Any]]:
        sums = {i: by_label(votes, lambda user: exact(weights[user])) for i, votes in table.items()}
        chosen = {i: choose(sums[i], ties, prefer(i)) for i in table}
        return {i: c[0] for i, c in chosen.items()}, {i: c[1] for i, c in chosen.items()}, sums

    def judge(label: dict[int, int | None], sums: dict[int, Any]) -> dict[int, tuple[float, float, bool]]:
        judged = {}
        for i in table:
            conf = sums[i].get(label[i], Fraction(0))
            total = sum(sums[i].values())
            valid = conf >= 2 and float(conf / total) >= 0.7
            if mode == "invalidating" and i in machine:
                conf = float(conf) + (WEIGHT if machine[i] == label[i] else 0.0)
                total = float(total) + WEIGHT
                valid = valid and conf >= 2 and conf / total >= 0.7
            judged[i] = float(conf), float(conf / total), bool(valid)
        return judged

    rounds, ending = 0, "stopped"
    while rounds < 100:
        rounds += 1
        label, tie, sums = labels_by(weights)
        judged = judge(label, sums)
        n_author, n_vote = {}, {}
        for j in users:
            as_author = {
                k for i, votes in table.items() for u, k in votes.items()
                if u == j and k == label[i] and authors.get(i) == j and judged[i][2]
            }  # fmt: skip
            as_voter = {
                k for i, votes in table.items() for u, k in votes.items()
                if u == j and k == label[i] and authors.get(i) != j
            }  # fmt: skip
            n_author[j], n_vote[j] = len(as_author), len(as_voter - as_author)
        weights = {j: slow_f(n_author[j] + round(Fraction(n_vote[j], 10))) for j in users} | pinned
        if weights == history[-1]:
            ending = "settled"
            break
        if len(history) > 1 and weights == history[-2]:
            ending = "2-cycle"
            break
        history.append(weights)
    label, tie, sums = labels_by(weights)
    return {
        "label": label, "tie": tie, "sums": sums, "judged": judge(label, sums), "weight": weights,
        "n_author": n_author, "n_vote": n_vote, "rounds": rounds, "ending": ending,
    }  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, dict[int, int]]:
    """Few users and species, so that ties, cycles of trust and wrong majorities are common."""
    size = draw(st.integers(1, 12))
    table = {
        observation: draw(st.dictionaries(st.integers(0, 5), st.integers(0, SPECIES), min_size=1, max_size=5))
        for observation in draw(st.lists(st.integers(0, 30), min_size=size, max_size=size, unique=True))
    }
    authors = {i: draw(st.integers(0, 6)) for i in table if draw(st.booleans())}
    return table, authors


def columns(table: Table) -> tuple[list[int], list[int], list[int]]:
    rows = [(i, j, k) for i, votes in table.items() for j, k in votes.items()]
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def preference(table: Table, ties: str, seed: int, extra: dict[int, int]) -> Callable[[int], Callable[[int], Any]]:
    """The order in which tied species are preferred: by number, or as drawn."""
    if ties != "random":
        return lambda i: lambda label: label
    more = {i: votes | ({MACHINE: extra[i]} if i in extra else {}) for i, votes in table.items()}
    observation, user, label = columns(more)
    votes = encode(observation, [u % 97 for u in user], label)
    cells = Cells.of(votes)
    order = Chooser(cells, "random", seed).cells
    pairs = zip(votes.observations[cells.observation[order]], votes.labels[cells.label[order]], strict=True)
    place = {(int(i), int(k)): number for number, (i, k) in enumerate(pairs)}
    return lambda i: lambda k: place.get((i, k), 0)


def same_labels(found: Aggregation, label: dict[int, int | None]) -> None:
    assert found.observation.tolist() == sorted(label)
    assert found.label.tolist() == [-1 if label[i] is None else label[i] for i in sorted(label)]


MODES = ["ignored", "user", "fixed", "invalidating", "confident"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ties", ["lowest", "random", "abstain"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_plantnet_is_the_published_recursion(mode: str, ties: str, data: st.DataObject) -> None:
    table, authors = data.draw(tables())
    machine = data.draw(st.dictionaries(st.integers(0, 30), st.integers(0, SPECIES + 1)))
    scores = data.draw(st.dictionaries(st.integers(0, 30), st.sampled_from([0.0, 0.69, 0.7, 1.0])))
    seed = data.draw(st.integers(0, 3))
    casts = {i: k for i, k in machine.items() if mode in ("user", "fixed") or scores.get(i, -1) >= 0.7}
    expected = slow_plantnet(
        table,
        authors,
        ties=ties,
        prefer=preference(table, ties, seed, casts if mode in ("user", "fixed", "confident") else {}),
        mode=mode,
        machine=machine,
        scores=scores,
    )
    found = aggregate(
        *columns(table),
        authors=authors,
        ties=ties,
        seed=seed,
        machine=MachineVotes(observations=list(machine), labels=list(machine.values()), scores=scores),
        machine_config=MachineConfig(mode=mode, weight=WEIGHT),
    )
    same_labels(found, expected["label"])
    rows, users = sorted(table), found.user.tolist()
    assert (found.rounds, found.ending) == (expected["rounds"], expected["ending"])
    assert found.tie.tolist() == [expected["tie"][i] for i in rows]
    assert found.valid.tolist() == [expected["judged"][i][2] for i in rows]
    np.testing.assert_allclose(found.conf, [expected["judged"][i][0] for i in rows], rtol=1e-10, atol=0)
    np.testing.assert_allclose(found.acc, [expected["judged"][i][1] for i in rows], rtol=1e-10, atol=0)
    assert found.votes.tolist() == [len(table[i]) for i in rows]
    for row, i in enumerate(rows):
        others = [weight for k, weight in expected["sums"][i].items() if k != expected["label"][i]]
        own = expected["sums"][i].get(expected["label"][i], 0)
        margin = 0 if expected["label"][i] is None else own - max(others, default=Fraction(0))
        assert found.margin[row] == pytest.approx(float(margin), abs=1e-12)
    assert users == sorted({j for votes in table.values() for j in votes})
    assert found.n_author.tolist() == [expected["n_author"][j] for j in users]
    assert found.n_vote.tolist() == [expected["n_vote"][j] for j in users]
    np.testing.assert_allclose(found.weight, [expected["weight"][j] for j in users], rtol=1e-10)
    assert found.self_validating.tolist() == [expected["weight"][j] >= 2 for j in users]
    if found.machine_weight is not None:
        assert found.machine_weight == pytest.approx(expected["weight"].get(MACHINE, found.machine_weight), rel=1e-10)


def slow_counting(table: Table, strategy: str, ties: str, prefer: Any) -> tuple[dict[int, Any], dict[int, Fraction]]:
    one = {i: by_label(votes, lambda user: Fraction(1)) for i, votes in table.items()}
    label = {i: choose(one[i], ties, prefer(i))[0] for i in table}
    users = {j for votes in table.values() for j in votes}
    if strategy == "two-thirds":
        for i, sums in one.items():
            total = sum(sums.values())
            if total < 2 or max(sums.values()) / total < Fraction(2, 3):
                label[i] = None
    if strategy != "wawa":
        return label, {j: Fraction(1) for j in users}
    cast = {j: [(i, votes[j]) for i, votes in table.items() if j in votes] for j in users}
    weight = {j: Fraction(sum(label[i] == k for i, k in rows), len(rows)) for j, rows in cast.items()}
    sums = {i: by_label(votes, lambda user: exact(float(weight[user]))) for i, votes in table.items()}
    return {i: choose(sums[i], ties, prefer(i))[0] for i in table}, weight


@pytest.mark.parametrize("ties", ["lowest", "random", "abstain"])
@pytest.mark.parametrize("strategy", ["majority", "soft", "two-thirds", "wawa"])
@settings(max_examples=60, deadline=None)
@given(drawn=tables(), seed=st.integers(0, 3))
def test_counting_strategies(strategy: str, ties: str, drawn: Any, seed: int) -> None:
    table, authors = drawn
    prefer = preference(table, ties, seed, {})
    label, weight = slow_counting(table, strategy, ties, prefer)
    found = aggregate(*columns(table), authors=authors, strategy=strategy, ties=ties, seed=seed)
    same_labels(found, label)
    assert found.valid.tolist() == [label[i] is not None for i in sorted(table)]
    np.testing.assert_allclose(found.weight, [float(weight[j]) for j in found.user.tolist()], rtol=0, atol=1e-11)
    assert found.self_validating.tolist() == [strategy != "two-thirds"] * len(found.user)
    shares: dict[int, float] = defaultdict(float)
    for row, (i, votes) in enumerate(sorted(table.items())):
        sums = by_label(votes, lambda user: exact(float(weight[user])))
        total = sum(sums.values())
        conf = sums.get(label[i], Fraction(0))
        assert found.conf[row] == pytest.approx(float(conf), abs=1e-12)
        assert found.acc[row] == pytest.approx(float(conf / total) if total else 0.0, abs=1e-12)
        mine = found.share_observation == row
        told = dict(zip(found.labels[found.share_label[mine]].tolist(), found.share[mine].tolist(), strict=True))
        assert told == pytest.approx({k: float(s / total) if total else 0.0 for k, s in sums.items()}, abs=1e-12)
        shares[i] = sum(told.values())
    assert all(total == pytest.approx(1.0) or strategy == "wawa" for total in shares.values())


def slow_dawid_skene(table: Table, nudge: float = 0.0) -> tuple[dict[int, dict[int, float]], dict[int, float]]:
    """Expectation and maximization over all species, with or without votes, in logarithms.

    `nudge` favors species by their number a little at the start.
    """
    species = sorted({k for votes in table.values() for k in votes.values()})
    width = max(len(species), 2)
    everything = species + [1000 + extra for extra in range(width - len(species))]
    users = {j for votes in table.values() for j in votes}
    posterior = {
        i: {
            k: sum(said == k for said in votes.values()) / len(votes) * (1 + nudge * place)
            for place, k in enumerate(everything)
        }
        for i, votes in table.items()
    }
    skill = dict.fromkeys(users, 0.0)
    for _ in range(100):
        before = skill
        cast = {j: [posterior[i][votes[j]] for i, votes in table.items() if j in votes] for j in users}
        skill = {j: min(max(sum(rows) / len(rows), 1e-6), 1 - 1e-6) for j, rows in cast.items()}
        for i, votes in table.items():
            logs = {
                k: sum(math.log(skill[j] if said == k else (1 - skill[j]) / (width - 1)) for j, said in votes.items())
                for k in everything
            }
            top = max(logs.values())
            total = sum(math.exp(value - top) for value in logs.values())
            posterior[i] = {k: math.exp(value - top) / total for k, value in logs.items()}
        if max(abs(skill[j] - before[j]) for j in users) <= 1e-6:
            break
    return posterior, skill


@settings(max_examples=100, deadline=None)
@given(drawn=tables())
@example(drawn=({0: {0: 0}, 1: {1: 2, 2: 2, 3: 1, 4: 1}}, {}))
def test_dawid_skene_is_expectation_and_maximization_over_all_species(drawn: Any) -> None:
    table, _ = drawn
    posterior, skill = slow_dawid_skene(table)
    # Where votes stand against each other evenly, the last bit decides which side the rounds go to: nothing to compare.
    for nudge in (1e-9, -1e-9):
        assume(all(abs(skill[j] - other) < 1e-4 for j, other in slow_dawid_skene(table, nudge)[1].items()))
    found = aggregate(*columns(table), strategy="dawid-skene")
    np.testing.assert_allclose(found.weight, [skill[j] for j in found.user.tolist()], rtol=1e-6, atol=1e-8)
    for row, i in enumerate(sorted(table)):
        assert found.acc[row] == found.conf[row]
        assert found.acc[row] == pytest.approx(posterior[i][found.label[row]], abs=1e-6)
        voted = {posterior[i][k] for k in table[i].values()}
        assert posterior[i][found.label[row]] == pytest.approx(max(voted), abs=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=40, deadline=None)
@given(drawn=tables(), order=st.randoms(use_true_random=False))
def test_the_order_of_the_votes_does_not_matter(strategy: Any, drawn: Any, order: Any) -> None:
    table, authors = drawn
    rows = list(zip(*columns(table), strict=True))
    shuffled = rows.copy()
    order.shuffle(shuffled)
    one = aggregate(*zip(*rows, strict=True), authors=authors, strategy=strategy)
    two = aggregate(*zip(*shuffled, strict=True), authors=authors, strategy=strategy)
    for name in ("observation", "label", "valid", "user", "n_author", "n_vote", "tie"):
        assert getattr(one, name).tolist() == getattr(two, name).tolist(), name
    exactly = strategy != "plantnet-compatible"  # it adds in the order of the votes, as the library does
    for name in ("conf", "acc", "weight", "margin", "share"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=0 if exactly else 1e-12, atol=0)


@pytest.mark.parametrize("ties", ["lowest", "abstain"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=40, deadline=None)
@given(drawn=tables())
def test_names_do_not_matter(strategy: Any, ties: Any, drawn: Any) -> None:
    """Users in another order, observations in another order, species by names in the same order: the same answer."""
    if strategy == "plantnet-compatible":
        ties = "lowest"
    table, authors = drawn
    observation, user, label = columns(table)
    one = aggregate(observation, user, label, authors=authors, strategy=strategy, ties=ties)
    two = aggregate(
        [f"o{60 - i}" for i in observation],
        [f"u{9 - j}" for j in user],
        [f"k{k}" for k in label],
        authors={f"o{60 - i}": f"u{9 - j}" for i, j in authors.items()},
        strategy=strategy,
        ties=ties,
    )

    def facts(found: Aggregation, names: Callable[[Any, str], Hashable]) -> set[Any]:
        rows = zip(found.observation.tolist(), found.label.tolist(), found.valid.tolist(), found.acc, strict=True)
        told = {(names(i, "o"), names(k, "k"), valid, round(float(acc), 9)) for i, k, valid, acc in rows}
        users = zip(found.user.tolist(), found.n.tolist(), found.weight.tolist(), strict=True)
        return told | {(names(j, "u"), n, round(weight, 9)) for j, n, weight in users}

    def back(name: Any, kind: str) -> Hashable:
        if name is None:
            return -1
        number = int(str(name)[1:])
        return {"o": 60 - number, "u": 9 - number, "k": number}[kind]

    assert facts(one, lambda name, kind: name) == facts(two, back)


def test_published_values_of_the_weight() -> None:
    config = PlantnetConfig()
    assert f(np.array([0, 1, 2, 8, 100, 1000]), config).round(3).tolist() == [0.742, 0.742, 1.007, 2.055, 8.23, 28.384]
    assert np.argmax(f(np.arange(20), config) >= config.theta_conf) == 8


def test_tenths_are_rounded_half_to_even() -> None:
    assert tenths(np.array([0, 4, 5, 6, 14, 15, 16, 25, 26, 35, 105])).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 4, 10]
    assert tenths(np.arange(400)).tolist() == [round(Fraction(n, 10)) for n in range(400)]


def test_an_author_with_eight_species_validates_alone() -> None:
    """Eight valid species need helpers; then a ninth observation, of the expert alone, becomes valid."""
    rows = [(i, j, i) for i in range(8) for j in ("expert", "a", "b")] + [(8, "expert", 8), (9, "novice", 9)]
    found = aggregate(*zip(*rows, strict=True), authors=dict.fromkeys(range(9), "expert"))
    assert found.valid.tolist() == [True] * 9 + [False]
    assert dict(zip(found.user.tolist(), found.n_author.tolist(), strict=True)) == {
        "a": 0, "b": 0, "expert": 9, "novice": 0,
    }  # fmt: skip
    assert found.conf[8] == pytest.approx(slow_f(9), abs=1e-10)
    assert found.self_validating.tolist() == [False, False, True, False]


def test_a_share_of_exactly_theta_is_valid() -> None:
    """Seven of ten equal weights are 0.7, whatever rounding would make of their sums."""
    rows = [(0, j, "rosa" if j < 7 else "salvia") for j in range(10)]
    found = aggregate(*zip(*rows, strict=True))
    assert (found.acc[0], found.valid[0]) == (0.7, True)


def test_the_later_of_two_states_in_turn_is_returned() -> None:
    """Two authors who contradict each other: trusted, each makes the other's observations invalid, and loses trust.

    acc is (w + 2 gamma) / (2 w + 2 gamma): 0.75 at w = gamma, 0.69 at w = f(3).
    """
    rows, authors = [], {}
    for number in range(6):
        author, other = ("x", "y") if number < 3 else ("y", "x")
        authors[number] = author
        rows += [(number, author, number), (number, "p", number), (number, "q", number), (number, other, 6)]
    found = aggregate(*zip(*rows, strict=True), authors=authors)
    assert (found.rounds, found.ending) == (2, "2-cycle")
    np.testing.assert_allclose(found.weight, slow_f(1), rtol=1e-10)
    assert found.valid.all()
    np.testing.assert_allclose(found.acc, 0.75)
    before = aggregate(*zip(*rows, strict=True), authors=authors, plantnet_config=PlantnetConfig(rounds=1))
    assert (before.rounds, before.ending) == (1, "stopped")
    np.testing.assert_allclose(before.weight, [slow_f(1), slow_f(1), slow_f(3), slow_f(3)], rtol=1e-10)
    assert not before.valid.any()
