"""What a network is fitted by, beside our engine: every peer fits the same networks.

A peer is called as ``peer(architecture, tasks, (first, last), look)``. It makes `last` steps for
every task and calls ``look()`` twice, after `first` and after `last` of them.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from tandem_defense.restoration import engine, reference
from tandem_defense.restoration.reference import Architecture, FitSettings, Task

SETTINGS = {"learning_rate": 1e-3, "smoothing": 0.99}
Look = Callable[[], None]
Steps = tuple[int, int]


def drawn(architecture: Architecture, task: Task) -> tuple[nn.Module, Tensor, Tensor]:
    """(network with its initial weights, input (1, C, H, W), target (1, 3, H, W))."""
    parameters, z = reference.draw(architecture, task)
    network = reference.build(architecture)
    nn.utils.vector_to_parameters(parameters, network.parameters())
    device = task.target.device
    return network.to(device), z[None].to(device), task.target[None]


@cache
def compiled_form(architecture: Architecture, shape: torch.Size, device: torch.device) -> nn.Module:
    """The network under torch.compile; once per size, so that only the first turn compiles."""
    return torch.compile(reference.build(architecture).to(device), dynamic=False)


def public_loop(
    architecture: Architecture, tasks: Sequence[Task], steps: Steps, look: Look, compiled=False
) -> Tensor:
    """What a user would write: fit the network, keep the smoothed output."""
    network, z, target = drawn(architecture, tasks[0])
    if compiled:
        form = compiled_form(architecture, target.shape, target.device)
        form.load_state_dict({f"_orig_mod.{k}": v for k, v in network.state_dict().items()})
        network = form
    optimizer = torch.optim.Adam(network.parameters(), lr=SETTINGS["learning_rate"])
    mse, weight, smooth = nn.MSELoss(), SETTINGS["smoothing"], None
    for step in range(1, steps[1] + 1):
        optimizer.zero_grad()
        out = network(z)
        loss = mse(out, target)
        loss.backward()
        optimizer.step()
        smooth = out.detach() if smooth is None else smooth * weight + out.detach() * (1 - weight)
        if step in steps:
            look()
    return smooth


def deepinv(architecture: Architecture, tasks: Sequence[Task], steps: Steps, look: Look) -> Tensor:
    """deepinv's DeepImagePrior, its own loop and its own random input."""
    from deepinv.models import DeepImagePrior
    from deepinv.physics import Denoising

    network, z, target = drawn(architecture, tasks[0])
    calls = 0

    def count(module, inputs):
        nonlocal calls
        if calls in steps:  # the call after the last step makes the result
            look()
        calls += 1

    network.register_forward_pre_hook(count)
    rate = SETTINGS["learning_rate"]
    prior = DeepImagePrior(network, z.shape[1:], iterations=steps[1], learning_rate=rate)
    return prior(target, Denoising())


def vmap(architecture: Architecture, tasks: Sequence[Task], steps: Steps, look: Look) -> Tensor:
    """All tasks at once as one network with a batch of weights: torch.func.vmap."""
    from torch.func import functional_call, grad_and_value, stack_module_state

    networks, zs, targets = zip(*(drawn(architecture, task) for task in tasks), strict=True)
    parameters, _ = stack_module_state(list(networks))
    network, z, target = networks[0], torch.stack(zs), torch.stack(targets)

    def loss(weights, z, target):
        out = functional_call(network, weights, (z,))
        return (out - target).square().mean(), out

    step_all = torch.func.vmap(grad_and_value(loss, has_aux=True))
    # Adam works number by number: on stacked weights it is an Adam for each task.
    optimizer = torch.optim.Adam(parameters.values(), lr=SETTINGS["learning_rate"])
    smooth = None
    for step in range(1, steps[1] + 1):
        gradients, (_, out) = step_all(parameters, z, target)
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        optimizer.step()
        out = out.detach()
        smooth = out if smooth is None else smooth.lerp(out, 1 - SETTINGS["smoothing"])
        if step in steps:
            look()
    return smooth


def fitted(
    architecture: Architecture,
    tasks: Sequence[Task],
    steps: Steps,
    look: Look,
    fit=engine.fit,
    precision: str = "float32",
    **options,
) -> Tensor:
    """Our engine, or the reference: the latest outputs, (n, 3, H, W) on the CPU."""
    result = torch.empty(len(tasks), *tasks[0].target.shape)
    readouts = tuple(sorted(set(steps)))
    settings = FitSettings(readouts=readouts, precision=precision, **SETTINGS)
    seen = {n: 0 for n in steps}
    for read in fit(architecture, tasks, settings, **options):
        seen[read.iteration] += len(read.positions)
        # The first image at `first`, the last image at `last`: images may not be quite in step.
        if seen[steps[0]] == len(read.positions) and read.iteration == steps[0]:
            look()
        if read.iteration == steps[1]:
            result[list(read.positions)] = read.output.float().cpu()
    look()
    return result


def peers() -> dict[str, Callable]:
    """{implementation: peer} of those that are installed."""
    found = {
        "public_loop": public_loop,
        "compiled_loop": partial(public_loop, compiled=True),
        "vmap": vmap,
        "reference": partial(fitted, fit=reference.fit),
    }
    if find_spec("deepinv"):
        found["deepinv"] = deepinv
    return found
