"""``tandem-defense restore``: restore pictures with t-DIPs."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from tandem_defense.cli.arguments import count
from tandem_defense.cli.pictures import read


def add(commands) -> None:
    """The subcommand's arguments."""
    command = commands.add_parser(
        "restore",
        help="remove adversarial perturbations from a picture with t-DIPs",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("picture", type=Path, help="PNG, JPEG, ...; RGB or gray, any size")
    command.add_argument("-o", "--output", type=Path, required=True, help="where to write it")
    command.add_argument("--iterations", type=count, default=1000, help="λ₂, of the second network")
    command.add_argument("--first-iterations", type=count, default=100, help="λ₁, of the first")
    command.add_argument("--feature-scale", type=count, default=8, help="divides DIP₂'s widths")
    command.add_argument("--seed", type=int, default=0, help="of weights and input noise")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    command.add_argument("--threads", type=count, default=2, help="CPU threads")
    command.set_defaults(run=restore)


def restore(options: argparse.Namespace) -> None:
    """Read, restore with a progress bar, write."""
    pixels, alpha = read(options.picture)
    formats = Image.registered_extensions()
    if options.output.suffix.lower() not in formats:
        raise ValueError(f"{options.output}: no picture format has this ending; try .png")
    if not options.output.parent.is_dir():
        raise ValueError(f"{options.output.parent} is not a folder")

    import torch  # after the checks, because it takes seconds
    from tqdm import tqdm

    from tandem_defense import device
    from tandem_defense.defenses.dip import TandemDIP

    chosen = device.prepare(options.threads, options.device)
    defense = TandemDIP(
        first_iterations=(options.first_iterations,),
        iterations=options.iterations,
        feature_scale=options.feature_scale,
        seed=options.seed,
    )
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div(255).to(chosen)
    with tqdm(total=defense.steps(1, options.iterations), unit="step") as bar:
        defense.progress = bar.update
        restored = defense(images, ["picture"])
    result = restored[0].permute(1, 2, 0).mul(255).round().byte().cpu().numpy()
    result = np.concatenate([result, alpha], 2) if alpha is not None else result
    Image.fromarray(result.squeeze(2) if result.shape[2] == 1 else result).save(options.output)
