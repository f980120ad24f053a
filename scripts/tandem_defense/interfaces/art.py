"""A defense as a preprocessor of the Adversarial Robustness Toolbox."""

import numpy as np
import torch
from torch import nn

from tandem_defense.extras import extra

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
    """

    params = ["defense", "device"]

    def __init__(self, defense: nn.Module, device: torch.device | str | None = None):
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)
        self.defense = defense
        if device is None:
            device = next((p.device for p in defense.parameters()), "cpu")
        self.device = torch.device(device)

    def __call__(self, x: np.ndarray, y: np.ndarray | None = None):
        """Defended images and the labels as they are; x is (B, C, H, W), float, in [0, 1]."""
        with torch.no_grad():
            defended = self.defense(torch.from_numpy(x).to(self.device))
            return defended.cpu().numpy().astype(x.dtype), y

    def estimate_gradient(self, x: np.ndarray, grad: np.ndarray) -> np.ndarray:
        """The gradient at x of what has the gradient `grad` at the defended images."""
        gradient = getattr(getattr(self.defense, "defense", self.defense), "gradient", None)
        if gradient == "straight_through":
            return grad
        if gradient == "none":
            return np.zeros_like(grad)
        images = torch.from_numpy(x).to(self.device).requires_grad_()
        with torch.enable_grad():
            defended = self.defense(images)
            given = torch.from_numpy(grad).to(self.device)
            # Not backward: the defense's own parameters are to have no gradients from an attack.
            (found,) = torch.autograd.grad(defended, images, given)
        return found.cpu().numpy().astype(grad.dtype)
