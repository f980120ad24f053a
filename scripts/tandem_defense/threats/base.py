"""What every threat offers: an attack, a classifier and its defense in, candidates out.

A threat says which module the attack is shown (the *target*): the bare classifier, or one that
knows of the defense. Whatever comes out is a candidate: the defended classifier judges it later,
with seeds that the attacker did not have.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_defense.attacks.base import Attack, check_images, check_labels, untouched
from tandem_defense.defenses.base import Defense, NoGradient, names_of
from tandem_defense.extras import extra
from tandem_defense.seeds import derive_seed
from tandem_defense.settings import Settings

with extra("pipeline"):
    from foolbox import PyTorchModel

DRAWS = 3  # seeds that a candidate for a random defense is judged with, at least
LATE = 0.1  # the last share of an attack's steps: a loss that still grows there is not at its top
GROWTH = 0.01  # by so much, as a share of the loss
ROUNDING = 1e-6  # of float32, by which x + δ may be farther from x than δ


@dataclass(frozen=True)
class Candidates:
    """What a threat made of B images, and how its attack went: what signs of failure rest on.

    images : (B, C, H, W) in [0, 1]
    deceived : (B,) bool, the target (what the attack was shown) classifies the candidate wrongly
    zero_gradient : (B,) bool, the gradient was exactly zero in more than half of the steps
    no_gradient : (B,) bool, there was none, or it was not finite
    silent : (B,) bool, the target was deceived on the way but not by the candidate; only where the
        target answers the same twice
    incomplete : (B,) bool, the loss still grew by more than 1 % in the last tenth of the steps
    """

    images: Tensor
    deceived: Tensor
    zero_gradient: Tensor
    no_gradient: Tensor
    silent: Tensor
    incomplete: Tensor


class Threat(Settings):
    """An attacker: ``threat(attack, classifier, defense, images, labels)``.

    A subclass defines :meth:`target`, the module that the attack is shown.

    knows_seeds : whether the attacker knows the seeds of the evaluation. If not, a random defense
        draws other numbers, fresh ones at every step, while it is attacked
    """

    knows_seeds: bool = False

    # The attack where a configuration names none: of the section `attacks`.
    ATTACK = {"kind": "pgd", "semantics": "fixed", "steps": 40, "restarts": 5}
    AWARE = True  # depends on the defense; if not, one set of candidates serves all defenses
    GRADIENTS = True  # whether the attack is one that follows gradients

    samples = 1  # seeds that are averaged at every step, of a random defense; 0: no search at all

    def target(self, classifier: nn.Module, defense: Defense) -> nn.Module:
        """The module from images to logits that the attack is shown.

        `defense` is a copy whose settings may be changed.
        """
        raise NotImplementedError

    def prepare(self, defense: Defense, images: Tensor, ids: Sequence[str], seed: int) -> None:
        """Learn from images (N, C, H, W) of the attacker's own, before anything is attacked."""

    def project(self, images: Tensor, start: Tensor, epsilon: float) -> Tensor:
        """The candidates that this attacker may use, (B, C, H, W): by default all."""
        return images

    def __call__(
        self,
        attack: Attack,
        classifier: nn.Module,
        defense: Defense,
        images: Tensor,
        labels: Tensor,
        *,
        ids: Sequence[str] | None = None,
        seed: int = 0,
        draws: int = DRAWS,
    ) -> Candidates:
        """Attack all images, also those that are misclassified: another seed may be right.

        images : (B, C, H, W), float32 or float64, in [0, 1], on the classifier's device
        labels : (B,) whole numbers, the true classes
        ids : B names; without them an image's content is its name
        seed : the run's
        draws : how many seeds a candidate will be judged with

        Attacks with another `semantics` than "fixed" get those images alone that the target
        classifies correctly, one at a time: they leave out images that they are done with, so
        that a batch would not see all of them equally often. Raises ValueError for images and
        labels that cannot be used, and for an attack whose ε is no bound.
        """
        if attack.semantics in attack.UNBOUNDED:
            raise ValueError(
                f"the attack's semantics are {attack.semantics!r}, which may go beyond ε, expected"
                " others: threats are compared within ε"
            )
        check_images(images)
        names = names_of(images, ids)
        if not isinstance(labels, Tensor) or labels.shape != images.shape[:1]:
            check_labels(labels, images, classifier)  # it says what was expected
        size = attack.BATCH or max(1, len(images)) if attack.semantics == "fixed" else 1
        parts = [
            self._attacked(
                *(attack, classifier, defense, images[i : i + size], labels[i : i + size]),
                *(names[i : i + size], seed, draws),
            )
            for i in range(0, len(images), size)
        ]
        if not parts:
            none = torch.zeros(0, dtype=torch.bool, device=images.device)
            return Candidates(images.clone(), *[none] * 5)
        return Candidates(*map(torch.cat, zip(*(vars(part).values() for part in parts))))

    def _attacked(
        self,
        attack: Attack,
        classifier: nn.Module,
        defense: Defense,
        images: Tensor,
        labels: Tensor,
        names: list[str],
        seed: int,
        draws: int,
    ) -> Candidates:
        """The candidates of images that are attacked in one batch."""
        seeds = [derive_seed(seed, name) for name in names]
        epsilon = getattr(attack, "epsilon", 1.0)
        with untouched(classifier), untouched(defense):
            twin = copy.copy(defense)  # in here: a copy keeps its own mode
            shown = self.target(classifier, twin)
            if self.AWARE and random(defense):
                stage = "evaluation" if self.knows_seeds else "attacker"
                shown = Drawing(shown, twin, seed, stage, self.samples, names, draws)
            with torch.no_grad():
                y = check_labels(labels, images, shown)
            bound = min(epsilon if attack.norm == "linf" else 1.0, attack.clip or 1.0)
            watch = Watch(shown, y, images, bound, lambda x: self.project(x, images, epsilon))
            watch.eval()
            try:
                with torch.enable_grad():
                    if attack.semantics == "fixed":
                        model = PyTorchModel(watch, bounds=(0, 1), device=images.device)
                        found = attack.run(model, images.clone(), y, seeds).detach().clamp(0, 1)
                        found, _ = attack.clipped(found, images)
                    else:
                        found = attack(watch, images, y, seeds).images
            except NoGradient:
                watch.no_gradient[:] = True
                found = images
            with torch.no_grad():
                found = self.project(found, images, epsilon)
                finite = found.flatten(1).isfinite().all(1)
                found = torch.where(finite[:, None, None, None], found, images)
                deceived = shown(found.clone()).argmax(1) != y
        certain = not isinstance(shown, Drawing)
        return Candidates(
            found,
            deceived,
            watch.zeros > watch.calls / 2,
            watch.no_gradient,
            watch.ever & ~deceived & certain,
            watch.grows(getattr(attack, "steps", None)) & ~deceived,
        )


def random(defense: nn.Module) -> bool:
    """Whether a defense draws numbers: it has a seed."""
    return hasattr(defense, "seed")


def judged_with(seed: int, draw: int) -> int:
    """The seed of a random defense when it judges a candidate for the `draw`-th time."""
    return derive_seed(seed, "evaluation", str(draw))


class Drawing(nn.Module):
    """A defended classifier whose defense draws anew at every call, averaged over some draws (EOT).

    stage : ``attacker``, numbers of his own, an image's content as its name; ``evaluation``, the
        numbers, of so many `draws`, and the `names` that candidates are judged with

    The average is one of logits (Athalye et al. 2018, section 4.2 average gradients).
    """

    def __init__(
        self,
        shown: nn.Module,
        defense: Defense,
        seed: int,
        stage: str,
        samples: int,
        names: list[str],
        draws: int = DRAWS,
    ):
        super().__init__()
        self.shown, self.defense, self.draws = shown, defense, draws
        self.seed, self.stage, self.samples, self.names = seed, stage, samples, names
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        total = 0
        for _ in range(self.samples):
            known = self.stage == "evaluation"
            draw = self.calls % self.draws if known else self.calls
            self.defense.seed = derive_seed(self.seed, self.stage, str(draw))
            self.calls += 1
            # A search may ask about many candidates for one image at a time.
            names = self.names * len(images) if len(self.names) == 1 else self.names
            ids = names if known and len(images) == len(names) else None
            total = total + self.shown(images, ids)
        return total / self.samples


class Through(nn.Module):
    """A classifier behind `how`, a function of (images, ids): a defense, or what stands for it."""

    def __init__(
        self, classifier: nn.Module, how: Callable[[Tensor, Sequence[str] | None], Tensor]
    ):
        super().__init__()
        self.classifier, self.how = classifier, how

    def forward(self, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
        """Logits (B, K)."""
        return self.classifier(self.how(images, ids))


class Watch(nn.Module):
    """The target as an attack sees it, and what can be seen of the attack from there.

    bound : L∞, around the `start` images. What lies outside, where some attacks go on their way,
        tells nothing of an attack within it
    """

    def __init__(self, shown: nn.Module, labels: Tensor, start: Tensor, bound: float, project):
        super().__init__()
        self.shown, self.labels, self.project = shown, labels, project
        self.start, self.bound = start, bound
        none = torch.zeros_like(labels, dtype=torch.bool)
        self.ever, self.no_gradient = none.clone(), none.clone()
        self.zeros, self.calls = torch.zeros_like(labels), 0
        self.losses: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """The target's logits (B, K); an attack on one image may ask about several of it."""
        count = len(self.labels)
        watched = len(images) == count or count == 1
        logits = self.shown(self.project(images) if watched else images)
        followed = images.requires_grad and torch.is_grad_enabled()
        if followed and not logits.requires_grad:
            raise NoGradient("the target's logits have no gradient")
        if not watched:
            return logits
        with torch.no_grad():
            inside = (images - self.start).abs().flatten(1).amax(1) <= self.bound + ROUNDING
            labels = self.labels.expand(len(images))
            self.ever |= per_image((logits.argmax(1) != labels) & inside, count).any(0)
            if followed and inside.any():
                loss = F.cross_entropy(logits, labels, reduction="none")
                loss = loss.masked_fill(~inside, -torch.inf)
                self.losses.append(per_image(loss, count).amax(0))
        if followed:
            images.register_hook(self.see)
        return logits

    def see(self, gradient: Tensor) -> None:
        """Count gradients that are zero or not finite."""
        largest = gradient.detach().abs().flatten(1).amax(1)  # NaN where one of them is
        largest = per_image(largest, len(self.labels))
        self.calls += 1
        self.zeros += (largest == 0).all(0)
        self.no_gradient |= (~largest.isfinite()).any(0)

    def grows(self, steps: int | None) -> Tensor:
        """Whose loss was still growing at the end of the last `steps`, (B,) bool."""
        losses = self.losses[-steps:] if steps else self.losses
        if len(losses) < 2:
            return torch.zeros_like(self.no_gradient)
        path, late = torch.stack(losses), max(1, int(LATE * len(losses)))
        return path[-late:].amax(0) > path[:-late].amax(0) * (1 + GROWTH) + 1e-6


def per_image(values: Tensor, count: int) -> Tensor:
    """(k, count): of `count` images k values each; k is 1 but for a single image."""
    return values.view(-1, count)
