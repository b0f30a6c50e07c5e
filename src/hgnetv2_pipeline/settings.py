"""Kedro's settings of this project; https://docs.kedro.org has what each means."""

import os
import warnings

# Nothing phones home, whoever starts the project and however.
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("KEDRO_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

# Kedro warns of every dataset that one namespace takes from another, as pipelines must.
warnings.filterwarnings("ignore", message="One or more dataset names contain")

from hgnetv2_pipeline.durable import never_for_everyone
from hgnetv2_pipeline.hooks import ProjectHooks
from hgnetv2_pipeline.printable import show_logs
from hgnetv2_pipeline.project.config_loader import LOADER_ARGUMENTS, ProjectConfigLoader
from hgnetv2_pipeline.project.experiment.mlflow_hooks import MLflowHooks
from hgnetv2_pipeline.project.logs import use_project_logging
from hgnetv2_pipeline.project.terminal.hooks import TerminalHooks

# Whatever Kedro logs to, it logs no control characters; whatever it makes is not everyone's.
show_logs()
never_for_everyone()

# Of whatever is started in this process: kedro ipython, a notebook, the catalog's commands.
use_project_logging()

HOOKS = (ProjectHooks(), MLflowHooks(), TerminalHooks())
CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS = LOADER_ARGUMENTS
