"""The command ``tandem-defense``: defend pictures and compare defenses, without Snakemake."""

import argparse
import sys

from tandem_defense.cli import evaluate, restore


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status (2 for input that cannot be used)."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        print(f"tandem-defense: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line; every subcommand is a module with `add`, which sets its `run`."""
    top = argparse.ArgumentParser(prog="tandem-defense", description=__doc__)
    commands = top.add_subparsers(required=True)
    restore.add(commands)
    evaluate.add(commands)
    return top
