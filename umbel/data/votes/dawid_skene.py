"""One-coin Dawid-Skene by expectation and maximization: a user is right with one probability on every observation.

Source: Dawid and Skene, Applied Statistics 28 (1979), with one coin a user instead of a confusion matrix. Errors fall
on the other species evenly and species are equally likely beforehand, so a species without votes needs no cell.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from umbel.data.votes.cells import Cells, Chooser, Floats, fixed_point, weighted_counts
from umbel.data.votes.counting import outcome
from umbel.data.votes.encoded import Votes
from umbel.data.votes.plantnet import Outcome

TOLERANCE = 1e-6
LEAST_ERROR = 1e-6
"""Probabilities stay this far from 0 and 1, where a single vote would weigh without limit."""


def dawid_skene(votes: Votes, cells: Cells, choose: Chooser, rounds: int) -> Outcome:
    """Labels of the greatest posterior.

    Returns:
        conf and acc: the posterior of the label; weight: the probability that the user is right; sums: the posterior of
        every cell.
    """
    species = max(len(votes.labels), 2)
    cast = np.bincount(votes.user, minlength=votes.voters)
    ones = cells.sums(np.ones(len(votes)))
    posterior = ones / np.repeat(cells.totals(ones), np.diff(np.append(cells.starts, len(ones))))
    skill = np.zeros(votes.voters)
    settled, done = False, 0
    while not settled and done < rounds:
        done += 1
        before = skill
        skill = weighted_counts(votes.user, posterior[cells.of_vote], votes.voters) / np.maximum(cast, 1)
        skill = skill.clip(LEAST_ERROR, 1 - LEAST_ERROR)
        scores = cells.sums(fixed_point(np.log(skill * (species - 1) / (1 - skill)))[votes.user])
        posterior = posteriors(scores, cells, species)
        settled = bool(np.abs(skill - before).max() <= TOLERANCE)
    # Scores are exact sums: ties show in them, not in posteriors that have been rounded.
    chosen, tie = choose(scores)
    found = outcome(votes, cells, chosen, tie, posterior, skill)
    return dataclasses.replace(found, acc=found.conf, rounds=done, ending="settled" if settled else "stopped")


def posteriors(scores: Floats, cells: Cells, species: int) -> Floats:
    """The posterior of each cell, (C,), from its log odds against a species without votes.

    Args:
        scores: (C,) sums of log(p (K - 1) / (1 - p)) over the users who voted for the cell.
        species: K.
    """
    sizes = np.diff(np.append(cells.starts, len(scores)))
    # The greatest term of each observation is taken out, or exp would overflow; 0 is the score of the species without
    # votes, of which there are K - sizes.
    top = np.maximum(np.maximum.reduceat(scores, cells.starts), 0.0)
    terms = np.exp(scores - np.repeat(top, sizes))
    total = cells.totals(terms) + (species - sizes) * np.exp(-top)
    posterior: Floats = terms / np.repeat(total, sizes)
    return posterior
