"""`umbel votes evaluate VOTES --truth FILE`: strategies against the truth, by subset, as a table and pictures."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from umbel.config import to_values
from umbel.data.votes.aggregate_command import say_found
from umbel.data.votes.aggregation import Aggregation, Strategy, aggregate_votes
from umbel.data.votes.inputs import VotesConfig, load, wrong_votes
from umbel.data.votes.measures import Measures, match_truth, measure, subsets
from umbel.data.votes.out_folder import new_folder, refuse_taken
from umbel.data.votes.read import read_by_observation
from umbel.run import say

MEASURES = tuple(field.name for field in fields(Measures) if field.name != "observations")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(VotesConfig):
    """Compare strategies with the truth: accuracy (what is not valid counts as wrong), recall, what is kept."""

    truth: Path
    """True species by observation: ground_truth.txt (a line for each observation number, -1 for none), JSON, or a table
    (observation, species)."""
    strategies: tuple[Strategy, ...] = (
        "plantnet",
        "plantnet-compatible",
        "majority",
        "wawa",
        "two-thirds",
        "dawid-skene",
    )
    """Strategies to compare; soft has the labels of majority."""
    out: Path | None = None
    """Folder for measures.json and pictures.png (accuracy against share kept, user weights, species kept)."""
    json: bool = False
    """Print JSON instead of the table."""
    force: bool = False
    """Move a folder at --out that holds something else aside."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strategies:
            raise ValueError("strategies must name at least one")


def run(config: EvaluateConfig) -> None:
    """Aggregate by every strategy, measure, print, and draw.

    Raises:
        UserError: the votes or the truth cannot be used, or `out` holds something.
    """
    if config.out is not None:
        refuse_taken(config.out, config.force, [*config.files(), config.truth])
    votes, machine = load(config, quiet=config.json)
    told = read_by_observation(config.truth, "species")
    with wrong_votes(config.truth):
        truth = match_truth(votes, *told)
    if truth.unknown and not config.json:
        say(f"observations with a truth and without votes, left out: {truth.unknown:,}.")
    found: dict[str, Aggregation] = {}
    known = votes.counts
    for strategy in dict.fromkeys(config.strategies):
        with wrong_votes(config.votes):
            found[strategy] = aggregate_votes(
                votes,
                strategy=strategy,
                ties=config.ties,
                seed=config.seed,
                machine=machine,
                machine_config=config.machine,
                plantnet_config=config.plantnet,
            )
        if not config.json:
            say_found(found[strategy], strategy, known)
            known = known | found[strategy].counts
    masks = subsets(votes, truth)
    table = {
        name: {strategy: measure(aggregation, truth, mask) for strategy, aggregation in found.items()}
        for name, mask in masks.items()
    }
    values = {name: {key: asdict(row) for key, row in rows.items()} for name, rows in table.items()}
    if config.json:
        print(json.dumps(values, indent=1))
    else:
        print(as_text(table))
    if config.out is None:
        return
    from umbel.data.votes.pictures import draw

    with new_folder(config.out) as folder:
        record = {"format": 1, "settings": to_values(config), "measures": values}
        (folder / "measures.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        draw(found, truth, table, theta_conf=config.plantnet.theta_conf).savefig(folder / "pictures.png", dpi=100)
    if not config.json:
        say(f"{config.out}: measures.json, pictures.png.")


def as_text(table: dict[str, dict[str, Measures]]) -> str:
    """A block of lines for each subset, a line for each strategy, shares in percent."""
    lines = []
    for name, rows in table.items():
        count = next(iter(rows.values())).observations
        lines.append(f"\n{name} ({count:,} observations)")
        lines.append("  ".join([f"{'':<20}", *(f"{measure.replace('_', ' '):>17}" for measure in MEASURES)]))
        for strategy, row in rows.items():
            lines.append("  ".join([f"{strategy:<20}", *(_percent(getattr(row, measure)) for measure in MEASURES)]))
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{'-':>17}" if math.isnan(share) else f"{100 * share:>15.1f} %"
