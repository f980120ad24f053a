"""Each attack once more, for one image (C, H, W), as plain as its paper: what the tests expect."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from foolbox import PyTorchModel
from foolbox.attacks import L2CarliniWagnerAttack

from tandem_defense.seeds import derive_seed


@torch.no_grad()
def fooled(net, x, y):
    return net(x[None]).argmax().item() != int(y)


def slope(net, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(net(x[None]), y[None]), x)[0]


def line(net, x, y, direction, top, steps):
    g, sizes, first = direction(slope(net, x, y)), np.linspace(0, top, steps + 1)[1:], None
    for _ in range(2):
        for i, size in enumerate(sizes):
            z = (x + float(size) * g).clamp(0, 1)
            if fooled(net, z, y):
                if i >= 20:
                    return z
                first = z
                break
        sizes = np.linspace(0, sizes[i], 21)[1:]
    return first


def rms(g):
    return g.square().mean().sqrt()


def by_rms(g):
    return g / (rms(g) + 1e-8)


def iterated_line(net, x, y, top, lines, steps):
    best = None
    for size in np.linspace(0, top / steps, lines + 1)[1:]:
        z = x
        for _ in range(steps):
            z = (z + float(size) * slope(net, z, y).sign()).clamp(0, 1)
            if fooled(net, z, y) and (best is None or (z - x).norm() < (best - x).norm()):
                best = z
    return best


def trial(net, x, y, epsilon, step, steps, mu=0.0, stop=True, start=None):
    """One descent of BIM (mu 0) or of Dong et al.'s algorithm 1."""
    z, g = x if start is None else start, 0
    for _ in range(steps):
        now = slope(net, z, y)
        g = mu * g + now / now.abs().sum()
        z = x + torch.clamp(z + step * torch.sign(g) - x, -epsilon, epsilon)
        z = z.clamp(0, 1)
        if stop and fooled(net, z, y):
            return z
    return None if stop else z


def searched(net, x, y, epsilon, step, steps, k, mu=0.0):
    ratio, seen = step / epsilon, []

    def attempt(size):
        z = trial(net, x, y, size, ratio * size, steps, mu)
        seen.extend([] if z is None else [z])
        return z is not None

    for _ in range(k):
        if attempt(epsilon):
            break
        epsilon *= 1.5
    else:
        return None
    bad, good = 0, epsilon
    for _ in range(k):
        middle = (bad + good) / 2
        if attempt(middle):
            good = middle
        else:
            bad = middle
    return min(seen, key=lambda z: (z - x).norm())


def deepfool(net, x, y, p, steps, candidates, overshoot, log):
    logs = (lambda z: net(z[None])[0].log_softmax(0)) if log else (lambda z: net(z[None])[0])
    others = net(x[None])[0].argsort(descending=True)[1:candidates]
    z, r = x, torch.zeros_like(x)
    for _ in range(steps):
        if fooled(net, z, y):
            return z
        best = (math.inf,)
        for k in others:
            at = z.clone().requires_grad_()
            scores = logs(at)
            f = scores[k] - scores[y]
            w = torch.autograd.grad(f, at)[0]
            norm = (w.norm() if p == 2 else w.abs().sum()) + 1e-8
            best = min(best, (f.abs() / norm, w), key=lambda pair: pair[0])
        size, w = best
        r = r + (size.detach() + 1e-4) * (w / (w.norm() + 1e-8) if p == 2 else w.sign())
        z = (x + (1 + overshoot) * r).clamp(0, 1)
    return z


def deepfool_1(net, x, y, p, steps, candidates):
    """Foolbox 1.8's loop, whose losses are cross-entropies and whose gradients are of these."""

    def entropy(z, k):
        at = z.clone().requires_grad_()
        loss = -net(at[None])[0].log_softmax(0)[k]
        return loss.detach(), torch.autograd.grad(loss, at)[0]

    labels = net(x[None])[0].argsort(descending=True)[:candidates].tolist()
    z = x
    for _ in range(steps):
        if fooled(net, z, y):
            return z
        logits = net(z[None])[0]
        loss, grad = entropy(z, y)
        options = []
        for k in labels:
            if logits[k] < logits[y]:
                other, slope = entropy(z, k)
                df, dg = loss - other, slope - grad
                norm = (dg.norm() if p == 2 else dg.abs().sum()) + 1e-8
                options.append((abs(df) / norm, norm, dg))
        distance, norm, dg = min(options, key=lambda option: option[0])
        z = (z + 1.05 * distance * (-dg / norm if p == 2 else -dg.sign())).clamp(0, 1)
    return z


def single_pixel(net, x, y, most, seed):
    width = x.shape[2]
    order = torch.randperm(x[0].numel(), generator=torch.Generator().manual_seed(seed))
    for pixel in order[:most].tolist():
        for value in (0, 1):
            z = x.clone()
            z[:, pixel // width, pixel % width] = value
            if fooled(net, z, y):
                return z
    return None


def local_search(net, x, y, seed, r, p, d, t, rounds, start, most_likely):
    _, height, width = x.shape
    generator = torch.Generator().manual_seed(seed)
    pixels = {(i, j) for i in range(height) for j in range(width)}
    z, limit = x - 0.5, min(int(0.1 * height * width), start)
    for _ in range(rounds):
        keys = torch.rand(height * width, generator=generator, dtype=torch.float64)
        drawn = sorted(pixels, key=lambda at: keys[at[0] * width + at[1]])[:limit]
        scores = []
        for i, j in drawn:
            probe = z.clone()
            probe[:, i, j] = p * probe[:, i, j].sign()
            scores.append(net(probe[None] + 0.5).softmax(1)[0, y].item())
        order = np.argsort(scores, kind="stable")
        chosen = [drawn[n] for n in (order[-t:] if most_likely else order[:t])]
        for i, j in chosen:
            for c in range(len(z)):
                value = r * z[c, i, j].item()
                z[c, i, j] = value + 1 if value < -0.5 else value - 1 if value > 0.5 else value
        if fooled(net, z + 0.5, y):
            return z + 0.5
        pixels = {
            (a, b)
            for i, j in chosen
            for a in range(max(0, i - d), min(height, i + d + 1))
            for b in range(max(0, j - d), min(width, j + d + 1))
        }
        limit = start
    return None


def carlini_wagner(net, x, y, keep_black=False, **settings):
    attack = L2CarliniWagnerAttack(abort_early=False, **settings)
    model = PyTorchModel(net, bounds=(0, 1), device="cpu")
    z = attack(model, x[None], y[None], epsilons=None)[0][0]
    return z if keep_black or z.any() else None


def pgd_start(x, epsilon, seed):
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x + epsilon * (2 * noise - 1)).clamp(0, 1)


def pgd_l2(net, x, y, epsilon, step, steps, restarts, seed):
    best = None
    for i in range(restarts):
        g = torch.Generator().manual_seed(derive_seed(seed, "restart", str(i)))
        way = torch.randn(x.shape, generator=g, dtype=torch.float64)
        share = torch.rand((), generator=g, dtype=torch.float64) ** (1 / x.numel())
        z = (x + epsilon * share * way / way.norm()).clamp(0, 1)
        for _ in range(steps):
            g = slope(net, z, y)
            z = z + step * g / g.norm()
            z = (x + (z - x) * min(1, epsilon / (z - x).norm())).clamp(0, 1)
        logits = net(z[None])[0]
        left = logits[y] - max(value for k, value in enumerate(logits) if k != y)
        best = (left, z) if best is None or left < best[0] else best
    return best[1]


def pgd(net, x, y, epsilon, step, steps, seed):
    start = pgd_start(x, epsilon, seed)
    return trial(net, x, y, epsilon, step, steps, stop=False, start=start)
