"""The training loop: PyTorch's Adam and one-cycle schedule, seeded order, checked images."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from trainings import random

from tandem_defense.adam import Adam
from tandem_defense.training import (
    batches_of,
    check_images,
    check_training,
    constant,
    each_epoch,
    frozen,
    generator,
    initialize,
    minimize,
    one_cycle,
    seeded,
)

X, Y = random(20, 3).double(), random(20, 2, seed=1).double()


def two_layers(seed: int = 0) -> nn.Sequential:
    """A small network in float64."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    initialize(net, seed)
    return net


def test_one_cycle_adam_is_torchs():
    """Two groups with rates of their own, 16 steps, in float64."""
    ours, plain = two_layers(), two_layers()
    rates = (1e-2, 3e-2)
    minimize(
        lambda batch: {"error": mse_loss(ours(X[batch]), Y[batch])},
        [(ours[0].parameters(), rates[0]), (ours[2].parameters(), rates[1])],
        name="test",
        order=generator(0, "order"),
        count=20,
        epochs=4,
        batch_size=6,
        schedule=one_cycle,
    )
    groups = [{"params": plain[i].parameters()} for i in (0, 2)]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, list(rates), total_steps=16)
    order = generator(0, "order")
    for _ in range(4):
        for batch in torch.randperm(20, generator=order).split(6):
            optimizer.zero_grad()
            mse_loss(plain(X[batch]), Y[batch]).backward()
            optimizer.step()
            schedule.step()
    assert (plain[0].weight - two_layers()[0].weight).abs().max() > 1e-2
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 37])
def test_one_cycle_is_torchs(steps):
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps)
    for step in range(steps):
        (group,) = optimizer.param_groups
        assert one_cycle(step, steps) == pytest.approx((group["lr"], group["betas"][0]), abs=1e-12)
        optimizer.step()
        schedule.step()


def test_constant_adam_is_torchs():
    ours, plain = two_layers(), two_layers()
    optimizer, reference = Adam(ours.parameters()), torch.optim.Adam(plain.parameters(), 1e-2)
    factor, beta1 = constant(0, 5)
    for _ in range(5):
        mse_loss(ours(X), Y).backward()
        optimizer.step(1e-2 * factor, beta1)
        reference.zero_grad()
        mse_loss(plain(X), Y).backward()
        reference.step()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)
        assert a.grad is None


def test_steps_are_counted_over_all_epochs(monkeypatch):
    seen = []
    monkeypatch.setattr(Adam, "step", lambda self, rate, beta1: seen.append((rate, beta1)))
    net = two_layers()
    minimize(
        lambda batch: {"error": mse_loss(net(X[batch]), Y[batch])},
        [(net.parameters(), 2.0)],
        name="test",
        order=generator(0, "order"),
        count=20,
        epochs=3,
        batch_size=8,
        schedule=lambda step, steps: (step, steps),
    )
    assert seen == [(2.0 * step, 9) for step in range(9)]


def test_every_index_is_in_every_epoch_once():
    live, orders = [torch.zeros(1)], []
    settings = {"count": 10, "epochs": 3, "batch_size": 4}
    for epoch, batches in each_epoch("test", live, order=generator(0, "order"), **settings):
        steps, parts = zip(*batches, strict=True)
        assert steps == (3 * epoch, 3 * epoch + 1, 3 * epoch + 2)
        assert [len(part) for part in parts] == [4, 4, 2]
        orders.append(torch.cat(parts).tolist())
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize(("count", "sizes"), [(9, [4, 5]), (10, [4, 4, 2]), (1, [1]), (8, [4, 4])])
def test_no_batch_is_one_image_by_itself(count, sizes):
    """Batch norm cannot train on one value per channel."""
    parts = batches_of(torch.arange(count), 4)
    assert [len(part) for part in parts] == sizes
    assert torch.cat(parts).tolist() == list(range(count))
    if count > 1:
        net, x = nn.BatchNorm1d(1), torch.randn(count, 1)
        minimize(
            lambda batch: {"loss": net(x[batch]).square().mean()},
            [(net.parameters(), 0.1)],
            name="p",
            order=generator(0, "order"),
            count=count,
            epochs=2,
            batch_size=4,
        )


def test_adam_trains_all_of_a_slice():
    """Its rows have gaps in memory."""
    whole, x = random(6, 4), random(5, 6)
    ours, plain = nn.Parameter(whole[:, :3]), nn.Parameter(whole[:, :3].clone())
    adam, reference = Adam([ours]), torch.optim.Adam([plain], 1e-2)
    for _ in range(3):
        (x @ ours).square().sum().backward()
        adam.step(1e-2)
        reference.zero_grad()
        (x @ plain).square().sum().backward()
        reference.step()
    assert torch.allclose(ours, plain, atol=1e-6)


def test_a_parameter_without_a_gradient_stays():
    used, unused = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    adam = Adam([unused, used])
    used.sum().backward()
    adam.step(0.1)
    assert unused.tolist() == [1, 1] and torch.allclose(used, torch.tensor([0.9, 0.9]))
    adam.step(0.1)  # none has one
    assert torch.allclose(used, torch.tensor([0.9, 0.9]))


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_layers_alone_compute_in_bfloat16(precision, expected):
    net, seen = two_layers().float(), []
    net[0].register_forward_hook(lambda layer, given, made: seen.append(made.dtype))
    parameters = list(net.parameters())

    def loss(batch):
        with torch.no_grad():
            assert torch.randn(2).exp().dtype == torch.float32
        return {"loss": net(torch.rand(len(batch), 3)).float().square().mean()}

    order = torch.Generator().manual_seed(0)
    settings = {"name": "a", "order": order, "count": 4, "epochs": 1, "batch_size": 4}
    before = [p.clone() for p in parameters]
    minimize(loss, [(parameters, 1e-2)], precision=precision, **settings)
    assert seen == [expected] and all(p.dtype == torch.float32 for p in parameters)
    assert not all(map(torch.equal, before, parameters))
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_processor_that_is_slow_with_bfloat16_is_named(
    monkeypatch, caplog, capability, precision
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    net, order = two_layers().float(), torch.Generator().manual_seed(0)
    settings = {"name": "a", "order": order, "count": 4, "epochs": 1, "batch_size": 4}

    def loss(batch):
        return {"loss": net(torch.rand(len(batch), 3)).float().square().mean()}

    minimize(loss, [(list(net.parameters()), 1e-2)], precision=precision, **settings)
    assert ("slower" in caplog.text) == ((capability, precision) == ("AVX2", "bf16"))


def test_terms_without_a_gradient_are_only_logged(caplog):
    caplog.set_level("INFO")
    nets = [two_layers(), two_layers()]
    for net, extra in zip(nets, ({}, {"size": torch.tensor(7.0)}), strict=True):
        minimize(
            lambda batch, net=net, extra=extra: {"error": mse_loss(net(X), Y)} | extra,
            [(net.parameters(), 1e-2)],
            name="test",
            order=generator(0, "order"),
            count=20,
            epochs=2,
            batch_size=20,
        )
    assert torch.equal(nets[0][0].weight, nets[1][0].weight)
    assert "test: epoch 2 of 2: error" in caplog.text and "size 7" in caplog.text


def test_generators_and_seeds():
    assert torch.equal(*(torch.rand(3, generator=generator(0, "a", "b")) for _ in range(2)))
    numbers = [torch.rand(3, generator=generator(*names)) for names in ((0, "a"), (1, "a"))]
    assert not torch.equal(*numbers)
    state, drawn = torch.get_rng_state(), []
    for _ in range(2):
        with seeded(3):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("weights", "spread"), [("glorot", 6 / 60), ("he", 6 / 20)])
def test_initial_weights(weights, spread):
    """Uniform on ±√(6 / (fan in + fan out)) or ±√(6 / fan in), biases 0."""
    layer = nn.Linear(20, 40)
    initialize(layer, 0, weights)
    assert (layer.bias == 0).all()
    assert 0.9 * spread**0.5 < layer.weight.abs().max() <= spread**0.5


def test_frozen_is_undone():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval())
    net[0].bias.requires_grad_(False)
    with pytest.raises(RuntimeError), frozen(net):
        assert not net[0].training and not any(p.requires_grad for p in net.parameters())
        raise RuntimeError
    assert net[0].training and not net[1].training
    assert net[0].weight.requires_grad and not net[0].bias.requires_grad


def test_wrong_images():
    images, labels = random(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    check_training(images, labels, 3, 8)
    for wrong, words in (
        (images[0], "shape"),
        (images[:, :1], r"expected \(B, 3, H, W\)"),
        ((images * 255).byte(), "expected floating point"),
    ):
        with pytest.raises(ValueError, match=words):
            check_images(wrong, 3)
    with pytest.raises(ValueError, match=r"expected \(B, 3, 9, 9\)"):
        check_images(images, 3, 9)
    net = nn.Conv2d(3, 1, 1)
    with pytest.raises(ValueError, match=r"float64, the weights torch.float32: convert"):
        check_images(images.double(), 3, weights=net)
    with torch.autocast("cpu", torch.bfloat16):  # converts by itself
        check_images(images.bfloat16(), 3, weights=net)
    for x, y, words in (
        (images[:0], labels[:0], "no training images"),
        (images * 255, labels, r"expected \[0, 1\]"),
        (images * float("nan"), labels, r"lie in \[nan, nan\]"),
        (images, labels[:1], "one class number per image"),
    ):
        with pytest.raises(ValueError, match=words):
            check_training(x, y, 3)
