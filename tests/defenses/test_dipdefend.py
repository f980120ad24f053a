"""DIPDefend: its network, its stopping rule, and images that depend on nothing but themselves."""

import pytest
import torch
from priors import photos

from tandem_defense.defenses import dipdefend
from tandem_defense.defenses.dipdefend import DIPDefend, Peak, SkipNetwork, worst_psnr
from tandem_defense.pipeline import checkpoint, schema
from tandem_defense.threats.through import BPDA


def test_an_image_depends_on_nothing_but_itself():
    """To the last bit: not on batch mates, order or PyTorch's global generator."""
    images, names = photos(3).float(), list("abc")
    defense = DIPDefend(iterations=6, seed=3)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    whole = defense(images, names)
    assert torch.equal(torch.rand(3), expected)
    with torch.no_grad():
        assert torch.equal(defense(images[[2, 0]], ["c", "a"]), whole[[2, 0]])
    assert not torch.equal(defense(images[:1], ["other"]), whole[:1])
    assert not torch.equal(DIPDefend(iterations=6, seed=4)(images[:1], ["a"]), whole[:1])
    assert torch.equal(defense(images)[1:2], defense(images[1:2]))  # the content is the id


def test_a_caller_s_autocast_changes_nothing():
    images, defense = photos(1).float(), DIPDefend(iterations=6)
    expected = defense(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(defense(images), expected)


def test_readouts_are_points_of_one_run_and_the_best_output_so_far(monkeypatch):
    """The result at a read-out is the output at the largest smoothed PSNR until then."""
    seen = []

    def psnr(output, target, patch):
        seen.append((output, worst_psnr(output, target, patch)))
        return seen[-1][1]

    monkeypatch.setattr(dipdefend, "worst_psnr", psnr)
    images = photos(1).float()
    reads = list(DIPDefend(smoothing=0.5, learning_rate=0.05).trace(images, ["a"], [5, 40]))
    assert [r.iteration for r in reads] == [5, 40] and len(seen) == 40
    assert (
        reads[-1].images.sub(images).square().mean() < 0.5 * seen[0][0].sub(images).square().mean()
    )
    for read in reads:
        a = b = seen[0][1]
        levels = []
        for _, value in seen[: read.iteration]:
            a = 0.5 * a + 0.5 * value
            b = 0.5 * b + 0.5 * a
            levels.append(2 * a - b)
        best = int(torch.tensor(levels).argmax())
        assert int(read.stopped[0]) == best + 1
        assert torch.equal(read.images, seen[best][0])


def test_a_double_average_follows_a_trend_and_finds_the_peak():
    """On a straight line it does not lag, behind a peak it lags by less than a single average."""
    line = Peak(0.9)
    for i in range(200):
        line.update(0.1 * i)
    a, b = line.averages
    assert abs(2 * a - b - 0.1 * 199) < 1e-3 and abs(a - 0.1 * 199) > 0.5
    peak, last = Peak(0.8), 0
    series = [min(i, 60 - i) for i in range(60)]  # greatest at 30
    for i, value in enumerate(series):
        last = i if peak.update(value) else last
    assert 30 <= last <= 34


def test_the_worst_patch_is_the_worst_also_at_the_edge():
    target = torch.zeros(1, 3, 70, 64)
    output = target.clone()
    output[..., :32, :32] = 0.01
    output[..., 64:, 40] = 0.1  # in a patch of 6 × 32 pixels: 1/32 of it
    assert worst_psnr(output, target, 32) == pytest.approx(-10 * torch.tensor(0.01 / 32).log10())


@pytest.mark.parametrize("skip", [0, 4])
def test_the_network_keeps_odd_sizes_and_uses_all_its_weights(skip):
    network = SkipNetwork(32, (4, 8, 16), skip)
    output = network(torch.rand(1, 32, 67, 75))
    assert output.shape == (1, 3, 67, 75) and ((output > 0) & (output < 1)).all()
    output.sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    strides = [m.stride for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert strides.count((2, 2)) == 3


@pytest.mark.parametrize("shape", [(2, 3, 20, 50), (1, 1, 40, 40), (0, 3, 40, 40)])
def test_any_size_and_gray(shape):
    images = torch.rand(shape, dtype=torch.float64)
    restored = DIPDefend(iterations=2)(images)
    assert restored.shape == shape and restored.dtype == torch.float64
    assert ((restored >= 0) & (restored <= 1)).all()


def test_a_killed_job_goes_on_with_the_next_image(tmp_path, monkeypatch):
    images, defense = photos(3).float(), DIPDefend(iterations=3)
    expected = {r.positions[0]: r.images for r in defense.trace(images, None, [3])}
    monkeypatch.setattr(checkpoint, "INTERVAL", 0)
    path, found = tmp_path / "checkpoint", {}

    class Killed(Exception):
        pass

    with pytest.raises(Killed), checkpoint.kept(path, {}):
        for read in defense.trace(images, None, [3]):
            found[read.positions[0]] = read.images
            if read.positions == [2]:
                raise Killed
    counted = []
    defense.progress = counted.append
    with checkpoint.kept(path, {}):
        rest = {r.positions[0]: r.images for r in defense.trace(images, None, [3])}
    assert 0 not in rest and 2 in rest  # how many were kept depends on the disk's speed
    assert counted[0] == 3 * (3 - len(rest)) and sum(counted) == defense.steps(3, 3)
    assert all(torch.equal(image, expected[i]) for i, image in (found | rest).items())


def test_an_attacker_shortens_it_as_any_restoration():
    defense = DIPDefend(iterations=4)
    target = BPDA(iterations=2).target(torch.nn.Flatten(), defense)
    images = photos(1).float().requires_grad_()
    target(images).sum().backward()
    assert defense.iterations == 2 and torch.equal(images.grad, torch.ones_like(images))


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ({"iterations": 0}, "iterations: found 0, allowed is a whole number ≥ 1"),
        ({"smoothing": 1}, "smoothing: found 1, allowed is a number ≥ 0 and < 1"),
        ({"widths": ()}, r"widths: found \(\), allowed is a list of at least 1"),
        ({"patch": 0}, "patch: found 0"),
    ],
)
def test_wrong_settings_name_what_is_allowed(setting, why):
    with pytest.raises(ValueError, match=why):
        DIPDefend(**setting)


def test_readouts_ascend_and_images_are_images():
    with pytest.raises(ValueError, match="readouts.*ascending"):
        next(DIPDefend().trace(photos(1), None, [3, 1]))
    with pytest.raises(ValueError, match="divide 8-bit images by 255"):
        DIPDefend()(photos(1) * 255)


def test_the_pipeline_gives_it_jobs_of_its_own():
    target = "tandem_defense.defenses.dipdefend:DIPDefend"
    assert schema.constant(target, "RESTORATION") is True
    assert {*schema.schema(target)["properties"], "seed"} == set(DIPDefend().settings())


def test_threads_and_inference_mode_change_nothing():
    defense = DIPDefend(iterations=4)
    images, threads = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.inference_mode():
                threads.append(defense(images, ["a"]))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(1)
    assert torch.equal(*threads) and not torch.equal(threads[0], images)
