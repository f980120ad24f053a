"""Triton kernels of many priors in lock-step: the layers of triton_layers.py and their gradients.

Features are (lanes, H, W, C), and every lane has weights of its own, (kernel · kernel, inputs,
outputs) in one row of parameters per lane. A convolution is a matrix product: a program takes
some pixels of one lane (rows), some output channels (columns), and runs over all taps and input
channels (the sum), whose features it gathers by itself. What is stored is what the convolution
returns; normalization and ReLU are done by whoever reads it, so that no normalized features are
ever written.

A result depends neither on the number of lanes nor on their order, to the last bit: a program works
on one lane, blocks follow from the sizes of one lane, and a sum that several programs share is
written in parts, which are added up in order. Nothing is added atomically.

Every kernel's grid has lanes as its second dimension. Offsets between lanes are int64, those within
a lane int32 (triton_lanes.Fit checks that they fit).
"""

import triton
import triton.language as tl

# Triton's interpreter (TRITON_INTERPRET=1) pays for every program, a GPU for every register.
INTERPRETED = triton.knobs.runtime.interpret
PIXELS = 2048 if INTERPRETED else 128  # rows of a program's block
DEPTH = 256 if INTERPRETED else 32  # terms of a sum that are taken at once
ROWS = 256 if INTERPRETED else 64  # of a weight gradient's block, taps times channels
SUMMED = 2048 if INTERPRETED else 32  # pixels that a weight gradient takes at once
WIDTH = 64  # most columns of a block
SPAN = 4096  # pixels that one program adds up for a weight gradient, a multiple of SUMMED
VALUES = 16384 if INTERPRETED else 1024  # of a block that is not a matrix product's
PARTS = 16  # of a sum that are taken at once

EPSILON = tl.constexpr(1e-5)  # of torch.nn.InstanceNorm2d
# A normalization is (lanes, 4, C): mean, γ/σ, β, 1/σ.
MEAN, SCALE, SHIFT, INVERSE = (tl.constexpr(i) for i in range(4))


@triton.jit
def normalized(values, norm, channels, C: tl.constexpr):
    """(x − mean) · γ/σ + β for values of these channels; norm points at the lane's."""
    mean = tl.load(norm + MEAN * C + channels, mask=channels < C, other=0.0)
    scale = tl.load(norm + SCALE * C + channels, mask=channels < C, other=0.0)
    shift = tl.load(norm + SHIFT * C + channels, mask=channels < C, other=0.0)
    return (values - mean) * scale + shift


@triton.jit
def read(x, norm, pixels, shift, channels, mask, C: tl.constexpr, RELU: tl.constexpr):
    """Features of a lane as the next layer takes them, at so many pixels + shift.

    x, norm : at the lane
    pixels : (P, 1)
    shift, channels : (1, K), or the first a number
    """
    values = tl.load(x + pixels * C + (shift * C + channels), mask=mask, other=0.0)
    if norm is not None:
        values = tl.where(mask, normalized(values, norm, channels, C), 0.0)
    if RELU:
        values = tl.where(values < 0, 0.0, values)  # NaN stays NaN
    return values


@triton.jit
def read_two(
    a,
    a_norm,
    b,
    pixels,
    shift,
    channels,
    mask,
    A: tl.constexpr,
    B: tl.constexpr,
    RELU: tl.constexpr,
):
    """The same of two side by side: A channels, then B that are taken as they are stored."""
    if B > 0:
        values = read(a, a_norm, pixels, shift, channels, mask & (channels < A), A, RELU)
        values += read(b, None, pixels, shift, channels - A, mask & (channels >= A), B, False)
    else:
        values = read(a, a_norm, pixels, shift, channels, mask, A, RELU)
    return values


@triton.jit
def within(y, x, ty, tx, H, W):
    """Whether pixels (y + ty, x + tx) are inside of H × W; y, x are (P,), ty, tx (K,)."""
    y, x, ty, tx = y[:, None], x[:, None], ty[None, :], tx[None, :]
    return (ty >= -y) & (ty < H - y) & (tx >= -x) & (tx < W - x)


@triton.jit
def convolve(
    y,
    tiles,
    a,
    a_norm,
    b,
    weights,
    bias,
    lane_weights,
    H,
    W,
    IN_H,
    IN_W,
    A: tl.constexpr,
    B: tl.constexpr,
    N: tl.constexpr,
    TAP_STRIDE: tl.constexpr,
    C_STRIDE: tl.constexpr,
    N_STRIDE: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """A convolution of a's channels and then b's, or a transposed one; lane by lane.

    y : (H, W, N)
    a, b : (IN_H, IN_W, A) and (IN_H, IN_W, B)

    As a convolution, output pixel o reads input pixel o · STRIDE + tap − PADDING. Transposed, it
    reads those inputs i with o = i · STRIDE + tap − PADDING: the outputs with the same remainder of
    o / STRIDE, a phase, all read the same taps, so that a program takes pixels of one phase.

    tiles : None, or (tiles, 2, N): the mean of every block of pixels, and the sum of the squared
        differences from it
    lane_weights : from one lane's weights (and biases) to the next's
    TAP_STRIDE, C_STRIDE, N_STRIDE : from one tap's weights to the next's, and from one channel's,
        of input and output
    """
    STEP: tl.constexpr = STRIDE if TRANSPOSED else 1
    SIDE: tl.constexpr = (KERNEL + STEP - 1) // STEP  # taps of a phase in a row
    C: tl.constexpr = A + B
    BLOCKS: tl.constexpr = (N + WIDTH - 1) // WIDTH
    tile, lane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    block, phase = tl.program_id(2) % BLOCKS, tl.program_id(2) // BLOCKS
    phase_y, phase_x = phase // STEP, phase % STEP
    rows, columns = (H - phase_y + STEP - 1) // STEP, (W - phase_x + STEP - 1) // STEP

    p = tile * PIXELS + tl.arange(0, PIXELS)
    inside = p < rows * columns
    py, px = p // columns, p % columns
    n = block * WIDTH + tl.arange(0, WIDTH)
    a += lane * (IN_H * IN_W * A)
    if a_norm is not None:
        a_norm += lane * (4 * A)
    if B > 0:
        b += lane * (IN_H * IN_W * B)
    weights += lane * lane_weights

    if TRANSPOSED:
        y0, x0 = py + (phase_y + PADDING) // STRIDE, px + (phase_x + PADDING) // STRIDE
    else:
        y0, x0 = py * STRIDE - PADDING, px * STRIDE - PADDING
    y0 = tl.where(inside, y0, IN_H + KERNEL)  # then no tap is within

    sums = tl.zeros((PIXELS, WIDTH), dtype=y.dtype.element_ty)
    for start in range(0, SIDE * SIDE * C, DEPTH):
        k = start + tl.arange(0, DEPTH)
        c, tap = k % C, k // C
        ty, tx = tap // SIDE, tap % SIDE
        if TRANSPOSED:
            ky = (phase_y + PADDING) % STRIDE + STRIDE * ty
            kx = (phase_x + PADDING) % STRIDE + STRIDE * tx
            ty, tx = -ty, -tx
        else:
            ky, kx = ty, tx
        exists = (tap < SIDE * SIDE) & (ky < KERNEL) & (kx < KERNEL)
        shift = (ty * IN_W + tx)[None, :]
        mask = within(y0, x0, tl.where(exists, ty, IN_H + KERNEL), tx, IN_H, IN_W)
        x = read_two(a, a_norm, b, (y0 * IN_W + x0)[:, None], shift, c[None, :], mask, A, B, RELU)
        row = (ky * KERNEL + kx) * TAP_STRIDE + c * C_STRIDE
        w = tl.load(
            weights + row[:, None] + n[None, :] * N_STRIDE,
            mask=exists[:, None] & (n < N)[None, :],
            other=0.0,
        )
        sums = tl.dot(x, w, sums, input_precision=PRECISION, out_dtype=sums.dtype)

    if bias is not None:
        sums += tl.load(bias + lane * lane_weights + n, mask=n < N, other=0.0)[None, :]
    pixel = (py * STEP + phase_y) * W + px * STEP + phase_x
    target = y + lane * (H * W * N) + (pixel * N)[:, None] + n[None, :]
    tl.store(target, sums, mask=inside[:, None] & (n < N)[None, :])
    if tiles is not None:
        count = tl.minimum(PIXELS, H * W - tile * PIXELS).to(sums.dtype)
        mean = tl.sum(tl.where(inside[:, None], sums, 0.0), 0) / count
        apart = tl.where(inside[:, None], sums - mean[None, :], 0.0)
        tiles += (lane * tl.num_programs(0) + tile) * (2 * N)
        tl.store(tiles + n, mean, mask=n < N)
        tl.store(tiles + N + n, tl.sum(apart * apart, 0), mask=n < N)


@triton.jit
def normalization(
    norm,
    tiles,
    scale,
    shift,
    lane_weights,
    pixels,
    count,
    C: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The normalization of a map of so many pixels from the means of its `count` tiles.

    scale, shift : γ and β per channel, or None: 1 and 0
    TILE : pixels per tile
    TILES : how many a program takes at once
    """
    lane = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    tiles += lane * count * (2 * C)
    norm += lane * (4 * C)
    sums = tl.zeros((TILES, CHANNELS), dtype=norm.dtype.element_ty)
    for start in range(0, count, TILES):
        t = start + tl.arange(0, TILES)
        size = tl.minimum(TILE, pixels - t * TILE).to(sums.dtype)[:, None]
        mask = (t < count)[:, None] & (c < C)[None, :]
        place = tiles + t[:, None] * (2 * C) + c[None, :]
        sums += tl.load(place, mask=mask, other=0.0) * size
    mean = tl.sum(sums, 0) / pixels
    squares = tl.zeros((TILES, CHANNELS), dtype=sums.dtype)
    for start in range(0, count, TILES):
        t = start + tl.arange(0, TILES)
        size = tl.minimum(TILE, pixels - t * TILE).to(sums.dtype)[:, None]
        mask = (t < count)[:, None] & (c < C)[None, :]
        place = tiles + t[:, None] * (2 * C) + c[None, :]
        apart = tl.load(place, mask=mask, other=0.0) - mean[None, :]
        within = tl.load(place + C, mask=mask, other=0.0)
        squares += tl.where(mask, within + size * apart * apart, 0.0)
    inverse = 1 / tl.sqrt(tl.sum(squares, 0) / pixels + EPSILON)
    gamma, beta = inverse, tl.zeros_like(inverse)
    if scale is not None:
        gamma *= tl.load(scale + lane * lane_weights + c, mask=c < C, other=0.0)
        beta += tl.load(shift + lane * lane_weights + c, mask=c < C, other=0.0)
    tl.store(norm + MEAN * C + c, mean, mask=c < C)
    tl.store(norm + SCALE * C + c, gamma, mask=c < C)
    tl.store(norm + SHIFT * C + c, beta, mask=c < C)
    tl.store(norm + INVERSE * C + c, inverse, mask=c < C)


@triton.jit
def normalization_sums(
    sums, gradient, y, norm, pixels, C: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr
):
    """What γ's and β's gradients are sums of, per tile: (tiles, 2, C), Σ g · ŷ and Σ g.

    gradient : of what the next layer reads
    g : the same where ReLU lets it through
    ŷ : (y − mean) / σ
    """
    tile, lane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    p = (tile * PIXELS + tl.arange(0, PIXELS))[:, None]
    c = (tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    mask = (p < pixels) & (c < C)
    place, norm = lane * pixels * C + p * C + c, norm + lane * (4 * C)
    values = tl.load(y + place, mask=mask, other=0.0)
    g = tl.load(gradient + place, mask=mask, other=0.0)
    g = tl.where(normalized(values, norm, c, C) > 0, g, 0.0)
    mean = tl.load(norm + MEAN * C + c, mask=c < C, other=0.0)
    inverse = tl.load(norm + INVERSE * C + c, mask=c < C, other=0.0)
    target = sums + (lane * tl.num_programs(0) + tile) * (2 * C) + c
    product = tl.sum(g * (values - mean) * inverse, 0)[None, :]
    tl.store(target, product, mask=c < C)
    tl.store(target + C, tl.sum(g, 0)[None, :], mask=c < C)


@triton.jit
def back(
    gradient,
    sums,
    y,
    norm,
    totals,
    lane_totals,
    pixels,
    C: tl.constexpr,
    RELU: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """From the gradient of what the next layer reads to that of what is stored, in place.

    sums : (tiles, C), the latter's sum per tile, of which the bias's gradient is made
    totals : the sums of :func:`normalization_sums` of all tiles, (2, C) per lane
    lane_totals : from one lane's to the next's
    """
    tile, lane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    p = (tile * PIXELS + tl.arange(0, PIXELS))[:, None]
    c = (tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    mask = (p < pixels) & (c < C)
    place = lane * pixels * C + p * C + c
    g = tl.load(gradient + place, mask=mask, other=0.0)
    if RELU:
        values = tl.load(y + place, mask=mask, other=0.0)
        if norm is not None:
            norm += lane * (4 * C)
            totals += lane * lane_totals
            mean = tl.load(norm + MEAN * C + c, mask=c < C, other=0.0)
            scale = tl.load(norm + SCALE * C + c, mask=c < C, other=0.0)
            inverse = tl.load(norm + INVERSE * C + c, mask=c < C, other=0.0)
            products = tl.load(totals + c, mask=c < C, other=0.0)
            total = tl.load(totals + C + c, mask=c < C, other=0.0)
            g = tl.where(normalized(values, norm, c, C) > 0, g, 0.0)
            g = scale * (g - (total + (values - mean) * inverse * products) / pixels)
            g = tl.where(mask, g, 0.0)
        else:
            g = tl.where(values > 0, g, 0.0)
        tl.store(gradient + place, g, mask=mask)
    target = sums + (lane * tl.num_programs(0) + tile) * C + c
    tl.store(target, tl.sum(g, 0)[None, :], mask=c < C)


@triton.jit
def weight_gradient(
    parts,
    a,
    a_norm,
    b,
    q,
    q_norm,
    H,
    W,
    IN_H,
    IN_W,
    A: tl.constexpr,
    B: tl.constexpr,
    N: tl.constexpr,
    C_STRIDE: tl.constexpr,
    N_STRIDE: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    A_RELU: tl.constexpr,
    Q_RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    SPAN: tl.constexpr,
    ROWS: tl.constexpr,
    SUMMED: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Sums over SPAN pixels each of q (H, W, N) times what a convolution reads of a and b there.

    Of a convolution, a and b are its inputs and q is its output's gradient; of a deconvolution,
    which is a convolution backwards, a is its output's gradient and q its input.

    parts : (parts, KERNEL · KERNEL, A + B, N), the last two in whichever order the strides say
    """
    C: tl.constexpr = A + B
    BLOCKS: tl.constexpr = (N + WIDTH - 1) // WIDTH
    part, lane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    n = (tl.program_id(2) % BLOCKS) * WIDTH + tl.arange(0, WIDTH)
    k = (tl.program_id(2) // BLOCKS) * ROWS + tl.arange(0, ROWS)
    c, tap = k % C, k // C
    exists = tap < KERNEL * KERNEL
    ty, tx = tl.where(exists, tap // KERNEL, IN_H + KERNEL), tap % KERNEL
    shift = (ty * IN_W + tx)[None, :]
    a += lane * (IN_H * IN_W * A)
    if a_norm is not None:
        a_norm += lane * (4 * A)
    if B > 0:
        b += lane * (IN_H * IN_W * B)
    q += lane * (H * W * N)
    if q_norm is not None:
        q_norm += lane * (4 * N)

    sums = tl.zeros((ROWS, WIDTH), dtype=parts.dtype.element_ty)
    for start in range(part * SPAN, tl.minimum((part + 1) * SPAN, H * W), SUMMED):
        p = start + tl.arange(0, SUMMED)
        inside = p < H * W
        y0 = tl.where(inside, (p // W) * STRIDE - PADDING, IN_H + KERNEL)
        x0 = (p % W) * STRIDE - PADDING
        mask = within(y0, x0, ty, tx, IN_H, IN_W)
        origin = (y0 * IN_W + x0)[:, None]
        x = read_two(a, a_norm, b, origin, shift, c[None, :], mask, A, B, A_RELU)
        mask = inside[:, None] & (n < N)[None, :]
        other = read(q, q_norm, p[:, None], 0, n[None, :], mask, N, Q_RELU)
        sums = tl.dot(tl.trans(x), other, sums, input_precision=PRECISION, out_dtype=sums.dtype)
    place = tap[:, None] * (C * N) + c[:, None] * C_STRIDE + n[None, :] * N_STRIDE
    parts += (lane * tl.num_programs(0) + part) * (KERNEL * KERNEL * C * N)
    tl.store(parts + place, sums, mask=exists[:, None] & (n < N)[None, :])


@triton.jit
def add_up(out, parts, lane_out, count, size, PARTS: tl.constexpr, COLUMNS: tl.constexpr):
    """out (size) = the sum of parts (count, size), always in the same order.

    lane_out : from one lane's `out` to the next's
    """
    lane = tl.program_id(1).to(tl.int64)
    j = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    parts += lane * count * size
    sums = tl.zeros((PARTS, COLUMNS), dtype=parts.dtype.element_ty)
    for start in range(0, count, PARTS):
        i = (start + tl.arange(0, PARTS))[:, None]
        sums += tl.load(parts + i * size + j, mask=(i < count) & (j < size), other=0.0)
    tl.store(out + lane * lane_out + j, tl.sum(sums, 0)[None, :], mask=j < size)
