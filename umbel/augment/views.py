"""Global and local views of a batch: boxes, crops, policy, normalization, on the device of the canvases.

Every number is drawn from the stream of (seed, epoch, position, view), so a photograph's views do not depend on the
batch, rank or worker that it comes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor

from umbel.augment.boxes import BOX_DRAWS, draw_boxes
from umbel.augment.crops import crop
from umbel.augment.own_policy import Policy, operations_of, policy_name
from umbel.augment.policy import apply_policy, policy_draws
from umbel.image_statistics import INAT_PLANTAE_MEAN as INAT_PLANTAE_MEAN
from umbel.image_statistics import INAT_PLANTAE_STD as INAT_PLANTAE_STD
from umbel.random_stream import Purpose, position_uniforms

GLOBAL_VIEWS = 2
# On the command line a policy is a name; the list that a recipe may hold passes through as it is.
PolicyFlag = tyro.constructors.PrimitiveConstructorSpec[Policy](
    nargs=1,
    metavar="NAME",
    instance_from_str=lambda words: words[0],
    is_instance=lambda value: isinstance(value, (str, tuple)),
    str_from_instance=lambda policy: [policy_name(policy)],
)


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """Sizes and areas of the views, and what is done to them."""

    global_size: int = 224
    """Side of the two global views in pixels."""
    local_size: int = 96
    """Side of the local views in pixels."""
    local_views: int = 10
    """Local views of a photograph."""
    global_area: tuple[float, float] = (0.4, 1.0)
    """Share of the photograph that a global view covers."""
    local_area: tuple[float, float] = (0.05, 0.4)
    """Share of the photograph that a local view covers."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Width / height of a box, log-uniform."""
    flip: float = 0.5
    """Probability of mirroring left to right."""
    policy: Annotated[Policy, PolicyFlag] = "plant"
    """What follows the crop: plant, plant-paper, dinov2 or none; a recipe may also list operations of its own."""

    def __post_init__(self) -> None:
        if min(self.global_size, self.local_size) < 4 or self.local_views < 0:
            raise ValueError("views.global_size and views.local_size must be at least 4, views.local_views at least 0")
        for name in ("global_area", "local_area"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"views.{name} must be two shares, 0 < low <= high <= 1, not {low}, {high}")
        if not 0 < self.aspect[0] <= self.aspect[1] or not 0 <= self.flip <= 1:
            raise ValueError("views.aspect must be two positive numbers, low <= high, and views.flip a probability")
        try:
            operations = operations_of(self.policy)
        except ValueError as error:
            raise ValueError(f"views.policy {error}") from error
        least = max((operation.least_side for operation in operations), default=1)
        if least > min(self.global_size, self.local_size):
            raise ValueError(f"views.global_size and views.local_size must be at least {least} for this views.policy")


@dataclass(frozen=True, kw_only=True)
class ViewDraws:
    """What was drawn for one view of every photograph of a batch."""

    view: int
    boxes: np.ndarray  # (B, 4) int64 top, left, height, width
    flip: np.ndarray  # (B,) bool
    policy: np.ndarray  # (B, policy_draws) uniforms


class Views:
    """Makes the views of batches."""

    def __init__(
        self,
        config: ViewsConfig,
        *,
        seed: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
        plain: bool = False,
    ) -> None:
        """Views on `device`.

        Args:
            dtype: of the normalized views; the arithmetic is in float32.
            compiled, plain: how the policy is applied (`apply_policy`).
        """
        self.config, self.seed, self.dtype, self.compiled, self.plain = config, seed, dtype, compiled, plain
        self.operations = operations_of(config.policy)
        self.mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(std, device=device).view(1, 3, 1, 1)

    def draw(self, size: np.ndarray, epoch: np.ndarray, position: np.ndarray, view: int) -> ViewDraws:
        """Draw view number `view` (0, 1: global, then local) of photographs of sizes (B, 2) at (B,) positions."""
        config, draws = self.config, BOX_DRAWS + 1 + policy_draws(self.operations)
        is_global = view < GLOBAL_VIEWS
        area = config.global_area if is_global else config.local_area
        uniforms = np.concatenate(
            [
                position_uniforms(self.seed, e, Purpose.VIEWS, view=view, first=first, count=count, draws=draws)
                for e, first, count in contiguous_runs(epoch, position)
            ]
        )
        boxes = draw_boxes(uniforms[:, :BOX_DRAWS], size, area=area, aspect=config.aspect)
        flip = uniforms[:, BOX_DRAWS] < config.flip
        return ViewDraws(view=view, boxes=boxes, flip=flip, policy=uniforms[:, BOX_DRAWS + 1 :])

    def make(self, canvas: Tensor, draws: list[ViewDraws], side: int) -> Tensor:
        """Cut views of one size and apply the policy, in one batched call.

        Args:
            canvas: (B, 3, H, W) uint8.
            draws: of V views.

        Returns:
            (V * B, 3, side, side) in [0, 1], view-major.
        """
        source = torch.arange(len(canvas)).repeat(len(draws))
        boxes = torch.from_numpy(np.concatenate([d.boxes for d in draws]))
        flip = torch.from_numpy(np.concatenate([d.flip for d in draws]))
        crops = crop(canvas, source, boxes, flip, size=side)
        view = np.repeat([d.view for d in draws], len(canvas))
        uniforms = np.concatenate([d.policy for d in draws])
        return apply_policy(crops, self.operations, uniforms, view, compiled=self.compiled, plain=self.plain)

    @torch.no_grad()
    def __call__(self, canvas: Tensor, size: Tensor, epoch: np.ndarray, position: np.ndarray) -> tuple[Tensor, Tensor]:
        """All views of a batch, normalized.

        Args:
            canvas: (B, 3, H, W) uint8 on the device.
            size: (B, 2) true heights and widths, on the CPU.
            epoch, position: (B,) where each photograph stands in the sample order.

        Returns:
            globals (2B, 3, S, S) and locals (L*B, 3, s, s), view-major: row v * B + b.
        """
        config, sizes = self.config, size.numpy()
        views = [self.draw(sizes, epoch, position, v) for v in range(GLOBAL_VIEWS + config.local_views)]
        globals_ = self.make(canvas, views[:GLOBAL_VIEWS], config.global_size)
        if not config.local_views:
            none = globals_.new_empty((0, 3, config.local_size, config.local_size), dtype=self.dtype)
            return self.normalize(globals_), none
        locals_ = self.make(canvas, views[GLOBAL_VIEWS:], config.local_size)
        return self.normalize(globals_), self.normalize(locals_)

    @torch.no_grad()
    def first(self, canvas: Tensor, size: Tensor, epoch: np.ndarray, position: np.ndarray) -> Tensor:
        """The first global view alone, normalized, (B, 3, S, S); arguments as of a call."""
        drawn = self.draw(size.numpy(), epoch, position, 0)
        return self.normalize(self.make(canvas, [drawn], self.config.global_size))

    def normalize(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) in [0, 1] -> zero mean and unit deviation by the data's statistics; overwrites them."""
        return images.sub_(self.mean).div_(self.std).to(self.dtype)


def contiguous_runs(epoch: np.ndarray, position: np.ndarray) -> list[tuple[int, int, int]]:
    """Cut positions into runs of one epoch that go up by one: (epoch, first position, count)."""
    breaks = np.flatnonzero((np.diff(epoch) != 0) | (np.diff(position) != 1)) + 1
    parts = zip(np.split(epoch, breaks), np.split(position, breaks), strict=True)
    return [(int(e[0]), int(p[0]), len(p)) for e, p in parts]
