"""Adam with one kernel for all parameters."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Adam:
    """Adam with PyTorch's defaults for β₂ and ε.

    Gradients that the parameters have already are forgotten. Parameters with gaps in memory, e.g.
    a slice of another tensor, are given memory of their own.

    torch.optim's first step imports its compiler, which takes longer than a short run's fits, and
    its default on a CPU is an operation per parameter and line of the formula.
    """

    def __init__(self, parameters: Iterable[Tensor]):
        self.parameters = list(parameters)
        self.forget()
        for p in self.parameters:
            if not torch.ops.aten.is_non_overlapping_and_dense(p):
                p.data = p.data.contiguous()  # the kernel goes through memory, not along strides
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]
        device = self.parameters[0].device
        self.steps = [torch.zeros((), dtype=torch.float32, device=device) for _ in self.parameters]

    @torch.no_grad()
    def step(self, learning_rate: float, beta1: float = 0.9) -> None:
        """θ ← θ − lr · m̂ / (√v̂ + 1e-8), and forget the gradients; θ without one stays."""
        states = zip(self.parameters, self.mean, self.square, self.steps, strict=True)
        used = [state for state in states if state[0].grad is not None]
        if not used:
            return
        parameters, mean, square, steps = map(list, zip(*used, strict=True))
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            parameters,
            [p.grad for p in parameters],
            mean,
            square,
            [],
            steps,
            lr=learning_rate,
            beta1=beta1,
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
