"""The compatible strategy against a slow restatement of the authors' rules, equal to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.data.votes import MachineConfig, MachineVotes, PlantnetConfig, aggregate
from umbel.data.votes.compatible import running_tenths

Table = dict[int, dict[int, int]]
WEIGHT = 1.7


def restated(
    table: Table, authors: dict[int, int], mode: str = "ignored", machine: dict[int, int] | None = None
) -> dict[str, Any]:
    """Votes one by one in double precision: labels of the start for conf, acc, valid and n; strict thresholds."""
    machine = machine or {}
    table = {i: dict(votes) for i, votes in table.items()}
    if mode == "user":
        for i, k in machine.items():
            if i in table:
                table[i][1 << 40] = k
    users = sorted({j for votes in table.values() for j in votes})
    voting = machine if mode in ("fixed", "confident") else {}

    def labels(weight: dict[int, float]) -> dict[int, int]:
        found = {}
        for i, votes in table.items():
            sums: dict[int, float] = {}
            for j, k in votes.items():
                sums[k] = sums.get(k, 0.0) + weight[j]
            if i in voting:
                sums[voting[i]] = sums.get(voting[i], 0.0) + WEIGHT
            best = max(sums.values())
            found[i] = min(k for k, total in sums.items() if total == best)
        return found

    def judge(label: dict[int, int], weight: dict[int, float]) -> dict[int, tuple[float, float, bool]]:
        judged = {}
        for i, votes in table.items():
            conf = total = 0.0
            for j, k in votes.items():
                total += weight[j]
                if k == label[i]:
                    conf += weight[j]
            if i in voting:
                total += WEIGHT
                if voting[i] == label[i]:
                    conf += WEIGHT
            valid = conf > 2 and conf / total > 0.7
            if mode == "invalidating" and i in machine:
                conf, total = conf + WEIGHT * (machine[i] == label[i]), total + WEIGHT
                valid = valid and conf > 2 and conf / total > 0.7
            judged[i] = conf, conf / total, valid
        return judged

    def species(label: dict[int, int], judged: dict[int, Any]) -> tuple[dict[int, int], dict[int, int], np.ndarray]:
        authored: dict[int, set[int]] = {j: set() for j in users}
        voted: dict[int, set[int]] = {j: set() for j in users}
        for i, votes in table.items():
            for j, k in votes.items():
                if k == label[i]:
                    (authored if authors.get(i) == j and judged[i][2] else voted)[j].add(k)
        n = []
        for j in users:
            running = 0.0
            for _ in voted[j] - authored[j]:
                running += 0.1
            n.append(len(authored[j]) + np.round(running))
        counts = {j: len(authored[j]) for j in users}, {j: len(voted[j] - authored[j]) for j in users}
        return *counts, np.array(n, dtype=np.float64)

    weight = dict.fromkeys(users, float(np.log(2.1)))
    start = labels(weight)
    n_author, n_vote, n = species(start, judge(start, weight))
    for step in range(100):
        before = n
        weight = dict(zip(users, (n**0.5 - n**0.2 + np.log(2.1)).tolist(), strict=True))
        label = labels(weight)
        judged = judge(start, weight)
        n_author, n_vote, n = species(start, judged)
        if np.abs(n - before).sum() / len(table) <= 1e-5 and step > 5:
            break
    return {
        "label": label, "judged": judged, "weight": weight, "n_author": n_author, "n_vote": n_vote,
        "n": dict(zip(users, n.tolist(), strict=True)), "rounds": step + 1,
    }  # fmt: skip


def check(table: Table, authors: dict[int, int], mode: str = "ignored", machine: dict[int, int] | None = None) -> Any:
    expected = restated(table, authors, mode, machine)
    rows = [(i, j, k) for i, votes in table.items() for j, k in votes.items()]
    machine = machine or {}
    found = aggregate(
        *zip(*rows, strict=True),
        authors=authors,
        strategy="plantnet-compatible",
        machine=MachineVotes(
            observations=list(machine), labels=list(machine.values()), scores=dict.fromkeys(machine, 1.0)
        ),
        machine_config=MachineConfig(mode=mode, weight=WEIGHT),
    )
    order, users = sorted(table), found.user.tolist()
    assert found.label.tolist() == [expected["label"][i] for i in order]
    assert found.conf.tolist() == [expected["judged"][i][0] for i in order]
    assert found.acc.tolist() == [expected["judged"][i][1] for i in order]
    assert found.valid.tolist() == [expected["judged"][i][2] for i in order]
    assert found.weight.tolist() == [expected["weight"][j] for j in users]
    assert found.n_author.tolist() == [expected["n_author"][j] for j in users]
    assert found.n_vote.tolist() == [expected["n_vote"][j] for j in users]
    assert found.n.tolist() == [expected["n"][j] for j in users]
    assert found.rounds == expected["rounds"]
    return found


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, dict[int, int]]:
    """Many observations of few users, so that sums of weights round and validity changes with them."""
    size = draw(st.integers(1, 40))
    random = draw(st.randoms(use_true_random=False))
    table: Table = {}
    for i in random.sample(range(100), size):
        truth = random.randrange(12)
        voters = random.sample(range(8), random.randint(1, 6))
        table[i] = {j: truth if random.random() < 0.8 else random.randrange(12) for j in voters}
    return table, {i: random.choice([*votes, 9]) for i, votes in table.items()}


@pytest.mark.parametrize("mode", ["ignored", "user", "fixed", "invalidating", "confident"])
@settings(max_examples=80, deadline=None)
@given(drawn=tables(), data=st.data())
def test_equal_to_the_bit(mode: str, drawn: tuple[Table, dict[int, int]], data: st.DataObject) -> None:
    random = data.draw(st.randoms(use_true_random=False))
    machine = {i: random.randrange(14) for i in range(100) if random.random() < 0.7}
    check(*drawn, mode, machine)


def test_equal_to_the_bit_on_real_votes(shared_data: Path) -> None:
    from umbel.data.votes.read import read_by_observation, read_votes

    folder = shared_data / "crowdswe_sample"
    votes = read_votes(folder / "answers" / "answers.json")
    table: Table = {}
    for i, j, k in zip(votes.observations.to_pylist(), votes.users.to_pylist(), votes.labels.to_pylist(), strict=True):
        table.setdefault(i, {})[j] = k
    numbers, authors = read_by_observation(folder / "aggregation" / "authors.txt", "author")
    found = check(table, dict(zip(numbers.to_pylist(), authors.to_pylist(), strict=True)))
    assert len(found.observation) == 1625


def test_a_running_sum_of_tenths_rounds_in_double_precision() -> None:
    """0.1 added 25 times is above 2.5, so 25 gives 3 where whole numbers give 2."""
    assert running_tenths(np.array([0, 4, 5, 14, 15, 16, 25, 35])).tolist() == [0, 0, 0, 1, 2, 2, 3, 4]


def test_thresholds_are_strict_and_rounds_at_least_seven() -> None:
    rows = [(0, j, 0) for j in range(3)]
    weight = float(np.log(2.1))
    at_the_threshold = PlantnetConfig(theta_conf=weight + weight + weight)
    for strategy, valid in (("plantnet", True), ("plantnet-compatible", False)):
        found = aggregate(*zip(*rows, strict=True), strategy=strategy, plantnet_config=at_the_threshold)
        assert (found.valid.tolist(), found.rounds) == ([valid], 1 if strategy == "plantnet" else 7), strategy


def test_own_observations_that_are_not_valid_count_a_tenth() -> None:
    rows = [(i, 0, i) for i in range(10)]
    compatible = aggregate(*zip(*rows, strict=True), authors=[0] * 10, strategy="plantnet-compatible")
    published = aggregate(*zip(*rows, strict=True), authors=[0] * 10)
    assert (compatible.n_author.tolist(), compatible.n_vote.tolist(), compatible.n.tolist()) == ([0], [10], [1])
    assert (published.n_author.tolist(), published.n_vote.tolist(), published.n.tolist()) == ([0], [0], [0])


def test_conf_follows_the_initial_majority_and_the_label_the_final_weights() -> None:
    """Two novices outvote an expert at first; the weights turn the label, and conf still tells the novices'."""
    rows = [(i, j, i) for i in range(9) for j in ("expert", "a", "b")]
    rows += [(9, "expert", 20), (9, "a", 10), (9, "b", 10)]
    authors = dict.fromkeys(range(9), "expert")
    compatible = aggregate(*zip(*rows, strict=True), authors=authors, strategy="plantnet-compatible")
    assert compatible.label[9] == 20
    novice = 2 * compatible.weight[compatible.user != "expert"][0]
    assert compatible.conf[9] == novice
    assert not compatible.valid[9]


def test_trust_that_passes_from_user_to_user_takes_as_many_rounds() -> None:
    """Each of a chain of authors becomes able to validate the next one's eight observations a round later."""
    table: Table = {species: {0: species, 100: species, 101: species} for species in range(8)}
    authors = dict.fromkeys(table, 0)
    for link in range(1, 12):
        for species in range(8):
            table[8 * link + species] = {link: species, link - 1: species}
            authors[8 * link + species] = link
    table |= {1000 + species: {200: species, 0: species} for species in range(8, 33)}
    found = check(table, authors)
    assert found.valid[:96].all()
    assert found.n[found.user == 200] == 3  # 25 tenths
    assert found.rounds == 12
