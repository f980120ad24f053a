"""docs/interfaces.md: its code runs as it is, in its order."""

import re

import pytest
import torch

pytest.importorskip("art", reason="the Adversarial Robustness Toolbox is not installed (extra art)")


def test_the_code_of_the_page_runs(root):
    torch.manual_seed(0)
    page = (root / "docs/interfaces.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/interfaces.md", "exec"), names)  # our own page
    assert names["logits"].shape == (4, 10)
    assert (names["attacked"] != names["images"].numpy()).any()
    assert abs(names["attacked"] - names["images"].numpy()).max() <= 8 / 255 + 1e-6
    assert names["answers"].shape == (4,)
    assert names["restored"].shape == (3, 64, 64) and names["restored"].dtype == torch.float32
