"""Energy of a computation: the GPU's own counter (NVML), or the processor's (RAPL), or the reason why there is none.

Both count all that runs on the device meanwhile. Nothing is ever estimated from a nominal power.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"
# Zones such as intel-rapl:0:0 are parts of a package, and intel-rapl-mmio:0 is the package once more.
PACKAGE_ZONE = re.compile(r"intel-rapl:\d+")


@dataclass(frozen=True, kw_only=True)
class Counter:
    """Something that counts joules, or why nothing does."""

    read: Callable[[], tuple[float, ...]] | None
    """Joules so far, one number for each part; None where nothing can be read."""
    ranges: tuple[float, ...] = ()
    """Where each part begins at 0 again, in joules; infinite where it does not."""
    source: str = ""
    """What is counted, in words."""
    reason: str = ""
    """Why nothing is."""

    def between(self, before: tuple[float, ...], after: tuple[float, ...]) -> float:
        """Joules from one reading to a later one; a part may have begun at 0 again once."""
        parts = zip(before, after, self.ranges, strict=True)
        return sum(b - a if b >= a else b - a + limit for a, b, limit in parts)


def energy_counter(device: str, *, powercap: Path = POWERCAP, library: str = NVML) -> Counter:
    """The counter of a device: "cuda" or "cpu"."""
    return nvml(library, gpu_uuid()) if device == "cuda" else rapl(powercap)


def rapl(powercap: Path = POWERCAP) -> Counter:
    """The energy of all processor packages, memory not included.

    Intel's zones, which AMD's processors have under the same names: energy_uj and max_energy_range_uj in microjoules.
    """
    zones = sorted(zone for zone in powercap.glob("intel-rapl:*") if PACKAGE_ZONE.fullmatch(zone.name))
    if not zones:
        return Counter(read=None, reason=f"this machine shows no RAPL counters ({powercap})")
    try:
        # "psys" is the whole platform, packages included.
        packages = [zone for zone in zones if (zone / "name").read_text().strip().startswith("package")]
        ranges = tuple(_joules(zone / "max_energy_range_uj") for zone in packages)
        for zone in packages:
            _joules(zone / "energy_uj")
    except PermissionError as error:
        return Counter(read=None, reason=f"{error.filename} may be read by the administrator only")
    except (OSError, ValueError) as error:
        return Counter(read=None, reason=f"RAPL cannot be read ({error})")
    if not packages:
        return Counter(read=None, reason=f"RAPL shows no processor package ({powercap})")
    return Counter(
        read=lambda: tuple(_joules(zone / "energy_uj") for zone in packages),
        ranges=ranges,
        source=f"RAPL, {len(packages)} processor package(s), without memory",
    )


def _joules(file: Path) -> float:
    return int(file.read_text()) / 1e6


def gpu_uuid() -> str:
    """torch's device 0 as NVML names it: their numbers differ under CUDA_VISIBLE_DEVICES."""
    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"


def nvml(library: str, uuid: str) -> Counter:
    """The energy of one GPU with its memory, since its driver was loaded (Volta or newer).

    Called in the driver's library directly, so that no package is needed.
    """
    try:
        driver = ctypes.CDLL(library)
        handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
        steps = (
            ("nvmlInit_v2", ()),
            ("nvmlDeviceGetHandleByUUID", (uuid.encode(), ctypes.byref(handle))),
            ("nvmlDeviceGetTotalEnergyConsumption", (handle, ctypes.byref(millijoules))),
        )
        for name, arguments in steps:
            _call(driver, name, *arguments)
    except (OSError, AttributeError) as error:
        return Counter(read=None, reason=f"NVML cannot be read ({error})")

    def read() -> tuple[float, ...]:
        _call(driver, "nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.byref(millijoules))
        return (millijoules.value / 1e3,)

    return Counter(read=read, ranges=(float("inf"),), source="NVML, the GPU alone")


def _call(driver: ctypes.CDLL, name: str, *arguments: object) -> None:
    """Raises OSError, where NVML answers with another number than 0."""
    answer = getattr(driver, name)(*arguments)
    if answer:
        raise OSError(f"{name} answers {answer}")
