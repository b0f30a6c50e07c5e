"""The parameters of a run as the project's own configuration gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hgnetv2_pipeline.project.config_loader import ProjectConfigLoader

ROOT = Path(__file__).parents[1]
STRATEGY = {"parameters": "soft", "globals": "soft"}


def loader(env: str = "sample", conf: Path = ROOT / "conf", **params: Any) -> ProjectConfigLoader:
    return ProjectConfigLoader(
        conf,
        env=env,
        runtime_params=params,
        base_env="base",
        default_run_env="sample",
        merge_strategy=STRATEGY,
    )


def parameters(env: str = "sample", **params: Any) -> dict[str, Any]:
    return loader(env, **params)["parameters"]
