"""Compile every kernel of a step of the engine triton for an H100, without a GPU.

    python compile_kernels.py dip1|dip2 PRECISION

Prints a line per kernel: its name, and the bytes of shared memory that it takes. The step itself
runs on tensors without data; what would be launched is compiled instead, to machine code.
"""

import inspect
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from tandem_defense.restoration import triton_lanes
from tandem_defense.restoration.reference import Architecture, FitSettings

H100 = GPUTarget("cuda", 90, 32)
POINTERS = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int32: "*i32"}
# Every kind of layer, but few widths: each takes a second.
PRIORS = {
    "dip1": Architecture("dip1", 32, (32,) * 8, "instance"),
    "dip2": Architecture("dip2", 3, (8, 20), "affine"),
}
compiled = set()


def compile_instead(kernel: JITFunction, *args, grid, warmup, **constants) -> None:
    """What a launch would compile: Triton's own rules for None, 1 and multiples of 16."""
    arguments = inspect.signature(kernel.fn).bind(*args, **constants).arguments
    signature, fixed, hints = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or value is None or type(value) is int and value == 1:
            fixed[parameter.name], signature[parameter.name] = value, "constexpr"
            continue
        tensor = isinstance(value, torch.Tensor)
        signature[parameter.name] = POINTERS[value.dtype] if tensor else "i32"
        if tensor or value % 16 == 0:
            hints[(i,)] = [["tt.divisibility", 16]]
    key = (kernel.__name__, *map(str, (signature, fixed, hints)))
    if key not in compiled:
        compiled.add(key)
        made = triton.compile(ASTSource(kernel, signature, fixed, hints), target=H100)
        assert made.asm["cubin"]
        print(kernel.__name__, made.metadata.shared)


if __name__ == "__main__":
    JITFunction.run = compile_instead
    settings = FitSettings(readouts=(1,), learning_rate=1e-3, smoothing=0.9, precision=sys.argv[2])
    like = torch.empty(3, 299, 299, device="meta")
    triton_lanes.Fit(PRIORS[sys.argv[1]], 64, like, settings)._step()
