"""probe.json: what `umbel probe` writes, and the report reads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from umbel.run import UserError


def document(
    rows: Sequence[Mapping[str, Any]],
    *,
    protocol: Mapping[str, Any],
    photographs: Mapping[str, int],
    classes: Sequence[str],
    comparisons: Sequence[Any],
    absent: Sequence[str],
    provenance: Mapping[str, Any],
    more: Mapping[str, Any],
) -> str:
    """The file's text. Accuracies and shares lie between 0 and 1; E is an estimate {"value", "low", "high"}, the ends
    being those of its 95 % interval. What was not asked for, or cannot be told, is absent; `absent` says why.

    {
      "format": 1, "command": "probe",
      "protocol": {"shots": first of --shots, "all_shots": [...], "draws", "seed", "k", "queries": words, "probes"},
      "photographs": {"support", "queries"}, "classes": [name of label 0, ...], "provenance": {...},
      "absent": ["sentence", ...],
      "comparisons": [{"first", "second": names of rows, "measure": words, "difference": E, "verdict": sentence}],
      "rows": [{
        "name", "shots", "draws", "accuracies", "mean", "interval": half width over draws, "knn", "knn_plain", "k",
        "seconds", "left_out": as in ProbeRow, and by --probes:
        "centroid": [{"shots", "draws", "micro": E, "macro": E, "top5": E or null (5 classes or fewer), all over
                      draws, "deviation": population deviation over draws, "left_out": [label],
                      "classes": [C], "confusions": [X], "taxonomy": T}],   one for each of --shots
        "nearest": {"weighted": R, "plain": R},                             k-NN
        "episodes": [{"ways", "shots", "queries": of each class, "episodes", "accuracy": E over episodes}],
        "logistic": R and {"strength": C of scikit-learn, "tried": {strength: accuracy on validation data}},
        "linear": R and {"learning_rate", "epochs", "tried": {rate: accuracy on validation data}},
        "open_set": [{"score": "centroid" or "nearest neighbor", "unknown": species left out, "draws", "auroc": E,
                      "false_accepts": E}],
        "label_free": {"rankme": E, "width", "uniformity": E, "alignment": E or absent}
      }],
      "efficiency", "sensitivity": of the backbone itself, where asked; see umbel/evaluation/efficiency.py and
                                   sensitivity_measure.py
    }
    R = {"micro": E, "macro": E, "top5": E or absent, "calibration_error": E or absent, "count": queries,
         "classes": [C], "confusions": [X], "frequency": [G], "organ": [G], "taxonomy": T}
    C = {"label", "count": queries, "accuracy", "support": photographs in the support}
    X = {"true", "predicted": labels, "count": queries (over all draws)}, the most frequent first, 20 at most
    G = {"name": "head", "middle", "tail", or the organ, "classes", "count", "accuracy": E}
    T = {"genus": E, "family": E, ...: accuracy at the level; "distance": E or absent, the mean over errors of the
         steps up to the lowest level that both species share (1: the same genus), "levels": [...]}
    """
    told = {"format": 1, "command": "probe", "protocol": protocol, "photographs": photographs}
    told |= {"rows": rows, "comparisons": comparisons, "absent": absent}
    told |= {"classes": classes, "provenance": provenance, **more}
    return json.dumps(told, indent=1, ensure_ascii=False, default=_plain) + "\n"


def _plain(thing: Any) -> Any:
    """Our dataclasses as JSON."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return dataclasses.asdict(thing)
    raise TypeError(f"{type(thing).__name__} is not JSON")


def refuse_stranger(out: Path) -> None:
    """Only a result of this command may be replaced.

    Raises:
        UserError: the file holds something else.
    """
    if not out.exists():
        return
    try:
        told = json.loads(out.read_text())
    except (OSError, ValueError):
        told = None
    if not isinstance(told, dict) or told.get("command") != "probe":
        raise UserError(f"{out} is no result of `umbel probe`: choose another --out.")
