"""Checkpoint files of others, read without running any code in them."""

import pickle
import re
from argparse import Namespace
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tandem_defense.files.base import FileError

# Where training scripts put the weights beside an optimizer's state; of several, the first counts:
# moving averages of the weights only where there are no others.
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net")
WRAPPERS += ("state_dict_ema", "ema_state_dict", "model_ema", "ema")
# What DataParallel, AveragedModel and torch.compile put before every name.
PREFIX = re.compile(r"^(module|_orig_mod)\.")
REMEDY = "Save the weights alone: torch.save(net.state_dict(), path), or safetensors' save_file."


def read_state_dict(path: str | Path, known: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors by name of a ``.safetensors`` file, or of one that ``torch.save`` has written.

    Weights under a key of ``WRAPPERS``, such as ``state_dict``, are taken from there; the prefixes
    ``module.`` and ``_orig_mod.``, where all names have them and are not those `known` to whoever
    asks, are removed. A namespace of argparse
    beside the weights runs no code and does no harm. Raises FileError for a file that is missing,
    damaged, or holds anything else, such as a whole pickled module.
    """
    try:
        if str(path).endswith(".safetensors"):
            state = load_file(path)
        else:
            with torch.serialization.safe_globals([Namespace]):
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
    for _ in WRAPPERS:  # there may be one in another; a file could nest them without an end
        if isinstance(state, Mapping):
            inside = [state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping)]
            state = inside[0] if inside else state
    if not isinstance(state, Mapping):
        raise FileError(path, f"holds a {type(state).__name__}, expected tensors by name", REMEDY)
    others = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    others += [str(name) for name in state if not isinstance(name, str)]
    if others or not state:
        problem = f"holds {', '.join(others[:5]) or 'nothing'}, expected tensors by name"
        raise FileError(path, problem, REMEDY)
    averaged = {name: value for name, value in state.items() if name != "n_averaged"}
    while averaged and averaged.keys() != set(known) and all(map(PREFIX.match, averaged)):
        state = averaged = {PREFIX.sub("", name): value for name, value in averaged.items()}
    return dict(state)


def load_weights(net: nn.Module, path: str | Path, what: str) -> None:
    """Give a module the weights of a checkpoint file, in the module's own precision.

    A name that the module had as a part of another one (Lightning's ``model.``), and that all
    tensors have before their own, is removed where the module has none of that name.

    what : the module in the words of its settings, for the message

    Raises FileError for a file that :func:`read_state_dict` refuses, or of other names or shapes.
    """
    known = net.state_dict().keys()
    state = read_state_dict(path, known)
    inner = {name.partition(".")[2]: value for name, value in state.items()}
    if len({name.partition(".")[0] for name in state}) == 1 and inner.keys() == known:
        state = inner
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        problem = f"does not hold {what} ({error})"
        raise FileError(path, problem, "Give it the settings that it was trained with.") from None
