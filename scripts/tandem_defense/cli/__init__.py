"""The command ``tandem-defense``: defend pictures and compare defenses, without Snakemake."""

import argparse
import sys

from tandem_defense import __version__
from tandem_defense.cli import evaluate, restore
from tandem_defense.cli.arguments import Parser, Running


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Returns the exit status: 2 for input that cannot be used, which is seen before anything is
    computed, 1 where the work failed, 130 where it was interrupted.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # an ASCII terminal, a name that is no text
    try:
        options = parser().parse_args(arguments)
        options.run(options)
    except Running as error:
        return _failed(error, 1)
    except (ValueError, OSError, ImportError) as error:
        return _failed(error, 2)
    except KeyboardInterrupt:
        return 130
    return 0


def _failed(error: Exception, status: int) -> int:
    print(f"tandem-defense: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def parser() -> argparse.ArgumentParser:
    """The command line; every subcommand is a module with `add`, which sets its `run`."""
    top = Parser(prog="tandem-defense", description=__doc__.replace("``", ""))
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    restore.add(commands)
    evaluate.add(commands)
    return top
