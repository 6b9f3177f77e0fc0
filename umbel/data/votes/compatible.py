"""The Pl@ntNet aggregation as its authors' library computes it, to the bit, so that published numbers can be matched.

conf, acc, valid and n follow the initial majority; only the label that is returned uses the final weights. Sums run in
double precision in the order of the votes, thresholds are strict, ties go to the lowest species.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from umbel.data.votes.cells import Cells, Chooser, Floats, weighted_counts
from umbel.data.votes.machine import Joined, MachineConfig
from umbel.data.votes.plantnet import Ending, Outcome, PlantnetConfig, f, invalidated, with_machine
from umbel.data.votes.species_counts import SpeciesCounts

LEAST_ROUNDS = 7
TOLERANCE = 1e-5


def compatible(
    joined: Joined, cells: Cells, choose: Chooser, config: PlantnetConfig, machine: MachineConfig
) -> Outcome:
    """Weights from the initial majority; they still change, as validity follows them.

    Returns:
        weight: those of the last vote; n_author and n_vote: counted after it.
    """
    votes = joined.votes
    count = SpeciesCounts(votes)
    weight = with_machine(np.full(votes.voters, config.gamma), joined)
    start, _ = choose(cells.sums(weight[votes.user]))
    right = cells.of_vote == start[votes.observation]

    def validate(by_vote: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        size = len(votes.observations)
        conf = weighted_counts(votes.observation[right], by_vote[right], size)
        total = weighted_counts(votes.observation, by_vote, size)
        acc = conf / total
        valid = (conf > config.theta_conf) & (acc > config.theta_acc)
        if joined.invalidator is not None:
            conf, acc = invalidated(conf, total, cells.label_of(start), joined.invalidator, machine.weight)
            valid &= (conf > config.theta_conf) & (acc > config.theta_acc)
        return conf, acc, valid

    _, _, valid = validate(weight[votes.user])
    n_author, n_vote = count(right, valid, own_as_votes=True)
    n = n_author + running_tenths(n_vote)
    learners = votes.voters - (joined.pinned is not None)
    ending: Ending = "stopped"
    done = 0
    while done < config.rounds:
        done += 1
        before = n
        weight = with_machine(f(n, config), joined)
        sums = cells.sums(weight[votes.user])
        chosen, tie = choose(sums)
        conf, acc, valid = validate(weight[votes.user])
        n_author, n_vote = count(right, valid, own_as_votes=True)
        n = n_author + running_tenths(n_vote)
        change = np.abs(n - before)[:learners].sum() / len(valid)
        if done >= LEAST_ROUNDS and change <= TOLERANCE:
            ending = "settled"
            break
    return Outcome(
        chosen=chosen, tie=tie, valid=valid, conf=conf, acc=acc, sums=sums, weight=weight,
        n_author=n_author, n_vote=n_vote, rounds=done, ending=ending,
    )  # fmt: skip


def running_tenths(n_vote: NDArray[np.int64]) -> Floats:
    """What adding 0.1 once for each of n_vote gives in double precision, rounded half to even: 25 gives 3."""
    sums = np.cumsum(np.concatenate([[0.0], np.full(int(n_vote.max(initial=0)), 0.1)]))
    rounded: Floats = np.round(sums)[n_vote]
    return rounded
