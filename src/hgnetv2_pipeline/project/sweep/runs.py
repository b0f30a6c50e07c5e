"""The runs of a sweep: parameters of each variant and size, validated before the first node."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hgnetv2_pipeline.deployment.choices import DEVICE_ENGINES, FILES, TORCH_MODES
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.project.config_loader import LOADER_ARGUMENTS, ProjectConfigLoader
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.variants import height_and_width, size_in_words

SSLD = ("ssld_stage1", "ssld_stage2")
LABELLED_ONLY = ("train",)


@dataclass(frozen=True)
class SweepRun:
    """One variant at one size: its name, as in ``b1 at 224 px``, and its validated parameters."""

    name: str
    params: Mapping[str, Any]

    @property
    def run(self) -> Run:
        """Who it is; its model is the last of its trainings."""
        return Run.model_validate(self.params["this_run"])

    @property
    def stages(self) -> tuple[str, ...]:
        """The trainings it takes, in their order."""
        return SSLD if self.run.identity.model.startswith(SSLD[-1]) else LABELLED_ONLY

    @property
    def size(self) -> Any:
        """Pixels of its input: a side, or [height, width]."""
        return self.params[self.stages[-1]]["image_size"]


def list_runs(loader: ProjectConfigLoader, stages: Collection[str]) -> list[SweepRun]:
    """Every run that the parameters of ``loader`` ask for, variant by variant.

    A run at the recipe's own size is that of the chain, with its name; at another size it has the
    size behind it, as in ``seed=0-160px``.

    Raises:
        ParameterError: an engine that runs no such file, or sizes beside stored teacher logits.
    """
    params = loader["parameters"]
    _refuse_engine(params)
    last, name = [*stages][-1], str(params["run"])
    runs = []
    for variant in params["variants"]:
        model = {"variant": variant, "export": {"precisions": params["precision"]}}
        own = _validated(loader, {**model, "model": f"{last}/{variant}/{name}"})
        for size in params["size"] or [own[last]["image_size"]]:
            its = own
            if size != own[last]["image_size"]:
                _refuse_stored(own, stages, size)
                run = f"{name}-{size}px"
                its = _validated(
                    loader,
                    {
                        **model,
                        "model": f"{last}/{variant}/{run}",
                        "run": run,
                        **{stage: _resized(own[stage], size) for stage in stages},
                    },
                )
            runs.append(SweepRun(f"{variant} at {size_in_words(size)} px", its))
    return runs


def _validated(loader: ProjectConfigLoader, more: Mapping[str, Any]) -> dict[str, Any]:
    """What ``kedro run`` with the same options and ``more`` of ``--params`` would run with."""
    from omegaconf import OmegaConf

    typed = OmegaConf.merge(*map(OmegaConf.create, (dict(loader.runtime_params), dict(more))))
    its = ProjectConfigLoader(
        loader.conf_source,
        env=loader.env,
        runtime_params=OmegaConf.to_container(typed),
        project=loader.project,
        **LOADER_ARGUMENTS,
    )
    return its["parameters"]


def _resized(recipe: Mapping[str, Any], size: int) -> dict[str, int]:
    """``recipe`` at another size; the crop keeps its share of the picture."""
    before = min(height_and_width(recipe["image_size"]))
    return {
        "image_size": size,
        "resize_short": max(32, round(size * recipe["resize_short"] / before)),
    }


def _refuse_engine(params: Mapping[str, Any]) -> None:
    engine = params["latency"]["engines"][0]
    if engine in ("torch", *TORCH_MODES, *DEVICE_ENGINES):
        raise ParameterError(
            f"a sweep judges and times ONNX files, which {engine} does not run: name ort, openvino "
            "or another engine for them (--params latency.engines=...)"
        )
    if lacking := [name for name in params["precision"] if name not in FILES[engine]]:
        raise ParameterError(
            f"{engine} runs no {', '.join(lacking)} file, only {', '.join(FILES[engine])}: name "
            "other precisions (--params precision=...) or another engine (latency.engines)"
        )


def _refuse_stored(params: Mapping[str, Any], stages: Collection[str], size: int) -> None:
    if "ssld_stage1" in stages and params["teacher_logits"]["source"] != "online":
        raise ParameterError(
            f"teacher logits are stored for {params['ssld_stage1']['image_size']} pixels, and size "
            f"asks for {size}: leave size out, or let the teacher run along (--params "
            "teacher_logits.source=online)"
        )
