"""docs/extending.md's example works as the page says: one class, one line, one entry."""

import re
import subprocess
import sys

import pytest
import yaml
from checkout import copy_workflow, planned, snakemake


@pytest.fixture
def checkout(root, tmp_path):
    return copy_workflow(root, tmp_path)


def add_the_example(root, checkout):
    """Follow the page: its class, its line, its entry."""
    page = (root / "docs/extending.md").read_text()
    (code,) = re.findall(r"```python\n# (scripts/\S+)\n(.*?)```", page, re.DOTALL)
    (checkout / code[0]).write_text(code[1])
    (line,) = re.findall(r'^    ("median": .*,)$', page, re.MULTILINE)
    registry = checkout / "scripts/tandem_defense/registry.py"
    text = registry.read_text().replace("DEFENSES = {\n", f"DEFENSES = {{\n    {line}\n", 1)
    registry.write_text(text)
    entry = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL).group(1))
    config = yaml.safe_load((checkout / "demo/config.yaml").read_text())
    config["experiments"]["tdips"]["defenses"] |= entry["experiments"]["tdips"]["defenses"]
    (checkout / "demo/config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def test_the_example_runs(root, checkout):
    add_the_example(root, checkout)
    program = (
        "import sys; sys.path.insert(0, 'scripts');"
        "import numpy as np, torch; from scipy.ndimage import median_filter;"
        "from tandem_defense import registry;"
        "d = registry.load(registry.DEFENSES['median'])(kernel=5);"
        "x = torch.rand(2, 3, 12, 13);"
        "e = np.stack([[median_filter(c, 5, mode='mirror') for c in i] for i in x.numpy()]);"
        "assert np.allclose(d(x).numpy(), e)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=checkout, check=True)


def test_it_is_planned_and_checked(root, checkout):
    before = planned(snakemake(checkout, "-n"))
    add_the_example(root, checkout)
    assert (
        planned(snakemake(checkout, "-n")) == before
    )  # a feed-forward defense shares the job of the others
    config = checkout / "demo/config.yaml"
    config.write_text(config.read_text().replace("kernel: 5", "kernel: five"))
    done = snakemake(checkout, "-n")
    assert done.returncode != 0
    assert "defenses.median.kernel: found 'five', allowed is a whole number" in done.stdout
