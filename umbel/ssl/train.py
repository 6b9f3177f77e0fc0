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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object, set_seed
from torch import Tensor

from umbel.augment.views import Views
from umbel.backbones.family import stride_of
from umbel.backbones.folder import ModelCard
from umbel.data.index import ShardSet
from umbel.data.order import CursorSampler, Slices
from umbel.data.training import TrainingDataset
from umbel.data.workers import training_batches
from umbel.machine import choose_attention, choose_compile, choose_workers, matmul_rate
from umbel.random_stream import Purpose, stream
from umbel.rank_watch import PAUSE, RankWatch
from umbel.run import Bar, Stopped, TrainingError, UserError, rank, say
from umbel.run_folder import RunFolder
from umbel.ssl.agreement import Agreement
from umbel.ssl.checkpoint import latest_checkpoint, load_checkpoint, remove_old, remove_unfinished, save_checkpoint
from umbel.ssl.feed import AddMasks, MaskedBatch, to_device
from umbel.ssl.health import MEASURES, gradient_norms, health
from umbel.ssl.losses import image_loss, weighted_patch_loss
from umbel.ssl.meter import Meter
from umbel.ssl.network import Network, set_attention
from umbel.ssl.operations import step_operations
from umbel.ssl.optimizer import Schedule, build_optimizer, clip_gradients, step_unless, update_teacher
from umbel.ssl.pretrain_config import PretrainConfig
from umbel.ssl.probe_set import ProbeSet
from umbel.ssl.recipe_choice import say_estimate
from umbel.ssl.same_batch import batch_facts
from umbel.ssl.signals import StopSignals, no_garbage_collection
from umbel.ssl.teacher_probe import probe_teacher

BAD_STEPS_IN_A_ROW = 3
TERMS = ("loss", "image_loss", "compression", "expansion", "patch_loss", "grad_norm_backbone", "grad_norm_head")


def train(
    config: PretrainConfig,
    run: RunFolder,
    shards: ShardSet,
    backbone: Any,
    card: ModelCard,
    slices: Slices,
    watch: RankWatch,
    probe: ProbeSet | None = None,
) -> Path:
    """Train to the end, from the newest checkpoint if there is one; returns the last checkpoint.

    Args:
        config: fully resolved: no `auto`.
        backbone: a timm ViT or ConvNeXt with its first weights; it becomes the student.
        card: how timm builds it.
        slices: which part of a global batch is this rank's.
        watch: is told where this rank is.
        probe: on what the teacher is probed now and then, on rank 0.

    Raises:
        Stopped: a signal came; everything is saved.
        TrainingError: the third non-finite step in a row, or a data worker that died or hung.
        UserError: too few or too many bad photographs, an unreadable shard, or no room for a checkpoint.
    """
    # --- Devices, precision and processes
    watch.at("the start", times=PAUSE)
    precision = "bf16" if config.train.precision == "bf16" else "no"
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=config.device == "cpu",
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    device = accelerator.device
    steps_per_epoch = shards.epoch // slices.global_batch
    if steps_per_epoch == 0:
        raise UserError(
            f"{shards.epoch} photographs do not fill one batch of {slices.global_batch}: lower --train.batch."
        )
    m = slices.micro_batch * slices.world_size
    if m < 2:
        raise UserError("the coding rate is of photographs beside one another: --train.batch must be at least 2.")
    total_steps = max(1, math.floor(config.train.epochs * steps_per_epoch))
    schedule = Schedule(
        config=config.optim, global_batch=slices.global_batch, steps_per_epoch=steps_per_epoch, total_steps=total_steps
    )

    # --- Networks and optimizer
    attention = choose_attention(device.type, config.train.precision)
    say(f"attention {attention.value}: {attention.reason}.")
    set_attention(backbone, fused=attention.value == "fused")
    set_seed(config.seed)
    compiled = choose_compile(device.type, config.train.compile)
    say(f"blocks compiled {compiled.value}: {compiled.reason}.")
    network = Network(
        backbone,
        config.head,
        config.optim.drop_path,
        masking=config.masks.views > 0,
        checkpoint_activations=config.train.activation_checkpointing,
        compile_blocks=compiled.value == "on",
    ).to(device)
    teacher = copy.deepcopy(network).eval().requires_grad_(False)
    student = accelerator.prepare_model(network.train())
    optimizer = build_optimizer(network, config.optim)
    backbone_parameters = [*network.backbone.parameters(), network.mask_token]
    head_parameters = list(network.head.parameters())

    # --- Where it stands
    step = 0
    if accelerator.is_main_process:
        remove_unfinished(run.checkpoints)
    newest = latest_checkpoint(run.checkpoints)
    if newest is not None:
        step = load_checkpoint(newest, student=network, teacher=teacher, optimizer=optimizer, device=device)
        say(f"continuing from {newest}, step {step} of {total_steps}.")
    run.note_start(step, data=shards.fingerprint(), **batch_facts(slices))
    for name in ("metrics", "bad_steps", "probes"):
        run.cut_back(name, step)
    accelerator.wait_for_everyone()
    bad_keys = {row["key"] for row in run.read_log("bad_photographs")}
    bad_found = len(bad_keys) if rank() == 0 else 0  # by this rank; those of earlier starts count on rank 0
    bad_steps = len({row["step"] for row in run.read_log("bad_steps")})
    bad_in_a_row = 0

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
        collate=AddMasks(config=config.masks, seed=config.seed, slices=slices, grid=(side, side)),
        workers=int(workers.value),
        pin=device.type == "cuda",
        timeout=config.reader.timeout,
    )
    views = Views(
        config.views,
        seed=config.seed,
        mean=card.mean,
        std=card.std,
        device=device,
        dtype=torch.bfloat16 if config.train.precision == "bf16" else torch.float32,
        compiled=compiled.value == "on",
    )
    say(f"data workers {workers.value}: {workers.reason}.")
    say(
        f"batch {slices.global_batch} ({slices.micro_batch} x {slices.world_size} ranks x {slices.accumulation} "
        f"accumulated), {steps_per_epoch} steps an epoch, {total_steps} steps; "
        f"the coding rate sees m = {m}."
    )
    operations = step_operations(network, config)
    rate = matmul_rate(device.type, config.train.precision)
    left = (total_steps - step) * slices.global_batch / slices.world_size
    if left:
        say_estimate(left, operations.executed, rate, device=device.type)

    probe_every = config.probe.steps(steps_per_epoch, total_steps)
    if probe is not None:
        reason = "as asked" if config.probe.every_epochs else "one an epoch, twenty at most"
        say(f"probe every {probe_every} steps: {reason}.")

    # --- The loop
    def save() -> None:
        watch.at(f"step {step}: the checkpoint")
        with meter.aside():
            if accelerator.is_main_process:
                with watch.paused(f"step {step}: saving the checkpoint"):
                    save_checkpoint(
                        run.checkpoints, step=step, student=network, teacher=teacher, optimizer=optimizer, card=card
                    )
                    remove_old(run.checkpoints, keep_last=config.train.keep_last, keep_every=config.train.keep_every)
            accelerator.wait_for_everyone()

    def probe_now() -> None:
        if probe is None or (step % probe_every and step != total_steps):
            return
        with meter.aside(), watch.paused(f"step {step}: probing the teacher"):
            found = probe_teacher(
                probe,
                teacher.backbone,
                device=device.type,
                workers=int(workers.value),
                stop=lambda: stop.received is not None,
            )
        if found is not None:
            run.log("probes", {"step": step, "epoch": step / steps_per_epoch} | found)

    sums, good_steps = torch.zeros(len(TERMS), device=device), torch.zeros((), device=device)
    recent: dict[int, tuple[Tensor, list[int]]] = {}  # terms and samples of steps whose outcome is not read yet
    agreement = Agreement(device)
    first, saved = step, time.monotonic()
    meter = Meter(
        step=step,
        batch=slices.global_batch,
        world_size=slices.world_size,
        nominal=operations.nominal,
        executed=operations.executed,
        rate=rate,
        device=device.type,
    )
    bar = Bar("pretraining", total_steps, done=step)
    with StopSignals() as stop, no_garbage_collection(), bar, loader as from_workers:
        batches = to_device(from_workers, device)
        # A probe of other photographs begins a curve of its own.
        now = (
            {"step": step} if probe is None else {"step": step, "shots": probe.config.shots, "data": probe.fingerprint}
        )
        if all(row | now != row for row in run.read_log("probes")):
            probe_now()
        while step < total_steps:
            schedule.apply(optimizer, step)
            # Drop path draws from torch's generator; seeding it by step makes a continued run equal to a whole one.
            torch.manual_seed(int(stream(config.seed, step, Purpose.MODEL, view=slices.rank).integers(2**62)))
            logging = (step + 1) % config.train.log_every == 0 or step + 1 == total_steps
            terms = torch.zeros(len(TERMS), device=device)
            samples: list[int] = []
            for micro_step in range(slices.accumulation):
                # In the first step shards are opened, memory is found, kernels are chosen and blocks compiled.
                patience = PAUSE if step == first else 1.0
                watch.at(f"step {step}: waiting for data", patience)
                with meter.waiting():
                    item: MaskedBatch = next(batches)
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
                watch.at(f"step {step}: forward and backward", patience)
                globals_, locals_ = views(batch.canvas, batch.size, batch.epoch, batch.position)
                with torch.no_grad(), accelerator.autocast():
                    seen = teacher(globals_, None, None, item.masked)
                last = micro_step == slices.accumulation - 1
                with contextlib.nullcontext() if last else accelerator.no_sync(student):
                    own = student(globals_, locals_, item.masks, item.masked)
                    image, compression, expansion = image_loss(
                        own.classes,
                        seen.classes,
                        eps=config.loss.eps,
                        coeff=config.loss.coeff,
                        center_with_teacher=config.loss.center_with_teacher,
                        covariance=config.loss.covariance,
                    )
                    patches = weighted_patch_loss(own.patches, seen.patches, item.weights)
                    loss = image + config.loss.patch_weight * patches
                    accelerator.backward(loss / slices.accumulation)
                found = torch.stack([loss, image, compression, expansion, patches]).detach()
                terms[:5] += found / slices.accumulation
            parts, part_norms = gradient_norms(network) if logging else ([], terms)
            terms[5] = clip_gradients(backbone_parameters, config.optim.clip)
            terms[6] = clip_gradients(head_parameters, config.optim.clip)

            watch.at(f"step {step}: the outcome")
            # Where a term of any rank is not finite the step changes nothing; the host learns of it below.
            bad = agreement.add(
                step + 1,
                terms,
                stopping=stop.received is not None,
                save_due=rank() == 0 and time.monotonic() - saved > 60 * config.train.save_minutes,
                bad_photographs=bad_found,
            )
            step_unless(bad, optimizer)
            update_teacher(teacher, network, schedule.momentum(step), bad)
            optimizer.zero_grad(set_to_none=True)
            sums += torch.where(bad > 0, 0.0, terms)
            good_steps += 1 - bad
            step += 1
            recent[step] = terms, samples

            # What became of this step, or on a GPU of earlier ones
            saving = step == total_steps or step % config.train.save_every == 0
            outcomes = agreement.outcomes(all_of_them=logging or saving)
            if any(outcome.stopping or outcome.save_due for outcome in outcomes):
                saving = True
                outcomes += agreement.outcomes(all_of_them=True)
            for outcome in outcomes:
                of_step, of_samples = recent.pop(outcome.step)
                if not outcome.bad:
                    bad_in_a_row = 0
                    continue
                bad_steps, bad_in_a_row = bad_steps + 1, bad_in_a_row + 1
                names = [n for n, value in zip(TERMS, of_step.tolist(), strict=True) if not math.isfinite(value)]
                keys = [shards.key(sample) for sample in of_samples]
                own_row = {"step": outcome.step, "rank": slices.rank, "terms": names, "keys": keys}
                rows = guilty(gather_object([own_row]))
                for bad_row in rows if accelerator.is_main_process else ():
                    run.log("bad_steps", bad_row)
                if bad_in_a_row == BAD_STEPS_IN_A_ROW:
                    raise TrainingError(
                        f"{BAD_STEPS_IN_A_ROW} steps in a row were not finite (step {outcome.step}, rank "
                        f"{rows[0]['rank']}: {', '.join(rows[0]['terms'])}; first key {rows[0]['keys'][0]}, all in "
                        f"{run.path / 'bad_steps.jsonl'}); the last good checkpoint is "
                        f"{latest_checkpoint(run.checkpoints) or 'none'}: start again with a lower "
                        "--optim.learning-rate.",
                        everywhere=True,
                    )

            # Log
            if logging:
                watch.at(f"step {step}: the log")
                healthy = health(seen.tokens, own.classes, seen.classes, eps=config.loss.eps)
                told = torch.cat([sums.double(), good_steps.double()[None], healthy])
                told = accelerator.reduce(told, "mean").tolist()
                means, good, healthy = told[: len(TERMS)], told[len(TERMS)], told[len(TERMS) + 1 :]
                row: dict[str, Any] = {"step": step, "epoch": step / steps_per_epoch}
                row |= {n: value / good if good else None for n, value in zip(TERMS, means, strict=True)}
                row |= {"learning_rate": schedule.learning_rate(step - 1), "momentum": schedule.momentum(step - 1)}
                row |= {"weight_decay": schedule.weight_decay(step - 1), "bad_steps": bad_steps}
                row |= {"bad_photographs": outcomes[-1].bad_photographs} | meter.read(step)
                row |= {"effective_rank_limit": min(seen.tokens.shape)} | finite(MEASURES, healthy)
                row |= {"grad_norms": finite(parts, part_norms.tolist())}
                sums.zero_(), good_steps.zero_()
                if accelerator.is_main_process:
                    run.log("metrics", row)
                note = f"loss {row['loss'] or math.nan:.4f}, {row['images_per_second']:.0f} images/s"
                gc.collect(1)
            bar.advance(1, note if logging else None)

            # Save and stop
            too_many = any(o.bad_photographs > config.reader.max_bad * len(shards) for o in outcomes)
            if saving or too_many:
                save()
                saved = time.monotonic()
            if too_many:
                raise UserError(
                    f"{outcomes[-1].bad_photographs} of {len(shards)} photographs are damaged, more than "
                    f"--reader.max-bad {config.reader.max_bad:g} allows; they are named in "
                    f"{run.path / 'bad_photographs.jsonl'}.",
                    everywhere=True,
                )
            if any(outcome.stopping for outcome in outcomes) and step < total_steps:
                received = stop.received or signal.SIGTERM
                raise Stopped(
                    f"{received.name}: saved at step {step} of {total_steps}; the same command continues.",
                    StopSignals.EXIT_CODES[received],
                )
            probe_now()
    return run.checkpoints / f"step-{total_steps:08d}"


def guilty(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the ranks that a bad step came from: sums over ranks carry what is not finite to all of them.

    The gradients' norms are summed, and the expansion where covariances are; these two terms are a rank's own.
    """
    for terms in (("compression", "patch_loss"), TERMS[:5], TERMS):
        found = [row for row in told if any(name in terms for name in row["terms"])]
        if found:
            return found
    return told


def finite(names: Sequence[str], values: Sequence[float]) -> dict[str, float | None]:
    """A row's entries; null, which JSON has, for what is not finite, which it has not."""
    return {n: value if math.isfinite(value) else None for n, value in zip(names, values, strict=True)}
