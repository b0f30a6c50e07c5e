"""DVC's stages of an environment of one's own, from those of the project's ``dvc.yaml``.

DVC has no lists of varying length and one set of names a file; so each environment has a
``conf/NAME/dvc.yaml``, made from the one in the project's root, that names its own folders.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.project.identity import BEST

_log = logging.getLogger(__name__)

_HEADER = """\
# The stages of ../../dvc.yaml for this environment, with its own folders of images:
#     dvc repro conf/{name}/dvc.yaml
# Written by hgnetv2 init; after data.pool, data.test or a name in globals.yml changed, again
# by `hgnetv2 stages {name}`. Images are outputs without a cache: nothing of them is copied or
# removed, and whatever changes in them makes the first stage run again.
"""
# Without a pool there is a training on the labelled images, its evaluation and the report on it.
_LABELLED_ONLY = ("ingestion", "train", "evaluation", "export", "reporting")
# Published weights are another task; they have their own place in the project's dvc.yaml.
_NOT_OF_THE_CHAIN = ("import_weights", "finetune")
_OWN = "conf/${env}/parameters.yml"


def write_stages(project: Path, name: str) -> Path:
    """Write ``conf/NAME/dvc.yaml`` from the project's dvc.yaml and the environment's parameters."""
    import yaml

    if name == "sample":
        raise ParameterError("the stages of sample are in the project's dvc.yaml itself")
    template = project / "dvc.yaml"
    if not template.is_file():
        raise ParameterError(f"{template} is missing, from which the stages are made")
    values = yaml.safe_load(template.read_text(encoding="utf-8"))
    params, own = _parameters(project, name), _own_keys(project, name)
    stages = stages_for(values, params, own, _yaml(project / "conf" / name / "globals.yml"))
    text = yaml.safe_dump(stages, sort_keys=False, allow_unicode=True, width=10_000)
    path = project / "conf" / name / "dvc.yaml"
    write_text(path, _HEADER.format(name=name) + text)
    return path


def stages_for(
    template: Mapping[str, Any],
    params: Mapping[str, Any],
    own: Collection[str],
    names: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of an environment's dvc.yaml: ``template`` with what is its own.

    ``params`` are validated and hold ``identity``; ``own`` are the names in the environment's own
    parameters.yml, of which DVC can watch no others; ``names`` are what its globals.yml says, which
    DVC reads itself, so that ``dvc exp run -S`` changes it for both.
    """
    from hgnetv2_pipeline.project.ingestion.sources import labelled_sets, unlinked_layout
    from hgnetv2_pipeline.project.params import DataParams

    identity = params["this_run"]["identity"]
    data = DataParams.model_validate(params["data"])
    layout = unlinked_layout(data, Path(identity["project"]))
    chain = bool(data.pool) and layout.name != "multi_label"
    named = {
        "env": identity["environment"],
        **{key: identity[key] for key in ("dataset", "teacher", "variant", "run")},
        "split": params["split"],
        "model": BEST if chain else "train",
    }
    kept = [
        stage
        for stage in template["stages"]
        if stage not in _NOT_OF_THE_CHAIN and (chain or stage in _LABELLED_ONLY)
    ]
    unmade = {
        name
        for stage, values in template["stages"].items()
        if stage not in kept
        for out in (*values.get("outs", ()), *values.get("metrics", ()), *values.get("plots", ()))
        for name in out
    }
    stages = {}
    for stage in kept:
        values = template["stages"][stage]
        stages[stage] = {"wdir": "../..", **values}
        if "deps" in values:
            stages[stage]["deps"] = [name for name in values["deps"] if name not in unmade]
        if "params" in values:
            stages[stage]["params"] = _watched(values["params"], own)
    ingested = [name for out in stages["ingestion"]["outs"] for name in out]
    raw = "data/01_raw/${dataset}"
    sets = labelled_sets(data, layout)
    if "test" not in sets and "mining" in stages:
        stages["mining"]["deps"] = [
            dep for dep in stages["mining"]["deps"] if "index_test" not in dep
        ]
    for absent in {"pool", "test"}.difference(sets):
        ingested = [name for name in ingested if absent not in Path(name).name]
    images = [f"{raw}/{place}" for place in raw_places(params) if place != "images"]
    stages["ingestion"]["outs"] = [
        {name: {"cache": False, "persist": True} if name.startswith(raw) else {"persist": True}}
        for name in [*images, *ingested]
    ]
    # A name that the file says in another project's words, or not at all, is in dvc.yaml.
    same = [key for key in named if names.get(key) == named[key]]
    rest = {key: value for key, value in named.items() if key not in same}
    read = [f"globals.yml:{','.join(same)}"] if same else []
    return {"vars": [*read, rest], "stages": stages}


def _watched(params: Sequence[Mapping[str, Sequence[str]]], own: Collection[str]) -> list[Any]:
    """``params`` of a stage without what the environment leaves as it is in ``conf/base``."""
    kept = [
        {
            file: [key for key in keys if file != _OWN or key.partition(".")[0] in own]
            for file, keys in entry.items()
        }
        for entry in params
    ]
    return [entry for entry in kept if any(entry.values())]


def raw_places(params: Mapping[str, Any]) -> list[str]:
    """Where the images of an environment are below ``data/01_raw/<dataset>``."""
    from hgnetv2_pipeline.project.ingestion.sources import pool_sources

    data = params["data"]
    sources = pool_sources(data["pool"], Path(params["this_run"]["identity"]["project"]))
    pool = [f"pool/{source.link}" for source in sources]
    more = [name for name, key in (("lists", "list_root"), ("test", "test")) if data[key]]
    return ["images", *more, *pool]


def warn_of_unwatched(params: Mapping[str, Any]) -> None:
    """Say where conf/NAME/dvc.yaml, if there is one, does not name all that is read.

    These are the images, and the parameters of the environment that stages depend on.
    """
    import yaml

    identity = params["this_run"]["identity"]
    project, name = Path(identity["project"]), identity["environment"]
    path = project / "conf" / name / "dvc.yaml"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    watched = [*raw_places(params), "review.csv"]
    missing = [place for place in watched if f"}}/{place}:" not in text]
    template = project / "dvc.yaml"
    if template.is_file():
        stages = yaml.safe_load(text)["stages"]
        every = yaml.safe_load(template.read_text(encoding="utf-8"))["stages"]
        wanted = _named({stage: every[stage] for stage in stages if stage in every})
        missing += sorted((wanted & _own_keys(project, name)) - _named(stages))
    if missing:
        _log.warning(
            "conf/%s/dvc.yaml does not name %s, whose changes DVC would not see: hgnetv2 stages %s "
            "writes it again", name, ", ".join(missing), name,
        )  # fmt: skip


def _own_keys(project: Path, name: str) -> set[str]:
    """The names at the top of an environment's parameters.yml."""
    return {*_yaml(project / "conf" / name / "parameters.yml")}


def _yaml(path: Path) -> dict[str, Any]:
    """What a file of the configuration says; nothing where there is none."""
    import yaml

    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def _named(stages: Mapping[str, Any]) -> set[str]:
    """The parameters of an environment that stages depend on, by the names at the top."""
    return {
        key.partition(".")[0]
        for stage in stages.values()
        for entry in stage.get("params", ())
        for key in entry.get(_OWN, ())
    }


def _parameters(project: Path, name: str) -> dict[str, Any]:
    from hgnetv2_pipeline.project.config_loader import LOADER_ARGUMENTS, ProjectConfigLoader

    return ProjectConfigLoader(project / "conf", env=name, **LOADER_ARGUMENTS)["parameters"]
