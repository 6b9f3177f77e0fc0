"""`umbel votes aggregate VOTES --out DIR`: labels, validity and weights from votes, as files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from umbel import __version__
from umbel.config import to_values
from umbel.data.votes.aggregation import Aggregation, Strategy, aggregate_votes
from umbel.data.votes.inputs import VotesConfig, load, say_counts, wrong_votes
from umbel.data.votes.out_folder import new_folder, refuse_taken
from umbel.data.votes.write import Format, labels_table, soft_table, users_table, write_table
from umbel.run import say

RECORD = "record.json"


@dataclass(frozen=True, kw_only=True)
class AggregateConfig(VotesConfig):
    """Turn votes into labels to train on: labels, users and optionally soft labels."""

    out: Path
    """Folder for labels, users and record.json."""
    strategy: Strategy = "plantnet"
    """plantnet (the published recursion), plantnet-compatible (as the authors' library computes it), majority, soft,
    wawa, two-thirds, or dawid-skene (one coin)."""
    format: Format = "parquet"
    """Format of the tables."""
    soft: bool = False
    """Write soft labels too: the share of each species in the weight of its observation's votes."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""


def run(config: AggregateConfig) -> None:
    """Aggregate and write.

    Raises:
        UserError: the votes cannot be used, or `out` holds something.
    """
    refuse_taken(config.out, config.force, config.files())
    votes, machine = load(config)
    with wrong_votes(config.votes):
        found = aggregate_votes(
            votes,
            strategy=config.strategy,
            ties=config.ties,
            seed=config.seed,
            machine=machine,
            machine_config=config.machine,
            plantnet_config=config.plantnet,
        )
    say_found(found, config.strategy, votes.counts)
    tables = {"labels": labels_table(found), "users": users_table(found)}
    if config.soft or config.strategy == "soft":
        tables["soft"] = soft_table(found)
    record = {"format": 1, "umbel": __version__, "settings": to_values(config), "passed_over": found.counts}
    record |= {"rounds": found.rounds, "ending": found.ending, "machine_weight": found.machine_weight}
    with new_folder(config.out) as folder:
        for name, table in tables.items():
            write_table(folder / f"{name}.{config.format}", table)
        (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    say(f"{config.out}: {', '.join(f'{name}.{config.format}' for name in tables)}, {RECORD}.")


def say_found(found: Aggregation, strategy: str, told: dict[str, int]) -> None:
    """What was passed over beyond what is told already, how the rounds ended, and how much is valid."""
    say_counts({what: count for what, count in found.counts.items() if what not in told})
    endings = {
        "settled": f"{strategy}: rounds until the weights settled: {found.rounds}.",
        "2-cycle": f"{strategy}: two states take turns (seen in round {found.rounds}); the later one is taken.",
        "stopped": f"{strategy}: rounds: {found.rounds}, the most allowed; the weights still change.",
        "one pass": f"{strategy}: one pass.",
    }
    say(endings[found.ending])
    valid, alone = int(found.valid.sum()), int(found.self_validating.sum())
    say(
        f"{valid:,} of {len(found.valid):,} observations are valid ({valid / len(found.valid):.1%}), "
        f"{int(found.tie.sum()):,} are ties; {alone:,} of {len(found.user):,} users validate alone."
    )
    if found.machine_weight is not None:
        say(f"the machine's weight: {found.machine_weight:.3f}.")
