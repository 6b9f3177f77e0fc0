"""The loop that fits a network to photographs on one view each: data, step, validate, save; it reads top to bottom.

What it trains is a `Learner`: a classifier, a student of a teacher. Beside `umbel.ssl.train`, and of the same parts.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object, set_seed
from torch import Tensor

from umbel.augment.views import Views
from umbel.backbones.folder import ModelCard
from umbel.data.balance import ClassBalance
from umbel.data.batch import Batch
from umbel.data.index import ShardSet
from umbel.data.order import CursorSampler, Slices
from umbel.data.training import TrainingDataset
from umbel.data.workers import training_batches
from umbel.machine import choose_attention, choose_workers
from umbel.random_stream import Purpose, stream
from umbel.rank_watch import PAUSE, RankWatch
from umbel.ranks import from_rank_0
from umbel.run import Bar, Stopped, TrainingError, UserError, rank, say
from umbel.run_folder import RunFolder
from umbel.ssl.agreement import Agreement
from umbel.ssl.checkpoint import latest_checkpoint, remove_old, remove_unfinished
from umbel.ssl.fit_checkpoint import Best, load_fit, save_fit
from umbel.ssl.fit_config import FitConfig
from umbel.ssl.fit_optimizer import FitSchedule, fit_optimizer
from umbel.ssl.learner import Labels, Learner
from umbel.ssl.meter import Meter
from umbel.ssl.mix_images import draw_mix, mix_images, mix_labels
from umbel.ssl.network import set_attention
from umbel.ssl.optimizer import clip_gradients, step_unless
from umbel.ssl.same_batch import batch_facts
from umbel.ssl.signals import StopSignals, no_garbage_collection
from umbel.ssl.targets import Targets, readable
from umbel.ssl.weight_average import WeightAverage

BAD_STEPS_IN_A_ROW = 3
SCORE = "score"
"""What a row of a validation is judged by, if it has it: more is better."""
Validate = Callable[[Any], dict[str, Any]]


def fit(
    config: FitConfig,
    run: RunFolder,
    shards: ShardSet,
    learner: Learner,
    card: ModelCard,
    slices: Slices,
    watch: RankWatch,
    *,
    title: str,
    targets: Targets | None = None,
    balance: ClassBalance | None = None,
    validate: Validate | None = None,
) -> Path:
    """Train to the end, from the newest checkpoint if there is one; returns the last checkpoint.

    Checkpoints' backbones have the weights of the best validation; without one the averaged weights, or those of then.

    Args:
        config: fully resolved: no `auto`.
        learner: with its first weights; it is moved to the device.
        card: how timm builds its backbone, and the statistics that views are normalized by.
        slices: which part of a global batch is this rank's.
        watch: is told where this rank is.
        title: stands at the progress bar.
        targets: labels and weights by sample of `shards`; without them the learner gets weights alone.
        balance: how often each sample comes in an epoch; by default once.
        validate: measures the learner on rank 0, in eval mode and with averaged weights, and returns the row for
            validation.jsonl; by its "score" the best weights are kept, and training stops after `train.patience`
            validations without a better one.

    Raises:
        Stopped: a signal came; everything is saved.
        TrainingError: the third non-finite step in a row, or a data worker that died or hung.
        UserError: too few or too many bad photographs, an unreadable shard, or no room for a checkpoint.
    """
    # --- Devices, precision and processes
    watch.at("the start", times=PAUSE)
    accelerator = Accelerator(
        mixed_precision="bf16" if config.train.precision == "bf16" else "no",
        cpu=config.device == "cpu",
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    device = accelerator.device
    steps_per_epoch = shards.epoch // slices.global_batch
    if steps_per_epoch == 0:
        raise UserError(
            f"{shards.epoch} photographs do not fill one batch of {slices.global_batch}: lower --train.batch."
        )
    if config.mix.active and slices.micro_batch % 2:
        raise UserError(f"images are mixed in pairs: --train.batch must be even, not {slices.micro_batch}.")
    total_steps = max(1, math.floor(config.train.epochs * steps_per_epoch))
    schedule = FitSchedule(config=config.optim, global_batch=slices.global_batch, total_steps=total_steps)
    validate_every = max(1, round(config.train.validate_epochs * steps_per_epoch))

    # --- Network and optimizer
    attention = choose_attention(device.type, config.train.precision)
    say(f"attention {attention.value}: {attention.reason}.")
    set_attention(learner.backbone, fused=attention.value == "fused")
    set_seed(config.seed)
    learner = learner.to(device).train()
    wrapped = accelerator.prepare_model(learner)
    optimizer = fit_optimizer(learner, config.optim)
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    average, best = WeightAverage(learner, config.train.average), Best()
    names = (*learner.terms, "grad_norm")

    # --- Where it stands
    step = 0
    if accelerator.is_main_process:
        remove_unfinished(run.checkpoints)
    newest = latest_checkpoint(run.checkpoints)
    # Other data may have other classes, and a checkpoint then looks like another network's.
    run.check_lasting(data=shards.fingerprint())
    if newest is not None:
        step = load_fit(newest, learner=learner, average=average, best=best, optimizer=optimizer, device=device)
        say(f"continuing from {newest}, step {step} of {total_steps}.")
    run.note_start(step, data=shards.fingerprint(), **batch_facts(slices))
    for name in ("metrics", "bad_steps", "validation"):
        run.cut_back(name, step)
    accelerator.wait_for_everyone()
    bad_keys = {row["key"] for row in run.read_log("bad_photographs")}
    bad_found = len(bad_keys) if rank() == 0 else 0  # by this rank; those of earlier starts count on rank 0
    bad_steps = len({row["step"] for row in run.read_log("bad_steps")})
    bad_in_a_row = 0

    # --- Data and views
    workers = choose_workers(config.reader.workers, accelerator.num_processes)
    dataset = TrainingDataset(
        shards,
        seed=config.seed,
        canvas=config.reader.canvas,
        window=config.reader.window,
        unreadable_shards=config.reader.unreadable_shards,
        balance=balance,
    )
    loader = training_batches(
        dataset,
        CursorSampler(slices, first=step, last=total_steps),
        collate=as_it_is,
        workers=int(workers.value),
        pin=device.type == "cuda",
        timeout=config.reader.timeout,
    )
    views = Views(
        config.views.views(),
        seed=config.seed,
        mean=card.mean,
        std=card.std,
        device=device,
        dtype=torch.bfloat16 if config.train.precision == "bf16" else torch.float32,
    )
    say(f"data workers {workers.value}: {workers.reason}.")
    say(
        f"batch {slices.global_batch} ({slices.micro_batch} x {slices.world_size} ranks x {slices.accumulation} "
        f"accumulated), {steps_per_epoch} steps an epoch, {total_steps} steps."
    )

    def prepared(batch: Batch, micro_step: int) -> tuple[Tensor, Labels]:
        """A batch's views and labels on the device, mixed."""
        labels = Labels(target=None, weight=readable(batch)) if targets is None else targets.of(batch)
        canvas = batch.canvas.to(device, non_blocking=True)
        images = views.first(canvas, batch.size, batch.epoch, batch.position)
        if config.mix.active:
            rows = slices.rows(micro_step)
            drawn = draw_mix(config.mix, seed=config.seed, step=step, rows=rows, side=config.views.size)
            images, labels = mix_images(images, drawn), mix_labels(labels, drawn)
        target = None if labels.target is None else labels.target.to(device, non_blocking=True)
        return images, Labels(target=target, weight=labels.weight.to(device, non_blocking=True))

    def validate_now(validate: Validate) -> None:
        """Measure the averaged weights on rank 0 and keep them where they are the best; all ranks learn that."""
        watch.at(f"step {step}: the validation")
        better = False
        with meter.aside():
            if accelerator.is_main_process:
                with watch.paused(f"step {step}: validating"), average.in_place():
                    learner.eval()
                    row = {"step": step, "epoch": step / steps_per_epoch} | validate(learner)
                    learner.train()
                    better = best.row is None or row.get(SCORE, 0.0) > best.row.get(SCORE, 0.0)
                    if better:
                        best.row, best.weights = row, copy.deepcopy(learner.state_dict())
                run.log("validation", row)
            better = bool(from_rank_0(int(better), device))
        best.since = 0 if better else best.since + 1

    def save() -> None:
        watch.at(f"step {step}: the checkpoint")
        with meter.aside():
            if accelerator.is_main_process:
                with watch.paused(f"step {step}: saving the checkpoint"):
                    save_fit(
                        run.checkpoints,
                        step=step,
                        learner=learner,
                        average=average,
                        best=best,
                        optimizer=optimizer,
                        card=card,
                    )
                    remove_old(run.checkpoints, keep_last=config.train.keep_last, keep_every=0)
            accelerator.wait_for_everyone()

    def enough() -> bool:
        """Whether validations have not got better for so long that it stops."""
        return 0 < config.train.patience <= best.since

    # --- The loop
    sums, good_steps = torch.zeros(len(names), device=device), torch.zeros((), device=device)
    recent: dict[int, tuple[Tensor, list[int]]] = {}  # terms and samples of steps whose outcome is not read yet
    agreement = Agreement(device)
    first, saved = step, time.monotonic()
    # Operations are not counted: what a learner computes besides its backbone is its own affair.
    meter = Meter(
        step=step,
        batch=slices.global_batch,
        world_size=slices.world_size,
        nominal=0,
        executed=0,
        rate=1,
        device=device.type,
    )
    bar = Bar(title, total_steps, done=step)
    with StopSignals() as stop, no_garbage_collection(), bar, loader as batches:
        while step < total_steps and not enough():
            schedule.apply(optimizer, step)
            # What a network draws comes from torch's generator: seeding it by step makes a continued run equal.
            torch.manual_seed(int(stream(config.seed, step, Purpose.MODEL, view=slices.rank).integers(2**62)))
            logging = (step + 1) % config.train.log_every == 0 or step + 1 == total_steps
            terms = torch.zeros(len(names), device=device)
            samples: list[int] = []
            for micro_step in range(slices.accumulation):
                # In the first step shards are opened, memory is found and kernels are chosen.
                patience = PAUSE if step == first else 1.0
                watch.at(f"step {step}: waiting for data", patience)
                with meter.waiting():
                    batch: Batch = next(batches)
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
                images, labels = prepared(batch, micro_step)
                last = micro_step == slices.accumulation - 1
                with contextlib.nullcontext() if last else accelerator.no_sync(wrapped):
                    found = wrapped(images, labels)
                    accelerator.backward(found[0] / slices.accumulation)
                terms[:-1] += found.detach() / slices.accumulation
            terms[-1] = clip_gradients(parameters, config.optim.clip)

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
            average.update(step + 1, bad)
            optimizer.zero_grad(set_to_none=True)
            sums += torch.where(bad > 0, 0.0, terms)
            good_steps += 1 - bad
            step += 1
            recent[step] = terms, samples

            # What became of this step, or on a GPU of earlier ones
            validating = validate is not None and (step == total_steps or step % validate_every == 0)
            saving = validating or step == total_steps or step % config.train.save_every == 0
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
                own_row: dict[str, Any] = {"step": outcome.step, "rank": slices.rank}
                own_row |= {"terms": [n for n, v in zip(names, of_step.tolist(), strict=True) if not math.isfinite(v)]}
                own_row |= {"keys": [shards.key(sample) for sample in of_samples]}
                # Gradients are summed over ranks: only a rank whose own terms are not finite is to blame.
                told = gather_object([own_row])
                rows = [row for row in told if set(row["terms"]) & set(learner.terms)] or told
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
                summed = accelerator.reduce(torch.cat([sums.double(), good_steps.double()[None]]), "mean").tolist()
                good, speed = summed[-1], meter.read(step)
                row: dict[str, Any] = {"step": step, "epoch": step / steps_per_epoch}
                row |= {n: value / good if good else None for n, value in zip(names, summed[:-1], strict=True)}
                row |= {"learning_rate": schedule.learning_rate(step - 1), "bad_steps": bad_steps}
                row |= {"bad_photographs": outcomes[-1].bad_photographs}
                row |= {name: speed[name] for name in ("images_per_second", "data_wait", "memory_gib")}
                sums.zero_(), good_steps.zero_()
                if accelerator.is_main_process:
                    run.log("metrics", row)
                note = f"loss {row[names[0]] or math.nan:.4f}, {row['images_per_second']:.0f} images/s"
                gc.collect(1)
            bar.advance(1, note if logging else None)

            # Validate, save and stop
            if validating and validate is not None:
                validate_now(validate)
            too_many = any(o.bad_photographs > config.reader.max_bad * len(shards) for o in outcomes)
            if saving or too_many:
                save()
                saved = time.monotonic()
            if too_many:
                raise UserError(
                    f"{outcomes[-1].bad_photographs} of {len(shards)} photographs are damaged, more than "
                    f"--reader.max-bad {config.reader.max_bad:g} allows; they are named in "
                    f"{run.path / 'bad_photographs.jsonl'}. Where that is as it should be, the same command with a "
                    "higher one continues.",
                    everywhere=True,
                )
            if any(outcome.stopping for outcome in outcomes) and step < total_steps and not enough():
                received = stop.received or signal.SIGTERM
                raise Stopped(
                    f"{received.name}: saved at step {step} of {total_steps}; the same command continues.",
                    StopSignals.EXIT_CODES[received],
                )
    if step < total_steps:
        say(f"stopped at step {step} of {total_steps}: the last {best.since} validations were not better.")
    return run.checkpoints / f"step-{step:08d}"


def as_it_is(batch: Batch) -> Batch:
    """Collation that adds nothing."""
    return batch
