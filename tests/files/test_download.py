"""Downloads from a server that behaves as servers do, and from a folder."""

import gzip
import hashlib
import io
import logging
import os
import re
import resource
import subprocess
import sys
import zipfile

import pytest
import source as answers
from cluster import wait_for
from source import dropping, file, first, slow, stalling, status

from tandem_defense.files.download import DownloadError, Patience, get
from tandem_defense.files.manifest import check, read_manifest, read_members

CONTENT = bytes(range(256)) * 1000
QUICK = Patience(timeout=5, attempts=3, backoff=0.01, report=0)


@pytest.fixture
def source():
    with answers.running() as found:
        yield found


def describe(content: bytes, *urls: str, **more) -> dict:
    """A manifest's entry."""
    digest = hashlib.sha256(content).hexdigest()
    return {"urls": list(urls), "sha256": digest, "size": len(content)} | more


def files_in(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def message(*arguments, **settings) -> str:
    """What a download that must fail says."""
    with pytest.raises(DownloadError) as caught:
        get(*arguments, patience=settings.pop("patience", QUICK), **settings)
    return str(caught.value)


# Files


def test_a_file_arrives(source, tmp_path):
    entry = describe(CONTENT, source.add("/a", file(CONTENT)))
    get("a", entry, tmp_path / "new/a", patience=QUICK)
    assert (tmp_path / "new/a").read_bytes() == CONTENT
    assert files_in(tmp_path / "new") == ["a"]  # nothing else is left


def test_a_gzipped_file_is_unpacked_and_checked(source, tmp_path):
    url = source.add("/a.gz", file(gzip.compress(CONTENT)))
    get("a", describe(CONTENT, url, unpack="gzip"), tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT

    other = describe(CONTENT[:-1], url, unpack="gzip")  # unpacks to more than the manifest says
    assert f"more than the expected {len(CONTENT) - 1} bytes" in message("a", other, tmp_path / "b")
    packed = gzip.compress(CONTENT)
    for damaged in (packed[:-20], packed[:-8] + bytes(8), CONTENT):
        source.add("/a.gz", file(damaged))
        said = message("a", describe(CONTENT, url, unpack="gzip"), tmp_path / "b")
        assert "cannot be unpacked" in said
    assert files_in(tmp_path) == ["a"]


def test_the_first_digits_of_a_hash_are_compared(source, tmp_path):
    entry = describe(CONTENT, source.add("/a", file(CONTENT)))
    right = {"urls": entry["urls"], "sha256": entry["sha256"][:8]}
    get("a", right, tmp_path / "a", patience=QUICK)
    wrong = right | {"sha256": "00000000"}
    assert f"SHA-256 is {entry['sha256']}, expected 00000000" in message("a", wrong, tmp_path / "b")
    assert files_in(tmp_path) == ["a"]


def test_a_slow_server_is_waited_for_and_progress_is_shown(source, tmp_path, caplog):
    entry = describe(CONTENT, source.add("/a", slow(CONTENT, pieces=8)))
    with caplog.at_level(logging.INFO):
        get("a", entry, tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT and len(source.requests) == 1
    assert "a: 0.3 MB of 0.3 MB" in caplog.messages
    assert sum("MB of 0.3 MB" in m for m in caplog.messages) > 1


def test_a_stalled_connection_is_given_up_and_resumed(source, tmp_path):
    answer = first(1, stalling(source, CONTENT, 100_000), file(CONTENT))
    entry = describe(CONTENT, source.add("/a", answer))
    get("a", entry, tmp_path / "a", patience=Patience(timeout=2, backoff=0.01))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert source.requests == [("/a", None), ("/a", "bytes=100000-")]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_dropped_connection_is_resumed(source, tmp_path, ranges):
    answer = first(1, dropping(CONTENT, 100_000), file(CONTENT, ranges))
    entry = describe(CONTENT, source.add("/a", answer))
    get("a", entry, tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert source.requests == [("/a", None), ("/a", "bytes=100000-")]


def test_a_line_that_drops_often_but_moves_gets_through(source, tmp_path):
    """More drops than attempts: each brought something new."""
    entry = describe(CONTENT, source.add("/a", dropping(CONTENT, 30_000)))
    get("a", entry, tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert len(source.requests) == 9 > QUICK.attempts


def test_what_arrived_is_kept_for_the_next_call(source, tmp_path):
    """The server knows no ranges, so the second attempt comes no further than the first."""
    url = source.add("/a", dropping(CONTENT, 100_000, ranges=False))
    entry = describe(CONTENT, url)
    said = message("a", entry, tmp_path / "a")
    assert "the connection ended after 0.1 MB of 0.3 MB, 3 times without progress" in said
    assert "0.1 MB have arrived and are kept" in said and url in said
    assert files_in(tmp_path) == [".a.part"]
    assert (tmp_path / ".a.part").read_bytes() == CONTENT[:100_000]

    source.add("/a", status(404))  # a page that says "not found" does not touch the piece
    assert "404" in message("a", entry, tmp_path / "a")
    assert (tmp_path / ".a.part").read_bytes() == CONTENT[:100_000]

    page = b"<html>log in</html>"
    for answer, expected in (
        (file(page, ranges=False, kind="text/html; charset=utf-8"), "web page"),
        (file(page, ranges=True, kind="text/html; charset=utf-8"), "less than what had arrived"),
        (file(page.ljust(len(CONTENT)), ranges=False, kind=None), "web page"),
    ):
        source.add("/a", answer)
        assert expected in message("a", entry, tmp_path / "a")
        assert (tmp_path / ".a.part").read_bytes() == CONTENT[:100_000]

    source.add("/a", file(CONTENT))
    get("a", entry, tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT and files_in(tmp_path) == ["a"]
    assert source.requests[-1] == ("/a", "bytes=100000-")


def test_a_killed_download_goes_on(source, root, tmp_path):
    """Killed, not interrupted: what had reached the disk counts."""
    entry = describe(CONTENT, source.add("/a", stalling(source, CONTENT, 200_000)))
    process = subprocess.Popen([sys.executable, "-c", program(entry, tmp_path / "a")], cwd=root)
    part = tmp_path / ".a.part"
    fed = lambda: part.exists() and part.stat().st_size > 100_000  # noqa: E731
    wait_for(lambda: process.poll() is not None or fed(), "a part of the file")
    process.kill()
    process.wait()
    assert files_in(tmp_path) == [".a.part"]
    source.add("/a", file(CONTENT))
    get("a", entry, tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert int(source.requests[-1][1].removeprefix("bytes=").rstrip("-")) > 100_000


def test_a_complete_piece_is_not_fetched_again(source, tmp_path):
    (tmp_path / ".a.part").write_bytes(CONTENT)
    get("a", describe(CONTENT, source.add("/a", file(CONTENT))), tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [b"x" * 1000, b"x" * (len(CONTENT) + 1)])
def test_a_piece_of_something_else_is_not_trusted(source, tmp_path, stale):
    (tmp_path / ".a.part").write_bytes(stale)
    get("a", describe(CONTENT, source.add("/a", file(CONTENT))), tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT and source.requests[-1] == ("/a", None)


def test_mirrors_are_tried_in_order(source, tmp_path):
    half = len(CONTENT) // 2
    urls = [
        source.add("/gone", status(404)),
        source.add("/broken", dropping(CONTENT, half, ranges=False)),
        source.add("/right", file(CONTENT)),
        source.add("/spare", file(CONTENT)),
    ]
    get("a", describe(CONTENT, *urls), tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT
    asked = [path for path, _ in source.requests]
    # Not found is final; a broken line is tried as often as patience says.
    assert asked == ["/gone"] + ["/broken"] * QUICK.attempts + ["/right"]
    assert source.requests[-1][1] == f"bytes={half}-"  # and the half of the second counts


def test_a_busy_server_is_asked_again(source, tmp_path):
    answer = first(2, status(503), file(CONTENT))
    get("a", describe(CONTENT, source.add("/a", answer)), tmp_path / "a", patience=QUICK)
    assert len(source.requests) == 3


def test_nobody_answers(tmp_path):
    with answers.running() as source:
        url = source.url("/a")
    said = message("a", describe(CONTENT, url), tmp_path / "a")
    assert "no connection" in said and url in said and "`offline`" in said


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        (b"<!DOCTYPE html><p>Log in", "text/html", "web page"),
        (b"\n<!doctype HTML><p>Log in".ljust(len(CONTENT)), None, "web page"),
        (b"x" * len(CONTENT), "application/octet-stream", "SHA-256 is"),
        (CONTENT[:-1], "application/octet-stream", f"expected {len(CONTENT)}"),
    ],
    ids=["web page", "web page without type", "wrong, right size", "other size"],
)
def test_wrong_content_never_gets_the_name(source, tmp_path, content, kind, expected):
    (tmp_path / "a").write_bytes(b"what was there")
    bad = source.add("/bad", file(content, kind=kind))
    said = message("a", describe(CONTENT, bad), tmp_path / "a")
    assert expected in said and bad in said and "Run the same command again" in said
    assert (tmp_path / "a").read_bytes() == b"what was there"
    assert files_in(tmp_path) == ["a"]
    good = source.add("/good", file(CONTENT))
    get("a", describe(CONTENT, bad, good), tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT


# Archives


def pack(**files: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return data.getvalue()


IMAGES = {"1.png": b"one" * 5000, "2.png": os.urandom(20_000)}
MEMBERS = [
    {"file": n, "sha256": hashlib.sha256(c).hexdigest(), "size": len(c)} for n, c in IMAGES.items()
]
INSIDE = {f"repo-1a2b/data/images/{name}": content for name, content in IMAGES.items()}


def archive(*urls: str) -> dict:
    return {"urls": list(urls), "folder": "data/images", "members": "members.csv"}


def test_an_archive_is_unpacked_and_every_file_checked(source, tmp_path):
    packed = pack(**INSIDE, **{"repo-1a2b/README.md": b"not wanted"})
    answer = first(1, answers.dropping_chunks(packed, 9_000), file(packed, ranges=False))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/old.png").write_bytes(b"")
    entry = archive(source.add("/a.zip", answer))
    get("images", entry, tmp_path / "images", members=MEMBERS, patience=QUICK)
    assert {p.name: p.read_bytes() for p in (tmp_path / "images").iterdir()} == IMAGES
    assert files_in(tmp_path) == ["images"] and len(source.requests) == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (pack(**INSIDE, **{"repo-1a2b/../../evil": b"x"}), "'repo-1a2b/../../evil', which leads"),
        (pack(**INSIDE, **{"/tmp/evil": b"x"}), "'/tmp/evil', which leads out"),
        (pack(**INSIDE, **{"r\\..\\..\\evil": b"x"}), "which leads out"),
        (pack(**INSIDE | {"repo-1a2b/data/images/2.png": b"x" * 20_000}), "2.png in it is wrong"),
        (pack(**INSIDE | {"repo-1a2b/data/images/2.png": b"x" * 20_001}), "more than the expected"),
        (pack(**{"repo-1a2b/data/images/1.png": IMAGES["1.png"]}), "lacks data/images/2.png"),
        (pack(**INSIDE)[:-200], "not a zip archive"),
        (b"no archive at all", "not a zip archive"),
    ],
    ids=["parents", "absolute", "backslashes", "altered", "larger", "missing", "cut", "text"],
)
def test_a_wrong_archive_changes_nothing(source, tmp_path, content, expected):
    place = tmp_path / "a/b/c"
    (place / "images").mkdir(parents=True)
    (place / "images/old.png").write_bytes(b"")
    entry = archive(source.add("/a.zip", file(content)))
    assert expected in message("images", entry, place / "images", members=MEMBERS)
    assert files_in(place) == ["images"] and files_in(place / "images") == ["old.png"]
    assert not list(tmp_path.rglob("evil"))


def test_an_archive_without_length_that_breaks_off_says_so(source, tmp_path):
    entry = archive(source.add("/a.zip", answers.dropping_chunks(pack(**INSIDE), 5_000)))
    said = message("images", entry, tmp_path / "images", members=MEMBERS)
    assert "the connection broke (it ended early), 3 times without progress" in said
    assert files_in(tmp_path) == [".images.part"]


# A full disk


def program(entry: dict, destination, members=None) -> str:
    """A process of its own that downloads `entry`."""
    return (
        "import sys; sys.path.insert(0, 'scripts');"
        "from tandem_defense.files import download;"
        f"download.get('a', {entry!r}, {str(destination)!r}, members={members!r})"
    )


def test_a_full_disk_says_so_and_loses_nothing(source, root, tmp_path):
    """A file system of 128 kB; when there is room, the download goes on where it was."""
    entry = describe(CONTENT, source.add("/a", file(CONTENT)))
    disk = tmp_path / "disk"
    disk.mkdir()
    script = tmp_path / "script.sh"
    script.write_text(
        'set -e; mount -t tmpfs -o size="$1" none "$2"; echo kept > "$2/b"\n'
        '"$3" -c "$4" && exit 9; ls -A "$2"; cat "$2/b"\n'
        'mount -o remount,size=1m "$2"; "$3" -c "$4"; ls -A "$2"; sha256sum < "$2/a"\n'
    )
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", disk], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount a file system of his own")
    arguments = ["128k", disk, sys.executable, program(entry, disk / "a")]
    done = subprocess.run(
        [*unshare, "sh", script, *arguments], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DownloadError: a: there is no room left in" in done.stderr
    assert "Make room and run the same command again" in done.stderr
    assert done.stdout.split() == [".a.part", "b", "kept", "a", "b", entry["sha256"], "-"]
    assert [wanted for _, wanted in source.requests][0] is None
    assert int(source.requests[1][1].removeprefix("bytes=").rstrip("-")) > 60_000


@pytest.mark.parametrize("packed", [False, True])
def test_a_quota_says_so_and_loses_nothing(source, root, tmp_path, packed):
    """As a full disk, where nobody can mount one: no file may have more than 100 kB."""
    if packed:  # it arrives, and there is no room to unpack it
        entry = describe(CONTENT, source.add("/a", file(gzip.compress(CONTENT))), unpack="gzip")
    else:
        entry = describe(CONTENT, source.add("/a", file(CONTENT)))

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    (tmp_path / "a").write_bytes(b"what was there")
    command = [sys.executable, "-c", program(entry, tmp_path / "a")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, preexec_fn=limit)
    assert "DownloadError: a: there is no room left in" in done.stderr
    assert (tmp_path / "a").read_bytes() == b"what was there"
    assert files_in(tmp_path) == [".a.part", "a"]
    get("a", entry, tmp_path / "a", patience=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT and source.requests[-1][1] is not None


# Offline


def test_a_local_copy_is_taken_and_checked(source, tmp_path):
    entry = describe(CONTENT, source.add("/a", file(CONTENT)))
    shelf = tmp_path / "shelf"
    (shelf / "set").mkdir(parents=True)
    assert f"put it at {shelf}/set/a," in message("set/a", entry, tmp_path / "a", offline=shelf)
    (shelf / "set/a").write_bytes(b"x" * len(CONTENT))
    said = message("set/a", entry, tmp_path / "a", offline=shelf)
    assert f"{shelf}/set/a is not set/a: its SHA-256 is" in said and entry["sha256"] in said
    (shelf / "set/a").write_bytes(CONTENT)
    get("set/a", entry, tmp_path / "a", offline=shelf)
    assert (tmp_path / "a").read_bytes() == CONTENT and not source.requests
    assert (shelf / "set/a").read_bytes() == CONTENT


def test_local_copies_may_be_packed_or_not(tmp_path):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    entry = describe(CONTENT, "http://unused", unpack="gzip")
    assert "shelf/a or" in message("a", entry, tmp_path / "a", offline=shelf)
    (shelf / "a.gz").write_bytes(gzip.compress(CONTENT, 1))  # packed differently: same content
    get("a", entry, tmp_path / "a", offline=shelf)
    (shelf / "a.gz").rename(shelf / "unused")
    (shelf / "a").write_bytes(CONTENT)
    get("a", entry, tmp_path / "b", offline=shelf)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == CONTENT


def test_local_copies_of_archives(tmp_path):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    options = {"members": MEMBERS, "offline": shelf}
    (shelf / "images.zip").write_bytes(pack(**INSIDE))
    get("images", archive(), tmp_path / "packed", **options)
    (shelf / "images").mkdir()
    assert "lacks 1.png" in message("images", archive(), tmp_path / "loose", **options)
    for name, content in IMAGES.items():
        (shelf / "images" / name).write_bytes(content)
    get("images", archive(), tmp_path / "loose", **options)
    for folder in ("packed", "loose"):
        assert {p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()} == IMAGES
    (shelf / "images/2.png").write_bytes(b"x" * len(IMAGES["2.png"]))
    said = message("images", archive(), tmp_path / "loose", **options)
    assert "2.png in it is wrong: its SHA-256 is" in said
    assert (tmp_path / "loose/2.png").read_bytes() == IMAGES["2.png"]


# What the project ships


def test_the_manifest_is_complete(root):
    manifest = read_manifest(root / "resources/downloads.toml")
    allowed = {"urls", "sha256", "size", "license", "citation", "unpack", "members", "folder"}
    for name, entry in manifest.items():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", name) and set(entry) <= allowed
        assert entry["urls"] and all(u.startswith("https://") for u in entry["urls"])
        assert entry["license"] and entry["citation"]
        if "members" in entry:
            members = read_members(root / "resources" / entry["members"])
            assert len(members) == len({m["file"] for m in members}) == 1000
            assert all(re.fullmatch("[0-9a-f]{64}", m["sha256"]) for m in members)
        else:
            assert re.fullmatch("[0-9a-f]{64}|[0-9a-f]{8}", entry["sha256"])
            assert len(entry["sha256"]) == 8 or entry["size"] > 0
        page = (root / "docs/data.md").read_text()
        assert f"`{name}`" in page, f"docs/data.md does not name {name}"


def test_the_manifest_agrees_with_torchvision(root):
    """Addresses and hashes of the checkpoints are torchvision's own."""
    from torchvision.models import get_model_weights

    manifest = read_manifest(root / "resources/downloads.toml")
    found = [name for name in manifest if name.startswith("torchvision/")]
    assert len(found) == 4
    for name in found:
        architecture, weights = name.removeprefix("torchvision/").removesuffix(".pth").split("-")
        (url,) = manifest[name]["urls"]
        assert url == get_model_weights(architecture)[weights].url
        assert url.endswith(f"-{manifest[name]['sha256']}.pth")


def test_the_manifest_is_that_of_the_real_data(root, tmp_path):
    shared = root.parent / "shared/data"
    if not shared.is_dir():
        pytest.skip("the real data are not beside this checkout")
    manifest = read_manifest(root / "resources/downloads.toml")
    for name in [n for n in manifest if n.startswith("mnist/")]:
        get(name, manifest[name], tmp_path / name, offline=shared)
    check(shared / "nips2017dev/images.csv", manifest["nips2017/images.csv"])
    for member in read_members(root / "resources/nips2017dev.csv"):
        if (path := shared / "nips2017dev/images" / member["file"]).is_file():
            check(path, member)
