"""Adam with one kernel for all parameters."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Adam:
    """Adam with PyTorch's defaults; `learning_rate` may be changed between steps.

    Gradients that the parameters have already are forgotten.

    torch.optim's first step imports its compiler, which takes longer than a short run's fits, and
    its default on a CPU is an operation per parameter and line of the formula.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float):
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self.forget()
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]
        device = self.parameters[0].device
        self.steps = [torch.zeros((), device=device) for _ in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """θ ← θ − lr · m̂ / (√v̂ + 1e-8), and forget the gradients."""
        torch._foreach_add_(self.steps, 1)
        torch._fused_adam_(
            self.parameters,
            [p.grad for p in self.parameters],
            self.mean,
            self.square,
            [],
            self.steps,
            lr=self.learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
        self.forget()

    def live(self) -> list[Tensor]:
        """What a step changes: parameters and Adam's state."""
        return [*self.parameters, *self.mean, *self.square, *self.steps]

    def forget(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None
