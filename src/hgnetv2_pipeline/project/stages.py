"""DVC's stages of an environment of one's own, from those of the project's ``dvc.yaml``.

DVC has no lists of varying length and one set of names a file; so each environment has a
``conf/NAME/dvc.yaml``, made from the one in the project's root, that names its own folders.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.errors import ParameterError

_log = logging.getLogger(__name__)

_HEADER = """\
# The stages of ../../dvc.yaml for this environment, with its own folders of images:
#     dvc repro conf/{name}/dvc.yaml
# Written by hgnetv2 init; after data.pool, data.test or a name in globals.yml changed, written anew
# by `hgnetv2 stages {name}`. Images are outputs without a cache: nothing of them is copied or
# removed, and whatever changes in them makes the first stage run again.
"""
# Without a pool there is a training on the labelled images, and its evaluation.
_LABELLED_ONLY = ("ingestion", "train", "evaluation", "export")
# Published weights are another task; they have their own place in the project's dvc.yaml.
_NOT_OF_THE_CHAIN = ("import_weights", "finetune")


def write_stages(project: Path, name: str) -> Path:
    """Write ``conf/NAME/dvc.yaml`` from the project's dvc.yaml and the environment's parameters."""
    import yaml

    if name == "sample":
        raise ParameterError("the stages of sample stand in the project's dvc.yaml itself")
    template = project / "dvc.yaml"
    if not template.is_file():
        raise ParameterError(f"{template} is missing, from which the stages are made")
    values = yaml.safe_load(template.read_text(encoding="utf-8"))
    params = _parameters(project, name)
    text = yaml.safe_dump(
        stages_for(values, params), sort_keys=False, allow_unicode=True, width=10_000
    )
    path = project / "conf" / name / "dvc.yaml"
    write_text(path, _HEADER.format(name=name) + text)
    return path


def stages_for(template: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """The content of an environment's dvc.yaml: ``template`` with what is its own.

    ``params`` are validated and hold ``identity``.
    """
    from hgnetv2_pipeline.project.params import DataParams
    from hgnetv2_pipeline.project.sources import sets_of

    identity = params["identity"]
    chain = bool(params["data"]["pool"]) and params["data"]["layout"] != "multi_label"
    names = {
        "env": identity["environment"],
        **{key: identity[key] for key in ("dataset", "teacher", "variant", "run")},
        "split": params["split"],
        "model": "ssld_stage2" if chain else "train",
    }
    stages = {}
    for stage, values in template["stages"].items():
        if stage in _NOT_OF_THE_CHAIN or not (chain or stage in _LABELLED_ONLY):
            continue
        stages[stage] = {"wdir": "../..", **values}
    ingested = [name for out in stages["ingestion"]["outs"] for name in out]
    raw = "data/01_raw/${dataset}"
    data = DataParams.model_validate(params["data"])
    sets = sets_of(data, Path(identity["project"]) / Path(data.root).expanduser())
    if "pool" not in sets:
        ingested = [name for name in ingested if "pool" not in Path(name).name]
    if "test" in sets:
        lists = "data/02_intermediate/${dataset}"
        ingested += [f"{lists}/index_test.parquet", f"{lists}/test_list.txt"]
    images = [f"{raw}/{place}" for place in raw_places(params) if place != "images"]
    stages["ingestion"]["outs"] = [
        {name: {"cache": False, "persist": True} if name.startswith(raw) else {"persist": True}}
        for name in [*images, *ingested]
    ]
    return {"vars": [names], "stages": stages}


def raw_places(params: Mapping[str, Any]) -> list[str]:
    """Where the images of an environment lie below ``data/01_raw/<dataset>``."""
    from hgnetv2_pipeline.project.sources import pool_sources

    data = params["data"]
    sources = pool_sources(data["pool"], Path(params["identity"]["project"]))
    pool = [f"pool/{source.link}" for source in sources]
    return ["images", *(["test"] if data["test"] else []), *pool]


def warn_of_unwatched_images(params: Mapping[str, Any]) -> None:
    """Say where conf/NAME/dvc.yaml, if there is one, does not name all images that are read."""
    identity = params["identity"]
    path = Path(identity["project"]) / "conf" / identity["environment"] / "dvc.yaml"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    missing = [place for place in raw_places(params) if f"}}/{place}:" not in text]
    if missing:
        name = identity["environment"]
        _log.warning(
            "conf/%s/dvc.yaml does not name %s, whose changes DVC would not see: hgnetv2 stages %s "
            "writes it anew", name, ", ".join(missing), name,
        )  # fmt: skip


def _parameters(project: Path, name: str) -> dict[str, Any]:
    from hgnetv2_pipeline.project.config_loader import LOADER_ARGUMENTS, ProjectConfigLoader

    return ProjectConfigLoader(project / "conf", env=name, **LOADER_ARGUMENTS)["parameters"]
