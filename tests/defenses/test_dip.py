"""DIP and t-DIPs are what the papers say, whatever computes them, and images are independent."""

from dataclasses import replace

import pytest
import torch
from priors import ENGINES, SMALL, photos, two_threads  # noqa: F401
from torch import nn

from tandem_defense.defenses.dip import DIP, TandemDIP, as_input, as_rgb, is_flat
from tandem_defense.defenses.dipdefend import DIPDefend
from tandem_defense.pipeline import schema
from tandem_defense.restoration import native, reference
from tandem_defense.restoration.reference import FitSettings, Task, dip1, dip2
from tandem_defense.seeds import derive_seed

QUICK = {"iterations": 2, "feature_scale": 32, "precision": "bf16"}


def test_dip_is_the_reference():
    images = photos(2)
    fast, plain = (DIP(iterations=50, engine=e, **SMALL)(images) for e in ("fast", "reference"))
    assert (fast - plain).abs().max() < 1e-6


def test_tandem_is_the_reference():
    """DIP₂ is fed with DIP₁'s raw output and fits the attacked image."""
    images = photos(2)
    defense = TandemDIP(first_iterations=(20,), iterations=50, first_width=0.125, **SMALL)
    settings = FitSettings(readouts=(20,), learning_rate=1e-3, smoothing=0.9, precision="float64")
    for i, name in enumerate("ab"):
        seeds = [derive_seed(SMALL["seed"], name, part) for part in ("dip1", "dip2")]
        (main,) = reference.fit(dip1(0.125), [Task(images[i], seeds[0])], settings)
        task = Task(images[i], seeds[1], main.output[0])
        (end,) = reference.fit(dip2(3, 32), [task], replace(settings, readouts=(50,)))
        assert (defense(images, ["a", "b"])[i] - end.average[0]).abs().max() < 1e-6


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
    actual = DIP(iterations=5, **SMALL)(images, ["a"])
    assert torch.equal(actual, DIP(iterations=5, **SMALL)(images, ["a"]))
    assert not torch.allclose(actual, DIP(iterations=5, **SMALL)(images, ["b"]))
    assert not torch.allclose(actual, DIP(iterations=5, **SMALL | {"seed": 4})(images, ["a"]))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    TandemDIP(first_iterations=(1,), iterations=1, first_width=0.125, **SMALL)(photos(1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "defense",
    [
        TandemDIP(first_iterations=(2,), first_width=0.125, **QUICK),
        DIP(gradient="straight_through", **QUICK),
        DIPDefend(iterations=2),
    ],
    ids=["tandem", "dip", "dipdefend"],
)
def test_a_compiled_classifier_has_its_defense_before_it(defense):
    images, flat = photos(2).float(), nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    expected = flat(defense(images))
    for _ in range(2):
        compiled = torch.compile(nn.Sequential(defense, flat), backend="eager")
        assert torch.equal(compiled(images), expected)


def test_the_content_that_names_an_image_is_the_same_in_any_type():
    images = photos(1).float()
    defense = DIP(iterations=2, feature_scale=32)
    assert torch.equal(defense(images).double(), defense(images.double()))


def test_images_too_small_for_coarse_steps_are_refused_at_once():
    """Before DIP₁ is fitted."""
    defense, steps = TandemDIP(iterations=1, coarse=1, **SMALL), []
    defense.progress = steps.append
    with pytest.raises(ValueError, match="at least 128 × 128 pixels, found 65 × 72: set coarse"):
        defense(photos(1))
    assert not steps


def test_readouts_are_points_of_one_run():
    images, names = photos(3), list("abc")
    defense = TandemDIP(first_iterations=(6, 3), iterations=8, first_width=0.125, **SMALL)
    actual = {}
    for restored in defense.trace(images, names, [4, 8]):
        key = restored.first_iterations, restored.iteration
        whole = actual.setdefault(key, torch.full_like(images, torch.nan))
        whole[restored.positions] = restored.images
    assert set(actual) == {(3, 4), (3, 8), (6, 4), (6, 8)}
    for (first_steps, steps), traced in actual.items():
        settings = {"iterations": steps, "first_width": 0.125}
        alone = TandemDIP(first_iterations=(first_steps,), **settings, **SMALL)
        assert (alone(images, names) - traced).abs().max() < 1e-9
    assert (defense(images, names) - actual[6, 8]).abs().max() < 1e-9  # the first of the two


@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_networks_output_is_told(channels):
    """It has the images' shape, belongs to λ₁ alone, and is what DIP₁ alone makes of the image."""
    images = photos(2, 40, 48)[:, :channels]
    defense = TandemDIP(first_iterations=(3, 6), first_width=0.125, **SMALL)
    starts = {}
    for restored in defense.trace(images, ["a", "b"], [2, 4]):
        assert restored.start.shape == restored.images.shape
        for position, start in zip(restored.positions, restored.start):
            key = restored.first_iterations, position
            assert torch.equal(starts.setdefault(key, start), start)
    assert len(starts) == 4 and not torch.allclose(starts[3, 0], starts[6, 0])
    main, _ = defense.priors()
    tasks = defense._tasks(as_rgb(images), ["a", "b"], "dip1")
    for read in defense._fit(main, tasks, defense.fit_settings([3, 6])):
        for position, output in zip(read.positions, read.output):
            alone = as_input(output[None], images)[0]
            assert (starts[read.iteration, position] - alone).abs().max() < 1e-9


@pytest.mark.parametrize("name", ENGINES)
def test_progress_counts_every_step(name, monkeypatch):
    if name == "lanes":
        monkeypatch.setattr(native, "library", lambda narrow: None)
    defense = TandemDIP(first_iterations=(2, 3), iterations=14, first_width=0.125, **SMALL)
    done = []
    defense.progress = done.append
    defense(photos(3))
    assert sum(done) == defense.steps(3, 14) == 3 * (3 + 2 * 14)


def test_dip_takes_early_stopping_as_settings():
    images = photos(2)
    settings = {"iterations": 60, "learning_rate": 0.05} | SMALL
    (read,) = DIP(stop_window=3, stop_patience=4, **settings).trace(images[:1], ["a"], [60])
    assert 0 < int(read.stopped[0]) < 60
    (read,) = DIP(**settings).trace(images[:1], ["a"], [60])
    assert int(read.stopped[0]) == 0
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    noisy = (images + 0.3 * noise).clamp(0, 1)
    for kind in (DIP, TandemDIP):
        extra = {"first_width": 0.125, "first_iterations": (5,)} if kind is TandemDIP else {}
        defense = kind(stop_held_out=0.2, stop_patience=4, **settings, **extra)
        (read,) = defense.trace(noisy[:1], ["a"], [60])
        assert 0 < int(read.stopped[0]) < 60


def test_the_tandem_s_second_network_starts_coarse():
    """DIP₁ is the same, DIP₂ another; the engines agree."""
    images, settings = photos(2, 130, 128), {"first_iterations": (6,), "first_width": 0.125}
    restored = {}
    for coarse, engine in ((0, "fast"), (8, "fast"), (8, "reference")):
        defense = TandemDIP(iterations=16, coarse=coarse, engine=engine, **settings, **SMALL)
        for read in defense.trace(images, ["a", "b"], [16]):
            for i, image, start in zip(read.positions, read.images, read.start, strict=True):
                restored[coarse, engine, i] = image, start
    for i in range(2):
        plain, fast, slow = (
            restored[c, e, i] for c, e in ((0, "fast"), (8, "fast"), (8, "reference"))
        )
        assert torch.equal(plain[1], fast[1]) and (fast[1] - slow[1]).abs().max() < 1e-6
        assert (fast[0] - slow[0]).abs().max() < 1e-6 < (fast[0] - plain[0]).abs().max()
    with pytest.raises(ValueError, match="at least 128 × 128 pixels, found 130 × 100"):
        TandemDIP(coarse=3, **settings, **SMALL)(images[..., :100])


def test_float32_stays_near_float64():
    images = photos(2)
    double = DIP(iterations=10, **SMALL)(images)
    single = DIP(iterations=10, **SMALL | {"precision": "float32"})(images)
    assert 0 < (double - single).abs().max() < 1e-3


@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_result_has_the_images_type_and_the_precision_s_accuracy(dtype, engine):
    images = photos(1).to(dtype)
    for precision in ("float32", "float64"):
        settings = SMALL | {"precision": precision, "engine": engine}
        restored = DIP(iterations=3, **settings)(images)
        assert restored.dtype == dtype
        if dtype == torch.float64:
            single = torch.equal(restored, restored.float().double())
            assert single == (precision == "float32")


def test_bf16_is_near_and_its_result_is_float32():
    images = photos(1).float()
    exact = DIP(iterations=10, **SMALL | {"precision": "float32"})(images)
    rough = DIP(iterations=10, **SMALL | {"precision": "bf16"})(images)
    assert rough.dtype == torch.float32
    assert 1e-6 < (exact - rough).abs().max() < 0.05


def test_precisions_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="tf32 needs a CUDA GPU, found cpu"):
        DIP(iterations=1, precision="tf32")(photos(1).float())
    with pytest.raises(ValueError, match="only that engine has bf16"):
        DIP(iterations=1, precision="bf16", engine="reference")(photos(1).float())


def test_without_a_compiler_it_says_so_and_gives_the_same(monkeypatch, caplog, tmp_path):
    images = photos(1)
    expected = DIP(iterations=10, **SMALL)(images)
    native.library.cache_clear()
    monkeypatch.setattr(native, "compiler", lambda: None)
    try:
        actual = DIP(iterations=10, **SMALL)(images)
    finally:
        native.library.cache_clear()
    assert "no C++ compiler found" in caplog.text and "Install g++" in caplog.text
    assert (actual - expected).abs().max() < 1e-6


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
        monkeypatch.setattr(native, "library", lambda narrow: None)
    with torch.no_grad():
        for _ in DIP(feature_scale=32).trace(photos(1), ["a"], [1, 2]):
            assert not torch.is_grad_enabled()


def test_more_iterations_fit_better():
    images = photos(2)
    short, long = (DIP(iterations=n, **SMALL)(images) for n in (5, 80))
    assert (long - images).square().mean() < 0.8 * (short - images).square().mean()


@pytest.mark.parametrize("shape", [(2, 3, 20, 50), (1, 1, 40, 40), (0, 3, 40, 40)])
def test_any_size_and_gray(shape):
    images = torch.rand(shape)
    defense = DIP(iterations=2, feature_scale=32)
    restored = defense(images)
    assert restored.shape == shape and restored.dtype == torch.float32
    assert ((restored >= 0) & (restored <= 1)).all()


@pytest.mark.parametrize(
    ("kind", "setting", "why"),
    [
        (DIP, {"batch": -1}, "batch: found -1, allowed is a whole number ≥ 1 or null"),
        (DIP, {"iterations": 0}, "iterations: found 0, allowed is a whole number ≥ 1"),
        (DIP, {"smoothing": 1.5}, "smoothing: found 1.5, allowed is a number ≥ 0 and < 1"),
        (DIP, {"smoothing": 1.0}, "smoothing: found 1.0, allowed is a number ≥ 0 and < 1"),
        (DIP, {"norm": "batch"}, "found 'batch', allowed is one of instance, affine, none"),
        (DIP, {"precision": "fp16"}, "allowed is one of float32, tf32, bf16, float64"),
        (TandemDIP, {"first_iterations": ()}, r"found \(\), allowed is a list of at least 1"),
        (TandemDIP, {"first_norm": "batch"}, "first_norm: found 'batch', allowed is one of"),
        (TandemDIP, {"batch": -1}, "TandemDIP: batch: found -1"),
        (DIP, {"stop_held_out": 0.9}, "stop_held_out: found 0.9, allowed is a number"),
        (
            DIP,
            {"stop_held_out": 0.1, "stop_window": 9},
            "stop_window: found 9 beside stop_held_out",
        ),
        (DIP, {"stop_held_out": 0.1, "engine": "triton"}, "stop_held_out: found 0.1 beside engine"),
        (TandemDIP, {"coarse": 9, "stop_window": 9}, "coarse: found 9 beside stop_window 9"),
        (TandemDIP, {"coarse": 9, "stop_held_out": 0.1}, "coarse: found 9 beside stop_held_out"),
        (TandemDIP, {"coarse": 9, "engine": "triton"}, "coarse: found 9 beside engine 'triton'"),
        (DIP, {"stop_patience": 9}, "stop_patience"),
    ],
)
def test_wrong_settings_name_what_is_allowed(kind, setting, why):
    with pytest.raises(ValueError, match=why):
        kind(**setting)


def test_the_configuration_and_a_call_have_the_same_settings():
    """`progress` is none of them."""
    for kind in (DIP, TandemDIP):
        target = f"tandem_defense.defenses.dip:{kind.__name__}"
        assert {*schema.schema(target)["properties"], "seed"} == set(kind().settings())
        assert schema.constant(target, "RESTORATION") is True
    assert set(TandemDIP().settings()) - set(DIP().settings()) == {
        "first_iterations", "first_width", "first_norm", "coarse",
    }  # fmt: skip


def test_priors_are_the_networks_that_the_settings_describe():
    settings = {"feature_scale": 16, "norm": "affine", "initial_weights": "he"}
    assert DIP(**settings).priors() == (None, dip2(32, 16, "affine", "he"))
    first, second = TandemDIP(first_width=0.5, first_norm="none", **settings).priors()
    assert first == dip1(0.5, "none", "he") and second == dip2(3, 16, "affine", "he")


@pytest.mark.parametrize("readouts", [[], [0, 3], [3, 1], [2, 2]])
@pytest.mark.parametrize("kind", [DIP, TandemDIP])
def test_readouts_ascend_from_one(kind, readouts):
    with pytest.raises(ValueError, match="readouts.*allowed"):
        next(kind(**SMALL).trace(photos(1), ["a"], readouts))


# --- a first network that learned nothing ---


def flat_images(caplog, images, first_iterations=(20,), **settings) -> dict:
    """{λ₁: flat, (N,)} of a tandem at the demo's settings for DIP₁; what it logged is in caplog."""
    tandem = TandemDIP(
        first_iterations=first_iterations,
        first_width=0.25,
        feature_scale=32,
        smoothing=0.9,
        **settings,
    )
    flat = {n: torch.zeros(len(images), dtype=torch.bool) for n in first_iterations}
    for restored in tandem.trace(images, None, [1]):
        assert restored.flat.shape == (len(restored.positions),)
        assert restored.flat.dtype == torch.bool
        flat[restored.first_iterations][restored.positions] = restored.flat
    return flat


def test_a_normalized_first_network_is_not_flat(caplog):
    images = photos(3, 64, 64).float()
    assert not flat_images(caplog, images)[20].any()
    assert caplog.text == ""


def test_one_warning_says_how_many_are_flat_and_what_to_do(caplog):
    """Without normalization the first steps learn nothing but a color."""
    images = photos(3, 64, 64).float()
    flat = flat_images(caplog, images, (1, 3), first_norm="none")
    assert flat[1].all() and flat[3].all()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "for 3 of 3 images after λ₁ = 1 steps, for 3 of 3 images after λ₁ = 3" in caplog.text
    assert "more first_iterations, or first_norm: affine" in caplog.text


def test_images_that_are_flat_themselves_are_not_flagged(caplog):
    """Black ones, ones of one color, also with an attack's perturbation."""
    black = torch.zeros(3, 3, 64, 64)
    black[1, 0] = 0.8
    black[2] = 8 / 255 * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)).round()
    assert not flat_images(caplog, black, (3,), first_norm="none")[3].any()
    assert caplog.text == ""


def test_an_image_of_one_color_is_flat():
    """Its channels differ, its pixels do not."""
    color = torch.tensor([0.9, 0.1, 0.5], dtype=torch.float64)[:, None, None]
    outputs = torch.stack([color + 0.01 * (photos(1)[0] - 0.5), photos(1)[0]])
    assert is_flat(outputs, photos(1).expand(2, -1, -1, -1)).tolist() == [True, False]


def test_dip_alone_is_never_flat():
    for restored in DIP(**SMALL).trace(photos(2), None, [1]):
        assert restored.flat is None


@pytest.mark.parametrize("kind", [DIP, TandemDIP])
def test_without_ids_an_image_s_content_is_its_id(kind):
    """A batch's part is restored as it was in the batch, in any order."""
    extra = {"first_iterations": (5,), "first_width": 0.125} if kind is TandemDIP else {}
    defense, images = kind(iterations=8, **SMALL, **extra), photos(3)
    whole = defense(images)
    assert (whole[1:2] - defense(images[1:2])).abs().max() < 1e-9
    assert (whole.flip(0) - defense(images.flip(0))).abs().max() < 1e-9
    assert not torch.allclose(whole, defense(images, ["a", "b", "c"]))
    with pytest.raises(ValueError, match="2 ids for 3 images"):
        defense(images, ["a", "b"])


@pytest.mark.parametrize("compiled", [True, False])
def test_inference_mode_changes_nothing(monkeypatch, compiled):
    """Neither around a restoration nor for images that were made in it."""
    if not compiled:
        monkeypatch.setattr(native, "library", lambda narrow: None)
    defense = TandemDIP(first_iterations=(2,), iterations=3, feature_scale=32, first_width=0.125)
    images = photos(2)
    expected = defense(images, ["a", "b"])
    with torch.inference_mode():
        assert torch.equal(defense(images.clone(), ["a", "b"]), expected)
        made = images + 0
    assert torch.equal(defense(made, ["a", "b"]), expected)
