"""What is chosen for this machine, with its reason; `umbel doctor`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from umbel import machine
from umbel.machine import Choice, choose_compile, choose_device, choose_precision, choose_workers, missing_for_compile
from umbel.run import UserError, processors


def test_what_is_asked_for_is_taken() -> None:
    assert choose_device("cpu") == Choice(value="cpu", reason="as asked")
    assert choose_precision("bf16", "cpu").value == "bf16"
    assert choose_precision("float32", "cuda").value == "float32"
    assert choose_workers(0, 1) == Choice(value="0", reason="as asked")
    assert choose_workers(5, 8).value == "5"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_the_cpu_is_chosen_and_cuda_refused() -> None:
    found = choose_device("auto")
    assert (found.value, str(processors()) in found.reason) == ("cpu", True)
    with pytest.raises(UserError, match="--device cuda"):
        choose_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_with_a_gpu_it_is_chosen() -> None:
    assert choose_device("auto").value == "cuda"
    assert choose_precision("auto", "cuda").value in ("bf16", "float32")


@pytest.mark.parametrize(("has", "value"), [(True, "bf16"), (False, "float32")])
def test_bf16_is_chosen_where_the_processor_computes_in_it(
    has: bool, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_has_bf16", lambda: has)
    found = choose_precision("auto", "cpu")
    assert found.value == value
    assert "processor" in found.reason


def test_a_torch_without_the_questions_counts_as_no(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert machine.cpu_has_bf16() is False


@pytest.mark.parametrize(
    ("processors_here", "ranks", "workers"), [(1, 1, 1), (2, 1, 1), (8, 1, 7), (64, 1, 12), (64, 8, 7), (4, 8, 1)]
)
def test_workers_leave_a_processor_to_each_rank(
    processors_here: int, ranks: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "processors", lambda: processors_here)
    assert choose_workers(-1, ranks).value == str(workers)


@pytest.mark.parametrize(
    ("device", "asked", "missing", "value", "reason"),
    [
        ("cpu", "off", "", "off", "as asked"),
        ("cpu", "on", "", "on", "as asked"),
        ("cuda", "off", "Triton is not installed", "off", "as asked"),
        ("cpu", "auto", "", "off", "on a CPU"),
        ("cuda", "auto", "", "on", "fewer and larger kernels"),
        ("cuda", "auto", "Triton is not installed", "off", "Triton is not installed"),
    ],
)
def test_blocks_are_compiled_on_a_gpu_that_can(
    device: str, asked: Any, missing: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "missing_for_compile", lambda _: missing)
    found = choose_compile(device, asked)
    assert found.value == value
    assert reason in found.reason


def test_compilation_that_is_asked_for_and_impossible_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "missing_for_compile", lambda _: "there is no C++ compiler")
    with pytest.raises(UserError, match=r"cannot be compiled here: there is no C\+\+ compiler; leave"):
        choose_compile("cpu", "on")


def test_compilers_are_looked_for_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_for_compile("cpu") == "there is no C++ compiler"
    assert missing_for_compile("cuda") == "there is no C compiler"
    (tmp_path / "own-compiler").touch(mode=0o755)
    monkeypatch.setenv("CXX", "own-compiler -O2")
    assert missing_for_compile("cpu") == ""
    assert missing_for_compile("cuda") == "there is no C compiler"


def test_a_gpu_needs_triton_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    monkeypatch.setattr(machine, "find_spec", lambda _: None)
    assert missing_for_compile("cuda") == "Triton is not installed"
    monkeypatch.setattr(machine, "find_spec", lambda name: name)
    assert missing_for_compile("cuda") == ""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 1))
    assert "compute capability 7.0" in missing_for_compile("cuda")


def test_measures_of_the_machine_are_positive() -> None:
    assert machine.matmul_rate("cpu", "float32") > 0
    assert 0 < machine.peak_memory("cpu") < machine.device_memory("cpu")


def test_doctor_prints_json(umbel: Callable[..., Any]) -> None:
    code, out, err = umbel("doctor", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    wanted = {"umbel", "python", "system", "torch", "torchvision", "timm", "kornia", "webdataset", "accelerate"}
    wanted |= {"numpy", "device", "precision", "processors", "memory", "disk here", "data workers", "matrix products"}
    wanted |= {"SLURM", "attention"} | {
        f"extra {name}" for name in ("search", "lora", "text", "onnx", "tensorboard", "serve")
    }
    assert set(facts) == wanted


def test_doctor_prints_a_line_for_each_fact(umbel: Callable[..., Any]) -> None:
    code, out, _ = umbel("doctor")
    assert code == 0
    assert {"umbel", "device", "precision"} <= {line.split()[0] for line in out.splitlines()}
