"""The engine triton: its kernels equal autograd and the reference, here in Triton's interpreter.

On a machine with a CUDA GPU the same tests run the compiled kernels.
"""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from priors import apart, run, settings, tasks
from torch import nn

from tandem_defense.restoration import engine, lanes, reference
from tandem_defense.restoration.reference import Architecture, dip1, dip2, draw

pytest.importorskip("triton", reason="Triton is not installed")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA GPU or TRITON_INTERPRET=1", allow_module_level=True)

from tandem_defense.restoration import kernels, triton_layers  # noqa: E402
from tandem_defense.restoration.triton_lanes import Fit, Priors  # noqa: E402
from tandem_defense.restoration.triton_layers import Convolution, Features  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZE = (67, 64)  # odd and even, and again after a pooling
SHALLOW = Architecture("dip2", 3, (4, 6, 5), "instance")
SMALLEST = replace(SHALLOW, widths=(4, 5))
PRIORS = {
    "dip1": dip1(0.0625),
    "dip1 plain norm": dip1(0.0625, "instance"),
    "dip1 without norm": dip1(0.0625, "none"),
    "dip2": SHALLOW,
    "dip2 affine": replace(SHALLOW, norm="affine"),
    "dip2 without norm": replace(SHALLOW, norm="none"),
}
LAYERS = {
    "3 × 3": (nn.Conv2d(5, 20, 3, 1, 1), (11, 8), (11, 8), 0),
    "3 × 3 of two": (nn.Conv2d(7, 6, 3, 1, 1), (9, 10), (9, 10), 4),
    "5 × 5": (nn.Conv2d(3, 4, 5, 1, 2), (9, 12), (9, 12), 0),
    "5 × 5, stride 2": (nn.Conv2d(3, 4, 5, 2, 2), (11, 12), (6, 6), 0),
    "1 × 1": (nn.Conv2d(17, 3, 1), (7, 10), (7, 10), 0),
    "deconvolution, 2n − 1": (nn.ConvTranspose2d(5, 6, 4, 2, 1), (6, 5), (11, 9), 0),
    "deconvolution, 2n": (nn.ConvTranspose2d(5, 6, 4, 2, 1), (6, 5), (12, 10), 0),
    "deconvolution, 2n + 1": (nn.ConvTranspose2d(20, 3, 4, 2, 1), (6, 5), (13, 11), 0),
}


@pytest.fixture
def small_blocks(monkeypatch):
    """Several programs even for few pixels and channels."""
    sizes = {"PIXELS": 32, "DEPTH": 16, "ROWS": 32, "SUMMED": 16, "WIDTH": 16, "SPAN": 64}
    for name, size in (sizes | {"VALUES": 128}).items():
        monkeypatch.setattr(kernels, name, size)


def random(*shape: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(sum(shape))
    return torch.rand(shape, generator=rng, dtype=torch.float64).sub(0.5).to(DEVICE)


def nhwc(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def on_device(work):
    """Tasks whose images are where the kernels run."""
    return [replace(task, target=task.target.to(DEVICE)) for task in work]


def expected_of(module, weights, biases, x, size):
    """One lane's layer as the reference has it."""
    if isinstance(module, nn.ConvTranspose2d):
        up = nn.ConvTranspose2d(1, 1, 1)
        del up.weight, up.bias
        up.weight, up.bias = weights, biases
        return reference.to_size(up, x, x.new_empty(1, 1, *size))
    return F.conv2d(x, weights, biases, module.stride, module.padding)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_and_its_gradients_equal_autograd(name, small_blocks):
    """Each of two lanes with its own weights, in float64 to 1e-9."""
    module, size, out_size, second = LAYERS[name]
    transposed = isinstance(module, nn.ConvTranspose2d)
    inputs, outputs, kernel = module.in_channels, module.out_channels, module.kernel_size[0]
    weights = random(2, *module.weight.shape).requires_grad_()
    biases = random(2, outputs).requires_grad_()
    x = random(2, inputs, *size).requires_grad_()
    upstream = random(2, outputs, *out_size)
    y = torch.cat(
        [expected_of(module, weights[i], biases[i], x[i : i + 1], out_size) for i in range(2)]
    )
    y.backward(upstream)

    def rows(w):
        """(tap, input, output), as the kernels have weights."""
        return w.permute(0, *((3, 4, 1, 2) if transposed else (3, 4, 2, 1))).flatten(1)

    parameters = torch.cat([rows(weights.detach()), biases.detach()], 1)
    gradients = torch.full_like(parameters, torch.nan)
    parts = [
        t[:, s] for t in (parameters, gradients) for s in (slice(-outputs), slice(-outputs, None))
    ]
    geometry = kernel, module.stride[0], module.padding[0], transposed
    layer = Convolution(inputs, outputs, *geometry, *parts, "ieee")
    first = inputs - second
    one = Features(nhwc(x.detach()[:, :first]))
    two = Features(nhwc(x.detach()[:, first:])) if second else None
    found, _ = layer(one, out_size, two)
    assert (found - nhwc(y.detach())).abs().max() < 1e-9
    g = nhwc(upstream)
    layer.weight_gradient(g, one, two)
    assert (gradients[:, :-outputs] - rows(weights.grad)).abs().max() < 1e-9
    parts = [layer.input_gradient(g, size, first)]
    if second:
        parts.append(layer.input_gradient(g, size, second, first))
    assert (torch.cat(parts, 3) - nhwc(x.grad)).abs().max() < 1e-9
    triton_layers.back(Features(found, gradient=g), None, layer.bias_gradients)
    assert (gradients[:, -outputs:] - biases.grad).abs().max() < 1e-9


@pytest.mark.parametrize("prior", PRIORS)
def test_a_network_and_all_its_gradients_equal_autograd(prior):
    """With any weights, and scales and shifts of both signs, in float64 to 1e-9."""
    architecture = PRIORS[prior]
    network = reference.build(architecture).to(DEVICE, torch.float64)
    for parameter in network.parameters():
        parameter.data = 4 * random(*parameter.shape) / parameter[0].numel() ** 0.5
    z = random(1, architecture.inputs, *SIZE)
    upstream = random(1, *SIZE, 3)
    network.last.register_forward_hook(lambda layer, x, y: logits.append(nhwc(y)))
    logits = []
    network(z)
    logits[0].backward(upstream)
    priors = Priors(architecture, 1, z.device, torch.float64)
    flat = nn.utils.parameters_to_vector(network.parameters()).detach()
    priors.parameters[0, priors.positions] = flat
    made = priors.forward(nhwc(z))
    assert (made.stored - logits[0]).abs().max() < 1e-9
    made.gradient = upstream
    priors.backward()
    expected = torch.cat([p.grad.flatten() for p in network.parameters()])
    found = priors.gradients[0, priors.positions]
    assert expected.abs().max() > 0.1
    assert (found - expected).abs().max() < 1e-9 * expected.abs().max()


@pytest.mark.parametrize("architecture", [dip2(32, 32), dip1(0.125)], ids=["dip2", "dip1"])
def test_steps_equal_the_reference(architecture):
    """Output, average and loss of the first steps, in float64 to 1e-9."""
    work = tasks(architecture, 1, *SIZE)
    expected = run(reference.fit, architecture, work, steps=(1, 2))
    found = run(engine.fit, architecture, on_device(work), steps=(1, 2), engine="triton")
    assert apart({k: [x.cpu() for x in v] for k, v in found.items()}, expected) < 1e-9


def start(fit, lane, task):
    """Begin with a task in a lane."""
    parameters, z = draw(fit.network.architecture, task)
    fit.start(lane, parameters, z, task.target)


def equal(one, other):
    """Whether two states are the same to the last bit: weights, averages and Adam's past."""
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("architecture", [dip1(0.0625), SMALLEST], ids=["dip1", "dip2"])
def test_neighbors_and_order_change_no_bit(architecture):
    """Number and order of lanes, what a lane did before, even NaN in a lane; in float32."""
    work = on_device(tasks(architecture, 3, *SIZE))
    options = work[0].target, settings((1,), "float32")
    three = Fit(architecture, 3, *options)
    for lane in range(3):
        start(three, lane, work[lane])
    three.step()
    expected = [three.save(lane) for lane in range(3)]
    two = Fit(architecture, 2, *options)
    start(two, 0, replace(work[0], target=torch.full_like(work[0].target, torch.nan)))
    start(two, 1, work[0])
    two.step()
    assert two.save(0)["average"].isfinite().all() and two.save(0)["parameters"].isnan().any()
    assert equal(two.save(1), expected[0])
    start(two, 0, work[2])
    start(two, 1, work[1])
    two.step()
    assert equal(two.save(0), expected[2]) and equal(two.save(1), expected[1])
    assert not equal(expected[1], expected[2])


def test_a_fit_goes_on_from_a_state_to_the_last_bit():
    """In another lane of another number of lanes."""
    first, second = on_device(tasks(SMALLEST, 2, *SIZE))
    options = first.target, settings((1,), "float32")
    whole = Fit(SMALLEST, 1, *options)
    start(whole, 0, first)
    whole.step()
    state = whole.save(0)
    whole.step()
    later = Fit(SMALLEST, 2, *options)
    start(later, 0, second)
    start(later, 1, first)
    later.resume(1, state)
    later.step()
    assert int(later.save(1)["iteration"]) == 2
    assert equal(later.save(1), whole.save(0))


def test_a_state_is_any_engine_s():
    """What lanes.py has begun, this engine continues, to 1e-9 in float64."""
    (task,) = on_device(tasks(SMALLEST, 1, *SIZE))
    options = task.target, settings((1,))
    other, fit = lanes.Fit(SMALLEST, 1, *options), Fit(SMALLEST, 1, *options)
    for each in (other, fit):
        start(each, 0, task)
    other.step()
    fit.resume(0, other.save(0))
    other.step()
    fit.step()
    expected, found = other.save(0), fit.save(0)
    assert expected.keys() == found.keys()
    assert all((expected[name] - found[name]).abs().max() < 1e-9 for name in ("average", "mean"))


def test_bf16_and_too_large_images_are_refused():
    like = torch.empty(3, 64, 64, device="meta")
    with pytest.raises(ValueError, match="the engine triton has no bf16: use engine fast, or tf32"):
        Fit(SHALLOW, 1, like, settings((1,), "bf16"))
    huge = torch.empty(3, 2**15, 2**15, device="meta")
    with pytest.raises(ValueError, match=r"\(32768, 32768\) pixels are too many"):
        Fit(SHALLOW, 1, huge, settings((1,)))


def python(root, *arguments, **environment) -> subprocess.CompletedProcess:
    """Another Python, without Triton's interpreter."""
    paths = os.pathsep.join([str(root / "scripts"), str(root / "tests/support")])
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=inherited | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
    )


ON_A_CPU = """
from priors import settings, tasks
from tandem_defense.restoration import engine
from tandem_defense.restoration.reference import dip2
prior = dip2(3, 32)
list(engine.fit(prior, tasks(prior, 1), settings((1,)), engine="triton"))
"""


def test_on_a_cpu_the_error_says_what_to_use(root):
    done = python(root, "-c", ON_A_CPU)
    assert (
        "ValueError: the engine triton needs a CUDA GPU, found cpu: use engine fast" in done.stderr
    )


@pytest.mark.parametrize(("prior", "precision"), [("dip1", "float32"), ("dip2", "tf32")])
def test_every_kernel_compiles_for_an_h100(prior, precision, root, tmp_path):
    """To machine code, each within the shared memory of a program (227 KiB)."""
    script = str(root / "tests/support/compile_kernels.py")
    done = python(root, script, prior, precision, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    made = [line.split() for line in done.stdout.splitlines()]
    expected = {"convolve", "weight_gradient", "normalization", "normalization_sums", "back"}
    expected |= {"add_up", "compare", "adam"}
    expected |= {"max_pool", "max_pool_back"} if prior == "dip2" else set()
    assert {name for name, _ in made} == expected
    assert max(int(shared) for _, shared in made) <= 227 * 1024
