"""One page from everything that was measured, and a table for the terminal."""

from __future__ import annotations

import logging
from pathlib import Path

from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.results import Reuse

_log = logging.getLogger(__name__)


def report(
    identity: Identity, redo: list[str], lists: Path, *measured: object
) -> tuple[Path, Path]:
    """Build ``report.html`` and ``report.md`` from the files of this variant and run.

    ``measured`` orders the nodes: whatever was measured in this run is on the page. The page reads
    all results there are, also those of earlier runs, and says what is missing and how to make it.
    """
    from hgnetv2_pipeline.project.tracking import git_revision
    from hgnetv2_pipeline.reporting.build import terminal_summary
    from hgnetv2_pipeline.reporting.inputs import ReportInputs

    base = identity.folder("report").parent
    teacher = identity.folder("train_teacher")
    inputs = ReportInputs(
        dataset=identity.dataset,
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
        histories={
            path.parent.relative_to(identity.folder("models")).as_posix(): path
            for folder in (
                *sorted(teacher.glob("member=*")),
                *(identity.folder(name) for name in ("train", "ssld_stage1", "ssld_stage2")),
                identity.folder("finetune"),
            )
            if (path := folder / "history.csv").is_file()
        },
        evaluations=_jsons(base / "evaluation", identity),
        exports=tuple(
            path for path in [identity.folder("export") / "manifest.json"] if path.is_file()
        ),
        latencies=_jsons(base / "latency", identity),
        tensorrt=tuple(
            sorted((identity.folder("export") / "tensorrt-kit" / "results").glob("*.json"))
        ),
        predictions=identity.folder("prediction") / "predictions.jsonl",
        prediction_sheet=identity.folder("prediction") / "predictions.png",
    )

    def make(aside: Path) -> None:
        from hgnetv2_pipeline.reporting.build import build_report

        build_report(inputs, aside)

    folder = identity.folder("report")
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
    Reuse(identity.project, redo).produce(
        folder,
        pipeline="reporting",
        inputs={path.relative_to(identity.project).as_posix(): path for path in files},
        params={"dataset": identity.dataset, "variant": identity.variant},
        outputs=["report.html", "report.md"],
        make=make,
        wait=True,  # all runs of a dataset have this one page
    )
    _log.info("\n%s", terminal_summary(inputs))
    _log.info("report: %s", (folder / "report.html").relative_to(identity.project))
    return folder / "report.html", folder / "report.md"


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
