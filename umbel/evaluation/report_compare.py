"""A comparison of probed features: who is better by how much and with which certainty, then what can be looked at."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from umbel.backbones import Backbone, load
from umbel.data.index import ShardSet, open_shards
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.hashing.evaluate import QUERY_SPLITS
from umbel.evaluation.report_album import Album
from umbel.evaluation.report_confusions import confusions
from umbel.evaluation.report_differences import differences
from umbel.evaluation.report_efficiency import efficiency_section
from umbel.evaluation.report_html import Markup, aside, join, listed, tag
from umbel.evaluation.report_map import maps
from umbel.evaluation.report_measures import by_group, measures
from umbel.evaluation.report_neighbors import nearest_photographs
from umbel.evaluation.report_page import page
from umbel.evaluation.report_patches import patch_maps, patch_words
from umbel.evaluation.report_pictures import choose
from umbel.evaluation.report_results import Features, Source, compared, shots_of_all
from umbel.evaluation.report_sensitivity import sensitivity_section
from umbel.evaluation.report_shots import over_shots
from umbel.evaluation.report_summary import compared_in_words
from umbel.run import UserError

MAPS, PHOTOGRAPHS, QUERIES = 3, 4, 4
SEED = 0
NO_GROUPS = "The results tell nothing of groups of species."


def comparison(sources: Sequence[Source], data: str | None) -> str:
    """The whole page.

    Args:
        data: shards for the pictures; by default those that were embedded.

    Raises:
        UserError: results without common shots, or data that is not there.
    """
    features = compared(sources)
    shots = shots_of_all(features)
    ranked = sorted(features, key=lambda of: -of.curve[shots][0])
    left_out = ranked[0].row.get("left_out") or ()
    classes = len(sources[0].told.get("classes") or ()) - len(left_out)
    guessing = 1 / classes if classes > 1 else None
    shards = _shards(sources, data)
    counts = sources[0].told.get("photographs") or {}
    told = f"{len(features)} kinds of features on the same photographs and the same draws"
    if {"support", "queries"} <= counts.keys():
        told += f": {counts['support']:,} photographs of the support, {counts['queries']:,} queries"
    told += f", {classes:,} species." if classes > 1 else "."
    # What a probe was asked for and could not tell.
    absent = dict.fromkeys(str(one) for source in sources for one in source.told.get("absent") or ())
    told_by_name = {source.name: source.told for source in sources}
    reached = {of.name: of.curve[shots] for of in features if of.pretrained}
    sections = {
        "Summary": join(*(tag("p", sentence) for sentence in compared_in_words(ranked, shots))),
        "Accuracy": measures(ranked, shots),
        "Over shots": over_shots(ranked, guessing),
        "Differences": differences(ranked, shots),
        "By group": join(by_group(ranked) or aside(NO_GROUPS), *(aside(one) for one in absent)),
        "Sensitivity": sensitivity_section(told_by_name),
        "Efficiency": efficiency_section(told_by_name, reached, f"{shots}-shot nearest centroid"),
        "Nearest neighbors": _of_embeddings(
            sources, shards, lambda sets, album: nearest_photographs(sets, album, seed=SEED, rows=QUERIES)
        ),
        "Map of features": _of_embeddings(sources, shards, lambda sets, album: maps(sets, album, seed=SEED)),
        "Most confused": _of_embeddings(sources, shards, _confusions),
        "Patch features": _patches(sources, shards),
        "Provenance": _provenance(sources, shards),
    }
    return page(f"{listed(_names(features))} compared", told, sections)


def _names(features: Sequence[Features]) -> list[str]:
    """At most three, backbones first."""
    names = [of.name for of in sorted(features, key=lambda of: not of.pretrained)]
    return names if len(names) <= 3 else [*names[:2], f"{len(names) - 2} others"]


def _shards(sources: Sequence[Source], data: str | None) -> ShardSet | None:
    """The photographs; None where they were moved."""
    if data is not None:
        return open_shards(data)
    for source in sources:
        folder = ((source.told.get("provenance") or {}).get("data") or {}).get("folder")
        try:
            if folder and Path(folder).is_dir():
                return open_shards(str(folder))
        except UserError:
            continue
    return None


def _of_embeddings(
    sources: Sequence[Source],
    shards: ShardSet | None,
    show: Callable[[dict[str, Embeddings], Album], Markup],
) -> Markup:
    """What is shown of the sources' embeddings, or why it is not."""
    sets = {source.name: source.embeddings for source in sources if source.embeddings is not None}
    if not sets:
        return aside("No result has embeddings beside it (`umbel embed BACKBONE --data DATA --out FOLDER/embeddings`).")
    if shards is None:
        return aside("The embeddings cannot be shown: the photographs are not at hand (give their shards as --data).")
    album = Album(shards)
    keys = next(iter(sets.values())).keys
    if not album.holds(keys):
        return aside("The embeddings cannot be shown: the shards at hand hold other photographs.")
    same = {name: embeddings for name, embeddings in sets.items() if embeddings.keys == keys}
    parts = [show(dict(list(same.items())[:MAPS]), album)]
    if len(same) < len(sets):
        others = ", ".join(name for name in sets if name not in same)
        parts.append(aside(f"Left out, because other photographs were embedded: {others}."))
    if len(same) > MAPS:
        parts.append(aside(f"Only the first {MAPS} of {len(same)} are shown."))
    return join(*parts)


def _confusions(sets: dict[str, Embeddings], album: Album) -> Markup:
    name, embeddings = next(iter(sets.items()))
    heading = tag("p", f"Of {name}.", class_="of-set") if len(sets) > 1 else Markup()
    return join(heading, confusions(embeddings, album))


def _patches(sources: Sequence[Source], shards: ShardSet | None) -> Markup:
    """Maps of each backbone that is still there."""
    if shards is None:
        return aside("There are no maps of patch features: the photographs are not at hand.")
    photographs = [one for _, one in choose(shards, PHOTOGRAPHS, seed=SEED, splits=QUERY_SPLITS)]
    parts = []
    for source in sources[:MAPS]:
        backbone = _backbone(source)
        gone = aside("There are no maps of patch features: the backbone is not where it was.")
        parts += [tag("h3", source.name), gone if backbone is None else patch_maps(backbone, photographs)]
    return join(patch_words(), *parts)


def _backbone(source: Source) -> Backbone | None:
    told = (source.told.get("provenance") or {}).get("backbone") or {}
    folder = str(told.get("source", "")).removeprefix("folder ")
    if not folder or not Path(folder).exists():
        return None
    try:
        return load(folder, any_size=True)
    except UserError:
        return None


def _provenance(sources: Sequence[Source], shards: ShardSet | None) -> Markup:
    parts = []
    for source in sources:
        told = source.told.get("provenance") or {}
        backbone, protocol = told.get("backbone") or {}, source.told["protocol"]
        versions = (told.get("versions") or {}).items()
        facts = {
            "Result": str(source.path),
            "Features": ", ".join(of.name for of in source.features),
            "Backbone": str(backbone.get("source", "unknown")),
            "Weights (SHA-256)": str(backbone.get("sha256", "unknown")),
            "Preprocessing": str(told.get("preprocessing", "unknown")),
            "Photographs": str((told.get("data") or {}).get("folder", "unknown")),
            "Data fingerprint": str(source.fingerprint or "unknown"),
            "Protocol": ", ".join(f"{name} {value}" for name, value in protocol.items()),
            "Device": f"{told.get('device', 'unknown')}, {told.get('precision', 'unknown')}",
            "Libraries": ", ".join(f"{name} {number}" for name, number in versions) or "unknown",
        }
        lines = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()]
        parts += [tag("h3", source.name), tag("dl", *lines, class_="facts")]
    where = "no pictures" if shards is None else f"pictures from {shards.folder}"
    again = shlex.join(f"{source.name}={source.path}" for source in sources)
    return join(*parts, tag("p", f"This page has {where}: ", tag("code", f"umbel report {again}")))
