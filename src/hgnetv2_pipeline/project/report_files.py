"""The files that the report is made from: those there are of this variant and run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.tracking import git_revision
from hgnetv2_pipeline.project.training.view_sheet import VIEWS

if TYPE_CHECKING:
    from hgnetv2_pipeline.reporting.inputs import ReportInputs


_OWN_TRAININGS = ("train", "ssld_stage1", "ssld_stage2", "finetune")


def report_inputs(identity: Identity) -> ReportInputs:
    """What the report says of the run, and where it reads that."""
    from hgnetv2_pipeline.reporting.build import OWN
    from hgnetv2_pipeline.reporting.inputs import ReportInputs

    base = identity.folder("report").parent
    trainings = {
        folder.relative_to(identity.folder("models")).as_posix(): folder
        for folder in (
            *sorted(identity.folder("train_teacher").glob("member=*")),
            *(identity.folder(name) for name in _OWN_TRAININGS),
            *sorted(identity.folder("comparison").glob("*,seed=*")),
        )
        if all((folder / name).is_file() for name in ("history.csv", "result.json"))
    }
    return ReportInputs(
        dataset=identity.dataset,
        model=identity.model,
        is_sample=identity.dataset == "sample",
        comparable=identity.dataset == "imagenet",
        run_command=identity.run_command,
        root=identity.project,
        home=identity.folder("report"),
        revision=git_revision(identity.project),
        versions=_versions(),
        dataset_summary=identity.folder("dataset_report") / "summary.json",
        mining_audit=identity.folder("mining_report") / "audit.json",
        mining_classes=identity.folder("mining_report") / "classes.csv",
        mining_page=identity.folder("mining_report") / "mining_report.html",
        mining_sheets=tuple(
            path
            for name in ("top", "bottom", "removed", "review")
            if (path := identity.folder("mining_report") / "sheets" / f"{name}.png").is_file()
        ),
        mining_purity=identity.folder("purity") / "purity.csv",
        comparison=identity.folder("comparison_report") / "comparison.json",
        histories={run: folder / "history.csv" for run, folder in trainings.items()},
        results={run: folder / "result.json" for run, folder in trainings.items()},
        views={
            run: path for run, folder in trainings.items() if (path := folder / VIEWS).is_file()
        },
        evaluations=_jsons(base / "evaluation", identity),
        error_analyses=_jsons(base / "error_analysis", identity),
        exports=tuple(
            path
            for name in ("manifest.json", "model*.pte.json", "model*.ncnn.json")
            for path in sorted(identity.folder("export").glob(name))
        ),
        latencies=_jsons(base / "latency", identity),
        tensorrt=tuple(
            sorted((identity.folder("export") / "tensorrt-kit" / "results").glob("*.json"))
        ),
        predictions=identity.folder("prediction") / "predictions.jsonl",
        prediction_sheet=identity.folder("prediction") / "predictions.png",
        own={name: identity.folder(folder) / file for name, (folder, file) in OWN.items()},
    )


def report_result(run: Run, inputs: ReportInputs) -> ResultSpec:
    """The page and its text; all runs of a dataset have this one."""
    return ResultSpec(
        folder=run.folder("report"),
        pipeline="reporting",
        inputs=_files(run.identity, inputs),
        params=_subject(run.identity),
        outputs=["report.html", "report.md"],
        wait=True,
    )


def plots_result(run: Run, inputs: ReportInputs, split: str) -> ResultSpec:
    """What DVC shows of the same files: the folder of plots, and the numbers beside it."""
    from hgnetv2_pipeline.reporting.plots import METRICS, PLOTS

    folder = run.folder("plots")
    return ResultSpec(
        folder=folder.parent,
        name=folder.name,
        pipeline="reporting",
        inputs=_files(run.identity, inputs),
        params={**_subject(run.identity), "split": split},
        outputs=[*(f"{folder.name}/{name}" for name in PLOTS), METRICS],
        wait=True,
    )


def _subject(identity: Identity) -> dict[str, str]:
    return {"dataset": identity.dataset, "variant": identity.variant, "model": identity.model}


def _files(identity: Identity, inputs: ReportInputs) -> dict[str, Path]:
    """The files of a report that are there, by their paths in the project."""
    files = [
        path
        for value in vars(inputs).values()
        for path in (
            value
            if isinstance(value, tuple)
            else list(value.values())
            if isinstance(value, dict)
            else [value]
        )
        if isinstance(path, Path) and path.is_file()
    ]
    return {path.relative_to(identity.project).as_posix(): path for path in files}


_NO_RUNS = ("zoo", "timm", "scratch", "file", "import_weights")


def _jsons(folder: Path, identity: Identity) -> tuple[Path, ...]:
    """Results of this variant and run, and of models from elsewhere (zoo, timm, files)."""
    return tuple(
        path
        for path in sorted(folder.glob("**/*.json"))
        if not path.name.endswith(("manifest.json", "made_by.json"))
        and path.name != "latency.json"
        and "archive" not in path.parts
        and (
            path.relative_to(folder).parts[0] in _NO_RUNS
            or path.relative_to(folder).parts[1:3] == (identity.variant, identity.run)
        )
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("hgnetv2-pipeline", "torch", "onnx", "onnxruntime", "timm", "numpy", "pillow", "kedro")
    return {name: version(name) for name in names}
