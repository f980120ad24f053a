"""The command restores pictures of every mode and says what is wrong with the others."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from tandem_defense import cli

QUICK = ["--iterations", "2", "--first-iterations", "1", "--feature-scale", "32"]


def picture(path, mode="RGB", size=(70, 65)):
    rng = np.random.default_rng(0)
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "LA": 2}[mode]
    pixels = rng.integers(0, 256, (size[1], size[0], channels), np.uint8)
    Image.fromarray(pixels.squeeze()).save(path)
    return pixels


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_modes_and_odd_sizes(tmp_path, mode, capsys):
    pixels = picture(tmp_path / "in.png", mode)
    out = tmp_path / "out.png"
    assert cli.main(["restore", str(tmp_path / "in.png"), "-o", str(out), *QUICK]) == 0
    with Image.open(out) as restored:
        assert restored.mode == mode and restored.size == (70, 65)
        if mode in ("RGBA", "LA"):  # transparency is not the network's business
            assert np.array_equal(np.asarray(restored)[..., -1], pixels[..., -1])
    assert "3/3" in capsys.readouterr().err


def test_the_seed_decides(tmp_path):
    picture(tmp_path / "in.png")
    for name, seed in {"a": "0", "b": "0", "c": "1"}.items():
        out = str(tmp_path / f"{name}.png")
        cli.main(["restore", str(tmp_path / "in.png"), "-o", out, "--seed", seed, *QUICK])
    a, b, c = ((tmp_path / f"{n}.png").read_bytes() for n in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("name", "content", "out", "why"),
    [
        ("none.png", None, "out.png", "none.png"),
        ("text.png", b"no picture", "out.png", "cannot be read as a picture"),
        ("in.png", "picture", "out.xyz", "no picture format has this ending"),
        ("in.png", "picture", "no/out.png", "is not a folder"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, capsys, name, content, out, why):
    if content == "picture":
        picture(tmp_path / name)
    elif content:
        (tmp_path / name).write_bytes(content)
    assert cli.main(["restore", str(tmp_path / name), "-o", str(tmp_path / out), *QUICK]) == 2
    assert why in capsys.readouterr().err


def test_deep_pictures_and_zero_iterations_are_refused(tmp_path, capsys):
    Image.fromarray(np.zeros((65, 65), np.uint16)).save(tmp_path / "deep.png")
    arguments = ["restore", str(tmp_path / "deep.png"), "-o", str(tmp_path / "o.png")]
    assert cli.main([*arguments, *QUICK]) == 2
    assert "8 bits" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--iterations", "0"])
    assert "expected a whole number ≥ 1" in capsys.readouterr().err


def test_the_wheel_holds_the_package_and_the_command(root, tmp_path):
    """Built as `pip install .` builds it, imported and run from elsewhere."""
    program = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=root, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        assert "tandem_defense/defenses/dip.py" in content.namelist()
        assert not [n for n in content.namelist() if n.startswith(("scripts", "tests"))]
        content.extractall(tmp_path / "site")
    picture(tmp_path / "in.png")
    run = "import sys; from tandem_defense.cli import main; sys.exit(main())"
    subprocess.run(
        [sys.executable, "-c", run, "restore", "in.png", "-o", "out.png", *QUICK],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "", "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "out.png").is_file()
