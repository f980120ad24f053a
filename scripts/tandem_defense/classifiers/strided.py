"""3×3 convolutions and deconvolutions of stride 2, fast on a CPU.

A convolution of stride 2 has one slow direction: from the small features to the large ones. That
is a deconvolution's forward pass and the way back of a convolution's gradient. On a CPU PyTorch
takes several times longer for it than for the other direction, though it is the same arithmetic.
Here it is one matrix product and four sums (:func:`enlarge`); everything else is PyTorch's. The
channels are last in memory, so that nothing is reordered between layers.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CONVOLUTION = {"stride": [2, 2], "padding": [1, 1], "dilation": [1, 1], "groups": 1}


def enlarge(features: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """``conv_transpose2d(features, weight, stride=2, padding=1)`` of the given `size`, no gradient.

    features : (B, I, h, w)
    weight : (I, O, 3, 3)
    size : (H, W), with h = ⌈H/2⌉ and w = ⌈W/2⌉
    Returns (B, O, H, W) with the channels last in memory.
    """
    (batch, entry, height, width), exits = features.shape, weight.shape[1]
    rows = features.permute(0, 2, 3, 1).reshape(-1, entry)  # (B h w, I)
    taps = rows @ weight.permute(0, 2, 3, 1).reshape(entry, -1)  # (B h w, 9 O)
    taps = taps.view(batch, height, width, 3, 3, exits)
    large = torch.empty(
        (batch, exits, 2 * height, 2 * width),
        dtype=features.dtype,
        memory_format=torch.channels_last,
    )
    blocks = large.permute(0, 2, 3, 1).view(batch, height, 2, width, 2, exits)
    # Pixel (i, j) adds its 3×3 taps around (2 i, 2 j): four of them lie in its own 2×2 block, the
    # others in the blocks to the left, above, and above to the left.
    blocks.copy_(taps[:, :, :, 1:, 1:].transpose(2, 3))
    blocks[:, :, :, :-1, 1] += taps[:, :, 1:, 1:, 0].transpose(2, 3)
    blocks[:, :-1, 1] += taps[:, 1:, :, 0, 1:]
    blocks[:, :-1, 1, :-1, 1] += taps[:, 1:, 1:, 0, 0]
    if tuple(large.shape[2:]) == tuple(size):
        return large
    return channels_last(large[:, :, : size[0], : size[1]])  # an odd side ends within its block


def channels_last(features: Tensor) -> Tensor:
    """`features` with the channels last in memory."""
    if features.shape[1] == 1:  # either order is the same memory: only a copy says which it is
        return features.clone(memory_format=torch.channels_last)
    return features.contiguous(memory_format=torch.channels_last)


class _Shrink(torch.autograd.Function):
    """conv2d, with :func:`enlarge` for the gradient of its input."""

    @staticmethod
    def forward(context, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        features = channels_last(features)
        context.save_for_backward(features, weight)
        return nn.functional.conv2d(features, weight, bias, stride=2, padding=1)

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor):
        features, weight = context.saved_tensors
        of_features, *of_parameters = context.needs_input_grad
        back = enlarge(gradient, weight, features.shape[2:]) if of_features else None
        if not any(of_parameters):
            return back, None, None
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            channels_last(gradient),
            features,
            weight,
            [len(weight)],
            **CONVOLUTION,
            transposed=False,
            output_padding=[0, 0],
            output_mask=[False, *of_parameters],
        )
        return back, of_weight, of_bias


class _Enlarge(torch.autograd.Function):
    """conv_transpose2d, with :func:`enlarge` for the forward pass."""

    @staticmethod
    def forward(context, features: Tensor, weight: Tensor, bias: Tensor, extra: tuple[int, int]):
        features = channels_last(features)
        context.save_for_backward(features, weight)
        context.extra = extra
        size = tuple(2 * small - 1 + more for small, more in zip(features.shape[2:], extra))
        return enlarge(features, weight, size).add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor):
        features, weight = context.saved_tensors
        return *torch.ops.aten.convolution_backward(
            channels_last(gradient),
            features,
            weight,
            [weight.shape[1]],
            **CONVOLUTION,
            transposed=True,
            output_padding=list(context.extra),
            output_mask=list(context.needs_input_grad[:3]),
        ), None


class Shrink(nn.Conv2d):
    """``nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)``: (B, I, H, W) to (B, O, ⌈H/2⌉, ⌈W/2⌉).

    On a CPU its gradient cannot itself be differentiated.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3, stride=2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Smaller features."""
        if features.device.type != "cpu":
            return super().forward(features)
        return _Shrink.apply(features, self.weight, self.bias)


class Enlarge(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=extra)``.

    (B, I, h, w) to (B, O, 2 h − 1 + extra, 2 w − 1 + extra), `extra` 0 or 1.
    On a CPU its gradient cannot itself be differentiated.
    """

    def __init__(self, inputs: int, outputs: int, extra: int):
        super().__init__(inputs, outputs, 3, stride=2, padding=1, output_padding=extra)

    def forward(self, features: Tensor) -> Tensor:
        """Larger features."""
        if features.device.type != "cpu":
            return super().forward(features)
        return _Enlarge.apply(features, self.weight, self.bias, self.output_padding)
