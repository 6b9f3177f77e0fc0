"""SLURM's words for why a job waits, in plain ones."""

from __future__ import annotations

NEVER = {
    "PartitionTimeLimit": "the partition allows fewer hours (--launch.hours)",
    "PartitionNodeLimit": "the partition allows fewer nodes (--launch.nodes)",
    "BadConstraints": "no node is what it asks for (--launch.constraint, gpus, cpus, memory)",
    "InvalidAccount": "the account is not known or not yours (--launch.account)",
    "InvalidQOS": "the quality of service is not known or not yours (--launch.qos)",
    "DependencyNeverSatisfied": "a job that it was to follow did not end well",
    "QOSMaxWallDurationPerJobLimit": "the quality of service allows fewer hours (--launch.hours)",
    "AssocMaxWallDurationPerJobLimit": "the account allows fewer hours (--launch.hours)",
}
"""Reasons that time does not mend."""
_WORDS = {
    "": "SLURM has not looked at it yet",
    "None": "SLURM has not looked at it yet",
    "Resources": "until enough nodes are free",
    "Priority": "jobs of a higher priority come first",
    "Dependency": "until the jobs before it have ended",
    "BeginTime": "a job that was put back starts after a pause",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs now",
    "ReqNodeNotAvail": "nodes that it needs are down or reserved",
    "JobHeldUser": "it is held (scontrol release)",
    "JobHeldAdmin": "an administrator holds it",
    "JobArrayTaskLimit": "as many tasks of its array run as may",
}


def why_it_waits(reason: str) -> str:
    """A clause for SLURM's word, the word behind it."""
    first = reason.partition(",")[0]
    if first.startswith(("QOSMax", "QOSGrp", "AssocMax", "AssocGrp")) and first not in NEVER:
        return f"a limit of your account or quality of service is reached ({reason})"
    words = (NEVER | _WORDS).get(first)
    if words is None:
        return f"SLURM says {reason}"
    return f"{words} ({reason})" if reason not in ("", "None") else words
