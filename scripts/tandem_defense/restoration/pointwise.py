"""Triton kernels that take every pixel or parameter by itself; kernels.py has their rules."""

import triton
import triton.language as tl

from tandem_defense.restoration.kernels import read


@triton.jit
def max_pool(
    out,
    y,
    norm,
    H,
    W,
    C: tl.constexpr,
    RELU: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The largest of every 2 × 2 pixels of y (H, W, C); an odd row or column is left out."""
    lane = tl.program_id(1).to(tl.int64)
    pixels, columns = (H // 2) * (W // 2), W // 2
    p = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    c = (tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    mask = (p < pixels) & (c < C)
    first = (p // columns) * 2 * W + (p % columns) * 2
    y += lane * (H * W * C)
    if norm is not None:
        norm += lane * (4 * C)
    best = read(y, norm, first, 0, c, mask, C, RELU)
    for tap in tl.static_range(1, 4):
        values = read(y, norm, first, (tap // 2) * W + tap % 2, c, mask, C, RELU)
        best = tl.where((values > best) | (values != values), values, best)
    tl.store(out + lane * pixels * C + p * C + c, best, mask=mask)


@triton.jit
def max_pool_back(
    gradient,
    pooled,
    y,
    norm,
    H,
    W,
    C: tl.constexpr,
    RELU: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Add the gradient of the pooled features to that of the first largest of every 2 × 2."""
    lane = tl.program_id(1).to(tl.int64)
    pixels, columns = (H // 2) * (W // 2), W // 2
    p = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    c = (tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    mask = (p < pixels) & (c < C)
    first = (p // columns) * 2 * W + (p % columns) * 2
    y += lane * (H * W * C)
    if norm is not None:
        norm += lane * (4 * C)
    best = read(y, norm, first, 0, c, mask, C, RELU)
    winner = tl.zeros((PIXELS, CHANNELS), dtype=tl.int32)
    for tap in tl.static_range(1, 4):
        values = read(y, norm, first, (tap // 2) * W + tap % 2, c, mask, C, RELU)
        larger = (values > best) | (values != values)
        best, winner = tl.where(larger, values, best), tl.where(larger, tap, winner)
    g = tl.load(pooled + lane * pixels * C + p * C + c, mask=mask, other=0.0)
    gradient += lane * (H * W * C)
    for tap in tl.static_range(4):
        place = gradient + (first + (tap // 2) * W + tap % 2) * C + c
        chosen = mask & (winner == tap)
        tl.store(place, tl.load(place, mask=chosen, other=0.0) + g, mask=chosen)


@triton.jit
def compare(
    output,
    average,
    gradient,
    parts,
    logits,
    target,
    steps,
    pixels,
    SMOOTHING: tl.constexpr,
    VALUES: tl.constexpr,
):
    """Sigmoid, the squared error's parts and gradient, and the moving average.

    output, average, target : (3, H, W) per lane
    gradient, logits : (H, W, 3) per lane
    parts : one per program, which add up to the mean squared error
    steps : per lane, how many there have been with this one; at the first, the average is the image
    """
    lane = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * VALUES + tl.arange(0, VALUES)
    size = pixels * 3
    mask = i < size
    here = lane * size + i
    there = lane * size + (i % pixels) * 3 + i // pixels
    logit = tl.load(logits + there, mask=mask, other=0.0)
    value = 1 / (1 + tl.exp(-logit))
    apart = tl.where(mask, value - tl.load(target + here, mask=mask, other=0.0), 0.0)
    tl.store(parts + lane * tl.num_programs(0) + tl.program_id(0), tl.sum(apart * apart, 0) / size)
    tl.store(gradient + there, 2 * apart / size * value * (1 - value), mask=mask)
    past = tl.load(average + here, mask=mask, other=0.0)
    mixed = tl.where(tl.load(steps + lane) == 1, value, past + (1 - SMOOTHING) * (value - past))
    tl.store(output + here, value, mask=mask)
    tl.store(average + here, mixed, mask=mask)


@triton.jit
def adam(
    parameters,
    gradients,
    means,
    squares,
    steps,
    size,
    RATE: tl.constexpr,
    LOG_BETA1: tl.constexpr,
    LOG_BETA2: tl.constexpr,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    VALUES: tl.constexpr,
):
    """θ ← θ − lr · m̂ / (√v̂ + 1e-8) for all `size` parameters of every lane.

    steps : per lane, how many there have been with this one
    """
    lane = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * VALUES + tl.arange(0, VALUES)
    mask, i = i < size, lane * size + i
    t = tl.load(steps + lane).to(tl.float64)  # 1 − 0.999 has four digits in float32
    dtype: tl.constexpr = parameters.dtype.element_ty
    rate = (RATE / (1 - tl.exp(t * LOG_BETA1))).to(dtype)
    root = tl.sqrt(1 - tl.exp(t * LOG_BETA2)).to(dtype)
    g = tl.load(gradients + i, mask=mask, other=0.0)
    mean = tl.load(means + i, mask=mask, other=0.0)
    square = tl.load(squares + i, mask=mask, other=0.0)
    value = tl.load(parameters + i, mask=mask, other=0.0)
    mean += (1 - BETA1) * (g - mean)
    square = BETA2 * square + (1 - BETA2) * g * g
    value -= rate * mean / (tl.sqrt(square) / root + 1e-8)
    tl.store(means + i, mean, mask=mask)
    tl.store(squares + i, square, mask=mask)
    tl.store(parameters + i, value, mask=mask)
