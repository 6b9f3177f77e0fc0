"""Tasks of the GPU suite that run whole commands: training with data, resuming, policies, the demo."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from gpu_context import Context, SkippedError, ended_well
from gpu_rows import row

from umbel.augment.policy import POLICIES
from umbel.config import from_values, read_recipe, write_recipe
from umbel.data.index import PRETRAINING_SPLITS, open_shards
from umbel.ssl.pretrain_config import PretrainConfig

BATCHES = {"ViT-S": 256, "ViT-B": 128, "ViT-L": 64}
AIMS = {"ViT-S": 2200, "ViT-B": 800, "ViT-L": 230}
"""Images a second on an H200."""
SECONDS = 75.0
"""Of training in an end-to-end task, the start apart."""
POLICY_EPOCHS = 100.0
RESUME_STEPS = 40


def end_to_end(context: Context, *, model: str) -> list[dict[str, Any]]:
    """Images a second of `umbel pretrain` on photographs of 375 x 500 px, from its own metrics."""
    config = context.config(model, 8 if context.tiny else BATCHES[model])
    shards, run = context.photographs(), context.work / f"end-to-end-{model}"
    shutil.rmtree(run, ignore_errors=True)
    recipe = recipe_file(context, config, f"end-to-end-{model}")
    log = context.work / "logs" / f"end-to-end-{model}-pretrain.log"
    process = context.start(
        *("pretrain", shards, "--out", run, "--recipe", recipe, "--device", context.device.type),
        *("--train.log-every", 2 if context.tiny else 10, "--train.save-every", 10**6, "--train.epochs", 10_000),
        log=log,
    )
    try:
        wait_until(process, run, log, seconds=2.0 if context.tiny else SECONDS, lines=5)
        rows = metrics(run)
    finally:
        kill(process)
    steady = rows[len(rows) // 4 + 1 :]  # the first ones still compile, or start workers
    speed = statistics.median(line["images_per_second"] for line in steady)
    shutil.rmtree(run)
    return [
        {
            "model": model,
            "batch": config.train.batch,
            "images/s": speed,
            "aim": AIMS[model],
            "slowest line": min(line["images_per_second"] for line in steady),
            "data wait": statistics.median(line["data_wait"] for line in steady),
            "MFU": statistics.median(line["mfu"] for line in steady),
            "MFU executed": statistics.median(line["mfu_executed"] for line in steady),
            "memory GiB": steady[-1]["memory_gib"],
            "lines": len(steady),
        }
    ]


def recipe_file(context: Context, config: PretrainConfig, name: str) -> Path:
    """A configuration as a recipe, without the paths that every command is given."""
    values = yaml.safe_load(write_recipe(config, "pretrain"))
    path = context.work / f"{name}.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if key not in ("data", "out")}))
    return path


def metrics(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics so far."""
    file = run / "metrics.jsonl"
    text = file.read_text() if file.is_file() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def wait_until(
    process: subprocess.Popen[bytes], run: Path, log: Path, *, seconds: float, lines: int = 1, step: int = 0
) -> None:
    """Until a run has logged so many lines, has reached `step` and has trained for so long since its first line.

    Raises:
        RuntimeError: it ended before.
    """
    first: float | None = None
    while True:
        ended = process.poll()  # before the metrics are read: a last line may come with the end
        found = metrics(run)
        if found and first is None:
            first = time.monotonic()
        reached = first is not None and len(found) >= lines and found[-1]["step"] >= step
        if first is not None and reached and time.monotonic() - first >= seconds:
            return
        if ended is not None:
            ended_well(ended or -1, log)
        time.sleep(0.02)


def kill(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGKILL) -> int:
    """Send a process a signal, wait for it, and leave none of its data workers behind."""
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)  # does nothing where it has ended
    code = process.wait()
    for child in children:
        if child.is_running():
            child.kill()
    return code


def resume(context: Context) -> list[dict[str, Any]]:
    """A run that is killed, or asked to stop, and continued, against one that is left alone: losses of the last steps.

    On a GPU sums may come in another order, so that bits may differ; on a CPU they may not.
    """
    config = context.shrunk(context.config("ViT-S", 8)) if context.tiny else context.config("ViT-S", 32)
    shards = context.labeled()
    count = len(open_shards(shards).select(PRETRAINING_SPLITS))
    epochs = (RESUME_STEPS + 0.5) / (count // config.train.batch)
    log = context.work / "logs" / "checks.resume-pretrain.log"
    recipe = recipe_file(context, config, "resume")

    def command(run: Path) -> list[object]:
        flags = ["--recipe", recipe, "--device", context.device.type, "--train.epochs", f"{epochs:.9f}"]
        flags += ["--train.log-every", 1, "--train.save-every", 5, "--train.compile", "off"]  # five starts
        return ["pretrain", shards, "--out", run, *flags]

    names = {"whole": None, "killed": signal.SIGKILL, "asked to stop": signal.SIGTERM}
    losses: dict[str, list[float]] = {}
    rows = []
    for name, number in names.items():
        run = context.work / f"resume-{name.replace(' ', '-')}"
        shutil.rmtree(run, ignore_errors=True)
        if number is not None:
            process = context.start(*command(run), log=log)
            try:
                wait_until(process, run, log, seconds=0, step=RESUME_STEPS // 3)
            finally:
                code = kill(process, number)
            expected = -number if number == signal.SIGKILL else 75
            rows.append(row(f"{name}: exit code {expected}", abs(code - expected), 0))
            ended = metrics(run)[-1]["step"] >= RESUME_STEPS
            rows.append(row(f"{name}: 1 if the signal came after the last step", float(ended), 0))
        context.umbel(*command(run), log=log)
        found = metrics(run)
        rows.append(row(f"{name}: steps that are missing", RESUME_STEPS - len(found), 0))
        losses[name] = [line["loss"] for line in found[-5:]]
        shutil.rmtree(run)
    for name in ("killed", "asked to stop"):
        error = max(abs(a - b) for a, b in zip(losses[name], losses["whole"], strict=True))
        exact = context.device.type == "cpu"
        note = "the same bits" if error == 0 else "not the same bits"
        rows.append(row(f"{name} and continued: loss of the last steps ({note})", error, 0.0 if exact else 0.05))
    return rows


def policy_run(context: Context, *, policy: str, seed: int) -> list[dict[str, Any]]:
    """Pretrain with a policy (recipe demo-gpu: ViT-S/16 at 128 px) and probe; an interrupted run is continued."""
    if policy not in POLICIES:
        raise SkippedError(f"this Umbel has no policy {policy}")
    data, run = context.labeled(), context.work / f"policy-{policy}-{seed}"
    values = read_recipe("demo-gpu", "pretrain")
    config = from_values(PretrainConfig(data="", out=context.work), values, "demo-gpu")
    config = context.shrunk(config) if context.tiny else config
    log = context.work / "logs" / f"policies.{policy}-{seed}-umbel.log"
    recipe = recipe_file(context, config, f"policy-{policy}-{seed}")
    flags = ["--recipe", recipe, "--views.policy", policy, "--seed", seed, "--device", context.device.type]
    flags += ["--train.epochs", 0.5 if context.tiny else POLICY_EPOCHS, "--train.save-every", 500]
    flags += ["--train.batch", 16] if context.tiny else []
    started = time.monotonic()
    context.umbel("pretrain", data, "--out", run, *flags, log=log)
    minutes = (time.monotonic() - started) / 60
    answer = context.work / f"policy-{policy}-{seed}.json"
    probing = ["--data", data, "--shots", 5, "--seed", 0, "--no-baselines", "--out", answer]
    context.umbel("probe", run, *probing, "--device", context.device.type, log=log)
    probed = json.loads(answer.read_text())["rows"][0]
    last = metrics(run)[-1]
    shutil.rmtree(run)
    return [
        {
            "policy": policy,
            "seed": seed,
            "steps": last["step"],
            "5-shot %": 100 * probed["mean"],
            "20-NN %": 100 * probed["knn"],
            "loss": last["loss"],
            "images/s": last["images_per_second"],
            "minutes": minutes,
        }
    ]


def demo(context: Context) -> list[dict[str, Any]]:
    """`umbel demo` with the recipe demo-gpu, to its report; an interrupted one is continued."""
    out, log = context.work / "demo", context.work / "logs" / "demo-umbel.log"
    flags: list[object] = ["--out", out, "--recipe", "demo-gpu", "--device", context.device.type]
    if context.tiny:
        values = read_recipe("demo-gpu", "pretrain")
        config = context.shrunk(from_values(PretrainConfig(data="", out=context.work), values, "demo-gpu"))
        flags[3] = recipe_file(context, config, "demo")
        flags += ["--data", context.labeled(), "--epochs", 0.5]
    elif context.data is not None:
        flags += ["--data", context.data]
    context.umbel("demo", *flags, log=log)
    told = json.loads((out / "run" / "steps.json").read_text())["steps"]
    rows: list[dict[str, Any]] = [
        {"what": step["name"], "seconds": step["seconds"], "host memory GiB": step["peak_memory_gib"]} for step in told
    ]
    for probed in json.loads((out / "run" / "probe.json").read_text())["rows"]:
        scores = {"5-shot %": 100 * probed["mean"], "20-NN %": 100 * probed["knn"]}
        rows.append({"what": probed["name"], **scores})
    report = out / "run" / "report.html"
    return [*rows, {"what": f"report of {report.stat().st_size / 1e6:.1f} MB"}]
