"""The parts of a report in order; one whose file is missing says so in a sentence instead."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from umbel.augment.own_policy import policy_name
from umbel.augment.views import ViewsConfig
from umbel.backbones import Backbone
from umbel.config import from_values
from umbel.data.index import PRETRAINING_SPLITS
from umbel.evaluation import report_tables as tables
from umbel.evaluation.embed import weights_sha256
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing.evaluate import QUERY_SPLITS
from umbel.evaluation.probe import PRETRAINED
from umbel.evaluation.report_album import Album
from umbel.evaluation.report_charts import PANELS, curves
from umbel.evaluation.report_confusions import confusions
from umbel.evaluation.report_efficiency import efficiency_section
from umbel.evaluation.report_fewshot import fewshot
from umbel.evaluation.report_health import health_section, probe_panel, speed_section
from umbel.evaluation.report_html import Markup, aside, figure, join, picture, tag
from umbel.evaluation.report_map import maps
from umbel.evaluation.report_neighbors import nearest_photographs
from umbel.evaluation.report_paired import comparisons_of
from umbel.evaluation.report_patches import patch_maps, patch_words
from umbel.evaluation.report_pictures import choose, sheet
from umbel.evaluation.report_retrieval import retrieval
from umbel.evaluation.report_run import Photographs, RunRecord, data_name
from umbel.evaluation.report_sensitivity import sensitivity_section
from umbel.evaluation.report_suite import suite_in_words, suite_table
from umbel.evaluation.report_words import features_told, health, probes_told, verdict

SHEET_ROWS, MAPS, NEIGHBOR_ROWS = 4, 6, 6
NO_PHOTOGRAPHS = "the photographs are not at hand (give their shards as --data)."


def parts(run: RunRecord, pictures: Photographs | None, backbone: Backbone | None, fault: str) -> dict[str, Markup]:
    """Title -> content.

    Args:
        fault: why there is no backbone.
    """
    return {
        "Summary": join(*(tag("p", sentence) for sentence in summary(run))),
        "Few-shot accuracy": _fewshot(run),
        "Training": _training(run),
        "Health": health_section(run.metrics, _warmup(run), health(run.metrics, run.bad_photographs)),
        "Speed": speed_section(run.metrics),
        "Augmented views": _views(run, pictures),
        "Patch features": _maps(run, pictures, backbone, fault),
        "Nearest neighbors": _of_embeddings(run, pictures, _neighbors),
        "Map of features": _of_embeddings(run, pictures, _map),
        "Most confused": _of_embeddings(run, pictures, _confusions),
        "Sensitivity": sensitivity_section({PRETRAINED: run.probed}),
        "Retrieval by code": _retrieval(run, pictures),
        "Hashing": tables.hashing(run.hashing, run.codes)
        if run.hashing is not None
        else aside("There is no hashing table: the run folder has no hash.json (`umbel hash evaluate --out`)."),
        "Efficiency": efficiency_section({PRETRAINED: run.probed}, {}, ""),
        "Cost": tables.costs(run.steps)
        if run.steps is not None
        else aside("What each step cost was not recorded: the run folder has no steps.json."),
        "Provenance": tables.provenance(
            run,
            weights=None if backbone is None else weights_sha256(backbone),
            checkpoint=None if backbone is None else backbone.source.removeprefix("folder "),
            pictures=_where(pictures),
        ),
    }


def heading(run: RunRecord, pictures: Photographs | None) -> str:
    """What was trained on what, in a line."""
    begun = run.config.get("init") or run.config["backbone"]["name"]
    return f"{begun}, pretrained on {data_name(run, pictures)}"


def lead(run: RunRecord, pictures: Photographs | None, backbone: Backbone | None) -> str:
    """The same with numbers."""
    config, last = run.config, run.metrics[-1]
    size = f" of {sum(p.numel() for p in backbone.model.parameters()) / 1e6:.1f} million weights" if backbone else ""
    photographs = "photographs"
    if pictures is not None and pictures.trained_on:
        count = sum(shard.count for shard in pictures.shards.shards if shard.split in PRETRAINING_SPLITS)
        photographs = f"{count:,} photographs"
    start = f"from {config['init']}" if config.get("init") else "from random weights"
    return (
        f"A vision transformer{size}, pretrained without labels (SimDINOv2) {start} on {photographs} for "
        f"{last['step']:,} steps ({last['epoch']:.3g} epochs) by the recipe “{config.get('recipe')}”."
    )


def summary(run: RunRecord) -> list[str]:
    """Who won; and what is wrong, if something is."""
    if run.probe is not None:
        won = verdict(run.probe, comparisons_of(run.probed, run.probe[0].shots))
    elif run.probed:
        won = " ".join(suite_in_words({PRETRAINED: run.probed}))
    else:
        won = probes_told(run.probes) or "How good the features are is not known: they have not been probed."
    told, advice = features_told(run.metrics, _warmup(run))
    return [won, told] if advice else [won]


def _warmup(run: RunRecord) -> float:
    """Epochs of the learning rate's warm-up; 0 where the recipe does not tell."""
    return float(run.config.get("optim", {}).get("warmup_epochs", 0.0))


def _where(pictures: Photographs | None) -> str:
    if pictures is None:
        return "none at hand"
    return pictures.where if pictures.trained_on else f"{pictures.where} (not what the run was trained on)"


def _fewshot(run: RunRecord) -> Markup:
    if run.probe is None and run.probed:
        return suite_table({PRETRAINED: run.probed})
    if run.probe is None:
        return aside("There is no few-shot table: the run folder has no probe.json (`umbel probe RUN --out`).")
    return fewshot(run.probe, run.probed, run.classes)


def _training(run: RunRecord) -> Markup:
    panels = curves(run.metrics, PANELS, probe_panel(run.probes))
    # Without a table the summary says it.
    told = probes_told(run.probes) if run.probe is not None else ""
    return join(tag("p", told), panels) if told else panels


def _views(run: RunRecord, pictures: Photographs | None) -> Markup:
    chosen = _photographs(run, pictures, SHEET_ROWS, PRETRAINING_SPLITS)
    if not chosen:
        return aside(f"There are no pictures of views: {NO_PHOTOGRAPHS}")
    config = from_values(ViewsConfig(), run.config.get("views", {}), f"{run.path}: views")
    image = sheet(config, chosen, seed=run.config["seed"])
    alt = f"{len(chosen)} photographs, each beside its 2 global and {config.local_views} local augmented views."
    caption = f"What training sees: a photograph with the boxes drawn on it, 2 global views of {config.global_size} "
    caption += f"pixels and {config.local_views} local views of {config.local_size}, policy "
    caption += f"“{policy_name(config.policy)}”, with what was done to each beneath it."
    return figure(picture(image, alt), caption, class_="sheet")


def _maps(run: RunRecord, pictures: Photographs | None, backbone: Backbone | None, fault: str) -> Markup:
    if backbone is None:
        return aside(f"There are no maps of patch features: {fault}")
    chosen = _photographs(run, pictures, MAPS, QUERY_SPLITS)
    if not chosen:
        return aside(f"There are no maps of patch features: {NO_PHOTOGRAPHS}")
    return join(patch_words(), patch_maps(backbone, chosen))


def _of_embeddings(
    run: RunRecord, pictures: Photographs | None, show: Callable[[Embeddings, Album, int], Markup]
) -> Markup:
    """What is shown of stored embeddings, or why it is not."""
    if run.embeddings is None:
        return aside("The run folder has no embeddings (`umbel embed RUN --data DATA --out RUN/embeddings`).")
    if pictures is None:
        return aside(f"The embeddings cannot be shown: {NO_PHOTOGRAPHS}")
    album = Album(pictures.shards)
    if not album.holds(run.embeddings.keys):
        return aside("The embeddings cannot be shown: the shards at hand hold other photographs.")
    return show(run.embeddings, album, run.config["seed"])


def _neighbors(embeddings: Embeddings, album: Album, seed: int) -> Markup:
    return nearest_photographs({"": embeddings}, album, seed=seed, rows=NEIGHBOR_ROWS)


def _map(embeddings: Embeddings, album: Album, seed: int) -> Markup:
    return maps({"": embeddings}, album, seed=seed)


def _confusions(embeddings: Embeddings, album: Album, seed: int) -> Markup:
    return confusions(embeddings, album)


def _retrieval(run: RunRecord, pictures: Photographs | None) -> Markup:
    if run.codes is None:
        return aside("There are no retrieval rows: the run folder has no codes (`umbel hash encode --out RUN/codes`).")
    if pictures is None:
        return aside(f"There are no retrieval rows: {NO_PHOTOGRAPHS}")
    return retrieval(run.codes, pictures.shards, seed=run.config["seed"])


def _photographs(run: RunRecord, pictures: Photographs | None, count: int, splits: tuple[str, ...]) -> list[Tensor]:
    """Photographs (3, H, W) uint8 drawn by the run's seed; [] where there are none."""
    if pictures is None:
        return []
    return [photograph for _, photograph in choose(pictures.shards, count, seed=run.config["seed"], splits=splits)]
