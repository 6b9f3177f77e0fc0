"""What a recipe takes on a GPU, counted without one: memory, floating-point operations, and hours on iNaturalist 2021.

python benchmarks/memory.py [RECIPE ...]          (all recipes that come with Umbel by default)
"""

from __future__ import annotations

import argparse
import gc
import re
import weakref
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import timm
import torch
from step import Seen, TrainingStep
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.checkpoint import set_checkpoint_early_stop

from umbel.backbones.build import build
from umbel.config import from_values, read_recipe, recipe_names
from umbel.run import UserError
from umbel.ssl.agreement import LAG, Agreement
from umbel.ssl.network import Network, check_backbone, set_attention
from umbel.ssl.operations import step_operations
from umbel.ssl.optimizer import Schedule, build_optimizer
from umbel.ssl.positions import resize_matrix
from umbel.ssl.pretrain_config import PretrainConfig

PHOTOGRAPHS = 1_148_702
"""Training photographs of iNaturalist 2021's plants."""
GIB = 2**30
# Dense bf16 rates, and the share of them that a step is assumed to reach: not measured.
GPUS = {"H200": (790e12, 0.30), "A100": (312e12, 0.25)}
ASSUMPTIONS = """
Counted: one optimizer step of `umbel pretrain` on tensors without storage (bf16 autocast, eager, fused attention),
every allocation with its lifetime in the order of the loop: parameters, gradients and Adam's averages in float32, the
teacher, the views, what the backward pass keeps and what it makes on the way; and 4 bytes a parameter for the buckets
of gradients where there are several GPUs. Not counted: the CUDA context, cuBLAS's workspaces and what the allocator
loses to fragments (leave 2 to 3 GiB), and the augmentation, whose tensors are gone before the step. Compiled blocks
keep less. Operations are those that are executed: less what drop path leaves out, and with what is computed again
where activations are checkpointed. Hours are an estimate: that many operations for {photographs:,} photographs and
the recipe's epochs, at {rates}."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a training step takes on each GPU."""

    parameters: int
    """Of backbone and head."""
    fixed: int
    """Bytes that are always there: student, teacher, Adam's averages."""
    peak: int
    """Bytes at the worst moment of a step."""
    operations: float
    """Floating-point operations for one photograph (a multiply-add counts 2)."""


class Allocations(TorchDispatchMode):
    """Adds up the bytes of all live storages that operations make, and their greatest sum."""

    def __init__(self, *, cycles: bool) -> None:
        """`cycles`: recomputation without storage leaves reference cycles that a real run has not."""
        super().__init__()
        self.cycles = cycles
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return out

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.seen:
            return
        self.seen.add(key)
        size = storage.nbytes()
        if self.cycles and self.now + size > self.peak:
            self.sweep()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, size)

    def sweep(self) -> None:
        """Free what nothing holds any more; one collection may leave work to the next."""
        while gc.collect():
            pass

    def _freed(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def first_network(config: PretrainConfig) -> Network:
    """The student on the meta device, as the recipe begins; weights that would be downloaded are not.

    Raises:
        UserError: a backbone that the trainer cannot train.
    """
    masking, drop_path = config.masks.views, config.optim.drop_path
    with torch.device("meta"):
        if config.init is None:
            backbone: Any = build(config.backbone, config.views.global_size)
        else:
            backbone = timm.create_model(config.init.split(".")[0], num_classes=0, dynamic_img_size=True)
        name, weight = config.init or config.backbone.name, config.loss.patch_weight
        check_backbone(backbone, name, drop_path=drop_path, masked_views=masking, patch_weight=weight)
        set_attention(backbone, fused=True)
        recomputed = config.train.activation_checkpointing
        return Network(backbone, config.head, drop_path, masking=masking > 0, checkpoint_activations=recomputed)


class WeightlessStep(TrainingStep):
    """A training step of networks whose tensors have a size and no storage; made in a FakeTensorMode."""

    def __init__(self, config: PretrainConfig, student: Network, teacher: Network) -> None:
        self.config, self.device, self.precision = config, torch.device("cpu"), "bf16"
        self.student = student.to_empty(device="cpu").train()
        self.teacher = teacher.to_empty(device="cpu").eval().requires_grad_(False)
        self.optimizer = build_optimizer(student, config.optim)
        self.schedule = Schedule(config=config.optim, global_batch=1024, steps_per_epoch=1000, total_steps=100_000)
        self.backbone_parameters = [*student.backbone.parameters(), student.mask_token]
        self.head_parameters = list(student.head.parameters())
        self.steps = self.bad_steps = 0
        self.sums, self.good_steps = torch.zeros(7), torch.zeros(())
        self.agreement = Agreement(self.device)
        self.agreement.lag = LAG["cuda"]  # outcomes are read that many steps later: here there are none to read


def count(config: PretrainConfig, *, ranks: int = 1) -> Cost:
    """Go through two steps without computing: in the second one Adam's averages are there.

    Args:
        ranks: GPUs; several of them keep buckets of gradients.
    """
    student, teacher = first_network(config), first_network(config)
    operations = step_operations(student, config).executed
    gc.freeze()  # what is there stays, so that collecting is quick
    allocations = Allocations(cycles=config.train.activation_checkpointing)
    # Stopping recomputation early is an exception, whose traceback would keep what is free in a real run.
    with FakeTensorMode(allow_non_fake_inputs=True), set_checkpoint_early_stop(False), allocations:
        step = WeightlessStep(config, student, teacher)
        step(views_of_nothing(config, step.patch))
        allocations.sweep()
        fixed = allocations.peak = allocations.now
        step(views_of_nothing(config, step.patch))
    gc.unfreeze()
    resize_matrix.cache_clear()  # one made without storage must not serve a real step
    parameters = sum(parameter.numel() for parameter in student.parameters())
    buckets = 4 * parameters if ranks > 1 else 0
    return Cost(parameters=parameters, fixed=fixed + buckets, peak=allocations.peak + buckets, operations=operations)


def views_of_nothing(config: PretrainConfig, patch: int) -> Seen:
    """What a step sees, of the right sizes; as many patches are masked as on average."""
    batch, views, masks = config.train.batch, config.views, config.masks
    patches = (views.global_size // patch) ** 2
    masked = int(2 * batch * masks.views * sum(masks.ratio) / 2 * patches)
    return Seen(
        globals_=torch.zeros(2 * batch, 3, views.global_size, views.global_size),
        locals_=torch.zeros(views.local_views * batch, 3, views.local_size, views.local_size),
        masks=torch.zeros(2 * batch, patches, dtype=torch.bool),
        masked=torch.zeros(masked, dtype=torch.int64),
        weights=torch.zeros(masked),
    )


def recipe(name: str) -> tuple[PretrainConfig, int]:
    """A recipe's configuration, and the GPUs that its command starts."""
    config = from_values(PretrainConfig(data="DATA", out=Path("RUN")), read_recipe(name, "pretrain"), name)
    text = (files("umbel") / "recipes" / f"{name}.yaml").read_text()
    nodes, processes = (int((re.findall(rf"{flag} (\d+)", text) or ["1"])[0]) for flag in ("nnodes", "nproc-per-node"))
    return config, nodes * processes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", help="names; all by default")
    names = parser.parse_args().recipes or recipe_names()
    width = max(map(len, names))
    hours = "".join(f"{f'hours {gpu}':>12}" for gpu in GPUS)
    print(f"{'recipe':<{width}}  GPUs  batch  params M  fixed GiB  peak GiB  GFLOP/image{hours}")
    for name in names:
        try:
            config, gpus = recipe(name)
            cost = count(config, ranks=gpus)
        except UserError as error:
            print(f"{name:<{width}}  {error}")
            continue
        total = cost.operations * PHOTOGRAPHS * config.train.epochs
        hours = "".join(f"{total / (gpus * rate * share) / 3600:>12.1f}" for rate, share in GPUS.values())
        print(
            f"{name:<{width}}  {gpus:>4}  {config.train.batch:>5}  {cost.parameters / 1e6:>8.1f}  "
            f"{cost.fixed / GIB:>9.1f}  {cost.peak / GIB:>8.1f}  {cost.operations / 1e9:>11.1f}{hours}"
        )
    rates = " and ".join(f"{share:.0%} of {rate / 1e12:.0f} TFLOP/s ({gpu})" for gpu, (rate, share) in GPUS.items())
    print(ASSUMPTIONS.format(photographs=PHOTOGRAPHS, rates=rates))


if __name__ == "__main__":
    main()
