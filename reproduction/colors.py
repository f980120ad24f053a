"""Are a restored image's colors those of the photograph?

python reproduction/colors.py

Reads the restored images that reproduction/tandem.py kept (after 100, 300 and 1000 steps) and
writes measured/colors.csv, a row per run, image, number of steps and average. A color is what is
left of a pixel without its gray, over blocks of a nineteenth of the image, so that neither detail
nor noise counts. Columns: `color`, the root mean squared difference of the colors from the clean
photograph's, in 1/255; `saturation`, the root mean squared color, as a multiple of the clean
photograph's; `gray`, the difference of the same blocks' gray.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

import pandas as pd  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

OUTPUT = HERE / "measured/colors.csv"
KEPT = HERE / "results/tandem"
BLOCKS = 19
KEYS = ["run", "image", "steps", "average"]


def parts(image: Tensor) -> tuple[Tensor, Tensor]:
    """(gray (1, 19, 19), color (3, 19, 19)) of an image (3, H, W), over blocks of pixels."""
    blocks = F.adaptive_avg_pool2d(image.float(), BLOCKS)
    gray = blocks.mean(0, keepdim=True)
    return gray, blocks - gray


def rms(x: Tensor) -> float:
    """Root of the mean square."""
    return float(x.square().mean().sqrt())


def main() -> None:
    """Measure every kept image, and keep the rows of those that are no longer here."""
    rows = []
    for file in sorted(KEPT.glob("restored/*/*.safetensors")):
        name, steps = file.stem.split("-")
        clean_gray, clean_color = parts(
            load_file(KEPT / f"attacked/{name}.safetensors")["clean"][0]
        )
        for average, image in load_file(file).items():
            gray, color = parts(image)
            row = {"run": file.parent.name, "image": name, "steps": int(steps), "average": average}
            row["color"] = 255 * rms(color - clean_color)
            row["saturation"] = rms(color) / rms(clean_color)
            row["gray"] = 255 * rms(gray - clean_gray)
            rows.append(row)
    table = pd.DataFrame(rows).round(3)
    if OUTPUT.exists():
        table = pd.concat([pd.read_csv(OUTPUT), table]).drop_duplicates(KEYS, keep="last")
    table.sort_values(KEYS).to_csv(OUTPUT, index=False)
    print(table.groupby(["run", "steps", "average"]).mean(numeric_only=True).round(2).to_string())


if __name__ == "__main__":
    main()
