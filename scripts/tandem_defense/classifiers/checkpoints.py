"""Checkpoint files of others, read without running any code in them."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tandem_defense.files.base import FileError

# Where training scripts put the weights beside an optimizer's state.
WRAPPERS = ("state_dict", "model")
# What DataParallel and torch.compile put before every name.
PREFIX = re.compile(r"(module\.|_orig_mod\.)+")
REMEDY = "Save the weights alone: torch.save(net.state_dict(), path), or safetensors' save_file."


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors by name of a ``.safetensors`` file, or of one that ``torch.save`` has written.

    Weights under the key ``state_dict`` or ``model`` are taken from there; the prefixes
    ``module.`` and ``_orig_mod.``, where all names have them, are removed. Raises FileError for a
    file that is missing, damaged, or holds anything else, such as a whole pickled module.
    """
    try:
        if str(path).endswith(".safetensors"):
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileError(path, "is missing", "`weights` is the checkpoint's path.") from None
    except Exception as error:  # a damaged file raises whatever its parts raise
        # None of PyTorch's own text about pickles: it recommends to run what is in them.
        code = re.search(r"GLOBAL (\S+)|(TorchScript)", str(error))
        if code:
            problem = f"holds {code[1] or code[2]}, which is code to run, expected tensors only"
            raise FileError(path, problem, REMEDY) from None
        reason = type(error).__name__
        if str(error) and not isinstance(error, pickle.UnpicklingError):
            reason = str(error).splitlines()[0]
        problem = f"is not a checkpoint, or damaged ({reason})"
        raise FileError(path, problem, "Download it or save it again.") from None
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping):
        raise FileError(path, f"holds a {type(state).__name__}, expected tensors by name", REMEDY)
    others = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    others += [str(name) for name in state if not isinstance(name, str)]
    if others or not state:
        problem = f"holds {', '.join(others[:5]) or 'nothing'}, expected tensors by name"
        raise FileError(path, problem, REMEDY)
    if all(PREFIX.match(name) for name in state):
        state = {PREFIX.sub("", name, count=1): value for name, value in state.items()}
    return dict(state)


def load_weights(net: nn.Module, path: str | Path, what: str) -> None:
    """Give a module the weights of a checkpoint file, in the module's own precision.

    what : the module in the words of its settings, for the message

    Raises FileError for a file that :func:`read_state_dict` refuses, or of other names or shapes.
    """
    state = read_state_dict(path)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        problem = f"does not hold {what} ({error})"
        raise FileError(path, problem, "Give it the settings that it was trained with.") from None
