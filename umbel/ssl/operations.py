"""Floating-point operations of a training step, counted on the meta device: no weights, no data, no time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from umbel.ssl.blocks import run_block
from umbel.ssl.network import Network

if TYPE_CHECKING:
    from umbel.ssl.pretrain_config import PretrainConfig


class Operations(NamedTuple):
    """Operations for one photograph; a multiply-add counts 2, what is not a matrix product or convolution 0."""

    nominal: float
    """Nothing dropped and nothing computed twice: what the model's FLOP utilization refers to."""
    executed: float
    """With the rows that drop path leaves out, and blocks computed again where activations are not kept."""


def step_operations(network: Network, config: PretrainConfig) -> Operations:
    """Count the operations of a training step of `network` and its teacher, for one photograph.

    The student's forward pass counts three times (backward is two forwards), the teacher's once; class tokens and the
    expected masked patches of both pass through the head.

    Args:
        network: the student, on any device; it is left as it is.
        config: sizes and numbers of views, masks, and the batch, which decides how many rows drop path leaves out.
    """
    views, batch = config.views, config.train.batch
    twin = on_meta(network)
    sizes = [(2 * batch, views.global_size), (views.local_views * batch, views.local_size)]
    patches = (views.global_size // twin.stride) ** 2
    masked = 2 * config.masks.views * (sum(config.masks.ratio) / 2) * patches
    head_row = 2.0 * sum(p.numel() for p in network.head.parameters() if p.ndim > 1)
    student_head = head_row * (2 + views.local_views + masked)
    teacher_head = head_row * (2 + masked)

    def passes(drop_path: float) -> list[Pass]:
        twin.drop_path = drop_path
        return [count_pass(twin, n, side) for n, side in sizes if n]

    whole = passes(0.0)
    dropped = passes(network.drop_path) if network.drop_path else whole
    teacher = whole[0].all / batch + teacher_head
    again = sum(p.blocks for p in dropped) / batch if network.checkpoint_activations else 0.0
    return Operations(
        nominal=3 * (sum(p.all for p in whole) / batch + student_head) + teacher,
        executed=3 * (sum(p.all for p in dropped) / batch + student_head) + again + teacher,
    )


class Pass(NamedTuple):
    """Operations of a forward pass of the backbone, and of its blocks alone."""

    all: float
    blocks: float


def count_pass(twin: Network, n: int, side: int) -> Pass:
    """Count the backbone's forward pass of n images (n, 3, side, side), in training."""
    blocks = 0

    def counted(*arguments: object) -> Tensor:
        nonlocal blocks
        out, operations = counting(lambda: run_block(*arguments))  # type: ignore[arg-type]
        blocks += operations
        return out

    twin.run_block = counted
    images = torch.empty(n, 3, side, side, device="meta", dtype=twin.mask_token.dtype)
    _, everything = counting(lambda: twin.tokens(images, None))
    return Pass(all=everything, blocks=blocks)


def counting(run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """The result of a function, and its operations."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = run()
    return out, counter.get_total_flops()


def on_meta(network: Network) -> Network:
    """A copy of the network, in training, whose tensors have shapes and no content."""
    tensors: dict[int, Tensor] = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in network.parameters()}
    tensors |= {id(b): b.to("meta") for b in network.buffers()}
    # What stands in the memo is taken for the copy already made.
    twin = copy.deepcopy(network, tensors)
    twin.checkpoint_activations = False
    return twin.train()
