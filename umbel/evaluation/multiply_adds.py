"""Multiply-adds of a network; FLOPs, as torch counts them, are twice as many."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(model: nn.Module, side: int) -> int:
    """Multiply-adds (MACs) of one image of side x side pixels, with the classifier where the model has one.

    Matrix products, convolutions and attention, fused or not; norms, activations and additions are not counted. Nothing
    is computed: a copy of the model without values runs on the meta device.
    """
    # Given as what is copied already, the weights are never in memory twice.
    tensors = itertools.chain(model.parameters(), model.buffers())
    shadow = copy.deepcopy(model, {id(tensor): tensor.detach().to("meta") for tensor in tensors})
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        shadow(torch.empty(1, 3, side, side, device="meta"))
    return int(counter.get_total_flops()) // 2
