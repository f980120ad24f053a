"""What is read before the configuration is loaded: its files, which must not run code."""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# Not `workflow.basedir`, which is that of a workflow that uses this one as a module.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent
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
