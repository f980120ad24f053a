"""The references of FUNN's table: trained with labels, plainly, adversarially, or not at all."""

import pytest
import torch
import trainings
from refusals import check_settings, check_training

from tandem_defense.attacks.iterative import PGD
from tandem_defense.classifiers.autoencoder import ClassicAutoencoder
from tandem_defense.classifiers.supervised import Supervised, pgd
from tandem_defense.training import generator


@pytest.fixture(scope="module")
def digits():
    """1797 digits (N, 1, 28, 28) in [0, 1] with their labels, shuffled."""
    images, labels = trainings.digits(28)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], labels[order]


def test_adversarial_training_holds_where_plain_training_does_not(digits):
    images, labels = (part[:1500] for part in digits)
    x, y = (part[1500:1600] for part in digits)
    left = {}
    for name, training in {
        "plain": {},
        "linf": {"adversary": "linf", "epsilon": 0.1, "steps": 3},
    }.items():
        net = Supervised()
        net.fit(images, labels, seed=0, epochs=12, learning_rate=3e-3, batch_size=64, **training)
        accuracy = (net.predict(x) == y).float().mean()
        attack = PGD(semantics="fixed", epsilon=0.1, step_size=0.02, steps=15)
        left[name] = float((~attack(net, x, y).success).float().mean())
        assert accuracy > 0.8, name
    assert left["linf"] > left["plain"] + 0.3


def test_random_features_are_an_untrained_encoder_with_a_trained_head(digits):
    images, labels = (part[:400] for part in digits)
    net, other = ClassicAutoencoder(), ClassicAutoencoder()
    net.fit(images, labels, seed=1, epochs=0, head_epochs=30, head_rate=5e-3)
    other.fit(images, labels, seed=1, epochs=0, head_epochs=1)
    for mine, theirs in zip(
        net.autoencoder.parameters(), other.autoencoder.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert (net.predict(images) == labels).float().mean() > 0.5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_inner_attack_stays_within_its_bound_and_raises_the_loss(norm, digits):
    images, labels = (part[:16] for part in digits)
    net = Supervised()
    epsilon = {"linf": 0.1, "l2": 1.0}[norm]

    def loss(x):
        return torch.nn.functional.cross_entropy(net(x), labels)

    made = pgd(net, images, labels, norm, epsilon, 5, generator(0, "test"))
    delta = (made - images).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert (size <= epsilon * (1 + 1e-5)).all() and size.max() > epsilon / 2
    assert made.min() >= 0 and made.max() <= 1
    assert loss(made) > loss(images)
    again = pgd(net, images, labels, norm, epsilon, 5, generator(0, "test"))
    assert torch.equal(made, again)


def test_the_same_seed_gives_the_same_weights(digits):
    few = digits[0][:96], digits[1][:96]
    nets = [Supervised() for _ in range(3)]
    for net, seed in zip(nets, (0, 0, 1), strict=True):
        net.fit(*few, seed=seed, epochs=2, batch_size=32, adversary="l2", epsilon=1.0, steps=2)
    first, same, other = (net.dense[1].weight for net in nets)
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert not list(nets[0].autoencoder.decoder.parameters())


def test_settings_and_data_are_checked(digits):
    few = digits[0][:32], digits[1][:32]
    check_settings(Supervised, {"classes": 0})
    for wrong in ({"adversary": "l1"}, {"epsilon": 0}, {"steps": 0}):
        check_training(Supervised(), wrong, *few)
