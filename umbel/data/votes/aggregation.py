"""From votes to labels, validity and weights: the public function, over every strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from umbel.data.votes.cells import Cells, Chooser, Floats, Ties
from umbel.data.votes.compatible import compatible, running_tenths
from umbel.data.votes.counting import majority, two_thirds, wawa
from umbel.data.votes.dawid_skene import dawid_skene
from umbel.data.votes.encoded import Repeated, Votes, encode
from umbel.data.votes.ids import Codes, Ids
from umbel.data.votes.machine import Joined, MachineConfig, MachineVotes, join
from umbel.data.votes.plantnet import Ending, Outcome, PlantnetConfig, plantnet, tenths

Strategy = Literal["plantnet", "plantnet-compatible", "majority", "soft", "wawa", "two-thirds", "dawid-skene"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True, kw_only=True, eq=False)
class Aggregation:
    """Labels of observations and weights of users; rows are sorted by id."""

    observation: Ids
    """(N,) distinct ids."""
    label_code: Codes
    """(N,) place of the label in `labels`; -1: none."""
    labels: Ids
    """(K,) distinct species, sorted."""
    valid: NDArray[np.bool_]
    """(N,) whether the label may be trained on."""
    conf: Floats
    """(N,) weight of the votes for the label (dawid-skene: the label's posterior)."""
    acc: Floats
    """(N,) their share of the weight of all votes, 0 to 1 (dawid-skene: the label's posterior)."""
    votes: NDArray[np.int64]
    """(N,) votes of people."""
    margin: Floats
    """(N,) weight of the label less that of the next species; 0 for a tie and without a label."""
    tie: NDArray[np.bool_]
    """(N,) whether another species weighed as much as the label's."""
    user: Ids
    """(U,) distinct ids."""
    weight: Floats
    """(U,) f(n); the share of votes with the majority (wawa), the probability of being right (dawid-skene), else 1."""
    n_author: NDArray[np.int64]
    """(U,) distinct species got right on valid observations of the user's own."""
    n_vote: NDArray[np.int64]
    """(U,) distinct species got right on others' observations, less those of n_author."""
    n: NDArray[np.int64]
    """(U,) n_author + n_vote / 10, rounded half to even."""
    self_validating: NDArray[np.bool_]
    """(U,) whether an observation with this user's vote alone is valid."""
    share: Floats
    """(C,) soft labels: the share of each species in the weight of its observation's votes."""
    share_observation: Codes
    """(C,) place in `observation`, sorted."""
    share_label: Codes
    """(C,) place in `labels`."""
    machine_weight: float | None
    """The machine's weight, where it votes."""
    rounds: int
    ending: Ending
    counts: dict[str, int]
    """What was passed over, in words, with its number."""

    @cached_property
    def label(self) -> NDArray[Any]:
        """(N,) species, int64 or object (str); where there is none, -1 or None."""
        missing: Any = -1 if self.labels.dtype.kind == "i" else None
        return np.append(self.labels, np.array([missing], dtype=self.labels.dtype))[self.label_code]


def aggregate(
    observations: ArrayLike,
    users: ArrayLike,
    labels: ArrayLike,
    *,
    authors: Mapping[Any, Any] | ArrayLike | None = None,
    strategy: Strategy = "plantnet",
    ties: Ties = "lowest",
    seed: int = 0,
    repeated: Repeated = "last",
    machine: MachineVotes | None = None,
    machine_config: MachineConfig | None = None,
    plantnet_config: PlantnetConfig | None = None,
) -> Aggregation:
    """Aggregate votes.

    Args:
        observations, users, labels: (V,) ids, whole numbers or text; a vote is a row.
        authors: observation -> user, or (N,) the author of each distinct observation in sorted order.
        strategy: one of STRATEGIES.
        ties: the lowest species, one drawn by `seed`, or no label.
        repeated: which of several votes of one user on one observation counts (last, first), or refuse.
        machine: what a machine says of the observations; `machine_config` says how it counts (ignored by default).

    Raises:
        ValueError: ids of a wrong kind, no votes, settings out of range, or a machine that this strategy cannot count.
    """
    votes = encode(observations, users, labels, authors=authors, repeated=repeated)
    return aggregate_votes(
        votes,
        strategy=strategy,
        ties=ties,
        seed=seed,
        machine=machine,
        machine_config=machine_config or MachineConfig(),
        plantnet_config=plantnet_config or PlantnetConfig(),
    )


def aggregate_votes(
    votes: Votes,
    *,
    strategy: Strategy,
    ties: Ties,
    seed: int,
    machine: MachineVotes | None,
    machine_config: MachineConfig,
    plantnet_config: PlantnetConfig,
) -> Aggregation:
    """`aggregate` for votes that are encoded already."""
    by_weight = strategy in ("plantnet", "plantnet-compatible")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, not '{strategy}'")
    if machine_config.mode not in ("ignored", "user") and not by_weight:
        raise ValueError(
            f"machine.mode {machine_config.mode} weighs against the weights of plantnet, which {strategy} has not: "
            "ignore the machine or let it vote as a user"
        )
    if strategy == "plantnet-compatible" and ties != "lowest":
        raise ValueError(f"ties of plantnet-compatible go to the lowest species, not {ties}")
    machine_config.check_weight(plantnet_config.theta_conf, plantnet_config.theta_acc)
    joined = join(votes, machine, machine_config)
    cells = Cells.of(joined.votes)
    choose = Chooser(cells, ties, seed)
    found = _run(strategy, joined, cells, choose, plantnet_config, machine_config)
    people = slice(len(votes.users))
    n_vote = found.n_vote[people]
    whole = running_tenths(n_vote).astype(np.int64) if strategy == "plantnet-compatible" else tenths(n_vote)
    return Aggregation(
        observation=votes.observations,
        label_code=cells.label_of(found.chosen),
        labels=joined.votes.labels,
        valid=found.valid,
        conf=found.conf,
        acc=found.acc,
        votes=np.bincount(votes.observation, minlength=len(votes.observations)),
        margin=choose.margin(found.sums, found.chosen),
        tie=found.tie,
        user=votes.users,
        weight=found.weight[people],
        n_author=found.n_author[people],
        n_vote=n_vote,
        n=found.n_author[people] + whole,
        self_validating=_alone(strategy, found.weight[people], plantnet_config),
        share=_shares(cells, found.sums),
        share_observation=cells.observation,
        share_label=cells.label,
        machine_weight=float(found.weight[-1]) if joined.votes.machine else None,
        rounds=found.rounds,
        ending=found.ending,
        counts=joined.votes.counts,
    )


def _run(
    strategy: Strategy, joined: Joined, cells: Cells, choose: Chooser, config: PlantnetConfig, machine: MachineConfig
) -> Outcome:
    match strategy:
        case "plantnet":
            return plantnet(joined, cells, choose, config, machine)
        case "plantnet-compatible":
            return compatible(joined, cells, choose, config, machine)
        case "wawa":
            return wawa(joined.votes, cells, choose)
        case "two-thirds":
            return two_thirds(joined.votes, cells, choose)
        case "dawid-skene":
            return dawid_skene(joined.votes, cells, choose, config.rounds)
        case _:
            return majority(joined.votes, cells, choose)


def _alone(strategy: Strategy, weight: Floats, config: PlantnetConfig) -> NDArray[np.bool_]:
    """Whether a user's vote alone makes an observation valid."""
    if strategy == "plantnet":
        return weight >= config.theta_conf
    if strategy == "plantnet-compatible":
        return weight > config.theta_conf
    return np.full(len(weight), strategy != "two-thirds")


def _shares(cells: Cells, sums: Floats) -> Floats:
    total = np.repeat(cells.totals(sums), np.diff(np.append(cells.starts, len(sums))))
    return np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
