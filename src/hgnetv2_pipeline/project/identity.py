"""Who a run is and where its files are: the one table of paths that catalog and nodes share.

A run is named by dataset, variant, run, seed and teacher. The catalog reads a path as
``${folder:NAME}`` and a node as ``identity.folder(NAME)``; both end in ``FOLDERS``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.variants import VARIANTS, variant_name
from hgnetv2_pipeline.weights.places import said_of, split_spec
from hgnetv2_pipeline.weights.tensor_file import SUFFIXES

# Where each result is, relative to the project. `dataset` starts every path below its layer.
FOLDERS: Mapping[str, str] = {
    "raw": "data/01_raw/{dataset}",
    "raw_weights": "data/01_raw/{dataset}/weights",
    "lists": "data/02_intermediate/{dataset}",
    "resized": "data/03_primary/{dataset}/resized",
    "pool_index": "data/03_primary/{dataset}/pool",
    "scores": "data/04_feature/{dataset}/{teacher}/scores",
    "reference": "data/04_feature/{dataset}/{teacher}/reference",
    "guarded": "data/04_feature/{dataset}/{teacher}/guarded",
    "probes": "data/04_feature/{dataset}/{teacher}/probes",
    "pool_map": "data/04_feature/{dataset}/{teacher}/map",
    "mining": "data/05_model_input/{dataset}/{teacher}",
    "teacher_logits": "data/05_model_input/{dataset}/{teacher}/teacher_logits",
    "models": "data/06_models/{dataset}",
    "import_weights": "data/06_models/{dataset}/import_weights/{variant}",
    "train_teacher": "data/06_models/{dataset}/train_teacher/{teacher}",
    "train": "data/06_models/{dataset}/train/{variant}/{run}",
    "ssld_stage1": "data/06_models/{dataset}/ssld_stage1/{variant}/{run}",
    "ssld_stage2": "data/06_models/{dataset}/ssld_stage2/{variant}/{run}",
    "finetune": "data/06_models/{dataset}/finetune/{variant}/{run}",
    "comparison": "data/06_models/{dataset}/comparison/{variant}/{run}",
    "best": "data/06_models/{dataset}/best/{variant}/{run}",
    "evaluation": "data/08_reporting/{dataset}/evaluation/{model}",
    "error_analysis": "data/08_reporting/{dataset}/error_analysis/{model}",
    "export": "data/07_model_output/{dataset}/{model}",
    "latency": "data/08_reporting/{dataset}/latency/{model}",
    "prediction": "data/08_reporting/{dataset}/prediction/{model}",
    "comparison_report": "data/08_reporting/{dataset}/comparison/{variant}/{run}",
    "mining_report": "data/08_reporting/{dataset}/mining/{teacher}",
    "label_errors": "data/08_reporting/{dataset}/label_errors/{teacher}",
    "label_next": "data/08_reporting/{dataset}/label_next/{teacher}",
    "purity": "data/08_reporting/{dataset}/purity/{teacher}",
    "dataset_report": "data/08_reporting/{dataset}/ingestion",
    "quarantine": "data/08_reporting/{dataset}/quarantine",
    "histories": "data/08_reporting/{dataset}/history/{model}",
    "report": "data/08_reporting/{dataset}/report",
    "logs": "data/08_reporting/{dataset}/logs",
    "plots": "data/08_reporting/{dataset}/plots",
    "sweep": "data/08_reporting/{dataset}/sweep/{run}",
}

# What ``model`` says for the one that is chosen on val among all trainings of a variant and run.
BEST = "best"

# One path segment: no slash, no leading dot, so that no name can lead out of its layer; and short,
# since file systems take 255 bytes and names of our own are made of it.
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=,+-]{0,99}")
# Folders and files of our own that are beside results.
_TAKEN = re.compile(r"archive|lock|.*\.lock|.*manifest\.json")


def _check_segment(name: str) -> str:
    """``name`` if it can name a folder of results; else a ``ValueError`` that says why not."""
    shown = name if len(name) <= 100 else f"{name[:40]}... ({len(name)} letters)"
    if _TAKEN.fullmatch(name):
        raise ValueError(f"{name!r} is the name of a place of the project's own; choose another")
    if not _SEGMENT.fullmatch(name):
        raise ValueError(
            f"{shown!r} cannot name a folder: use letters, digits and _ . = , + -, at most 100, a "
            "letter, digit or _ first"
        )
    return name


class Identity(BaseModel):
    """The names that every path of a run is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: Path = Field(description="absolute folder of the project (holds conf/ and data/)")
    environment: str = Field(description="the Kedro environment: sample, imagenet, your own")
    dataset: str = Field(description="starts every path below its layer")
    variant: str = Field(description="b0 .. b6")
    run: str = Field(description="name of the run; 'seed=<seed>' unless given")
    seed: int = Field(ge=0, lt=2**31)
    teacher: str = Field(description="name of the teacher, a folder of train_teacher/")
    model: str = Field(description="the model that evaluation, export, latency, prediction take")
    download: bool = Field(description="whether published weights that are missing are fetched")

    @field_validator("dataset", "run", "teacher")
    @classmethod
    def _one_segment(cls, value: str) -> str:
        return _check_segment(value)

    @field_validator("model")
    @classmethod
    def _has_a_place(cls, value: str) -> str:
        model_id(value)
        return value

    @field_validator("variant")
    @classmethod
    def _known_variant(cls, value: str) -> str:
        value = variant_name(value)
        if value not in VARIANTS:
            raise unknown_name(
                "variant", value, VARIANTS, "--params variant=... or globals.yml of the environment"
            )
        return value

    def folder(self, name: str) -> Path:
        """Absolute path of the folder ``name`` of ``FOLDERS``."""
        return self.project / self.relative(name)

    def relative(self, name: str) -> str:
        """The same, relative to the project."""
        return FOLDERS[name].format(
            dataset=self.dataset,
            variant=self.variant,
            run=self.run,
            teacher=self.teacher,
            model=self.model_id,
        )

    @property
    def model_id(self) -> str:
        """The model's name as a path: a run id stays, others go below zoo/, timm/, ..."""
        return model_id(self.model)

    @property
    def run_command(self) -> str:
        """How this environment is run; the sample is the default."""
        sample = self.environment == "sample"
        return "kedro run" if sample else f"kedro run --env {self.environment}"

    def run_folder(self, run_id: str) -> Path:
        """Folder of the trained model ``<pipeline>/<variant>/<run>`` of this dataset."""
        return self.folder("models") / run_id


def model_id(model: str) -> str:
    """The path under which results about ``model`` are kept.

    >>> model_id("ssld_stage2/b0/seed=0"), model_id("timm:resnet18"), model_id("b4.ssld_stage2")
    ('ssld_stage2/b0/seed=0', 'timm/resnet18', 'zoo/b4.ssld_stage2')
    """
    kind, colon, name = model.partition(":")
    path = Path(split_spec(model)[0])
    if colon and kind in ("timm", "scratch"):
        parts = [kind, _as_segment(variant_name(name) if kind == "scratch" else name)]
    elif path.suffix in (*SUFFIXES, ".onnx") or path.is_absolute():
        parts = ["file", _as_segment(path.name + said_of(model))]
    else:
        parts = model.split("/")
        if len(parts) == 1:
            parts.insert(0, "zoo")
    try:
        return "/".join(map(_check_segment, parts))
    except ValueError as error:
        raise ParameterError(
            f"model {model[:100]!r} is no run id, zoo name, weight file or timm:<name>: {error}; a "
            "run id is <pipeline>/<variant>/<run>, for example ssld_stage2/b0/seed=0 "
            "(--params model=...)"
        ) from None


def _as_segment(name: str) -> str:
    """A file's name, or timm's of a model, with letters that a folder of results may have."""
    return re.sub(r"[^A-Za-z0-9_.=,+-]", "_", name)


def result_name(
    split: str, engine: str, precision: str, *, resize_short: int | None, fast: bool
) -> str:
    """The name of an evaluation's files below its model's folder; it says what was measured.

    >>> result_name("val", "torch", "fp32", resize_short=None, fast=False)
    'val-torch-fp32'
    >>> result_name("val", "ort", "fp32", resize_short=232, fast=True)
    'val-ort-fp32-resize=232-fast'
    """
    name = f"{split}-{engine}-{precision}"
    if resize_short is not None:
        name += f"-resize={resize_short}"
    return f"{name}-fast" if fast else name


def resolve(names: Mapping[str, Any], *, project: Path, environment: str) -> Identity:
    """Make the identity from merged globals and runtime parameters.

    ``names`` needs variant, dataset, seed, teacher and download; ``run`` and ``model`` have
    defaults that follow from them: without a ``model`` it is stage 2, with ``best`` the one that is
    chosen. Raises ``ParameterError`` naming what is wrong and where to
    set it.
    """
    seed = names["seed"]
    try:
        if isinstance(seed, bool | float):
            raise TypeError
        seed = int(seed)
    except (TypeError, ValueError):
        raise ParameterError(
            f"seed {seed!r} is not a whole number (--params seed=... or globals.yml)"
        ) from None
    for key in ("dataset", "run", "teacher", "model"):
        if names.get(key) is not None and not isinstance(names[key], str):
            # YAML has read 007 as 7 and 1e5 as 100000.0: which folder was meant is lost.
            raise ParameterError(
                f"{key} {names[key]!r} is no text to YAML; put it in quotes, {key}: "
                f"'{names[key]}' (conf/{environment}/globals.yml; on the command line "
                f"--params {key}=... takes it as it is typed)"
            )
    run = names.get("run") or f"seed={seed}"
    variant = variant_name(str(names["variant"]))  # here, so that no path knows other names
    model = names.get("model") or f"ssld_stage2/{variant}/{run}"
    if model == BEST:
        model = f"{BEST}/{variant}/{run}"
    from pydantic import ValidationError

    try:
        return Identity(
            project=project,
            environment=environment,
            dataset=str(names["dataset"]),
            variant=variant,
            run=run,
            seed=seed,
            teacher=str(names["teacher"]),
            model=str(model),
            download=names.get("download"),
        )
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ParameterError):
            raise cause from None
        raise ParameterError(
            f"{'.'.join(map(str, first['loc']))}: {cause or first['msg']} "
            "(--params or conf/<env>/globals.yml)"
        ) from None
