"""The command restores pictures of every kind, and says what is wrong before it computes."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from skimage import data

from tandem_defense import __version__, cli
from tandem_defense.cli import restoring
from tandem_defense.cli.jobs import Job
from tandem_defense.defenses.dip import TandemDIP
from tandem_defense.restoration import cost

QUICK = ["--iterations", "2", "--first-iterations", "1", "--feature-scale", "32", "--threads", "1"]
COMMAND = [sys.executable, "-m", "tandem_defense", "restore"]
PROFILE = b"a profile, as far as Pillow looks at it" * 4


def picture(path, mode="RGB", size=(70, 65), seed=0, **kept):
    rng = np.random.default_rng(seed)
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "LA": 2}[mode]
    pixels = rng.integers(0, 256, (size[1], size[0], channels), np.uint8)
    Image.fromarray(pixels.squeeze()).save(path, **kept)
    return pixels


def restore(*arguments):
    return cli.main(["restore", *map(str, arguments), *QUICK])


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def environment(root, **more):
    return os.environ | {"PYTHONPATH": str(root / "scripts"), "OMP_NUM_THREADS": "1"} | more


# --- pictures of every kind ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_modes_and_odd_sizes(tmp_path, mode, capsys):
    before = picture(tmp_path / "in.png", mode)
    out = tmp_path / "out.png"
    assert restore(tmp_path / "in.png", "-o", out) == 0
    with Image.open(out) as restored:
        assert restored.mode == mode and restored.size == (70, 65)
        if mode in ("RGBA", "LA"):  # transparency is not the network's business
            assert np.array_equal(np.asarray(restored)[..., -1], before[..., -1])
    said = capsys.readouterr().err
    assert "1 picture, 1 + 2 steps: about" in said and "GB" in said
    assert f"in.png -> {out}" in said


@pytest.mark.parametrize("size", [(28, 28), (2, 100), (48, 64), (200, 20)])
def test_a_small_picture_is_padded(tmp_path, size):
    picture(tmp_path / "in.png", size=size)
    picture(tmp_path / "other.png")
    assert restore(tmp_path, "-o", tmp_path / "out") == 0
    with Image.open(tmp_path / "out/in.png") as restored:
        assert restored.size == size
    assert (tmp_path / "out/other.png").exists()


def test_the_seed_decides(tmp_path):
    picture(tmp_path / "in.png")
    for name, seed in {"a": "0", "b": "0", "c": "1"}.items():
        restore(tmp_path / "in.png", "-o", tmp_path / f"{name}.png", "--seed", seed)
    a, b, c = ((tmp_path / f"{n}.png").read_bytes() for n in "abc")
    assert a == b != c


def test_transparency_is_flattened_on_white_where_the_format_has_none(tmp_path, capsys):
    clear = np.zeros((65, 70, 4), np.uint8)  # black, and transparent
    Image.fromarray(clear).save(tmp_path / "in.png")
    for ending in ("jpg", "bmp", "ppm"):
        assert restore(tmp_path / "in.png", "-o", tmp_path / f"out.{ending}") == 0
        assert (pixels(tmp_path / f"out.{ending}") == 255).all()
        assert "has no transparency: flattened on white" in capsys.readouterr().err


def described(path, **how):
    """A picture on its side, with everything that belongs to a photograph."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a street"  # orientation: turn it right; description
    Image.fromarray(data.astronaut()[:65, :90]).save(
        path, exif=exif, dpi=(300, 300), icc_profile=PROFILE, **how
    )


@pytest.mark.parametrize("source", ["png", "jpg", "tiff", "webp"])
@pytest.mark.parametrize("target", ["png", "jpg", "tiff", "webp"])
def test_orientation_profile_and_resolution_are_kept(tmp_path, source, target):
    described(tmp_path / f"in.{source}")
    out = tmp_path / f"out.{target}"
    assert restore(tmp_path / f"in.{source}", "-o", out) == 0
    with Image.open(out) as restored:
        assert restored.size == (65, 90)  # upright
        exif = restored.getexif()
        assert exif.get(0x0112, 1) == 1 and exif[0x010E] == "a street"
        assert restored.info["icc_profile"] == PROFILE
        if "webp" not in (source, target):
            assert restored.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_turned_picture_is_restored_as_the_upright_one(tmp_path):
    described(tmp_path / "turned.png")
    Image.fromarray(np.rot90(data.astronaut()[:65, :90], -1)).save(tmp_path / "upright.png")
    for name in ("turned", "upright"):
        restore(tmp_path / f"{name}.png", "-o", tmp_path / f"{name}-out.png")
    assert np.array_equal(pixels(tmp_path / "turned-out.png"), pixels(tmp_path / "upright-out.png"))


def test_what_a_format_has_no_room_for_is_said(tmp_path, capsys):
    described(tmp_path / "in.png")
    assert restore(tmp_path / "in.png", "-o", tmp_path / "out.ppm") == 0
    said = capsys.readouterr().err
    assert "PPM has no room for its color profile, resolution, EXIF data" in said.replace("\n", " ")


def test_cmyk_is_converted_with_a_word(tmp_path, capsys):
    Image.new("CMYK", (70, 65), (0, 255, 255, 0)).save(tmp_path / "in.jpg", icc_profile=PROFILE)
    assert restore(tmp_path / "in.jpg", "-o", tmp_path / "out.jpg") == 0
    said = capsys.readouterr().err
    assert "CMYK values were converted to RGB" in said and "profile" in said
    assert "icc_profile" not in Image.open(tmp_path / "out.jpg").info


def deep_gray():
    """16 bits, between the steps of 8."""
    steps = np.random.default_rng(1).integers(0, 65536, (65, 70), np.uint16)
    return steps // 2 + 13000


@pytest.mark.parametrize("target", ["png", "tiff"])
def test_sixteen_bits_in_any_byte_order(tmp_path, target):
    Image.fromarray(deep_gray()).save(tmp_path / "little.png")
    tifffile.imwrite(tmp_path / "big.tiff", deep_gray(), byteorder=">")
    for name in ("little.png", "big.tiff"):
        assert restore(tmp_path / name, "-o", tmp_path / f"{name}-out.{target}") == 0
    little, big = (pixels(tmp_path / f"{n}-out.{target}") for n in ("little.png", "big.tiff"))
    assert little.dtype == np.uint16 and np.array_equal(little, big)
    assert (little % 257 != 0).any()  # all values of 8 bits are multiples


def write_deep(path):
    """Pictures of more than 8 bits that Pillow would cut to 8 without a word."""
    color = np.full((65, 70, 3), 40000, np.uint16)
    if path.suffix == ".ppm":
        path.write_bytes(b"P6 70 65 65535\n" + color.astype(">u2").tobytes())
    elif path.suffix == ".png":  # Pillow cannot write one

        def chunk(kind, content):
            body = kind + content
            return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in color)
        header = struct.pack(">IIBBBBB", 70, 65, 16, 2, 0, 0, 0)
        parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    else:
        layouts = {"planes": {"planarconfig": "separate"}, "packed": {"compression": "deflate"}}
        images = {"planes": color.transpose(2, 0, 1), "float": np.zeros((65, 70), np.float32)}
        photometric = {} if path.stem == "float" else {"photometric": "rgb"}
        how = layouts.get(path.stem, {}) | photometric
        tifffile.imwrite(path, images.get(path.stem, color), **how)


@pytest.mark.parametrize(
    "name", ["color.png", "color.ppm", "color.tiff", "planes.tiff", "packed.tiff", "float.tiff"]
)
def test_other_deep_pictures_are_refused(tmp_path, capsys, name):
    write_deep(tmp_path / name)
    assert restore(tmp_path / name, "-o", tmp_path / "out.png") == 2
    assert "more than 8 bits per value" in capsys.readouterr().err


def test_several_frames_are_refused(tmp_path, capsys):
    frames = [Image.new("L", (70, 65), shade) for shade in (0, 90, 200)]
    frames[0].save(tmp_path / "in.gif", save_all=True, append_images=frames[1:])
    assert restore(tmp_path / "in.gif", "-o", tmp_path / "out.png") == 2
    assert "has 3 frames, expected one" in capsys.readouterr().err


# --- several pictures ---------------------------------------------------------------------------


def test_pictures_and_folders_at_once(tmp_path, capsys):
    (tmp_path / "in/below").mkdir(parents=True)
    names = ["one.png", "below/two.png", "below/three.webp", "wide.jpg"]
    for seed, name in enumerate(names):
        picture(tmp_path / "in" / name, size=(90, 65) if "wide" in name else (70, 65), seed=seed)
    (tmp_path / "in/notes.txt").write_text("no picture")
    picture(tmp_path / "more.png", "L", seed=9)
    out = tmp_path / "out"
    assert restore(tmp_path / "in", tmp_path / "more.png", "-o", out) == 0
    assert "5 pictures, 1 + 2 steps" in capsys.readouterr().err
    made = sorted(str(f.relative_to(out)) for f in out.rglob("*.*"))
    assert made == sorted([*names, "more.png"])
    # A picture is restored as it is by itself.
    restore(tmp_path / "in/below/two.png", "-o", tmp_path / "alone.png")
    assert (tmp_path / "alone.png").read_bytes() == (out / "below/two.png").read_bytes()
    # What is there can be left out.
    (out / "one.png").unlink()
    capsys.readouterr()
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*.*")}
    assert restore(tmp_path / "in", tmp_path / "more.png", "-o", out, "--skip-existing") == 0
    assert "1 picture, 1 + 2 steps" in capsys.readouterr().err
    assert (out / "one.png").exists()
    assert before == {f: f.stat().st_mtime_ns for f in before}


def test_standard_input_and_output(tmp_path, root):
    picture(tmp_path / "in.png")
    content = (tmp_path / "in.png").read_bytes()
    run = subprocess.run(
        [*COMMAND, "-", "-o", "-", *QUICK],
        input=content,
        capture_output=True,
        env=environment(root),
        check=True,
    )
    restore(tmp_path / "in.png", "-o", tmp_path / "out.png")
    assert run.stdout == (tmp_path / "out.png").read_bytes()


def test_a_picture_may_replace_itself(tmp_path):
    picture(tmp_path / "in.png")
    os.chmod(tmp_path / "in.png", 0o644)
    (tmp_path / "link.png").symlink_to("in.png")
    before = (tmp_path / "in.png").read_bytes()
    assert restore(tmp_path / "link.png", "-o", tmp_path / "link.png") == 0
    assert (tmp_path / "in.png").read_bytes() != before
    assert (tmp_path / "link.png").is_symlink()


# --- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["none.png", "-o", "out.png"], "none.png does not exist"),
        (["text.png", "-o", "out.png"], "cannot be read as a picture"),
        (["in.png", "-o", "out.xyz"], "out.xyz: this ending cannot be written; expected one of"),
        (["in.png", "-o", "out.gif"], "this ending cannot be written"),
        (["in.png", "-o", "no/out.png"], "no is not a folder"),
        (["in.png", "-o", "/proc/out.png"], "nothing can be written into /proc"),
        (["in.png", "-o", "/dev/null"], "/dev/null is not a regular file"),
        (["in.png", "in.png", "-o", "out.png"], "2 pictures need a folder"),
        (["in.png", "in.png", "-o", "out/"], "would be the output of several pictures"),
        (["empty", "-o", "out"], "empty holds no picture"),
        (["deep.png", "-o", "kept.jpg"], "JPEG has 8 bits per value, the picture 16"),
        (["long.png", "-o", "out.webp"], "cannot be written as WEBP"),
        (["in.png", "-o", "out.png", "--tile", "64", "--overlap", "40"], "at most half of"),
        (["in.png", "-o", "out.png", "--iterations", "x"], "'x', expected a whole number >= 1"),
        (["in.png", "-o", "out.png", "--iterations", "0"], "expected a whole number >= 1"),
        (["in.png", "-o", "out.png", "--device", "gpu"], "expected auto, cpu, cuda, cuda:1 or mps"),
        (["in.png", "-o", "out.png", "--device", "cuda"], "there is no CUDA GPU"),
        (["in.png", "-o", "out.png", "--device", "mps"], "there is no MPS device"),
        (["in.png"], "the following arguments are required: -o/--output"),
        ([], "the following arguments are required: pictures"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_before_anything_is_computed(
    tmp_path, monkeypatch, capsys, arguments, why
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_bytes(b"no picture")
    picture("in.png")
    Image.fromarray(deep_gray()).save("deep.png")
    Image.new("L", (16384, 64)).save("long.png")  # a side more than WebP has
    (tmp_path / "kept.jpg").write_bytes(b"kept")
    assert restore(*arguments) == 2
    said = capsys.readouterr().err
    assert why in said and len(said.splitlines()) == 1
    assert (tmp_path / "kept.jpg").read_bytes() == b"kept"


def test_no_exif_that_a_jpeg_cannot_hold(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x010E] = "x" * 70000
    picture(tmp_path / "in.png", exif=exif)
    assert restore(tmp_path / "in.png", "-o", tmp_path / "out.jpg") == 2
    assert "cannot be written as JPEG: EXIF data is too long" in capsys.readouterr().err


def test_a_full_disk_leaves_what_was_there(tmp_path, root):
    """A limit on the size of files takes the disk's place."""
    picture(tmp_path / "in.png")
    out = tmp_path / "out.bmp"
    out.write_bytes(b"kept")
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from tandem_defense.restoration import native; native.library(); native.library(True);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
        "from tandem_defense.cli import main; sys.exit(main())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, "restore", tmp_path / "in.png", "-o", out, *QUICK],
        capture_output=True,
        text=True,
        env=environment(root),
    )
    assert run.returncode == 1 and "File too large" in run.stderr
    assert "Traceback" not in run.stderr
    assert out.read_bytes() == b"kept"
    assert {f.name for f in tmp_path.iterdir()} == {"in.png", "out.bmp"}


def test_an_interrupt_ends_it_quietly(tmp_path, root):
    picture(tmp_path / "in.png", size=(200, 200))
    out = tmp_path / "out.png"
    out.write_bytes(b"kept")
    command = [*COMMAND, "in.png", "-o", "out.png", "--threads", "1"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(root),
        # A shell's background job ignores it, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert "about" in process.stderr.readline()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.stderr.read() == "" and process.wait() == 130
    assert out.read_bytes() == b"kept"
    assert {f.name for f in tmp_path.iterdir()} == {"in.png", "out.png"}


# --- large pictures -----------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(tmp_path, capsys, monkeypatch):
    picture(tmp_path / "in.png", size=(200, 150))
    monkeypatch.setattr(restoring, "free_memory", lambda device: 30_000_000)
    assert restore(tmp_path / "in.png", "-o", tmp_path / "out.png") == 2
    said = capsys.readouterr().err
    assert "200 x 150 pixels need 0.1 GB, and 0.0 GB are free" in said
    assert "--tile 512" in said and "--max-size 1024" in said
    assert restore(tmp_path / "in.png", "-o", tmp_path / "out.png", "--tile", "64") == 0
    assert pixels(tmp_path / "out.png").shape == (150, 200, 3)
    assert "in 24 tiles" in capsys.readouterr().err
    assert restore(tmp_path / "in.png", "-o", tmp_path / "out.png", "--max-size", "80") == 0
    assert pixels(tmp_path / "out.png").shape == (60, 80, 3)


def test_an_output_folder_inside_the_folder_is_no_input(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    picture(tmp_path / "in/a.png")
    command = (tmp_path / "in", "-o", tmp_path / "in/restored", "--skip-existing", *QUICK)
    assert restore(*command) == 0 and restore(*command) == 0
    assert [p.name for p in (tmp_path / "in/restored").rglob("*")] == ["a.png"]
    assert "is there already" in capsys.readouterr().err


def test_no_more_pieces_side_by_side_than_the_memory_holds(monkeypatch):
    """Of eight threads that all have a picture to restore."""
    defense, cpu = TandemDIP(), torch.device("cpu")
    jobs = [Job("a.png", "b.png", pieces=8, shape=(3, 100, 100))]
    needed = max(cost.memory(prior, 100, 100, cpu) for prior in defense.priors())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(restoring, "free_memory", lambda device: int(3.5 * needed))
    assert restoring._memory(defense, [jobs], cpu) < restoring.PROCESS + 3.5 * needed
    assert defense.batch == 3
    # As many are tried for the time that it will take.
    seen = []
    monkeypatch.setattr(cost, "seconds_per_step", lambda prior, tasks, _: seen.append(len(tasks)))
    with pytest.raises(TypeError):
        restoring._seconds_per_pixel(defense, torch.rand(8, 3, 64, 64))
    assert seen == [3]
    monkeypatch.setattr(restoring, "free_memory", lambda device: int(0.9 * needed))
    with pytest.raises(ValueError, match="a.png: 100 x 100 pixels need"):
        restoring._memory(defense, [jobs], cpu)


def test_a_bar_in_a_terminal_and_lines_elsewhere(tmp_path, root):
    picture(tmp_path / "in.png")
    command = [*COMMAND, "in.png", "-o", "out.png", *QUICK]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    subprocess.run(command, cwd=tmp_path, stderr=theirs, env=environment(root), check=True)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:
            break
    assert b"100 % |" in shown and b"left" in shown
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=environment(root)
    )
    assert "|" not in run.stderr and "\r" not in run.stderr


# --- the program --------------------------------------------------------------------------------


def test_version_and_help_in_an_ascii_locale(root):
    ascii = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for arguments in (["--version"], ["--help"], ["restore", "--help"]):
        run = subprocess.run(
            [sys.executable, "-m", "tandem_defense", *arguments],
            capture_output=True,
            env=environment(root, **ascii),
        )
        assert run.returncode == 0, run.stderr
        text = run.stdout.decode("ascii")
        assert (__version__ if arguments == ["--version"] else "restore") in text
