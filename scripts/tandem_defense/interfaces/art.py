"""A defense as a preprocessor of the Adversarial Robustness Toolbox."""

import numpy as np
import torch
from torch import Tensor, nn

from tandem_defense.extras import extra
from tandem_defense.settings import Count, check

with extra("art"):
    from art.defences.preprocessor import Preprocessor


class DefensePreprocessor(Preprocessor):
    """Defends what an estimator of the toolbox is asked about, not what it is trained on.

    For ``PyTorchClassifier(..., clip_values=(0, 1), preprocessing_defences=[...])``. A gradient is
    what the defense's setting `gradient` says (:class:`.Defense`): exact, that of the identity, or
    zero; an error where there is none and nothing was chosen. (The toolbox has a preprocessor for
    PyTorch too. With nothing else before the model it goes backward through its ``forward``,
    whatever its gradient is said to be: its issue 1526.)

    defense : a :class:`.Defense`, or a :class:`.Fresh` one
    device : where it is run; by default where its weights are, or on the CPU if it has none
    batch_size : images that are defended at a time, however many the toolbox hands over: its
        ``predict`` hands over all. Changes no result but rounding; a :class:`.Fresh` defense draws
        anew for every batch
    """

    params = ["defense", "device", "batch_size"]

    def __init__(
        self,
        defense: nn.Module,
        device: torch.device | str | None = None,
        batch_size: int = 64,
    ):
        check(type(self).__name__, {"batch_size": Count}, {"batch_size": batch_size})
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)
        self.defense, self.batch_size = defense, batch_size
        if device is None:
            device = next((p.device for p in defense.parameters()), "cpu")
        self.device = torch.device(device)

    def __call__(self, x: np.ndarray, y: np.ndarray | None = None):
        """Defended images and the labels as they are; x is (B, C, H, W), float, in [0, 1]."""
        with torch.no_grad():
            parts = torch.from_numpy(x).split(self.batch_size)
            defended = [self.defense(part.to(self.device)).cpu() for part in parts]
        return torch.cat(defended).numpy().astype(x.dtype), y

    def estimate_gradient(self, x: np.ndarray, grad: np.ndarray) -> np.ndarray:
        """The gradient at x of what has the gradient `grad` at the defended images."""
        gradient = getattr(getattr(self.defense, "defense", self.defense), "gradient", None)
        if gradient == "straight_through":
            return grad
        if gradient == "none":
            return np.zeros_like(grad)
        pairs = (torch.from_numpy(array).split(self.batch_size) for array in (x, grad))
        found = [self._gradient(*pair) for pair in zip(*pairs, strict=True)]
        return torch.cat(found).numpy().astype(grad.dtype)

    def _gradient(self, images: Tensor, given: Tensor) -> Tensor:
        images = images.to(self.device, copy=True).requires_grad_()
        with torch.enable_grad():
            defended = self.defense(images)
            # Not backward: the defense's own parameters are to have no gradients from an attack.
            (found,) = torch.autograd.grad(defended, images, given.to(self.device))
        return found.cpu()
