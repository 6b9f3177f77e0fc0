"""`umbel votes simulate --out DIR`: the votes of a simulated crowd, and the truth, as files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from umbel.config import to_values
from umbel.data.votes.aggregate_command import RECORD
from umbel.data.votes.out_folder import new_folder, refuse_taken
from umbel.data.votes.simulate import EXPERT, KINDS, Crowd, CrowdConfig, simulate
from umbel.data.votes.write import Format, table_of, write_table
from umbel.run import say


@dataclass(frozen=True, kw_only=True)
class SimulateConfig(CrowdConfig):
    """Simulate a crowd: experts, novices, spammers and colluding groups, long-tailed species, authors, a machine."""

    out: Path
    """Folder for votes, truth and users."""
    format: Format = "parquet"
    """Format of the tables."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""


def run(config: SimulateConfig) -> None:
    """Simulate and write.

    Raises:
        UserError: `out` holds something.
    """
    refuse_taken(config.out, config.force)
    crowd = simulate(config)
    with new_folder(config.out) as folder:
        write_crowd(crowd, folder, config.format)
        record = {"format": 1, "settings": to_values(config)}
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    once = float((np.bincount(crowd.observation) == 1).mean())
    right = float((crowd.label == crowd.truth[crowd.observation]).mean())
    say(
        f"{config.out}: {len(crowd.observation):,} votes of {len(np.unique(crowd.user)):,} users on "
        f"{len(crowd.truth):,} observations ({once:.0%} with one vote), {len(np.unique(crowd.truth)):,} species; "
        f"{right:.1%} of the votes are right."
    )


def write_crowd(crowd: Crowd, folder: Path, format: Format) -> None:
    """Write votes (observation, user, species, author, machine, score), truth (observation, species), expert_truth (the
    same of those observations that an expert voted on) and users (user, kind, ability)."""
    rows = crowd.observation
    votes = table_of(
        observation=rows, user=crowd.user, species=crowd.label, author=crowd.author[rows],
        machine=crowd.machine[rows], score=crowd.score[rows],
    )  # fmt: skip
    truth = table_of(observation=np.arange(len(crowd.truth)), species=crowd.truth)
    kinds = np.array(KINDS, dtype=object)[crowd.kind]
    users = table_of(user=np.arange(len(crowd.kind)), kind=kinds, ability=crowd.ability)
    seen = np.unique(rows[crowd.kind[crowd.user] == EXPERT])
    experts = table_of(observation=seen, species=crowd.truth[seen])
    for name, table in (("votes", votes), ("truth", truth), ("expert_truth", experts), ("users", users)):
        write_table(folder / f"{name}.{format}", table)
