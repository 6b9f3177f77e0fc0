"""What the vote commands read: a file of votes, and files of authors and of a machine's votes that go with it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import tyro

from umbel.data.votes.cells import Ties
from umbel.data.votes.encoded import Repeated, Votes
from umbel.data.votes.machine import MachineConfig, MachineVotes
from umbel.data.votes.plantnet import PlantnetConfig
from umbel.data.votes.read import encode_table, read_by_observation, read_votes
from umbel.run import UserError, say


@dataclass(frozen=True, kw_only=True)
class VotesConfig:
    """Votes, what goes with them, and how they are counted."""

    votes: Annotated[Path, tyro.conf.Positional]
    """Parquet, CSV or JSON lines (observation, user, species; author, machine, score), or CrowdSWE's answers.json."""
    authors: Path | None = None
    """Authors by observation: authors.txt (line n for observation n), JSON, or a table (observation, author)."""
    machine_votes: Path | None = None
    """A machine's species by observation: ai_answers.json, or a table (observation, machine)."""
    machine_scores: Path | None = None
    """The machine's scores by observation: ai_scores.json, or a table (observation, score)."""
    repeated: Repeated = "last"
    """Which of several votes of one user on one observation counts."""
    ties: Ties = "lowest"
    """What equal weights give: the lowest species, one drawn by the seed, or no label."""
    seed: int = 0
    """Seed of drawn ties."""
    machine: MachineConfig = field(default_factory=MachineConfig)
    plantnet: PlantnetConfig = field(default_factory=PlantnetConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, but is {self.seed}")

    def files(self) -> list[Path]:
        """The files that are read."""
        named = (self.votes, self.authors, self.machine_votes, self.machine_scores)
        return [path for path in named if path is not None]


def load(config: VotesConfig, *, quiet: bool = False) -> tuple[Votes, MachineVotes | None]:
    """Read the votes with their authors and the machine's votes, and say what is there unless `quiet`.

    Raises:
        UserError: a file cannot be used; the message says why.
    """
    votes, machine = _read(config)
    # The columns are codes by now; pyarrow would keep their memory, a quarter of what a large aggregation needs.
    pa.default_memory_pool().release_unused()
    if quiet:
        return votes, machine
    say(
        f"{config.votes}: {len(votes):,} votes of {len(votes.users):,} users on {len(votes.observations):,} "
        f"observations, {len(votes.labels):,} species."
    )
    say_counts(votes.counts)
    if not (votes.author >= 0).any():
        say("no author is known: n_author is 0 for everyone; give --authors where there are some.")
    return votes, machine


def _read(config: VotesConfig) -> tuple[Votes, MachineVotes | None]:
    wanted = ["author"] if config.authors is None else []
    if config.machine.mode != "ignored":
        wanted += ["machine", "score"]
    table = read_votes(config.votes, wanted)
    with wrong_votes(config.votes):
        authors = None if config.authors is None else read_by_observation(config.authors, "author")
        votes, machine = encode_table(table, authors=authors, repeated=config.repeated)
        if config.machine_votes is not None:
            observations, labels = read_by_observation(config.machine_votes, "machine")
            machine = MachineVotes(observations=observations, labels=labels)
        if config.machine_scores is not None:
            if machine is None:
                raise UserError("--machine-scores needs --machine-votes, or a column machine among the votes.")
            machine = dataclasses.replace(machine, scores=read_by_observation(config.machine_scores, "score"))
    return votes, machine


def say_counts(counts: dict[str, int]) -> None:
    """Say what was passed over, where there was any."""
    for what, count in counts.items():
        if count:
            say(f"{what}: {count:,}.")


@contextlib.contextmanager
def wrong_votes(path: Path) -> Iterator[None]:
    """What is wrong with votes or settings, as one sentence that names the file of votes."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{path}: {error}.") from error
