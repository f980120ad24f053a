"""An ImageNet ResNet of the permute-quantize-finetune release as a torchvision state dict.

python reproduction/decode.py RELEASED.pth ARCHITECTURE OUTPUT.safetensors

The release (inputs/README.md) has for each layer's weights a codebook of short vectors and a matrix
of codes, and batch normalizations as two vectors, folded into weight and bias.
"""

import sys

import torch
import torchvision
from safetensors.torch import save_file


def decoded(released: dict[str, torch.Tensor], net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state of `net`, float16.

    Raises KeyError where the release lacks a layer, RuntimeError where one has another size.
    """
    state = {}
    for name, value in net.state_dict().items():
        layer, kind = name.rsplit(".", 1)
        if name in released:
            found = released[name]
        elif kind == "weight":
            # Rows of the weight matrix are made of vectors, one after the other.
            codes = released[f"{layer}.codes_matrix"]
            most = 1 << (8 * codes.element_size())  # codes are unsigned, also where stored as int16
            found = released[f"{layer}.codebook"][codes.long() % most].reshape(value.shape)
        elif kind in ("running_mean", "running_var", "num_batches_tracked"):
            found = torch.full_like(value, kind == "running_var")
        else:
            raise KeyError(f"expected {name} in the released file, found {sorted(released)}")
        state[name] = found.half() if found.is_floating_point() else found
    net.load_state_dict(state)
    return state


if __name__ == "__main__":
    file, architecture, output = sys.argv[1:]
    net = torchvision.models.get_model(architecture, weights=None)
    save_file(decoded(torch.load(file, map_location="cpu", weights_only=True), net), output)
