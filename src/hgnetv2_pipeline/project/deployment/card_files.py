"""The model card of an export as a result: which files it is written from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.deployment.card import MANIFEST
from hgnetv2_pipeline.durable import read_json, write_text
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import CardParams
from hgnetv2_pipeline.project.report_files import report_inputs
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.teacher import RECORD
from hgnetv2_pipeline.project.training.choice import CHOICE, chosen_run

if TYPE_CHECKING:
    from hgnetv2_pipeline.reporting.chapters.model_card import CardInputs, TrainingFiles

_STUDENT = "student.safetensors"


def card_result(run: Run, known: CardInputs) -> ResultSpec:
    """The card beside the model file: another as soon as one of its files says something else.

    It is no part of the export itself, so that an export from before there were cards is reused,
    and a card can follow what is evaluated later. Times are on it that were measured before; they
    follow the export in the chain, and a card that followed them would be another in the next run.
    """
    from hgnetv2_pipeline.reporting.chapters.model_card import CARD

    project, report = run.identity.project, known.report
    trainings = [*known.trainings, *known.teachers]
    files = [report.dataset_summary, *report.exports, *report.own.values()]
    files += known.evaluations
    files += [path for each in trainings for path in (each.manifest, each.result)]
    return ResultSpec(
        folder=run.folder("export"),
        name="card",
        pipeline="export",
        inputs={
            path.relative_to(project).as_posix(): path
            for path in files
            if path is not None and path.is_file()
        },
        params={
            "model": run.identity.model,
            "run_command": run.identity.run_command,
            "lists": dict(known.lists),
            **known.stated,
        },
        outputs=[CARD],
    )


def write_card(folder: Path, known: CardInputs) -> None:
    """Write ``MODEL_CARD.md``."""
    from hgnetv2_pipeline.reporting.chapters.model_card import CARD, model_card

    write_text(folder / CARD, model_card(known))


def card_inputs(run: Run, params: CardParams, lists: Lists) -> CardInputs:
    """What there is to say of the export of ``run``; it has to be there."""
    from dataclasses import replace

    from hgnetv2_pipeline.reporting.chapters.model_card import CardInputs

    identity = run.identity
    export = run.folder("export")
    trainings = _lineage(run, chosen_run(identity.run_folder(identity.model)) or identity.model)
    report = report_inputs(identity)
    own = {
        "choice": identity.run_folder(identity.model) / CHOICE,
        "teacher": run.folder("train_teacher") / RECORD,
    }
    taught = [read_json(each.manifest)["inputs"].get("teacher") for each in trainings]
    evaluations = _evaluations(run, export)
    is_there = own["teacher"].is_file() and run.reuse.digest(own["teacher"]) in taught
    members = read_json(own["teacher"])["members"] if is_there else []
    if not is_there:
        del own["teacher"]
    teachers = _finished(run, members)
    seen = [read_json(each.manifest)["inputs"] for each in (*trainings, *teachers)]
    used = {*evaluations.values(), *(one.get(set_) for one in seen for set_ in ("train", "val"))}
    known = {key: what for key, what in _known_lists(run, lists).items() if key in used}
    summary = report.dataset_summary if trainings and known.get(seen[0].get("val")) else None
    return CardInputs(
        report=replace(report, own=own, exports=_exports(export), dataset_summary=summary),
        evaluations=evaluations,
        latencies=_latencies(run, export),
        trainings=trainings,
        teachers=teachers,
        lists=known,
        stated=params.model_dump(),
    )


def _exports(folder: Path) -> tuple[Path, ...]:
    return (folder / MANIFEST, *sorted(folder.glob("model*.pte.json")),
            *sorted(folder.glob("model*.ncnn.json")))  # fmt: skip


def _evaluations(run: Run, export: Path) -> dict[Path, str]:
    """Evaluations of the weights that were exported, or of one of its files."""
    manifest = read_json(export / MANIFEST)
    ours = {manifest["source_sha256"], *manifest["files"].values()}
    found = {}
    for note in sorted(run.folder("evaluation").glob("*.manifest.json")):
        counts = note.with_name(note.name.replace(".manifest", ""))
        inputs = read_json(note)["inputs"]
        if inputs.get("model") in ours and counts.is_file():
            found[counts] = str(inputs["split"])
    return found


def _latencies(run: Run, export: Path) -> list[Path]:
    """Timings of the exported files alone; those beside other models are a report's."""
    ours = set(read_json(export / MANIFEST)["files"].values())
    return [
        path
        for note in sorted(run.folder("latency").glob("*.manifest.json"))
        if {*read_json(note)["inputs"].values()} <= ours
        and (path := note.with_name(note.name.replace(".manifest", ""))).is_file()
    ]


def _lineage(run: Run, model: str) -> list[TrainingFiles]:
    """The training that made the weights of ``model``, and those it started from, newest first."""
    started = ("import_weights", "train", "ssld_stage1", "finetune")
    others = [run.folder(name) for name in started]
    found: list[TrainingFiles] = []
    names = [model]
    while names and (new := _finished(run, names)):
        found += new
        start = read_json(new[0].manifest)["inputs"].get("init")
        others = [folder for folder in others if (folder / _STUDENT).is_file()]
        names = [
            folder.relative_to(run.folder("models")).as_posix()
            for folder in others
            if run.reuse.digest(folder / _STUDENT) == start
        ][:1]
        names = [name for name in names if name not in {each.run for each in found}]
    return found


def _finished(run: Run, names: Sequence[str]) -> list[TrainingFiles]:
    """Those of the runs that are here, by the manifests of their folders."""
    from hgnetv2_pipeline.reporting.chapters.model_card import TrainingFiles

    folders = [(name, run.identity.run_folder(name)) for name in names]
    return [
        TrainingFiles(name, folder / "manifest.json", folder / "result.json", _command(run, name))
        for name, folder in folders
        if (folder / "manifest.json").is_file()
    ]


def _command(run: Run, name: str) -> str:
    """The command that makes the training ``name``; '' of another variant or run."""
    who, (pipeline, *rest) = run.identity, name.split("/")
    if rest[:2] != [who.variant, who.run]:
        return ""
    given = f"variant={who.variant},run={who.run},seed={who.seed},teacher={who.teacher}"
    return f"{who.run_command} --pipeline {pipeline} --params {given}"


def _known_lists(run: Run, lists: Lists) -> dict[str, str]:
    """What each list of images that is here holds, by its SHA-256."""
    places = {
        run.folder("mining") / "train_mined.parquet": "training list after mining",
        run.folder("comparison") / "train_unmined.parquet": "the whole pool, unmined",
        **{lists.folder / f"index_{name}.parquet": name for name in ("train", "val", "test")},
    }
    return {run.reuse.digest(path): what for path, what in places.items() if path.is_file()}
