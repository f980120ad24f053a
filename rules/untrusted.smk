"""What is read before the configuration is loaded: a configuration must not run code."""

from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

# Snakemake evaluates Python in the values of a YAML file that has this key.
if Path("config.yaml").exists():
    try:
        with open("config.yaml", encoding="utf-8") as file:
            evaluated = "__use_yte__" in (yaml.safe_load(file) or {})
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WorkflowError(f"config.yaml is not YAML: {error}") from None
    if evaluated:
        raise WorkflowError(
            "config.yaml has the key __use_yte__, with which Snakemake would run its values as"
            " Python: remove the key (SECURITY.md)"
        )
