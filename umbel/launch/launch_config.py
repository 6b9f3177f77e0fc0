"""Where a command runs: this process, several processes here, or SLURM; and what a cluster is asked for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from umbel.config import StrictLoader
from umbel.run import UserError

SITE_FORMAT = 1
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""Characters that would end a line of a batch script, or garble it."""


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Where a command runs and with what; a site file holds a cluster's defaults."""

    where: Literal["here", "local", "slurm"] = "here"
    """This process, several processes on this machine, or a SLURM job; --launch WHERE is short for it."""
    nodes: int = 1
    """Machines (slurm)."""
    gpus: int | None = None
    """GPUs on each machine, a process for each."""
    processes: int | None = None
    """Processes on each machine where there are no GPUs; 1 by default."""
    cpus: int | None = None
    """Processors for each process (slurm)."""
    memory: float | None = None
    """GiB of memory on each machine (slurm)."""
    hours: float = 12.0
    """Time limit of a job; a training run saves and is requeued when it ends (slurm)."""
    partition: str | None = None
    """SLURM's partition; the cluster's default."""
    account: str | None = None
    """SLURM's account."""
    qos: str | None = None
    """SLURM's quality of service."""
    constraint: str | None = None
    """Features that nodes must have (slurm)."""
    exclude: str | None = None
    """Nodes that must not be used (slurm)."""
    comment: str | None = None
    """A comment that SLURM keeps with the job."""
    signal_delay: int = 120
    """Seconds before the time limit at which a run is told to save (slurm)."""
    setup: tuple[str, ...] = ()
    """A shell line that the job runs first, such as 'module load cuda'; may be given several times (slurm)."""
    prefix: str | None = None
    """What stands in front of Python on every node, such as 'apptainer exec --nv umbel.sif' (slurm)."""
    python: str | None = None
    """Python on the nodes; by default this one, by its path (slurm)."""
    sbatch: tuple[str, ...] = ()
    """A further option of sbatch, NAME=VALUE or NAME; may be given several times (slurm)."""
    site: Path | None = None
    """YAML file with these settings for a cluster; flags stand over it."""
    dry_run: bool = False
    """Print the resolved settings and the sbatch script, or each process's command (local), and run nothing."""
    requeues: int = 3
    """Restarts in a row that may end without a new checkpoint before the job is given up (slurm)."""
    snapshot: bool = True
    """Run a job from a copy of the code, which later edits do not reach (slurm)."""

    def __post_init__(self) -> None:
        for name in ("nodes", "gpus", "processes", "cpus", "signal_delay"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"launch.{name} must be at least 1, not {value}")
        for name in ("hours", "memory"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"launch.{name} must be above 0, not {value:g}")
        if self.signal_delay >= 60 * self.minutes:
            raise ValueError(
                f"launch.signal_delay {self.signal_delay} (seconds) must be less than launch.hours {self.hours:g}"
            )
        if self.requeues < 0:
            raise ValueError(f"launch.requeues must be at least 0, not {self.requeues}")
        if self.gpus is not None and self.processes is not None:
            raise ValueError(f"launch.gpus {self.gpus} sets the processes, so launch.processes must not be given")
        if self.where == "here" and (self.ranks > 1 or self.dry_run):
            raise ValueError("launch.nodes, gpus, processes and dry-run need --launch local or slurm")
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and CONTROL.search(text):
                    raise ValueError(f"launch.{name} must be one line without control characters, not {text!r}")
        for option in self.sbatch:
            if option.startswith("-") or not option.partition("=")[0]:
                raise ValueError(f"launch.sbatch must be NAME=VALUE without dashes in front, not {option!r}")

    @property
    def minutes(self) -> int:
        """The time limit as SLURM counts it."""
        return max(1, round(self.hours * 60))

    @property
    def tasks(self) -> int:
        """Processes on each machine."""
        return self.gpus or self.processes or 1

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.nodes * self.tasks


def read_site(path: Path) -> dict[str, Any]:
    """The settings of a site file.

    Raises:
        UserError: no such file, not YAML, or not a site's.
    """
    try:
        # The loader derives from yaml.SafeLoader: plain data only.
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"site {path} cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    except yaml.YAMLError as error:
        raise UserError(f"site {path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict) or values.get("format") != SITE_FORMAT:
        raise UserError(f"site {path} must be a mapping of settings that says 'format: {SITE_FORMAT}'.")
    if "site" in values:
        raise UserError(f"site {path} names another site: write its settings into one file.")
    return {key: value for key, value in values.items() if key != "format"}
