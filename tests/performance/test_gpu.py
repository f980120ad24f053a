"""`make gpu`: it refuses without a GPU, goes on where it was, and its checks can fail."""

import os
import shutil
import subprocess
import sys
from functools import partial

import pandas as pd
import parts
import psutil
import pytest
import torch

from tandem_defense.restoration import lanes
from tandem_defense.restoration.reference import dip1, dip2

CARD = "a card"


@pytest.fixture
def gpu(root, monkeypatch):
    """The module performance/gpu.py."""
    monkeypatch.syspath_prepend(str(root / "performance"))
    import gpu

    return gpu


@pytest.fixture
def checks(root, monkeypatch):
    """The module performance/checks.py."""
    monkeypatch.syspath_prepend(str(root / "performance"))
    import checks

    return checks


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "gpu.csv"


def chosen(gpu, log, *names) -> dict:
    """Parts of tests/support/parts.py."""
    return {name: gpu.Part(partial(getattr(parts, name), str(log))) for name in names}


def test_without_a_gpu_nothing_is_done(root):
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, root / "performance/gpu.py"]
    done = subprocess.run(command, env=hidden, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert "needs an NVIDIA GPU that PyTorch can use, and found none" in done.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_gpu_refuses_before_it_installs_anything(root, tmp_path):
    shutil.copy(root / "Makefile", tmp_path)
    command = [shutil.which("make"), "gpu"]
    without = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=without, capture_output=True, text=True)
    assert done.returncode != 0 and "make gpu needs an NVIDIA GPU" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]


def test_what_is_in_the_file_is_not_done_again(gpu, log, output):
    """Whatever came out: an outcome that is not as it should be stands, and the status says so."""
    todo = chosen(gpu, log, "good", "bad", "crash")
    assert gpu.run(todo, CARD, output, 10, []) == 1
    table = pd.read_csv(output)
    assert (table["device"] == CARD).all() and (table["torch"] == torch.__version__).all()
    assert table["passed"].fillna("").astype(str).tolist() == ["", "True", *["False"] * 3]
    assert table.loc[table["part"] == "crash", "quantity"].tolist() == ["ended with 3"]
    before = output.read_bytes()
    assert gpu.run(todo, CARD, output, 10, []) == 1
    assert output.read_bytes() == before
    assert gpu.run(chosen(gpu, log, "good"), CARD, output, 10, []) == 1  # bad still is in the file
    assert log.read_text().split() == ["good", "bad", "crash"]
    gpu.run(todo, CARD, output, 10, ["bad"])
    assert log.read_text().split()[3:] == ["bad"]
    assert len(pd.read_csv(output)) == len(table)
    assert gpu.run(chosen(gpu, log, "good"), "another card", output, 10, []) == 0
    assert log.read_text().split()[4:] == ["good"]
    assert len(pd.read_csv(output)) == len(table) + 2


def test_what_is_done_again_is_done_once(gpu, log, output, monkeypatch, capsys):
    """Where the time ends it is said what is left to be done again."""
    rows = iter([[gpu.quantity("a", 1, 1)], [gpu.quantity("a", 1, 1)], None, None])
    monkeypatch.setattr(gpu, "apply", lambda work, seconds: next(rows))
    assert gpu.run(chosen(gpu, log, "good"), CARD, output, 9, []) == 0
    todo = chosen(gpu, log, "good", "slow")
    assert gpu.run(todo, CARD, output, 9, ["good"]) == gpu.MORE
    assert "run the command again, without AGAIN, to go on" in capsys.readouterr().out
    assert gpu.run(todo, CARD, output, 0.0, ["good"]) == gpu.MORE
    assert 'run the command again, with AGAIN="good", to go on' in capsys.readouterr().out


def test_the_time_ends_a_run_and_the_next_one_goes_on(gpu, log, output):
    todo = chosen(gpu, log, "good", "slow")
    assert gpu.run(todo, CARD, output, 0.5, []) == gpu.MORE
    assert set(pd.read_csv(output)["part"]) == {"good"}
    # The second time it has the whole run to itself: a third would not get further.
    assert gpu.run(todo, CARD, output, 0.25, []) == 1
    slow = pd.read_csv(output).query("part == 'slow'")
    assert slow["quantity"].tolist() == ["not done in 15 seconds"]
    assert slow["passed"].astype(str).tolist() == ["False"]
    for number in log.read_text().split()[1:]:  # its own program was ended with it
        gone = not psutil.pid_exists(int(number))
        assert gone or psutil.Process(int(number)).status() == psutil.STATUS_ZOMBIE


def test_work_that_goes_on_inside_itself_is_never_given_up(gpu, log, output):
    todo = {"further": gpu.Part(partial(parts.further, str(log)), resumes=True)}
    assert gpu.run(todo, CARD, output, 0.25, []) == gpu.MORE
    assert not output.exists()
    assert gpu.run(todo, CARD, output, 10, []) == 0
    assert pd.read_csv(output)["part"].tolist() == ["further"]


def test_a_part_without_its_files_is_left_out_and_says_so(gpu, log, output, tmp_path, capsys):
    part = gpu.Part(partial(parts.good, str(log)), (tmp_path / "weights",))
    assert gpu.run({"good": part}, CARD, output, 10, []) == 0
    assert "good: left out, needs" in capsys.readouterr().out
    assert not log.exists() and not output.exists()


def test_the_slice_of_table_1_is_a_run_of_the_real_configuration(gpu, root, tmp_path):
    inputs = tmp_path / "inputs"
    (inputs / "nips2017dev/images").mkdir(parents=True)
    (inputs / "nips2017dev/images.csv").touch()
    (inputs / "resnet50.safetensors").touch()
    command = gpu.slice_of_table1(tmp_path / "run", inputs, 48)
    at = command.index("--cores")
    done = subprocess.run(
        [*command[:at], "--dry-run", *command[at:]], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rule table1" in done.stdout and "train_defense" not in done.stdout
    assert "defense=tdips" in done.stdout and "attack=cw" in done.stdout


def test_a_test_file_passes_only_if_all_its_tests_do_and_some_ran(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    files = tmp_path / "tests/restoration"
    files.mkdir(parents=True)
    good, bad = "def test_good(): pass", "def test_bad(): assert 0"
    skipped = "import pytest\npytest.skip(allow_module_level=True)"
    for text, passed in ((good, "True"), (f"{good}\n{bad}", "False"), (skipped, "False")):
        (files / "test_it.py").write_text(text)
        assert verdicts(gpu, gpu.tests("test_it")) == [passed]


def bench(checks, kind=lanes.Fit, **more):
    """Checks of a small network on the CPU, where the engine of GPUs runs, too."""
    networks = {"dip2/8": dip2(3, 32)}
    return checks.Bench(
        torch.device("cpu"), 64, 2, **{"networks": networks, "kinds": {"fast": kind}} | more
    )


def verdicts(gpu, rows) -> list[str]:
    return gpu.with_verdict(list(rows), "check", CARD)["passed"].dropna().astype(str).tolist()


@pytest.mark.parametrize("name", ["gradients", "replay", "alone", "nan", "resume", "memory"])
def test_a_check_passes_where_the_engine_is_as_it_should_be(gpu, checks, name):
    assert set(verdicts(gpu, getattr(checks, name)(bench(checks)))) == {"True"}


class Wrong(lanes.Fit):
    """What an image becomes depends on how many are beside it."""

    def _step(self):
        super()._step()
        self.output += 1e-3 * self.network.lanes
        self.average += 1e-3 * self.network.lanes


class Forgetful(lanes.Fit):
    """The average of the image before stays."""

    def start(self, lane, *what):
        super().start(lane, *what)
        self.optimizer.steps[lane] = 5


class Amnesic(lanes.Fit):
    """Adam's second moments are lost on the way."""

    def resume(self, lane, state):
        super().resume(lane, state | {"square": torch.zeros_like(state["square"])})


class Inexact(lanes.Fit):
    """A gradient that is a tenth too large."""

    def save(self, lane):
        state = super().save(lane)
        return state | {"mean": 1.1 * state["mean"]}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gradients", Inexact),
        ("alone", Wrong),
        ("memory", Wrong),
        ("nan", Forgetful),
        ("resume", Amnesic),
    ],
)
def test_a_check_fails_where_it_should(gpu, checks, name, kind):
    assert "False" in verdicts(gpu, getattr(checks, name)(bench(checks, kind)))


class RoundedToTF32:
    """torch.nn.functional, but convolutions of float32 numbers keep ten of 23 binary digits."""

    def __getattr__(self, name):
        function = getattr(torch.nn.functional, name)
        if not name.startswith("conv"):
            return function

        def rounded(x, weight, *more, **options):
            return function(self.cut(x), self.cut(weight), *more, **options)

        return rounded

    @staticmethod
    def cut(x):
        if x.dtype != torch.float32:
            return x
        near = (x.detach().contiguous().view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32)
        return x + (near - x).detach()


def test_float32_that_is_tf32_by_mistake_is_noticed(gpu, checks, monkeypatch):
    monkeypatch.setattr(lanes, "F", RoundedToTF32())
    rows = [row for row in checks.gradients(bench(checks)) if row["precision"] != "bf16"]
    assert verdicts(gpu, rows) == ["True", "False"]  # float64 and float32


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("repeat", {"length": 3}),
        ("losses", {"length": 10}),
        ("start_up", {}),
        ("profile", {}),
        ("second_gpu", {}),
    ],
)
def test_what_is_only_measured_is_measured_of_every_network(checks, name, more):
    networks = {"dip2/8": dip2(3, 32), "dip1": dip1(0.0625)}
    rows = list(getattr(checks, name)(bench(checks, networks=networks), **more))
    assert {row["network"] for row in rows} - {""} == set(networks if name != "second_gpu" else ())
    assert all(row["value"] >= 0 and row["limit"] is None for row in rows)


def test_speed_is_measured_for_each_number_of_lanes(checks, monkeypatch):
    monkeypatch.setattr(checks, "limits", lambda device, precision: (1e9, 1e9))  # seconds
    rows = pd.DataFrame(checks.speed(bench(checks)))
    assert set(rows["lanes"]) == {1, 2} and set(rows["precision"]) == {"float32", "bf16"}
    assert (rows.loc[rows["quantity"].str.startswith("image-steps"), "value"] > 0).all()


def test_all_parts_exist(gpu, root):
    """A name that is missing would be noticed on a GPU only."""
    import checks

    for name in (*gpu.CHECKS, *gpu.MEASURED, "accuracy", "speed"):
        assert callable(getattr(checks, name))
    for name in gpu.TESTS:
        assert (root / f"tests/restoration/{name}.py").exists()
    assert set(gpu.SPEEDS) == set(checks.Bench(torch.device("cpu")).networks)
    assert not any(" " in name for name in gpu.parts())
