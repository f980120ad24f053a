"""Where a job computes, and with how many threads."""

import torch


def prepare(threads: int = 1, device: str = "auto") -> torch.device:
    """Set the number of CPU threads and choose the device.

    device : ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``

    Raises ValueError for a device that this machine does not have.
    """
    torch.set_num_threads(threads)
    # Late in an optimization Adam's second moments fall below 1e-38, where x86 is slow.
    torch.set_flush_denormal(True)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but there is no CUDA GPU: use cpu")
    return torch.device(device)
