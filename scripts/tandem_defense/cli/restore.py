"""``tandem-defense restore``: restore pictures with t-DIPs."""

import argparse

from tandem_defense.cli.arguments import count, device_name, number, size
from tandem_defense.cli.jobs import plan
from tandem_defense.startup import quick_start


def add(commands) -> None:
    """The subcommand's arguments."""
    command = commands.add_parser(
        "restore",
        help="remove adversarial perturbations from pictures with t-DIPs",
        description="Restore pictures with t-DIPs. Orientation, EXIF data, color profile,"
        " resolution and transparency are kept where the format has them.",
    )
    add_argument = command.add_argument
    add_argument(
        "pictures",
        nargs="+",
        help="files, folders (all pictures in them), or - for standard input;"
        " RGB or gray, 8 bits (gray also 16), any size",
    )
    add_argument(
        "-o",
        "--output",
        required=True,
        help="a file; a folder for several pictures, which keep their names; - for standard output",
    )
    add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out pictures whose output is there: go on where a run was stopped",
    )
    add_argument(
        "--iterations", type=count, default=1000, help="steps of the second network (%(default)s)"
    )
    add_argument(
        "--first-iterations",
        type=count,
        default=100,
        help="steps of the first network (%(default)s)",
    )
    add_argument(
        "--feature-scale",
        type=count,
        default=8,
        help="divides the second network's widths (%(default)s)",
    )
    add_argument(
        "--max-size", type=size, help="make larger pictures smaller: pixels of the longer side"
    )
    add_argument(
        "--tile",
        type=size,
        help="cut larger pictures into squares of so many pixels, each restored by itself, and"
        " blend them: less memory, but no network sees the whole picture",
    )
    add_argument("--overlap", type=number, default=32, help="pixels that tiles share (%(default)s)")
    add_argument("--seed", type=number, default=0, help="of weights and input noise (%(default)s)")
    add_argument("--device", type=device_name, default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add_argument("--threads", type=count, help="CPU threads (all there are)")
    command.set_defaults(run=restore)


def restore(options: argparse.Namespace) -> None:
    """Check everything, say what it will take, restore, write each picture when it is done.

    Raises ValueError or OSError before anything is computed, and Running for what fails later.
    """
    jobs = plan(options)
    if not jobs:
        return
    with quick_start():  # after the checks, because it takes seconds
        from tandem_defense import device
        from tandem_defense.cli import restoring

    chosen = device.prepare(options.threads or device.cpus(), options.device)
    restoring.run(jobs, options, chosen)
