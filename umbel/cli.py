"""The command `umbel`: a table from names to functions.

Help is listed from the strings here, so that it answers at once; a command's module (and torch) is imported only when
the command is asked for. A command's configuration is the annotation of its function's argument `config`.
"""

from __future__ import annotations

import errno
import importlib
import io
import itertools
import os
import sys
import traceback
import typing
from collections.abc import Sequence

from umbel import __version__
from umbel.run import EXIT_BUG, EXIT_DONE, EXIT_INTERRUPTED, EXIT_USER_ERROR, UmbelError, rank

COMMANDS: dict[str, tuple[str, str]] = {
    "shards make folder": ("umbel.data.make:make_folder", "Make shards from a folder of photographs"),
    "shards make csv": ("umbel.data.sources.listed:make_csv", "Make shards of the photographs that a CSV file lists"),
    "shards make inat2021": (
        "umbel.data.sources.inat2021:make_inat2021",
        "Make shards of iNaturalist 2021's plants, from its JSON files and archives",
    ),
    "shards make plantnet300k": (
        "umbel.data.sources.plantnet300k:make_plantnet300k",
        "Make shards of Pl@ntNet-300K",
    ),
    "shards make meta-album": (
        "umbel.data.sources.listed:make_meta_album",
        "Make shards of a data set of Meta-Album",
    ),
    "shards make flowers102": (
        "umbel.data.sources.torchvision_sets:make_flowers102",
        "Make shards of Oxford 102 Flowers (torchvision's; --download fetches it)",
    ),
    "shards make inaturalist": (
        "umbel.data.sources.torchvision_sets:make_inaturalist",
        "Make shards of iNaturalist 2021's plants as torchvision lays them out",
    ),
    "shards make synthetic": ("umbel.data.make:make_synthetic", "Make shards of synthetic plants"),
    "shards check": ("umbel.data.check:check", "Read every sample of a set of shards: faults and duplicates"),
    "shards show": ("umbel.data.show:show", "Show a set of shards: contact sheet, classes, sizes, statistics"),
    "votes aggregate": ("umbel.data.votes.aggregate_command:run", "Turn crowd votes into labels, validity and weights"),
    "votes evaluate": ("umbel.data.votes.evaluate_command:run", "Compare vote strategies with the truth"),
    "votes simulate": ("umbel.data.votes.simulate_command:run", "Simulate a crowd that votes on plants"),
    "demo": (
        "umbel.pipeline:run",
        "The whole story: pretrain, probe, hash, export and report, on your data or synthetic",
    ),
    "views": ("umbel.evaluation.views:run", "Draw a sheet of photographs and their augmented views"),
    "pretrain": ("umbel.ssl.pretrain:run", "Pretrain a backbone on photographs without labels (SimDINOv2)"),
    "finetune": ("umbel.ssl.finetune:run", "Train a classifier on labeled photographs, from a pretrained backbone"),
    "distill": (
        "umbel.ssl.distillation.command:run",
        "Train a small backbone to see what a larger one sees, with labels or without",
    ),
    "embed": ("umbel.evaluation.embed:run", "Embed photographs with a backbone and store the features"),
    "probe": ("umbel.evaluation.probe:run", "Measure features: few-shot and nearest neighbors, beside baselines"),
    "hash fit": ("umbel.evaluation.hashing.fit_command:run", "Fit hash codes: CroVCA on photographs, or ITQ, PCA, LSH"),
    "hash encode": (
        "umbel.evaluation.hashing.encode_command:run",
        "Turn embeddings, or photographs, into packed hash codes",
    ),
    "hash search": ("umbel.evaluation.hashing.search_command:run", "Find the photographs whose codes are nearest"),
    "hash evaluate": (
        "umbel.evaluation.hashing.evaluate_command:run",
        "Measure retrieval by codes, ITQ and float beside",
    ),
    "hash serve": (
        "umbel.evaluation.hashing.serve_command:run",
        "Search by photograph on a local page in the browser",
    ),
    "report": ("umbel.evaluation.report:run", "Write what a run learned and cost as one HTML file"),
    "import": ("umbel.backbones.import_command:run", "Make a folder that timm loads from a checkpoint of elsewhere"),
    "export": (
        "umbel.evaluation.exporting.command:run",
        "Export a run's backbone: a timm folder, DINOv2's names, ONNX, a bundle that names plants",
    ),
    "predict": ("umbel.evaluation.exporting.predict_command:run", "Name the plants in photographs with a bundle"),
    "pipeline": (
        "umbel.pipeline_command:run",
        "Run a recipe of steps from photographs to a report, each one a command of its own",
    ),
    "sweep": ("umbel.sweep_command:run", "Pretrain once for each combination of a recipe's values, and compare"),
    "jobs": ("umbel.jobs_command:run", "List the runs below folders: state, reason, step, time left, loss"),
    "doctor": ("umbel.doctor:run", "Say what this machine has and what Umbel will use of it"),
}

# Commands that take --launch, and whether their --out is a folder that they continue, where a job's logs may lie; the
# others' logs lie beside it.
LONG = {"pretrain": True, "finetune": True, "distill": True} | dict.fromkeys(
    (
        *(name for name in COMMANDS if name.startswith("shards make")),
        *("shards check", "demo", "embed", "probe", "hash fit", "hash encode", "hash evaluate", "export"),
    ),
    False,
)
# Of them, those that share their work among processes.
MANY = ("pretrain", "finetune", "distill", "embed", "hash encode")
# Commands that send jobs of their own: their function takes the settings of launching beside its configuration.
SENDERS = ("pipeline", "sweep")

# What files and disks refuse, wherever it happens: the message names the file.
_USER_ERRNO = {
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT,
    errno.ENOMEM, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip


def usage(prefix: str = "") -> str:
    """The list of commands that begin with `prefix`."""
    rows = {name: text for name, (_, text) in COMMANDS.items() if f"{name} ".startswith(prefix)}
    width = max(map(len, rows))
    lines = [
        f"usage: umbel {prefix}COMMAND ...",
        "",
        "Umbel: vision backbones for plants, pretrained without labels.",
        "",
    ]
    lines += [f"  {name:<{width}}  {text}" for name, text in rows.items()]
    lines += ["", "`umbel COMMAND --help` lists a command's options; `umbel --version` prints the version."]
    return "\n".join(lines)


def find(arguments: Sequence[str]) -> tuple[str, list[str]] | None:
    """The command that the first words name, and the arguments behind it."""
    for length in (3, 2, 1):
        name = " ".join(arguments[:length])
        if name in COMMANDS:
            return name, list(arguments[length:])
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code (umbel.run has their meanings)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the terminal cannot show must not end a command
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # `umbel ... | head`: nobody reads on. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    return code


def _run(arguments: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments) in (["--version"], ["-V"]):
        print(f"umbel {__version__}")
        return EXIT_DONE
    # Threads that wait may spin for some microseconds only: GNU OpenMP's default of milliseconds makes a training step
    # 4 to 14 times slower as soon as another process wants a core; not spinning at all costs a tenth on a quiet one.
    # The library reads it once, when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    found = find(arguments)
    if found is None:
        return _not_a_command(arguments)
    name, rest = found
    target, help_line = COMMANDS[name]
    try:
        words: list[str] = []
        if name in LONG or name in SENDERS:
            from umbel.launch import launch_arguments, recognize

            if name in LONG:
                recognize.recognize()
            rest, words = launch_arguments.cut(rest)
        module_name, function_name = target.split(":")
        function = getattr(importlib.import_module(module_name), function_name)
        from umbel import config

        try:
            asked = config.parse(typing.get_type_hints(function)["config"], rest, prog=f"umbel {name}", help=help_line)
        except SystemExit:  # the help is printed
            if name in LONG or name in SENDERS:
                print(launch_arguments.help_text())
            raise
        if name in SENDERS:
            function(asked, launch_arguments.parse(words, f"umbel {name}"))
            return EXIT_DONE
        if words and (launch := launch_arguments.parse(words, f"umbel {name}")).where != "here":
            from umbel.launch.dispatch import dispatch

            if isinstance(asked, config.HasData):
                asked.check_data()
            return dispatch(name, rest, launch, many=name in MANY, own_folder=LONG[name])
        function(asked)
    except UmbelError as error:
        if rank() == 0 or not error.everywhere:
            print(f"umbel: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("umbel: interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno not in _USER_ERRNO:
            traceback.print_exc()
            return EXIT_BUG
        print(f"umbel: {error.filename or 'a file'}: {error.strerror}.", file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_DONE


def _not_a_command(arguments: Sequence[str]) -> int:
    """Answer a call for help, or say which command was meant."""
    asked = [word for word in arguments if word not in ("-h", "--help")]
    prefix = "".join(f"{word} " for word in asked)
    if any(name.startswith(prefix) for name in COMMANDS) and (len(asked) < len(arguments) or not asked):
        print(usage(prefix))
        return EXIT_DONE
    from umbel.config import nearest

    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    said = " ".join(words[:3])
    if not any(words):
        flags = " ".join(filter(None, arguments)) or "an empty word"
        print(f"umbel: {flags} is not a command; `umbel --help` lists the commands.", file=sys.stderr)
    elif any(name.startswith(prefix) for name in COMMANDS):
        below = ", ".join(name for name in COMMANDS if name.startswith(prefix))
        print(f"umbel: '{prefix.strip()}' is not a whole command; there are: {below}.", file=sys.stderr)
    else:
        hints = (nearest(" ".join(words[:length]), COMMANDS) for length in (3, 2, 1))
        hint = next(filter(None, hints), "; `umbel --help` lists the commands.")
        print(f"umbel: '{said}' is not a command{hint}", file=sys.stderr)
    return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
