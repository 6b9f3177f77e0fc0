"""Strategies without rounds: majority vote, soft vote, two thirds (iNaturalist's rule), and WAWA (one re-vote)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from umbel.data.votes.cells import Cells, Chooser, Floats, fixed_point
from umbel.data.votes.encoded import Votes
from umbel.data.votes.plantnet import Outcome
from umbel.data.votes.species_counts import SpeciesCounts


def majority(votes: Votes, cells: Cells, choose: Chooser) -> Outcome:
    """The species with most votes; conf counts them, acc is their share. The soft vote's shares are those of all."""
    return weighted(votes, cells, choose, np.ones(votes.voters))


def two_thirds(votes: Votes, cells: Cells, choose: Chooser) -> Outcome:
    """The species with at least 2/3 of at least 2 votes; without it there is no label."""
    sums = cells.sums(np.ones(len(votes)))
    chosen, tie = choose(sums)
    total = cells.totals(sums)
    agreed = (chosen >= 0) & (total >= 2) & (3 * sums[chosen] >= 2 * total)
    return outcome(votes, cells, np.where(agreed, chosen, -1), tie, sums, np.ones(votes.voters))


def wawa(votes: Votes, cells: Cells, choose: Chooser) -> Outcome:
    """A vote weighted by each user's agreement with the majority."""
    chosen, _ = choose(cells.sums(np.ones(len(votes))))
    return weighted(votes, cells, choose, agreement(votes, cells.of_vote == chosen[votes.observation]))


def agreement(votes: Votes, right: NDArray[np.bool_]) -> Floats:
    """The share of each user's votes that are right, (U,)."""
    cast = np.bincount(votes.user, minlength=votes.voters)
    return np.bincount(votes.user[right], minlength=votes.voters) / np.maximum(cast, 1)


def weighted(votes: Votes, cells: Cells, choose: Chooser, weight: Floats) -> Outcome:
    """The heaviest species by the weights of the users, (U,)."""
    weight = fixed_point(weight)
    sums = cells.sums(weight[votes.user])
    chosen, tie = choose(sums)
    return outcome(votes, cells, chosen, tie, sums, weight)


def outcome(
    votes: Votes, cells: Cells, chosen: NDArray[np.int64], tie: NDArray[np.bool_], sums: Floats, weight: Floats
) -> Outcome:
    """An outcome where every label is valid; the species that users got right are counted by these labels."""
    valid = chosen >= 0
    conf = np.where(valid, sums[chosen], 0.0)
    total = cells.totals(sums)
    acc = np.divide(conf, total, out=np.zeros_like(conf), where=total > 0)
    n_author, n_vote = SpeciesCounts(votes)(cells.of_vote == chosen[votes.observation], valid)
    return Outcome(
        chosen=chosen, tie=tie, valid=valid, conf=conf, acc=acc, sums=sums, weight=weight,
        n_author=n_author, n_vote=n_vote,
    )  # fmt: skip
