"""Energy counters: RAPL's zones and their wraparound, NVML called in the driver's library, a reason where none is."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from umbel.evaluation.energy import Counter, energy_counter, nvml, rapl

Zones = Callable[..., Path]
# What the driver's library offers of which we call three functions; it counts 1,500 J more at each reading.
DRIVER = """
#include <string.h>
static unsigned long long so_far = 2000000;
static int device, ready = 0;
int nvmlInit_v2(void) { ready = 1; return INIT; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
  if (!ready || strcmp(uuid, "GPU-1234")) return 6;
  *handle = &device;
  return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *energy) {
  if (handle != &device) return 2;
  *energy = so_far += 1500000;
  return 0;
}
"""


@pytest.fixture
def zones(tmp_path: Path) -> Zones:
    """Write zones as the kernel shows them: folder -> (name, microjoules so far)."""

    def write(**counters: tuple[str, int]) -> Path:
        for number, (name, energy) in counters.items():
            zone = tmp_path / "powercap" / number.replace("_", ":").replace("mmio", "-mmio")
            zone.mkdir(parents=True, exist_ok=True)
            (zone / "name").write_text(f"{name}\n")
            (zone / "energy_uj").write_text(f"{energy}\n")
            (zone / "max_energy_range_uj").write_text("262143328850\n")
        return tmp_path / "powercap"

    return write


@pytest.fixture
def driver(tmp_path: Path) -> Callable[..., str]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")

    def build(init: int = 0) -> str:
        source, library = tmp_path / f"driver{init}.c", tmp_path / f"driver{init}.so"
        source.write_text(DRIVER.replace("INIT", str(init)))
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
        return str(library)

    return build


def test_packages_are_counted_and_neither_their_parts_nor_the_platform(zones: Zones) -> None:
    machine = {"intel-rapl_0_0": ("core", 7), "intel-rapl_2": ("psys", 9), "intel-raplmmio_0": ("package-0", 11)}
    first = zones(**machine, **{"intel-rapl_0": ("package-0", 1_500_000), "intel-rapl_1": ("package-1", 250_000)})
    counter = rapl(first)
    assert counter.read is not None
    before = counter.read()
    assert before == (1.5, 0.25)
    zones(**{"intel-rapl_0": ("package-0", 4_500_000), "intel-rapl_1": ("package-1", 750_000)})
    assert counter.between(before, counter.read()) == 3.5
    assert counter.source == "RAPL, 2 processor package(s), without memory"
    assert counter.reason == ""


def test_a_counter_that_began_at_0_again_went_on(zones: Zones) -> None:
    folder = zones(**{"intel-rapl_0": ("package-0", 262_143_000_000), "intel-rapl_1": ("package-1", 10_000_000)})
    counter = rapl(folder)
    assert counter.read is not None
    before = counter.read()
    zones(**{"intel-rapl_0": ("package-0", 1_000_000), "intel-rapl_1": ("package-1", 15_000_000)})
    assert counter.between(before, counter.read()) == pytest.approx(0.328850 + 1 + 5)


def test_a_machine_without_counters_says_so(tmp_path: Path, zones: Zones) -> None:
    assert rapl(tmp_path / "none") == Counter(
        read=None, reason=f"this machine shows no RAPL counters ({tmp_path / 'none'})"
    )
    only_platform = zones(**{"intel-rapl_0": ("psys", 9)})
    assert rapl(only_platform).reason == f"RAPL shows no processor package ({only_platform})"
    assert energy_counter("cpu", powercap=tmp_path / "none").read is None


def test_a_counter_that_may_not_be_read_is_named(zones: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = zones(**{"intel-rapl_0": ("package-0", 1)})
    real = Path.read_text

    # The administrator, as whom tests may run, may read every file.
    def refuse(path: Path, *arguments: str) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments)

    monkeypatch.setattr(Path, "read_text", refuse)
    counter = rapl(folder)
    assert counter.read is None
    assert counter.reason == f"{folder}/intel-rapl:0/energy_uj may be read by the administrator only"


def test_a_counter_without_a_number_is_no_counter(zones: Zones) -> None:
    folder = zones(**{"intel-rapl_0": ("package-0", 1)})
    (folder / "intel-rapl:0" / "energy_uj").write_text("")
    assert rapl(folder).reason.startswith("RAPL cannot be read (invalid literal")


def test_the_gpus_counter_is_read_from_the_drivers_library(driver: Callable[..., str]) -> None:
    counter = nvml(driver(), "GPU-1234")
    assert counter.read is not None
    before = counter.read()
    assert before == (5000.0,)
    assert counter.between(before, counter.read()) == 1500
    assert counter.source == "NVML, the GPU alone"


def test_what_the_driver_refuses_is_told(driver: Callable[..., str]) -> None:
    assert nvml(driver(), "GPU-0").reason == "NVML cannot be read (nvmlDeviceGetHandleByUUID answers 6)"
    assert nvml(driver(9), "GPU-1234").reason == "NVML cannot be read (nvmlInit_v2 answers 9)"
    missing = nvml("libumbel-has-none.so.1", "GPU-1234")
    assert missing.read is None
    assert "libumbel-has-none.so.1" in missing.reason
