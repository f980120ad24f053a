"""FUNN and the classic autoencoder: classifiers on the features of an unsupervised encoder.

Vigouroux and Picard, "FUNN: Flexible Unsupervised Neural Network"; eq. (3)-(5) are the paper's.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from tandem_defense.classifiers.base import Classifier
from tandem_defense.classifiers.strided import Enlarge, Shrink
from tandem_defense.device import DRAWN
from tandem_defense.settings import Count, Counts, Positive, Settings, Size, checked
from tandem_defense.training import (
    check_images,
    check_training,
    frozen,
    generator,
    initialize,
    minimize,
    seeded,
)


def distance(x: Tensor, y: Tensor, unit: Literal["mse", "l2", "sum"] = "mse") -> Tensor:
    """The paper's L_α between images (B, C, H, W), a mean over the batch, a scalar.

    ``mse``: squared error per pixel, ``sum``: squared error per image, ``l2``: Euclidean
    distance per image (unsquared), all in [0, 1] pixels.
    """
    squares = (x - y).square().flatten(1)
    if unit == "mse":
        return squares.mean()
    if unit == "sum":
        return squares.sum(1).mean()
    return squares.sum(1).clamp_min(1e-24).sqrt().mean()  # the root has no slope at 0


def constraint(
    error: Tensor, *, beta: float, penalty: Literal["corrected", "as_printed"] = "corrected"
) -> Tensor:
    """How far the defender's `error` is from satisfying eq. (5), error ≥ β; 0 where it does.

    ``corrected``: max(β − error, 0). ``as_printed``: max(error − β, 0), the formula in the
    paper, which punishes the attacker for satisfying (5).
    """
    return (beta - error if penalty == "corrected" else error - beta).clamp_min(0)


def attacker_loss(
    x: Tensor,
    attacked: Tensor,
    restored: Tensor | None = None,
    *,
    unit: Literal["mse", "l2", "sum"] = "mse",
    gamma: float = 5.0,
    beta: float = 0.01,
    penalty: Literal["corrected", "as_printed"] = "corrected",
) -> Tensor:
    """What the attacker minimizes, a scalar: eq. (3), L(Att(x), x).

    With `restored` also the penalty for violating (5), γ · :func:`constraint` of L(x, Def(Att(x))).

    x, attacked, restored : the images, Att(x) and Def(Att(x)), each (B, C, H, W)
    """
    loss = distance(attacked, x, unit)
    if restored is not None:
        loss = loss + gamma * constraint(distance(x, restored, unit), beta=beta, penalty=penalty)
    return loss


def defender_loss(
    x: Tensor, restored: Tensor, *, unit: Literal["mse", "l2", "sum"] = "mse"
) -> Tensor:
    """What the defender minimizes, a scalar: eq. (4), L(x, Def(Att(x)))."""
    return distance(x, restored, unit)


def both_losses(
    x: Tensor,
    attacked: Tensor,
    defender: nn.Module,
    *,
    unit: Literal["mse", "l2", "sum"],
    gamma: float,
    beta: float,
    penalty: Literal["corrected", "as_printed"],
) -> dict[str, Tensor]:
    """The terms of both players' losses, whose sum has one backward pass instead of two.

    It gives the attacker the gradient of :func:`attacker_loss` and the defender that of
    :func:`defender_loss`. Of the attacker's loss the penalty alone passes the defender, and by the
    chain rule its gradient is the error's times the penalty's slope. So the defender descends on
    its error, and the gradient that leaves it for the attacker is multiplied by the slope.
    """
    shown = attacked.view_as(attacked)  # the hook is on this view: eq. (3) goes past it
    error = defender_loss(x, defender(shown), unit=unit)
    at = error.detach().requires_grad_()
    violation = gamma * constraint(at, beta=beta, penalty=penalty)
    (slope,) = torch.autograd.grad(violation, at)
    shown.register_hook(lambda gradient: slope * gradient)
    return {
        "attacker (3)": attacker_loss(x, attacked, unit=unit),
        "defender (4)": error,
        "penalty (5)": violation.detach(),
    }


class Tanh01(nn.Module):
    """(1 + tanh) / 2, to values in [0, 1]."""

    def forward(self, values: Tensor) -> Tensor:
        """As many values."""
        return (1 + torch.tanh(values)) / 2


class Autoencoder(Settings, nn.Module):
    """Images (B, C, S, S) in [0, 1] to images of the same shape and range (the paper's Figure 1).

    Encoder: 3×3 convolutions of stride 2 with ReLU, S → ⌈S/2⌉ per layer, with five of them down to
    a vector (32 → 16 → 8 → 4 → 2 → 1). Decoder: its mirror with 3×3 deconvolutions, the last
    activation is (1 + tanh) / 2. With ``noise_size`` > 0 it is an attacker: a vector per image is
    concatenated to the features before they are decoded, at every place of them where the widths
    are too few to end in a vector.

    activation : of the features, the encoder's last: ``relu``, or ``tanh01``, (1 + tanh) / 2
    """

    channels: Count
    size: Count
    widths: Counts
    noise_size: Size = 0
    activation: Literal["relu", "tanh01"] = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        channels, widths, sizes = self.channels, self.widths, [self.size]
        for _ in widths:
            sizes.append((sizes[-1] + 1) // 2)
        self.shape = (widths[-1], sizes[-1], sizes[-1])  # of an image's features
        encoder: list[nn.Module] = []
        for i, o in pairwise((channels, *widths)):
            encoder += [Shrink(i, o), nn.ReLU(inplace=True)]
        if self.activation == "tanh01":
            encoder[-1] = Tanh01()
        decoder: list[nn.Module] = []
        for (o, i), (large, small) in reversed(
            list(zip(pairwise((channels, *widths)), pairwise(sizes), strict=True))
        ):
            entry = i + self.noise_size if not decoder else i
            extra = large - (2 * small - 1)  # 1 where the size to come back to is even
            decoder += [Enlarge(entry, o, extra), nn.ReLU(inplace=True)]
        self.encoder = nn.Sequential(*encoder)
        self.decoder = nn.Sequential(*decoder[:-1], Tanh01())

    def decode(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images from features (B, F, s, s) and, for an attacker, noise (B, noise_size)."""
        if self.noise_size:
            tiles = noise[:, :, None, None].expand(-1, -1, *features.shape[2:])  # (B, n, s, s)
            features = torch.cat([features, tiles], 1)
        return self.decoder(features)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Att(x) or Def(x) of the paper; shape and range as the input's."""
        return self.decode(self.encoder(images), noise)


@torch.no_grad()
def encode(encoder: nn.Module, images: Tensor, batch_size: int = 512) -> Tensor:
    """All features (N, F, s, s) of an encoder that no longer changes: once, not once per epoch."""
    return torch.cat([encoder(batch) for batch in images.split(batch_size)])


class ClassicAutoencoder(Classifier):
    """A plain autoencoder's encoder, frozen, with a dense layer of `hidden` ReLU units and logits.

    The paper's baseline: "a classic auto-encoder with an architecture similar to the defender".
    Images (B, `channels`, `size`, `size`) in [0, 1].

    pad : so many black pixels are added on each side: the autoencoder works on images of side
        `size` + 2 · `pad`, its errors are of these, and its outputs are cropped again
    widths : channels after each convolution of the encoder; five end in a vector for 32 × 32
    activation : of the features, ``relu`` or ``tanh01``; see :class:`Autoencoder`
    """

    classes: Count = 10
    channels: Count = 1
    size: Count = 28
    pad: Size = 2
    widths: Counts = (16, 32, 64, 64, 32)
    activation: Literal["relu", "tanh01"] = "relu"
    hidden: Count = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        with seeded(0):
            self.autoencoder = self.make_autoencoder()
            features = torch.Size(self.autoencoder.shape).numel()
            self.dense = nn.Sequential(
                nn.Flatten(),
                nn.Linear(features, self.hidden),
                nn.ReLU(),
                nn.Linear(self.hidden, self.classes),
            )
        self.eval()

    def make_autoencoder(self, noise_size: int = 0) -> Autoencoder:
        """A new autoencoder of this classifier's settings, with noise an attacker."""
        return Autoencoder(
            channels=self.channels,
            size=self.size + 2 * self.pad,
            widths=self.widths,
            noise_size=noise_size,
            activation=self.activation,
        )

    def padded(self, images: Tensor) -> Tensor:
        """Images (B, C, S, S) with black pixels around them, as the autoencoder takes them."""
        return nn.functional.pad(images, [self.pad] * 4)

    def cropped(self, images: Tensor) -> Tensor:
        """The reverse of :meth:`padded`."""
        return nn.functional.pad(images, [-self.pad] * 4)

    def maps(self, images: Tensor) -> Tensor:
        """The encoder's features, (B, F, s, s): (B, 32, 1, 1) for MNIST.

        Raises ValueError for images of another shape or that are not floating point.
        """
        check_images(images, self.channels, self.size, weights=self)
        return self.autoencoder.encoder(self.padded(images))

    def head(self, maps: Tensor) -> Tensor:
        """Logits (B, classes) from the features, flattened: there is no pooling."""
        return self.dense(maps)

    def reconstruct(self, images: Tensor) -> Tensor:
        """The autoencoder's output, shape and range as the input's."""
        return self.cropped(self.autoencoder(self.padded(images)))

    @checked
    def fit(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int,
        epochs: Size = 20,
        learning_rate: Positive = 1e-3,
        head_epochs: Count = 20,
        head_rate: Positive = 1e-3,
        batch_size: Count = 128,
        loss_unit: Literal["mse", "l2", "sum"] = "mse",
        initial_weights: Literal["torch", "glorot", "he"] = "he",
    ) -> None:
        """Train the autoencoder on `images` (N, C, S, S) in [0, 1], then the head on `labels`.

        No `epochs` leave the encoder as it was drawn: a head on random features. The same seed,
        data and thread count give the same weights. `initial_weights` (see
        :func:`~tandem_defense.training.initialize`): ``torch`` can die on all-black images.
        Raises ValueError for wrong shapes, ranges, labels or settings.
        """
        self.check(images, labels)
        initialize(self, seed, initial_weights)
        x = self.padded(images)

        def loss(batch: Tensor) -> dict[str, Tensor]:
            return {"reconstruction": distance(self.autoencoder(x[batch]), x[batch], loss_unit)}

        minimize(
            loss,
            [(self.autoencoder.parameters(), learning_rate)],
            name="autoencoder",
            order=generator(seed, "autoencoder", "order"),
            count=len(x),
            epochs=epochs,
            batch_size=batch_size,
        )
        self.fit_head(x, labels, seed, head_epochs, head_rate, batch_size)

    def check(self, images: Tensor, labels: Tensor) -> None:
        """Raise ValueError unless this classifier can be trained on `images` and `labels`."""
        check_training(images, labels, self.channels, self.size)
        low, high = (int(v) for v in labels.aminmax())
        if low < 0 or high >= self.classes:
            raise ValueError(
                f"labels lie in [{low}, {high}], expected 0 to {self.classes - 1}: "
                "change the labels or the setting classes"
            )

    def fit_head(
        self, padded: Tensor, labels: Tensor, seed: int, epochs: int, rate: float, batch_size: int
    ) -> None:
        """Train the dense layers on the features of the frozen encoder with cross-entropy."""
        features = encode(self.autoencoder.encoder, padded)
        labels = labels.to(padded.device)

        def loss(batch: Tensor) -> dict[str, Tensor]:
            return {
                "cross-entropy": nn.functional.cross_entropy(
                    self.head(features[batch]), labels[batch]
                )
            }

        minimize(
            loss,
            [(self.dense.parameters(), rate)],
            name="classifier",
            order=generator(seed, "classifier", "order"),
            count=len(padded),
            epochs=epochs,
            batch_size=batch_size,
        )
        self.eval()


class FUNN(ClassicAutoencoder):
    """The same classifier on the encoder of a defender that was trained against an attacker.

    ``autoencoder`` is the defender; the attacker, another autoencoder with a vector of
    `noise_size` numbers from U(0, 1), is needed in training and for :meth:`perturb` only.
    """

    noise_size: Count = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        with seeded(0):
            self.attacker = self.make_autoencoder(self.noise_size)
        self.eval()

    @torch.no_grad()
    def perturb(self, images: Tensor, seed: int) -> Tensor:
        """Att(x), the attacker's images with noise from `seed`; shape and range as the input's."""
        noise = self.noise(images, generator(seed, "perturb"))
        return self.cropped(self.attacker(self.padded(images), noise))

    def noise(self, images: Tensor, source: torch.Generator) -> Tensor:
        """U(0, 1) numbers for a batch of images, (B, noise_size), on the images' device."""
        return torch.rand((len(images), self.noise_size), generator=source, **DRAWN).to(images)

    @checked
    def fit(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int,
        initialization_epochs: Size = 9,
        optimization_epochs: Size = 31,
        attacker_rate: Positive = 1e-3,
        defender_rate: Positive = 5e-4,
        optimization_rate: Positive = 1e-5,
        gamma: Positive = 5.0,
        beta: Positive = 0.01,
        penalty: Literal["corrected", "as_printed"] = "corrected",
        initialization_input: Literal["attacked", "clean"] = "attacked",
        head_epochs: Count = 20,
        head_rate: Positive = 1e-3,
        batch_size: Count = 128,
        loss_unit: Literal["mse", "l2", "sum"] = "mse",
        initial_weights: Literal["torch", "glorot", "he"] = "he",
    ) -> None:
        """Train attacker and defender on `images` (N, C, S, S), then the head on `labels`.

        Initialization: both reconstruct, at their own learning rates. Optimization: the
        attacker's decoder and the defender's encoder train at `optimization_rate`, under the
        penalty γ · :func:`constraint`. `beta` is in units of `loss_unit`. `initialization_input` is
        what the defender reconstructs the images from at first: the attacker's (4), or the images.
        Raises ValueError for wrong shapes, ranges, labels or settings.
        """
        self.check(images, labels)
        initialize(self, seed, initial_weights)
        attacker, defender, x = self.attacker, self.autoencoder, self.padded(images)
        draws = generator(seed, "noise")

        def initialization(batch: Tensor) -> dict[str, Tensor]:
            original = x[batch]
            attacked = attacker(original, self.noise(original, draws))
            shown = attacked.detach() if initialization_input == "attacked" else original
            return {
                "attacker (3)": attacker_loss(original, attacked, unit=loss_unit),
                "defender (4)": defender_loss(original, defender(shown), unit=loss_unit),
            }

        minimize(
            initialization,
            [(attacker.parameters(), attacker_rate), (defender.parameters(), defender_rate)],
            name="initialization",
            order=generator(seed, "initialization", "order"),
            count=len(x),
            epochs=initialization_epochs,
            batch_size=batch_size,
            also=[draws],
        )
        features = encode(attacker.encoder, x)  # frozen from here on

        def optimization(batch: Tensor) -> dict[str, Tensor]:
            original = x[batch]
            attacked = attacker.decode(features[batch], self.noise(original, draws))
            return both_losses(
                original,
                attacked,
                defender,
                unit=loss_unit,
                gamma=gamma,
                beta=beta,
                penalty=penalty,
            )

        with frozen(attacker.encoder, defender.decoder):
            minimize(
                optimization,
                [
                    (attacker.decoder.parameters(), optimization_rate),
                    (defender.encoder.parameters(), optimization_rate),
                ],
                name="optimization",
                order=generator(seed, "optimization", "order"),
                count=len(x),
                epochs=optimization_epochs,
                batch_size=batch_size,
                also=[draws],
            )
        self.fit_head(x, labels, seed, head_epochs, head_rate, batch_size)
