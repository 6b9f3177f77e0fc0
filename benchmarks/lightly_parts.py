"""A training step put together from lightly's published DINOv2 parts, to time beside Umbel's on the same ViT.

Its wrapper of timm's ViT, block masks, heads and average, as its guide to DINOv2 uses them: plain AdamW, the default
attention kernel, masks drawn within the step. Two methods: SimDINOv2's losses (Umbel's) behind lightly's layers, and
lightly's own DINOv2 losses (DINO, iBOT and KoLeo) behind its head of prototypes. Gradients are clipped in both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from lightly.models.modules import DINOv2ProjectionHead, MaskedVisionTransformerTIMM
from lightly.models.modules.heads import ProjectionHead
from lightly.models.utils import get_weight_decay_parameters, random_block_mask, update_momentum
from measuring import unmarked
from step import Seen
from torch import Tensor, nn

from umbel.ssl.losses import image_loss, patch_loss
from umbel.ssl.pretrain_config import PretrainConfig

TEACHER_TEMPERATURE = 0.07
KOLEO_WEIGHT = 0.1
BOTTLENECK = 256


class UnitHead(nn.Module):
    """lightly's projection layers with SimDINOv2's ending: a unit vector, no prototypes."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.layers = ProjectionHead(
            [(width, hidden, None, nn.GELU()), (hidden, hidden, None, nn.GELU()), (hidden, out, None, None)]
        )

    def forward(self, x: Tensor) -> Tensor:  # (n, C) -> (n, D)
        return F.normalize(self.layers(x).float(), dim=-1)


class Half(nn.Module):
    """A backbone with its head: the student, or the teacher."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = MaskedVisionTransformerTIMM(
            backbone, weight_initialization="skip", pos_embed_initialization="skip"
        )
        self.head = head


class LightlyStep:
    """One step of the method `losses`: "simdino" or "dinov2".

    Args:
        backbone: a timm ViT; it becomes the student.
        prototypes: outputs of the head, for dinov2.
    """

    def __init__(
        self,
        backbone: Any,
        config: PretrainConfig,
        *,
        losses: str,
        prototypes: int,
        device: torch.device,
        precision: str,
    ) -> None:
        self.config, self.device, self.precision, self.simdino = config, device, precision, losses == "simdino"
        width, hidden = backbone.num_features, config.head.hidden

        def head() -> nn.Module:
            if self.simdino:
                return UnitHead(width, hidden, config.head.width)
            return DINOv2ProjectionHead(width, hidden, BOTTLENECK, prototypes)

        # Two heads, not a copy: one under torch's weight_norm cannot be copied.
        self.teacher = Half(copy.deepcopy(backbone), head()).to(device).eval().requires_grad_(False)
        self.student = Half(backbone, head()).to(device).train()
        self.dino = DINOLoss(prototypes).to(device)
        self.ibot = IBOTPatchLoss(prototypes).to(device)
        self.koleo = KoLeoLoss()
        decayed, others = get_weight_decay_parameters([self.student.backbone, self.student.head])
        known = {id(parameter) for parameter in (*decayed, *others)}
        loose = [parameter for parameter in self.student.parameters() if id(parameter) not in known]
        groups = [{"params": [*decayed, *loose]}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.optim.floor, weight_decay=0.04)

    def __call__(self, seen: Seen, mark: Callable[[str], None] = unmarked) -> Tensor:
        """Take a step on the given views, with masks of its own; returns the loss."""
        vit = self.student.backbone.vit
        side = self.config.views.global_size // int(vit.patch_embed.patch_size[0])
        blocks = random_block_mask((len(seen.globals_), side, side), device=self.device)
        masks = blocks.new_zeros((len(blocks), self.student.backbone.sequence_length))
        masks[:, vit.num_prefix_tokens :] = blocks.flatten(1)
        mark("masks")
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            with torch.no_grad():
                tokens = self.teacher.backbone.encode(seen.globals_)
                taught_classes, taught_patches = self.teacher.head(tokens[:, 0]), self.teacher.head(tokens[masks])
            mark("teacher forward")
            tokens = self.student.backbone.encode(seen.globals_, mask=masks)
            classes = [tokens[:, 0], self.student.backbone.encode(seen.locals_)[:, 0]]
            own_classes = torch.cat([self.student.head(tokens_of) for tokens_of in classes])
            own_patches = self.student.head(tokens[masks])
            mark("student forward")
            if self.simdino:
                loss = self._simdino(own_classes, own_patches, taught_classes, taught_patches, blocks)
            else:
                loss = self._dinov2(own_classes, own_patches, taught_classes, taught_patches, blocks)
                loss = loss + KOLEO_WEIGHT * sum(self.koleo(half) for half in classes[0].chunk(2))
            mark("losses forward")
        loss.backward()
        mark("backward")
        for part in (self.student.backbone, self.student.head):
            nn.utils.clip_grad_norm_(part.parameters(), self.config.optim.clip)
        mark("clipping")
        self.optimizer.step()
        mark("optimizer")
        update_momentum(self.student, self.teacher, m=0.99)
        mark("teacher's average")
        self.optimizer.zero_grad()
        mark("gradients freed")
        return loss.detach()

    def _simdino(self, classes: Tensor, patches: Tensor, taught: Tensor, taught_patches: Tensor, blocks: Tensor) -> Any:
        batch = len(blocks) // 2
        total, _, _ = image_loss(classes.view(-1, batch, classes.shape[-1]), taught.view(2, batch, -1))
        return total + patch_loss(patches, taught_patches, blocks.flatten(1))

    def _dinov2(self, classes: Tensor, patches: Tensor, taught: Tensor, taught_patches: Tensor, blocks: Tensor) -> Any:
        views = 2 + self.config.views.local_views
        loss = self.dino(list(taught.chunk(2)), list(classes.chunk(views)), teacher_temp=TEACHER_TEMPERATURE)
        return loss + self.ibot(taught_patches, patches, blocks, teacher_temp=TEACHER_TEMPERATURE)
