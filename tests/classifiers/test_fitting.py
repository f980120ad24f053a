"""The pipeline's own training: augmentation, and the loop with PyTorch's optimizer and schedule."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from trainings import random

from tandem_defense.classifiers.fitting import Trainable, augment
from tandem_defense.settings import Count
from tandem_defense.training import generator, seeded


class Linear(Trainable):
    """One layer on the channels' means, in float64."""

    classes: Count = 3

    def build(self):
        self.layer = nn.Linear(3, self.classes).double()

    def maps(self, images):
        return images

    def head(self, maps):
        return self.layer(maps.mean((2, 3)))


def test_fit_is_adam_with_one_cycle():
    images, labels = random(20, 3, 8, 8).double(), torch.arange(20) % 3
    net, plain = Linear(), Linear()
    settings = {"noise": 0.2, "blur": 0.5}
    net.fit(images, labels, seed=4, epochs=3, batch_size=6, learning_rate=0.1, **settings)
    with seeded(4):
        plain.build()
    start = plain.layer.weight.clone()
    optimizer = torch.optim.Adam(plain.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12)
    draws = generator(4, "training")
    for _ in range(3):
        for batch in torch.randperm(20, generator=draws).split(6):
            x = augment(images[batch], **settings, rng=draws)
            optimizer.zero_grad()
            cross_entropy(plain(x), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    assert (plain.layer.weight - start).abs().max() > 0.1
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_accuracy_is_in_the_log_and_not_in_the_loss(caplog):
    caplog.set_level("INFO")
    images = torch.stack([torch.full((3, 8, 8), v) for v in (0.0, 1.0)] * 10).double()
    Linear(classes=2).fit(
        images, torch.arange(20) % 2, seed=0, epochs=30, batch_size=20, learning_rate=0.5
    )
    assert "epoch 30 of 30: cross-entropy" in caplog.text
    assert caplog.text.strip().endswith("training accuracy 1")


def test_augmentation_stays_in_range_and_shape():
    x = random(64, 3, 9, 12)
    found = augment(x, 0.3, 0.5, generator(0, "a"))
    assert found.shape == x.shape and found.min() >= 0 and found.max() <= 1
    assert torch.equal(found, augment(x, 0.3, 0.5, generator(0, "a")))
    assert not torch.equal(found, augment(x, 0.3, 0.5, generator(1, "a")))


def test_augmentation_flips_and_varies_the_contrast():
    """Without noise and blur an image is one of its four flips, its contrast 0.7 to 1.3."""
    x = 0.4 + 0.2 * random(200, 1, 6, 6)  # nothing is clipped
    found, gains, kinds = augment(x, 0.0, 0.0, generator(0, "a")), [], set()
    for image, out in zip(x, found, strict=True):
        gain = (out - 0.5).abs().max() / (image - 0.5).abs().max()
        flips = [image, image.flip(1), image.flip(2), image.flip(1, 2)]
        fits = [torch.allclose((flip - 0.5) * gain + 0.5, out, atol=1e-5) for flip in flips]
        assert any(fits)
        kinds.add(fits.index(True))
        gains.append(float(gain))
    assert kinds == {0, 1, 2, 3} and 0.7 <= min(gains) < 0.75 and 1.25 < max(gains) <= 1.3001


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 50), (0.5, 25)])
def test_the_share_of_blurred_images(share, expected):
    """A single bright pixel that is blurred becomes nine."""
    x = torch.zeros(50, 1, 7, 7)
    x[:, :, 3, 3] = 1
    found = augment(x, 0.0, share, generator(0, "a"))
    spread = (found > found.amin((1, 2, 3), keepdim=True) + 1e-3).sum((1, 2, 3)) == 9
    assert abs(int(spread.sum()) - expected) <= (0 if share in (0.0, 1.0) else 10)
