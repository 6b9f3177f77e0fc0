"""What this machine has, and what Umbel uses of it: each choice comes with its reason."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import psutil
import torch

from umbel.run import UserError, processors

DeviceChoice = Literal["auto", "cpu", "cuda"]
PrecisionChoice = Literal["auto", "float32", "bf16"]
CompileChoice = Literal["auto", "on", "off"]
GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A value chosen automatically, and why."""

    value: str
    reason: str


def choose_device(asked: DeviceChoice) -> Choice:
    """cpu or cuda.

    Raises:
        UserError: cuda is asked for and not there.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device that torch can use; leave it out or say cpu.")
    if asked != "auto":
        return Choice(value=asked, reason="as asked")
    if torch.cuda.is_available():
        return Choice(value="cuda", reason=f"{torch.cuda.get_device_name(0)}, {device_memory('cuda') / GIB:.0f} GiB")
    return Choice(value="cpu", reason=f"no CUDA device; {processors()} processors")


def device_memory(device: str) -> int:
    """Bytes of the GPU's memory, or of the machine's."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return int(psutil.virtual_memory().total)


def choose_precision(asked: PrecisionChoice, device: str) -> Choice:
    """bf16 where the processor or GPU computes in it, float32 elsewhere."""
    if asked != "auto":
        return Choice(value=asked, reason="as asked")
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice(value="bf16", reason="the GPU computes in bf16")
        return Choice(value="float32", reason="the GPU has no bf16")
    if cpu_has_bf16():
        return Choice(value="bf16", reason="the processor has AVX-512 BF16 or AMX")
    return Choice(value="float32", reason="the processor has neither AVX-512 BF16 nor AMX: bf16 would be slower")


def cpu_has_bf16() -> bool:
    """Whether matrix products in bf16 are native to this processor."""
    # torch keeps these questions under a leading underscore; absent ones count as no.
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in names if hasattr(torch.cpu, name))


def choose_attention(device: str, precision: str) -> Choice:
    """fused (one kernel) or plain (matrix products and a softmax)."""
    if device == "cpu" and precision == "bf16":
        # Forward and backward, batch 128, 41 tokens, width 128: 34 ms fused, 10 ms plain; 14 tokens: 31 and 5.
        return Choice(value="plain", reason="torch's fused kernel is several times slower backward on a CPU in bf16")
    return Choice(value="fused", reason="one kernel, and no matrix of N x N tokens in memory")


def choose_compile(device: str, asked: CompileChoice) -> Choice:
    """on or off: whether the blocks of a network are compiled.

    Raises:
        UserError: it is asked for, and what compiles is not there.
    """
    missing = missing_for_compile(device)
    if asked == "on" and missing:
        raise UserError(f"blocks cannot be compiled here: {missing}; leave compilation at auto or off.")
    if asked != "auto":
        return Choice(value=asked, reason="as asked")
    if device == "cpu":
        return Choice(value="off", reason="on a CPU matrix products take most of the time, and compiling takes minutes")
    if missing:
        return Choice(value="off", reason=missing)
    return Choice(value="on", reason="fewer and larger kernels; the first step waits for them to be compiled")


def missing_for_compile(device: str) -> str:
    """What torch.compile needs for this device and does not find; nothing: an empty text."""
    # Triton builds its launchers with a C compiler, torch its code for CPUs with a C++ compiler.
    language, variable, names = ("C", "CC", "cc gcc clang") if device == "cuda" else ("C++", "CXX", "c++ g++ clang++")
    candidates = [*os.environ.get(variable, "").split()[:1], *names.split()]
    if not any(shutil.which(name) for name in candidates):
        return f"there is no {language} compiler"
    if device == "cuda" and find_spec("triton") is None:
        return "Triton is not installed"
    if device == "cuda" and torch.cuda.get_device_capability() < (7, 0):
        return "Triton needs a GPU of compute capability 7.0 or newer"
    return ""


def choose_workers(asked: int, ranks_here: int) -> Choice:
    """Decoding processes for each rank on this machine."""
    if asked >= 0:
        return Choice(value=str(asked), reason="as asked")
    count = max(1, min(processors() // max(ranks_here, 1) - 1, 12))
    return Choice(value=str(count), reason=f"{processors()} processors, {ranks_here} training process(es) here")


def matmul_rate(device: str, precision: str) -> float:
    """Floating-point operations a second of a matrix product as large as a transformer's, measured for 0.2 s."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    side = 4096 if device == "cuda" else 1024
    a = torch.randn(side, side, dtype=dtype, device=device)
    a @ a  # the first product compiles its kernel
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < 0.2:
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        done += 1
    return 2.0 * side**3 * done / elapsed


def peak_memory(device: str) -> int:
    """Greatest memory use so far in bytes: of the GPU, or of this process (resident set)."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
