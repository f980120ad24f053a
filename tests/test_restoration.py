"""The engines are right (against the reference's plain loop), and images are independent."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tandem_defense.defenses.dip import DIP, TandemDIP
from tandem_defense.restoration import engine, lanes, native, reference
from tandem_defense.restoration.reference import Task, dip1, dip2
from tandem_defense.restoration.stopping import EarlyStopping, Monitor

SMALL = {"feature_scale": 32, "precision": "float64", "smoothing": 0.9, "seed": 3}
ENGINES = {"native": native.fit, "lanes": lanes.fit}
PRIORS = {
    "dip2": dip2(32, 32),
    "dip2 without norm": dip2(3, 32, "none"),
    "dip2 affine": dip2(3, 32, "affine"),
    "dip2 odd widths, He": dip2(5, 20, initial_weights="he"),
    "dip1": dip1(0.125),
    "dip1 plain norm": dip1(0.125, "instance"),
    "dip1 without norm, He": dip1(0.125, "none", "he"),
}


@pytest.fixture(autouse=True)
def two_threads():
    """The CPU engine takes as many images at a time as there are threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def photos(n: int, height: int = 65, width: int = 72) -> torch.Tensor:
    """Smooth images with an edge, (n, 3, height, width) float64 in [0, 1]."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, 5, 5, generator=rng, dtype=torch.float64)
    return F.interpolate(coarse, (height, width), mode="bilinear")


def tasks(architecture, n: int, height: int = 65, width: int = 72) -> list[Task]:
    """Images with inputs, where the architecture is not fed with z."""
    rng = torch.Generator().manual_seed(1)
    found = []
    for i, image in enumerate(photos(n, height, width)):
        z = torch.rand(architecture.inputs, height, width, generator=rng, dtype=torch.float64)
        found.append(Task(image, 10 + i, None if architecture.inputs == 32 else z))
    return found


def run(fit, architecture, work, *, steps=(50,), dtype=torch.float64, **settings):
    """{(position, iteration): (output, average, loss)} of a fit."""
    found = {}
    for read in fit(
        architecture,
        work,
        readouts=list(steps),
        learning_rate=1e-3,
        smoothing=0.9,
        dtype=dtype,
        **settings,
    ):
        for i, position in enumerate(read.positions):
            assert (position, read.iteration) not in found
            found[position, read.iteration] = read.output[i], read.average[i], read.loss[i]
    return found


def apart(one: dict, other: dict) -> float:
    """The largest difference of any value of any read-out."""
    assert one.keys() == other.keys()
    pairs = ((a, b) for key in one for a, b in zip(one[key], other[key], strict=True))
    return max(float((a - b).abs().max()) for a, b in pairs)


# --- right: equal to the plain loop ---


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", ENGINES)
def test_engines_equal_the_reference(name, prior):
    """In float64 to 1e-6 after 50 steps, at every read-out, for more images than threads."""
    architecture = PRIORS[prior]
    work = tasks(architecture, 3)
    expected = run(reference.fit, architecture, work, steps=(1, 20, 50))
    found = run(ENGINES[name], architecture, work, steps=(1, 20, 50), batch=2)
    assert apart(found, expected) < 1e-6
    losses = [float(expected[0, n][2]) for n in (1, 50)]
    assert losses[1] < losses[0]  # something was learned


@pytest.mark.parametrize("size", [(64, 64), (131, 67), (97, 170)])
def test_the_compiled_engine_equals_the_reference_at_any_size(size):
    """Winograd tiles, pixel blocks and odd poolings end where the image ends."""
    for architecture in (dip2(3, 32), dip2(3, 32, "affine"), dip1(0.25), dip1(0.25, "none")):
        work = tasks(architecture, 1, *size)
        expected = run(reference.fit, architecture, work, steps=(5,))
        assert apart(run(native.fit, architecture, work, steps=(5,)), expected) < 1e-9


def test_the_compiled_engine_equals_the_reference_at_the_paper_s_widths():
    """The wide layers are computed in several pieces.

    In float32 it is no further from the exact result than the reference's own float32, which
    rounding moves by up to 1 % within ten steps where a norm magnifies it.
    """
    for architecture in (dip2(3, 4), dip1()):
        work, steps = tasks(architecture, 1), (3, 10)
        exact = run(reference.fit, architecture, work, steps=steps)
        assert apart(run(native.fit, architecture, work, steps=steps), exact) < 1e-8
        expected, found = (
            run(fit, architecture, work, steps=steps, dtype=torch.float32)
            for fit in (reference.fit, native.fit)
        )
        for n in steps:
            for right, one, other in zip(exact[0, n], expected[0, n], found[0, n], strict=True):
                limit = 1.5 * (one - right).norm() + 1e-6 * right.norm()
                assert (other - right).norm() <= limit


@pytest.mark.parametrize("weights", ["torch", "he"])
@pytest.mark.parametrize("norm", ["instance", "affine"])
def test_reference_starts_from_the_distribution_that_was_asked_for(norm, weights):
    """torch: uniform ±1/√fan_in, weights and biases; he: weights √6 wider, no biases.

    z ~ U(0, 1); a normalization starts as the identity.
    """
    architecture = dip2(32, 8, norm, weights)
    parameters, z = reference.draw(architecture, Task(photos(1)[0], 0))
    network = reference.build(architecture)
    nn.utils.vector_to_parameters(parameters, network.parameters())
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            bound = layer.weight[0].numel() ** -0.5 * (6**0.5 if weights == "he" else 1)
            assert layer.weight.abs().max() <= bound
            assert layer.bias.abs().max() <= (0 if weights == "he" else bound)
            if layer.weight.numel() > 500:
                assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        elif isinstance(layer, nn.InstanceNorm2d) and layer.affine:
            assert (layer.weight == 1).all() and (layer.bias == 0).all()
    assert 0 <= z.min() < 0.01 and 0.99 < z.max() <= 1 and z.shape == (32, 65, 72)


def test_dip_is_the_reference():
    images = photos(2)
    fast, plain = (DIP(iterations=50, engine=e, **SMALL)(images) for e in ("fast", "reference"))
    assert (fast - plain).abs().max() < 1e-6


def test_tandem_is_the_reference():
    """DIP₂ is fed with DIP₁'s raw output and fits the attacked image."""
    images = photos(2)
    defense = TandemDIP(first_iterations=(20,), iterations=50, first_width=0.125, **SMALL)
    settings = {"learning_rate": 1e-3, "smoothing": 0.9, "dtype": torch.float64}
    for i, name in enumerate("ab"):
        seeds = [derive(name, part) for part in ("dip1", "dip2")]
        (main,) = reference.fit(dip1(0.125), [Task(images[i], seeds[0])], readouts=[20], **settings)
        task = Task(images[i], seeds[1], main.output[0])
        (end,) = reference.fit(dip2(3, 32), [task], readouts=[50], **settings)
        assert (defense(images, ["a", "b"])[i] - end.average[0]).abs().max() < 1e-6


def derive(name, part):
    from tandem_defense.seeds import derive_seed

    return derive_seed(SMALL["seed"], name, part)


# --- independent: of neighbors, numbers, order, threads ---


@pytest.mark.parametrize("name", ENGINES)
def test_a_task_depends_on_nothing_but_itself(name):
    """Alone, in another order, in other batches: equal to 1e-6; compiled: to the last bit."""
    architecture, limit = PRIORS["dip2"], 0 if name == "native" else 1e-6
    work = tasks(architecture, 5)
    whole = run(ENGINES[name], architecture, work, steps=(20,), batch=3)
    for batch, order in ((1, [2]), (2, [4, 2, 0])):
        some = run(ENGINES[name], architecture, [work[i] for i in order], steps=(20,), batch=batch)
        expected = {(k, 20): whole[i, 20] for k, i in enumerate(order)}
        assert apart(some, expected) <= limit


@pytest.mark.parametrize("kind", [DIP, TandemDIP])
def test_an_image_depends_on_nothing_but_itself(kind):
    extra = {"first_iterations": (10,), "first_width": 0.125} if kind is TandemDIP else {}
    images, names = photos(5), list("abcde")
    whole = kind(iterations=30, **SMALL, **extra)(images, names)
    alone = kind(iterations=30, batch=1, **SMALL, **extra)(images[2:3], ["c"])
    order = [4, 2, 0]
    mixed = kind(iterations=30, batch=2, **SMALL, **extra)(images[order], [names[i] for i in order])
    assert (whole[2] - alone[0]).abs().max() < 1e-6
    assert (whole[order] - mixed).abs().max() < 1e-6


def test_id_and_seed_matter():
    images = photos(1)
    found = DIP(iterations=5, **SMALL)(images, ["a"])
    assert torch.equal(found, DIP(iterations=5, **SMALL)(images, ["a"]))
    assert not torch.allclose(found, DIP(iterations=5, **SMALL)(images, ["b"]))
    assert not torch.allclose(found, DIP(iterations=5, **SMALL | {"seed": 4})(images, ["a"]))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    TandemDIP(first_iterations=(1,), iterations=1, first_width=0.125, **SMALL)(photos(1))
    assert torch.equal(torch.rand(3), expected)


def test_readouts_are_points_of_one_run():
    images, names = photos(3), list("abc")
    defense = TandemDIP(first_iterations=(6, 3), iterations=8, first_width=0.125, **SMALL)
    found = {}
    for restored in defense.trace(images, names, [4, 8]):
        key = restored.first_iterations, restored.iteration
        whole = found.setdefault(key, torch.full_like(images, torch.nan))
        whole[restored.positions] = restored.images
    assert set(found) == {(3, 4), (3, 8), (6, 4), (6, 8)}
    for (first_steps, steps), traced in found.items():
        settings = {"iterations": steps, "first_width": 0.125}
        alone = TandemDIP(first_iterations=(first_steps,), **settings, **SMALL)
        assert (alone(images, names) - traced).abs().max() < 1e-9
    assert (defense(images, names) - found[6, 8]).abs().max() < 1e-9  # the first of the two


@pytest.mark.parametrize("name", ENGINES)
def test_progress_counts_every_step(name, monkeypatch):
    if name == "lanes":
        monkeypatch.setattr(native, "library", lambda: None)
    defense = TandemDIP(first_iterations=(2, 3), iterations=14, first_width=0.125, **SMALL)
    done = []
    defense.progress = done.append
    defense(photos(3))
    assert sum(done) == defense.steps(3, 14) == 3 * (3 + 2 * 14)


# --- early stopping ---


def test_the_variance_is_the_window_s():
    """Against the definition: variances of the last outputs, the average where they are least."""
    rng = torch.Generator().manual_seed(0)
    outputs = torch.rand(30, 2, 3, 4, 4, generator=rng)
    outputs[10:15] = outputs[10] + 0.01 * outputs[10:15]  # five steady ones
    monitor = Monitor(EarlyStopping(4, 9), outputs[0].shape, outputs.device)
    stopped_at = [0, 0]
    for i, output in enumerate(outputs, 1):
        before = monitor.stopped.clone()
        monitor.update(output, output + i)
        for lane in range(2):
            if monitor.stopped[lane] and not before[lane]:
                stopped_at[lane] = i
    variances = [outputs[i - 4 : i].var(0, correction=0).sum((1, 2, 3)) for i in range(4, 31)]
    best = torch.stack(variances).argmin(0) + 4
    assert monitor.best_iteration.tolist() == best.tolist() and set(best.tolist()) <= {14, 15}
    assert stopped_at == [n + 9 for n in best.tolist()]
    for lane, n in enumerate(best.tolist()):
        assert torch.equal(monitor.best[lane], outputs[n - 1, lane] + n)


@pytest.mark.parametrize("name", ENGINES)
def test_stopped_images_make_room_and_keep_their_result(name):
    """Every engine stops where the reference stops; later read-outs repeat the result."""
    architecture, rule = PRIORS["dip2"], EarlyStopping(3, 4)
    work = tasks(architecture, 5)
    settings = {"learning_rate": 0.05, "smoothing": 0.5, "dtype": torch.float64, "stop": rule}
    steps = [10, 40, 80]
    plain, fast = {}, {}
    taken = []
    for fit, found in ((reference.fit, plain), (ENGINES[name], fast)):
        extra = {} if fit is reference.fit else {"batch": 2}
        counted = []
        for read in fit(
            architecture, work, readouts=steps, progress=counted.append, **settings, **extra
        ):
            for i, position in enumerate(read.positions):
                found[position, read.iteration] = int(read.stopped[i]), read.average[i]
        taken.append(sum(counted))
    assert set(plain) == set(fast) == {(i, n) for i in range(5) for n in steps}
    assert taken[0] < 5 * 80  # some stopped
    stopped = [plain[i, 80][0] for i in range(5)]
    assert any(stopped)
    for key, (iteration, average) in plain.items():
        assert fast[key][0] == iteration
        assert (fast[key][1] - average).abs().max() < 1e-6
    for i in range(5):
        if 0 < stopped[i] < 30:
            assert torch.equal(fast[i, 40][1], fast[i, 80][1])
    if name == "native":
        assert taken[0] == taken[1]


def test_dip_takes_early_stopping_as_settings():
    images = photos(2)
    settings = {"iterations": 60, "learning_rate": 0.05} | SMALL
    (read,) = DIP(stop_window=3, stop_patience=4, **settings).trace(images[:1], ["a"], [60])
    assert 0 < int(read.stopped[0]) < 60
    (read,) = DIP(**settings).trace(images[:1], ["a"], [60])
    assert int(read.stopped[0]) == 0


# --- precision ---


def test_float32_stays_near_float64():
    images = photos(2)
    double = DIP(iterations=10, **SMALL)(images)
    single = DIP(iterations=10, **SMALL | {"precision": "float32"})(images)
    assert 0 < (double - single).abs().max() < 1e-3


def test_bf16_is_near_and_its_result_is_float32():
    images = photos(1).float()
    exact = DIP(iterations=10, **SMALL | {"precision": "float32"})(images)
    rough = DIP(iterations=10, **SMALL | {"precision": "bf16"})(images)
    assert rough.dtype == torch.float32
    assert 1e-6 < (exact - rough).abs().max() < 0.05


def test_precisions_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="tf32 needs a CUDA GPU, found cpu"):
        DIP(iterations=1, precision="tf32")(photos(1).float())
    with pytest.raises(ValueError, match="reference has no bf16"):
        DIP(iterations=1, precision="bf16", engine="reference")(photos(1).float())


# --- memory, faults, machines without a compiler ---


def test_out_of_memory_halves_the_lanes_and_repeats_no_readout(monkeypatch):
    """The lanes shrink until they fit; what was read out is not read out again."""
    architecture = PRIORS["dip2"]
    work = tasks(architecture, 5)
    expected = run(lanes.fit, architecture, work, steps=(4, 8), batch=1)
    step, calls = lanes.Fit.step, itertools.count()

    def scarce(self):
        if self.network.lanes > 1 and next(calls) >= 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self)

    monkeypatch.setattr(lanes.Fit, "step", scarce)
    assert apart(run(lanes.fit, architecture, work, steps=(4, 8), batch=4), expected) < 1e-6


def test_out_of_memory_on_the_cpu_goes_on_with_fewer_threads(monkeypatch):
    architecture = PRIORS["dip2"]
    work = tasks(architecture, 4)
    expected = run(native.fit, architecture, work, batch=1)
    fit, scarce = native.Network.fit, itertools.count()

    def first_call_fails(self, *arguments):
        if next(scarce) == 0:
            raise MemoryError
        return fit(self, *arguments)

    monkeypatch.setattr(native.Network, "fit", first_call_fails)
    assert apart(run(native.fit, architecture, work, batch=2), expected) == 0


def test_one_image_too_large_for_the_memory_is_an_error():
    """A child process with a limit: the error is MemoryError, not a crash."""
    code = (
        "import resource, torch\n"
        "from tandem_defense.restoration import native\n"
        "from tandem_defense.restoration.reference import Task, dip2\n"
        "native.library()\n"
        "task = Task(torch.zeros(3, 3000, 3000), 0)\n"
        "limit = 1 << 30\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))\n"
        "try:\n"
        "    list(native.fit(dip2(3, 4), [task], readouts=[1], learning_rate=1e-3, smoothing=0))\n"
        "except MemoryError:\n"
        "    print('MemoryError')\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert found.stdout.strip() == "MemoryError", found.stderr


def test_a_reader_that_leaves_stops_the_threads():
    import threading

    before = threading.active_count()
    work = tasks(PRIORS["dip2"], 4)
    settings = {"learning_rate": 1e-3, "smoothing": 0.9, "dtype": torch.float64}
    reads = native.fit(PRIORS["dip2"], work, readouts=[10, 10_000], **settings)
    next(reads)
    reads.close()
    assert threading.active_count() == before


def test_an_error_in_a_thread_reaches_the_caller():
    bad = Task(photos(1)[0], 0, torch.zeros(1))  # an input of the wrong size
    with pytest.raises(ValueError, match=r"expected an input \(32, 65, 72\).*\(1,\)"):
        run(native.fit, PRIORS["dip2"], [bad])


def test_without_a_compiler_it_says_so_and_gives_the_same(monkeypatch, caplog, tmp_path):
    images = photos(1)
    expected = DIP(iterations=10, **SMALL)(images)
    native.library.cache_clear()
    monkeypatch.setattr(native, "compiler", lambda: None)
    try:
        found = DIP(iterations=10, **SMALL)(images)
    finally:
        native.library.cache_clear()
    assert "no C++ compiler found" in caplog.text and "Install g++" in caplog.text
    assert (found - expected).abs().max() < 1e-6


def test_a_compiler_that_fails_is_quoted(monkeypatch, caplog, tmp_path):
    fake = tmp_path / "c++"
    fake.write_text("#!/bin/sh\necho 'cannot compile: out of paper' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    monkeypatch.setenv("TANDEM_DEFENSE_CACHE", str(tmp_path / "cache"))
    native.library.cache_clear()
    try:
        assert native.library() is None
    finally:
        native.library.cache_clear()
    assert "out of paper" in caplog.text


def test_the_code_is_compiled_once_and_kept(monkeypatch, tmp_path):
    """A second process takes the file; another source makes another one."""
    monkeypatch.setenv("TANDEM_DEFENSE_CACHE", str(tmp_path))
    source = tmp_path / "small.cpp"
    text = Path(native.SOURCE).read_text(encoding="utf-8")
    source.write_text(text.replace("INTERFACE(double, float64)", "INTERFACE(float, float64)"))
    monkeypatch.setattr(native, "SOURCE", source)
    monkeypatch.setattr(native, "FLAGS", [f for f in native.FLAGS if f != "-O3"] + ["-O0"])
    made = []
    for _ in range(2):
        native.library.cache_clear()
        assert native.library() is not None
        made.append([(p.name, p.stat().st_mtime_ns) for p in tmp_path.glob("*.so")])
    source.write_text(source.read_text() + "\n// another\n")
    native.library.cache_clear()
    assert native.library() is not None
    native.library.cache_clear()
    assert made[0] == made[1] and len(made[0]) == 1
    assert len(list(tmp_path.glob("*.so"))) == 2


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_the_compiled_code_is_clean_under_the_address_sanitizer(tmp_path):
    """No read or write outside a buffer, at sizes whose last tiles and blocks are partial."""
    program = tmp_path / "main.cpp"
    program.write_text(
        f'#include "{native.SOURCE}"\n'
        "int main() {\n"
        "    int widths[] = {3, 5, 20, 40, 17, 33}, first[] = {8, 9, 16, 17, 20, 8, 8, 4};\n"
        "    for (int kind : {0, 1}) for (int norm : {0, 1, 2}) {\n"
        "        int inputs = kind ? 3 : 32;\n"
        "        auto* net = build<float>(67, 130, inputs, kind ? widths : first, kind, norm);\n"
        "        std::vector<float> p(1 << 20, 0.01f), z(inputs * 67 * 130, 0.5f);\n"
        "        std::vector<float> t(3 * 67 * 130, 0.25f), a(t.size()), b(t.size());\n"
        "        net->start(p.data(), z.data(), t.data());\n"
        "        if (!(fit(net, 2, 1e-3, 0.9, a.data(), b.data()) >= 0)) return 1;\n"
        "        delete net;\n"
        "    }\n"
        "}\n"
    )
    flags = ["-std=c++17", "-O1", "-g", "-march=native", "-fsanitize=address,undefined"]
    made = tmp_path / "main"
    build = subprocess.run(
        ["g++", *flags, "-fno-sanitize-recover=all", "-o", str(made), str(program)],
        capture_output=True,
        text=True,
    )
    if build.returncode and "sanitize" in build.stderr + build.stdout:
        pytest.skip("the compiler has no sanitizers")
    assert build.returncode == 0, build.stderr
    done = subprocess.run([str(made)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]


# --- the defense ---


def test_default_widths_are_those_of_the_specification():
    """16, 32, 64, 128, 256, 256 and about 6.5 million parameters; nine weight layers in DIP₁."""
    assert dip2(3, 4).widths == (16, 32, 64, 128, 256, 256)
    assert 6.3e6 < sum(s.numel() for s in reference.shapes(dip2(3, 4))) < 6.7e6
    assert len(reference.shapes(dip1(norm="none"))) == 2 * 9
    assert len(reference.shapes(dip1())) == 2 * (9 + 6)  # six norms


@pytest.mark.parametrize("shape", [(2, 3, 20, 50), (1, 1, 40, 40), (0, 3, 40, 40)])
def test_any_size_and_grey(shape):
    images = torch.rand(shape)
    defense = DIP(iterations=2, feature_scale=32)
    restored = defense(images)
    assert restored.shape == shape and restored.dtype == torch.float32
    assert ((restored >= 0) & (restored <= 1)).all()


@pytest.mark.parametrize(
    ("images", "why"),
    [
        (torch.rand(3, 40, 40), r"expected floating-point images .*\(3, 40, 40\)"),
        (torch.rand(1, 4, 40, 40), r"\(1, 4, 40, 40\)"),
        (torch.zeros(1, 3, 40, 40, dtype=torch.uint8), "uint8"),
        (torch.full((1, 3, 40, 40), 255.0), r"in \[0, 1\], got values from 255 to 255"),
        (torch.full((1, 3, 40, 40), torch.nan), "NaN"),
    ],
)
def test_what_cannot_be_restored_is_refused(images, why):
    with pytest.raises(ValueError, match=why):
        DIP(iterations=1)(images)


def test_works_before_a_classifier_under_no_grad():
    net = nn.Sequential(
        TandemDIP(first_iterations=(2,), iterations=2, feature_scale=32, first_width=0.125),
        nn.Flatten(),
        nn.Linear(3 * 65 * 72, 2),
    )
    with torch.no_grad():
        assert net(photos(2).float()).shape == (2, 2)


@pytest.mark.parametrize("fast", [True, False])
def test_the_caller_s_no_grad_stays(fast, monkeypatch):
    if not fast:
        monkeypatch.setattr(native, "library", lambda: None)
    with torch.no_grad():
        for _ in DIP(feature_scale=32).trace(photos(1), ["a"], [1, 2]):
            assert not torch.is_grad_enabled()


def test_more_iterations_fit_better():
    images = photos(2)
    short, long = (DIP(iterations=n, **SMALL)(images) for n in (5, 80))
    assert (long - images).square().mean() < 0.8 * (short - images).square().mean()


def test_no_tasks_no_readouts():
    assert list(engine.fit(dip2(3, 8), [], readouts=[1], learning_rate=1e-3, smoothing=0.9)) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("prior", PRIORS)
def test_on_a_gpu_the_graph_of_a_step_equals_the_reference(prior):
    architecture = PRIORS[prior]
    work = tasks(architecture, 3)
    there = [
        Task(t.target.cuda(), t.seed, None if t.input is None else t.input.cuda()) for t in work
    ]
    expected = run(reference.fit, architecture, work, steps=(1, 50))
    found = run(lanes.fit, architecture, there, steps=(1, 50), batch=2)
    found = {key: tuple(x.cpu() for x in value) for key, value in found.items()}
    assert apart(found, expected) < 1e-6
