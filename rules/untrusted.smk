"""What is read before the configuration is loaded: its files, which must not run code."""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "scripts"))

from tandem_defense.pipeline import configfiles

try:
    configfiles.check(
        "config.yaml",
        workflow.config_settings.configfiles,
        workflow.config_settings.replace_workflow_config,
    )
except configfiles.FilesError as error:
    raise WorkflowError(str(error)) from None
