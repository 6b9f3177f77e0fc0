"""What `umbel probe` measures of a backbone beside its accuracy, when asked: sensitivity and costs."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umbel.backbones import load
from umbel.evaluation import efficiency_picture, sensitivity_picture, sensitivity_words
from umbel.evaluation.chart import save_chart
from umbel.evaluation.efficiency import efficiency, words
from umbel.evaluation.embeddings import Embeddings
from umbel.evaluation.extract import open_data
from umbel.evaluation.probe_rows import QUERIES, SUPPORT
from umbel.evaluation.sensitivity import sensitivity
from umbel.evaluation.sensitivity_measure import Sensitivity
from umbel.machine import choose_workers
from umbel.picture import check_picture
from umbel.run import UserError, say

COMMAND = "umbel probe"


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What is asked for."""

    backbone: str
    """As the probe is given it."""
    data: str | None
    out: Path | None
    sensitivity: int
    """Photographs; 0: not asked for."""
    efficiency: bool
    seed: int = 0
    workers: int = -1

    def check(self) -> None:
        """Say what would fail, before anything is embedded.

        Raises:
            UserError: no photographs, no backbone behind embeddings, or pictures that would replace others' files.
        """
        if self.sensitivity and self.data is None:
            raise UserError("--sensitivity changes photographs: give them as --data.")
        if (self.sensitivity or self.efficiency) and self._behind() != self.backbone:
            # Behind embeddings the probe itself can do without it.
            load(self._behind())
        for name, asked in (("sensitivity", self.sensitivity), ("efficiency", self.efficiency)):
            picture = self._picture(name)
            if asked and picture is not None:
                check_picture(picture, COMMAND)

    def measure(self, folder: Path, device: str) -> dict[str, Any]:
        """What goes into the probe's JSON.

        Args:
            folder: for shards of photographs, where the probe made its own in `folder`/shards.

        Raises:
            UserError: see `umbel.evaluation.sensitivity.sensitivity`.
        """
        found: dict[str, Any] = {}
        if not (self.sensitivity or self.efficiency):
            return found
        backbone = load(self._behind())
        # First, before workers of the other are there to disturb it.
        if self.efficiency:
            costs = efficiency(backbone, device=device)
            found["efficiency"] = dataclasses.asdict(costs)
            for line in words(costs):
                say(line)
        if self.sensitivity:
            shards = open_data(str(self.data), folder / "shards", backbone.card.image_size, workers=self.workers)
            moved = sensitivity(
                backbone,
                shards.select((*SUPPORT, *QUERIES)),
                photographs=self.sensitivity,
                seed=self.seed,
                device=device,
                workers=int(choose_workers(self.workers, 1).value),
            )
            found["sensitivity"] = {"source": backbone.source} | dataclasses.asdict(moved)
            say(sensitivity_words.table(moved))
            for line in sensitivity_words.sentences(moved):
                say(line)
            self._draw_sensitivity(moved)
        return found

    def draw_costs(self) -> None:
        """Accuracy against multiply-adds of the results in the folder of --out, where there are several."""
        picture = self._picture("efficiency")
        if not self.efficiency or self.out is None or picture is None:
            return
        rows = efficiency_picture.rows_beside(self.out)
        if len(rows) < 2:
            say("one backbone is no picture of costs: probe others on the same, with --out in the same folder.")
            return
        shots = json.loads(self.out.read_text())["protocol"]["shots"]
        paint = efficiency_picture.paint(rows, f"{shots}-shot nearest centroid")
        size = {"width": efficiency_picture.WIDTH, "height": efficiency_picture.HEIGHT}
        save_chart(paint, picture, COMMAND, **size)
        say(f"{picture}: {len(rows)} backbones.")

    def _draw_sensitivity(self, found: Sensitivity) -> None:
        picture = self._picture("sensitivity")
        if picture is None:
            say("without --out there is no picture.")
            return
        picture.parent.mkdir(parents=True, exist_ok=True)
        size = {"width": sensitivity_picture.WIDTH, "height": sensitivity_picture.height(found)}
        save_chart(sensitivity_picture.paint(found), picture, COMMAND, **size)
        say(f"{picture}: movement over strengths.")

    def _picture(self, name: str) -> Path | None:
        """probe.json -> probe.sensitivity.png, beside it."""
        return None if self.out is None else self.out.with_name(f"{self.out.stem}.{name}.png")

    def _behind(self) -> str:
        """The backbone's name; of embeddings, that of the backbone that made them."""
        if not (Path(self.backbone) / "embeddings.json").is_file():
            return self.backbone
        made_by: str = Embeddings.load(Path(self.backbone)).provenance.get("given", {}).get("backbone", "")
        return made_by
