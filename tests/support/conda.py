"""A stand-in for conda, as far as Snakemake uses it, over a local channel; for tests.

Solving and installing are real (py-rattler), from ``file://`` as from any channel. The packages
are empty, but for `python`, which starts the Python that runs the tests and leaves a note.
"""

import asyncio
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import rattler
import yaml
from rattler.exceptions import SolverError

PLATFORM = "linux-64"
CLIENT = """#!/bin/sh
exec {python} {this} "$@"
"""
ACTIVATE = """export CONDA_PREFIX="$1"
export PATH="$1/bin:$PATH"
"""
PYTHON = """#!/bin/sh
echo "$CONDA_PREFIX" >>{notes}
exec {python} "$@"
"""


def package(channel: Path, name: str, version: str, files: dict[str, str]) -> None:
    """Put a package into a channel: executables by their path."""
    info = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": []}
    info |= {"subdir": PLATFORM, "arch": "x86_64", "platform": "linux"}
    paths = [{"_path": path, "path_type": "hardlink"} for path in files]
    contents = {
        "info/index.json": json.dumps(info),
        "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}),
        "info/files": "\n".join(files),
        **files,
    }
    folder = channel / PLATFORM
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / f"{name}-{version}-0.tar.bz2", "w:bz2") as archive:
        for path, text in contents.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(text.encode()), 0o755
            archive.addfile(member, io.BytesIO(text.encode()))


def make_channel(channel: Path, specs: list[str], notes: Path) -> None:
    """A channel with a package for every spec ``name =version``; jobs note their prefix."""
    for spec in specs:
        name, _, version = spec.partition(" =")
        version = version or "1"
        script = PYTHON.format(notes=notes, python=sys.executable)
        package(channel, name, version, {"bin/python": script} if name == "python" else {})
    (channel / "noarch").mkdir()
    asyncio.run(rattler.index.index_fs(channel))


def make_client(base: Path, channel: Path) -> Path:
    """A base environment whose bin/ has `conda` and `activate`; the folder to put on PATH."""
    folder = base / "bin"
    folder.mkdir(parents=True)
    client = CLIENT.format(python=sys.executable, this=f"{Path(__file__)} {base} {channel}")
    (folder / "conda").write_text(client)
    (folder / "conda").chmod(0o755)
    (folder / "activate").write_text(ACTIVATE)
    return folder


async def create(file: Path, prefix: Path, channel: Path, cache: Path) -> None:
    """Solve an environment file with the local channel in place of its channels, and install it.

    What conda would leave to pip is noted in `prefix`/pip.txt.
    """
    given = yaml.safe_load(file.read_text())["dependencies"]
    for part in given:
        if isinstance(part, dict):
            prefix.mkdir(parents=True, exist_ok=True)
            (prefix / "pip.txt").write_text("\n".join(part["pip"]))
    specs = [rattler.MatchSpec(spec, strict=True) for spec in given if isinstance(spec, str)]
    gateway = rattler.Gateway(cache_dir=cache / "repodata")
    records = await rattler.solve([channel.as_uri()], specs, gateway=gateway, platforms=[PLATFORM])
    await rattler.install(records, prefix, cache_dir=cache / "packages", show_progress=False)


def main(base: str, channel: str, *words: str) -> None:
    """The commands that Snakemake gives."""
    match words:
        case ("--version",):
            print("conda 25.1.1")
        case ("info", "--json"):
            print(json.dumps({"conda_prefix": base, "platform": PLATFORM}))
        case ("config", "--get", "channel_priority", "--json"):
            print(json.dumps({"get": {"channel_priority": "strict"}}))
        case (
            "env",
            "create",
            "--quiet",
            "--no-default-packages",
            "--file",
            file,
            "--prefix",
            prefix,
        ):
            try:
                asyncio.run(create(Path(file), Path(prefix), Path(channel), Path(base) / "cache"))
            except SolverError as error:
                sys.exit(f"LibMambaUnsatisfiableError: {error}")
        case ("clean", "-y", "--tarballs"):
            pass
        case _:
            sys.exit(f"this stand-in does not know: conda {' '.join(words)}")


if __name__ == "__main__":
    status = 0
    try:
        main(*sys.argv[1:])
    except SystemExit as error:
        print(error, file=sys.stderr)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # rattler's threads may crash an interpreter that is being taken down
