"""Kedro's settings of this project; https://docs.kedro.org has what each means."""

import os
import warnings
from typing import Any

# Nothing phones home, whoever starts the project and however.
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("KEDRO_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

# Kedro warns of every dataset that one namespace takes from another, as pipelines must.
warnings.filterwarnings("ignore", message="One or more dataset names contain")

from hgnetv2_pipeline.config_loader import ProjectConfigLoader  # noqa: E402
from hgnetv2_pipeline.durable import never_for_everyone  # noqa: E402
from hgnetv2_pipeline.hooks import MLflowHooks, ProjectHooks  # noqa: E402
from hgnetv2_pipeline.printable import show_logs  # noqa: E402
from hgnetv2_pipeline.project_logging import use_project_logging  # noqa: E402

# Whatever Kedro logs to, it logs no control characters; whatever it makes is not everyone's.
show_logs()
never_for_everyone()

# Of whatever is started in this process: kedro ipython, a notebook, the catalog's commands.
use_project_logging()

HOOKS = (ProjectHooks(), MLflowHooks())
CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS: dict[str, Any] = {
    "base_env": "base",
    # A bare `kedro run` is the embedded sample; it says so in a banner.
    "default_run_env": "sample",
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
