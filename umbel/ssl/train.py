"""The training loop: data, step, log, save, in one function that reads top to bottom.

Source: Simplifying DINO via Coding Rate Regularization (arXiv 2502.10385), plants after arXiv 2604.27538.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from umbel.augment.views import Views
from umbel.backbones.family import stride_of
from umbel.backbones.folder import ModelCard
from umbel.data.batch import Batch
from umbel.data.index import ShardSet
from umbel.data.order import CursorSampler, Slices
from umbel.data.training import TrainingDataset
from umbel.data.workers import training_batches
from umbel.machine import choose_attention, choose_workers, peak_memory
from umbel.random_stream import Purpose, stream
from umbel.run import EXIT_INTERRUPTED, EXIT_REQUEUE, Bar, Stopped, TrainingError, UserError, rank, say
from umbel.run_folder import RunFolder
from umbel.ssl.checkpoint import latest_checkpoint, load_checkpoint, remove_old, save_checkpoint
from umbel.ssl.losses import image_loss, patch_weights, weighted_patch_loss
from umbel.ssl.masking import draw_masks
from umbel.ssl.network import Network, set_attention
from umbel.ssl.optimizer import Schedule, build_optimizer, clip_gradients, update_teacher
from umbel.ssl.pretrain_config import PretrainConfig
from umbel.ssl.recipe_choice import say_estimate

BAD_STEPS_IN_A_ROW = 3
TERMS = ("loss", "image_loss", "compression", "expansion", "patch_loss", "grad_norm_backbone", "grad_norm_head")


@dataclass(kw_only=True)
class MaskedBatch:
    """A micro-batch with the masks of its global views, as the data workers hand it over."""

    batch: Batch
    masks: Tensor  # (2B, P) bool
    masked: Tensor  # (M,) int64, flat indices of the masked patches
    weights: Tensor  # (M,) float32, their weights in the patch loss

    def pin_memory(self) -> MaskedBatch:
        """Called by the DataLoader where batches go to a GPU."""
        self.batch.pin_memory()
        return self


@dataclass(frozen=True, kw_only=True)
class AddMasks:
    """Draws a micro-batch's masks in the data workers; its place in the global batch follows from its cursors."""

    config: PretrainConfig
    slices: Slices
    grid: tuple[int, int]

    def __call__(self, batch: Batch) -> MaskedBatch:
        step, first = divmod(int(batch.cursor[0]), self.slices.global_batch)
        masks = torch.from_numpy(
            draw_masks(
                self.config.masks,
                seed=self.config.seed,
                step=step,
                global_batch=self.slices.global_batch,
                rows=range(first, first + len(batch.cursor)),
                grid=self.grid,
            )
        )
        masked = masks.flatten().nonzero().squeeze(1)
        return MaskedBatch(batch=batch, masks=masks, masked=masked, weights=patch_weights(masks))


class StopSignals:
    """Remembers SIGINT, SIGTERM and SIGUSR2, so that the loop can save before it stops."""

    EXIT_CODES: ClassVar = {
        signal.SIGINT: EXIT_INTERRUPTED,
        signal.SIGTERM: EXIT_REQUEUE,
        signal.SIGUSR2: EXIT_REQUEUE,
    }

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._remember) for number in self.EXIT_CODES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: at once, from the last checkpoint
        self.received = signal.Signals(number)


def train(config: PretrainConfig, run: RunFolder, shards: ShardSet, backbone: Any, card: ModelCard) -> Path:
    """Train to the end, from the newest checkpoint if there is one; returns the last checkpoint.

    Args:
        config: fully resolved: no `auto`.
        backbone: a timm ViT or ConvNeXt with its first weights; it becomes the student.
        card: how timm builds it.

    Raises:
        Stopped: a signal came; everything is saved.
        TrainingError: the third non-finite step in a row, or a data worker that died or hung.
        UserError: too few or too many bad photographs, an unreadable shard, or no room for a checkpoint.
    """
    # --- Devices, precision and processes
    precision = "bf16" if config.train.precision == "bf16" else "no"
    accelerator = Accelerator(mixed_precision=precision, cpu=config.device == "cpu")
    device = accelerator.device
    slices = Slices(
        micro_batch=config.train.batch,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        accumulation=config.train.accumulation,
    )
    steps_per_epoch = shards.epoch // slices.global_batch
    if steps_per_epoch == 0:
        raise UserError(
            f"{shards.epoch} photographs do not fill one batch of {slices.global_batch}: lower --train.batch."
        )
    total_steps = max(1, math.floor(config.train.epochs * steps_per_epoch))
    schedule = Schedule(
        config=config.optim, global_batch=slices.global_batch, steps_per_epoch=steps_per_epoch, total_steps=total_steps
    )

    # --- Networks and optimizer
    attention = choose_attention(device.type, config.train.precision)
    say(f"attention {attention.value}: {attention.reason}.")
    set_attention(backbone, fused=attention.value == "fused")
    set_seed(config.seed)
    network = Network(backbone, config.head, config.optim.drop_path, masking=config.masks.views > 0).to(device)
    teacher = copy.deepcopy(network).eval().requires_grad_(False)
    student = accelerator.prepare_model(network.train())
    optimizer = build_optimizer(network, config.optim)
    backbone_parameters = [*network.backbone.parameters(), network.mask_token]
    head_parameters = list(network.head.parameters())

    # --- Where it stands
    step = 0
    newest = latest_checkpoint(run.checkpoints)
    if newest is not None:
        step = load_checkpoint(newest, student=network, teacher=teacher, optimizer=optimizer, device=device)
        say(f"continuing from {newest}, step {step} of {total_steps}.")
    run.note_start(step, data=shards.fingerprint())
    run.cut_back("metrics", step)
    bad_keys = {row["key"] for row in run.read_log("bad_photographs")}
    bad_found = len(bad_keys) if rank() == 0 else 0  # by this rank; those of earlier starts count on rank 0
    bad_steps = bad_in_a_row = 0

    # --- Data and views
    side = config.views.global_size // stride_of(backbone)
    workers = choose_workers(config.reader.workers, accelerator.num_processes)
    dataset = TrainingDataset(
        shards,
        seed=config.seed,
        canvas=config.reader.canvas,
        window=config.reader.window,
        unreadable_shards=config.reader.unreadable_shards,
    )
    loader = training_batches(
        dataset,
        CursorSampler(slices, first=step, last=total_steps),
        collate=AddMasks(config=config, slices=slices, grid=(side, side)),
        workers=int(workers.value),
        pin=device.type == "cuda",
        timeout=config.reader.timeout,
    )
    views = Views(config.views, seed=config.seed, mean=card.mean, std=card.std, device=device)
    say(f"data workers {workers.value}: {workers.reason}.")
    say(
        f"batch {slices.global_batch} ({slices.micro_batch} x {slices.world_size} ranks x {slices.accumulation} "
        f"accumulated), {steps_per_epoch} steps an epoch, {total_steps} steps; "
        f"the coding rate sees m = {slices.micro_batch * slices.world_size}."
    )
    if rank() == 0 and step < total_steps:
        left = (total_steps - step) * slices.global_batch / slices.world_size
        say_estimate(network, config, left, device=device.type, precision=config.train.precision)

    # --- The loop
    def save() -> Path:
        path = run.checkpoints / f"step-{step:08d}"
        if accelerator.is_main_process:
            save_checkpoint(
                run.checkpoints, step=step, student=network, teacher=teacher, optimizer=optimizer, card=card
            )
            remove_old(run.checkpoints, keep_last=config.train.keep_last, keep_every=config.train.keep_every)
        accelerator.wait_for_everyone()
        return path

    sums, good_steps = torch.zeros(len(TERMS), device=device), 0
    saved = time.monotonic()
    logged_step, logged_time, waited = step, time.perf_counter(), 0.0
    bar = Bar("pretraining", total_steps, done=step)
    with StopSignals() as stop, no_garbage_collection(), bar, loader as batches:
        while step < total_steps:
            schedule.apply(optimizer, step)
            # Drop path draws from torch's generator; seeding it by step makes a continued run equal to a whole one.
            torch.manual_seed(int(stream(config.seed, step, Purpose.MODEL, view=slices.rank).integers(2**62)))
            terms = torch.zeros(len(TERMS), device=device)
            samples: list[int] = []
            for micro_step in range(slices.accumulation):
                asked = time.perf_counter()
                item: MaskedBatch = next(batches)
                waited += time.perf_counter() - asked
                batch = item.batch
                samples += batch.sample.tolist()
                for key, reason in ((shards.key(sample), reason) for sample, reason in batch.bad):
                    if key not in bad_keys:
                        # In another epoch another rank may have met it.
                        bad_keys |= {row["key"] for row in run.read_log("bad_photographs")}
                    if key not in bad_keys:
                        bad_keys.add(key)
                        bad_found += 1
                        run.log("bad_photographs", {"step": step, "key": key, "reason": reason})
                canvas = batch.canvas.to(device, non_blocking=True)
                globals_, locals_ = views(canvas, batch.size, batch.epoch, batch.position)
                masks = item.masks.to(device, non_blocking=True)
                masked = item.masked.to(device, non_blocking=True)
                weights = item.weights.to(device, non_blocking=True)
                with torch.no_grad(), accelerator.autocast():
                    teacher_classes, teacher_patches, _ = teacher(globals_, None, None, masked)
                last = micro_step == slices.accumulation - 1
                with contextlib.nullcontext() if last else accelerator.no_sync(student):
                    student_classes, student_patches, _ = student(globals_, locals_, masks, masked)
                    image, compression, expansion = image_loss(
                        student_classes,
                        teacher_classes,
                        eps=config.loss.eps,
                        coeff=config.loss.coeff,
                        center_with_teacher=config.loss.center_with_teacher,
                        covariance=config.loss.covariance,
                    )
                    patches = weighted_patch_loss(student_patches, teacher_patches, weights)
                    loss = image + config.loss.patch_weight * patches
                    accelerator.backward(loss / slices.accumulation)
                found = torch.stack([loss, image, compression, expansion, patches]).detach()
                terms[:5] += found / slices.accumulation
            terms[5] = clip_gradients(backbone_parameters, config.optim.clip)
            terms[6] = clip_gradients(head_parameters, config.optim.clip)

            # One small reduction tells all ranks: is the step good, stop, how many photographs are bad, is a save due.
            status = torch.stack(
                [
                    (~terms.isfinite().all()).float(),
                    terms.new_tensor(float(stop.received is not None)),
                    terms.new_tensor(float(bad_found)),
                    terms.new_tensor(float(rank() == 0 and time.monotonic() - saved > 60 * config.train.save_minutes)),
                ]
            )
            nonfinite, stopping, bad_count, due = accelerator.reduce(status, "sum").tolist()
            if nonfinite:
                bad_steps, bad_in_a_row = bad_steps + 1, bad_in_a_row + 1
                names = [n for n, value in zip(TERMS, terms.tolist(), strict=True) if not math.isfinite(value)]
                keys = [shards.key(sample) for sample in samples]
                if names:
                    run.log("bad_steps", {"step": step, "rank": slices.rank, "terms": names, "keys": keys})
                if bad_in_a_row == BAD_STEPS_IN_A_ROW:
                    raise TrainingError(
                        f"{BAD_STEPS_IN_A_ROW} steps in a row were not finite (step {step}: "
                        f"{', '.join(names) or 'on another rank'}; first key {keys[0]}, all in "
                        f"{run.path / 'bad_steps.jsonl'}); the last good checkpoint is "
                        f"{latest_checkpoint(run.checkpoints) or 'none'}: start again with a lower "
                        "--optim.learning-rate."
                    )
            else:
                bad_in_a_row = 0
                optimizer.step()
                update_teacher(teacher, network, schedule.momentum(step))
                sums += terms
                good_steps += 1
            optimizer.zero_grad(set_to_none=True)
            step += 1

            # Log
            if step % config.train.log_every == 0 or step == total_steps:
                steps = step - logged_step
                means = accelerator.reduce(sums, "mean").tolist()
                now = time.perf_counter()
                seconds, logged_time, logged_step = now - logged_time, now, step
                row: dict[str, Any] = {"step": step, "epoch": step / steps_per_epoch}
                row |= {n: value / good_steps if good_steps else None for n, value in zip(TERMS, means, strict=True)}
                row |= {"learning_rate": schedule.learning_rate(step - 1), "momentum": schedule.momentum(step - 1)}
                row |= {"weight_decay": schedule.weight_decay(step - 1), "bad_steps": bad_steps}
                row |= {"bad_photographs": int(bad_count), "images_per_second": steps * slices.global_batch / seconds}
                row |= {"data_wait": waited / seconds, "memory_gib": peak_memory(device.type) / 2**30}
                sums.zero_()
                good_steps, waited = 0, 0.0
                if accelerator.is_main_process:
                    run.log("metrics", row)
                note = f"loss {row['loss'] or math.nan:.4f}, {row['images_per_second']:.0f} images/s"
                gc.collect(1)
            bar.advance(1, note if step == logged_step else None)

            # Save and stop
            if bad_count > config.reader.max_bad * len(shards):
                save()
                raise UserError(
                    f"{int(bad_count)} of {len(shards)} photographs are damaged, more than --reader.max-bad "
                    f"{config.reader.max_bad:g} allows; they are named in {run.path / 'bad_photographs.jsonl'}."
                )
            if step == total_steps or stopping or due or step % config.train.save_every == 0:
                save()
                saved = time.monotonic()
            if stopping and step < total_steps:
                received = stop.received or signal.SIGTERM
                raise Stopped(
                    f"{received.name}: saved at step {step} of {total_steps}; the same command continues.",
                    StopSignals.EXIT_CODES[received],
                )
    return run.checkpoints / f"step-{total_steps:08d}"


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect at log points only: a collection in the middle of a step makes the other ranks wait."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
