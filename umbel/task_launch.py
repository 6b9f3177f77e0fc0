"""Tasks and where they run: the words of several local processes, and what a dry run shows."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence

from umbel.config_words import as_words
from umbel.launch import slurm
from umbel.launch.launch_arguments import LaunchArguments
from umbel.launch.launch_config import LaunchConfig
from umbel.run import say
from umbel.task import Task
from umbel.tasks_slurm import SHARING, one_process

HERE = LaunchConfig()


def with_launch(task: Task, launch: LaunchConfig) -> Task:
    """A task with the words of several local processes, where its command shares its work among them."""
    if task.words[0] not in SHARING:
        return task
    own = dataclasses.replace(launch, dry_run=False)  # what is listed is what would run
    words = as_words(LaunchArguments(launch=own), LaunchArguments())
    return dataclasses.replace(task, words=(*task.words, *words))


def list_commands(tasks: Sequence[Task], launch: LaunchConfig) -> None:
    """Print the tasks' commands; with --launch.dry-run the batch scripts of jobs as well."""
    for task in tasks:
        say(f"{task.name}: umbel {shlex.join(task.words)}")
        if launch.dry_run and launch.where == "slurm":
            own = launch if task.words[0] in SHARING else one_process(launch)
            say(slurm.script(task.words, own, folder=task.folder, name=task.name))
