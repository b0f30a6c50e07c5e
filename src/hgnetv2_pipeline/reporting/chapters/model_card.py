"""The model card of an export: Markdown with a YAML head, as Hugging Face's hub reads it.

It says what the files of the project say and no more; what none of them says is "not stated" or
"not measured". The keys of the head are those of
https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.intervals import wilson_interval
from hgnetv2_pipeline.reporting import formats, tables
from hgnetv2_pipeline.reporting.blocks import (
    Block,
    Bullets,
    Notice,
    Report,
    Section,
    Table,
    Text,
    table_of,
)
from hgnetv2_pipeline.reporting.chapters import accuracy, speed
from hgnetv2_pipeline.reporting.choice import explain_choice, read_choice
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger, ReportInputs

Json = Mapping[str, Any]
CARD = "MODEL_CARD.md"
_NAMED_CLASSES = 50
_LIST = "SHA-256 of the list"


@dataclass(frozen=True)
class TrainingFiles:
    """A training behind the weights: its run id, the files that say what it was, and the command
    that makes it ('' if not known)."""

    run: str
    manifest: Path
    result: Path
    command: str


@dataclass(frozen=True, kw_only=True)
class CardInputs:
    """What a card is made from.

    ``report``: the paths and names that a report takes; its ``dataset_summary`` only where it is of
    the images that the training saw. ``evaluations``: those of the exported
    weights, and of each the SHA-256 of the list of images it was measured on. ``latencies``: what
    timing the exported files, and nothing else, came to. ``trainings``: the
    one that made the weights first, then those it started from; ``teachers``: of the members of its
    teacher. ``lists``: of the lists of images that are here, what each holds, by SHA-256.
    ``stated``: ``license``, ``data_license``, ``contact`` and ``notes``, in the words of whoever
    publishes the model, None where nothing was said.
    """

    report: ReportInputs
    evaluations: Mapping[Path, str]
    latencies: Sequence[Path]
    trainings: Sequence[TrainingFiles]
    teachers: Sequence[TrainingFiles]
    lists: Mapping[str, str]
    stated: Mapping[str, str | None]


@dataclass(frozen=True)
class _Known:
    """The files of ``CardInputs``, read."""

    manifest: Json
    classes: Sequence[str]
    evaluations: Sequence[Json]
    trainings: Sequence[tuple[str, Json, Json]]  # run, manifest, result
    teachers: Sequence[tuple[str, Json, Json]]
    summary: Json

    @property
    def several(self) -> bool:
        return self.manifest.get("task") == "multi_label"


def model_card(inputs: CardInputs) -> str:
    """The card as Markdown: the bytes depend on the files and ``inputs`` only.

    Raises:
        DataError: the manifest of the export is missing or cannot be read.
    """
    import yaml

    from hgnetv2_pipeline.reporting.page import to_markdown

    ledger = FileLedger(inputs.report.root)
    known = _read(inputs, ledger)
    head = yaml.safe_dump(_front_matter(inputs, known), sort_keys=False, allow_unicode=True)
    manifest = known.manifest
    size = formats.pixels(manifest.get("image_size"))
    page = Report(
        title=f"{_network(manifest)}, {inputs.report.dataset}",
        subtitle=f"An image classifier of {len(known.classes)} classes for images of {size} pixels "
        f"(ONNX, {formats.count(manifest.get('params'))} parameters, "
        f"{formats.count(manifest.get('macs'))} multiply-adds per image), exported from "
        f"{manifest.get('model')}.",
        banner="Trained on the sample that comes with the project, to show that all works; of no "
        "use for anything else"
        if inputs.report.is_sample
        else None,
        head=(),
        sections=(
            Section("Intended use", "use", tuple(_intended_use(inputs, known))),
            Section("Limits", "limits", tuple(_limits(inputs, known))),
            Section("Accuracy", "accuracy", tuple(_accuracy(inputs, known))),
            Section("Speed", "speed", tuple(_speed(inputs, known, ledger))),
            Section("Files and their checks", "files", tuple(_files(inputs, known, ledger))),
            Section("Data", "data", tuple(_data(inputs, known))),
            Section("Training", "training", tuple(_training(inputs, known, ledger))),
            Section("Reproducibility", "reproducibility", tuple(_provenance(inputs, known))),
        ),
    )
    parts = [to_markdown(page), _HOW_TO_USE, *_recipes(inputs, known), _CITE]
    return "\n".join([f"---\n{head}---\n", *parts])


def _read(inputs: CardInputs, ledger: FileLedger) -> _Known:
    report = inputs.report
    manifest = ledger.read_json(report.exports[0], "export manifest")
    labels = report.exports[0].with_name("labels.txt").read_text(encoding="utf-8")
    summary: Json = {}
    if report.dataset_summary is not None and report.dataset_summary.is_file():
        summary = ledger.read_json(report.dataset_summary, "data set")
    evaluations = [
        {**ledger.read_json(path, "evaluation"), _LIST: digest}
        for path, digest in sorted(inputs.evaluations.items())
    ]
    # What is exact before what engines round, and test before the rest.
    evaluations.sort(key=lambda one: (one["split"] != "test", one["engine"] != "torch"))
    trainings, teachers = (
        [
            (each.run, ledger.read_json(each.manifest, "training"), _optional(each.result, ledger))
            for each in group
        ]
        for group in (inputs.trainings, inputs.teachers)
    )
    return _Known(manifest, labels.splitlines(), evaluations, trainings, teachers, summary)


def _optional(path: Path, ledger: FileLedger) -> Json:
    return ledger.read_json(path, "training") if path.is_file() else {}


def _network(manifest: Json) -> str:
    variant = str(manifest.get("variant") or "")
    return f"PP-HGNetV2-{variant.upper()}" if variant else str(manifest.get("model"))


def _front_matter(inputs: CardInputs, known: _Known) -> dict[str, Any]:
    """The head: keys of the hub, those left out that nothing is known for."""
    variant = known.manifest.get("variant")
    head: dict[str, Any] = {
        "library_name": "hgnetv2_pipeline",
        "pipeline_tag": "image-classification",
        "tags": [
            "image-classification",
            "onnx",
            *(["pp-hgnetv2", f"pp-hgnetv2-{variant}"] if variant else []),
            *(["multi-label"] if known.several else []),
        ],
    }
    if inputs.stated.get("license"):
        head["license"] = inputs.stated["license"]
    name = inputs.report.dataset
    results: list[dict[str, Any]] = [
        {
            "task": {"type": "image-classification", "name": "Image classification"},
            "dataset": {"type": name, "name": name, "split": str(result["split"])},
            "metrics": [_metric(result)],
        }
        # The hub shows one figure per set.
        for result in {one["split"]: one for one in reversed(known.evaluations)}.values()
    ][::-1]
    if results:
        head["metrics"] = [results[0]["metrics"][0]["type"]]
        head["model-index"] = [{"name": known.manifest.get("model"), "results": results}]
    return head


def _metric(result: Json) -> dict[str, Any]:
    if accuracy.is_of_several_labels(result):
        return {"type": "mean_average_precision", "name": "mAP", "value": float(result["map"])}
    used, right, _ = tables.evaluation_counts(result)
    return {"type": "accuracy", "name": "top-1", "value": round(right / used, 6)}


def _intended_use(inputs: CardInputs, known: _Known) -> list[Block]:
    names = ", ".join(known.classes[:_NAMED_CLASSES])
    more = len(known.classes) - _NAMED_CLASSES
    names += f" and {more} more (labels.txt)" if more > 0 else ""
    which = (
        "which of these classes an image shows, any number of them,"
        if known.several
        else ("which one of these classes an image shows,")
    )
    blocks: list[Block] = [
        Text(f"It says {which} with a probability for each class."),
        Text(f"Classes: {names}."),
        Text(f"Domain: {_domain(inputs, known)}"),
    ]
    notes, contact = inputs.stated.get("notes"), inputs.stated.get("contact")
    blocks += [Text(notes)] if notes else []
    return [*blocks, Text(f"Contact: {contact or 'not stated'}.")]


def _domain(inputs: CardInputs, known: _Known) -> str:
    """What the labelled images are like, where those of the training are still described here."""
    val = known.summary.get("sets", {}).get("val")
    if not val:
        return "not stated, and the images it was trained with are not described here."
    made = ", ".join(f"{formats.count(n)} {name}" for name, n in sorted(val["formats"].items()))
    size = " x ".join(_span(val[side]) for side in ("width", "height"))
    return (
        f"images like those of the data set {inputs.report.dataset}. Its validation images "
        f"({made}) have {size} pixels. What they show beyond the names of the classes is not "
        "stated."
    )


def _span(side: Json) -> str:
    least, most = formats.count(side["min"]), formats.count(side["max"])
    return least if least == most else f"{least} to {most} (median {formats.count(side['median'])})"


def _limits(inputs: CardInputs, known: _Known) -> list[Block]:
    said = []
    if known.several:
        said.append("It knows these classes alone; whatever else an image shows is not reported.")
    else:
        said.append("An image of none of the classes gets one of them all the same.")
    splits = list(dict.fromkeys(str(result["split"]) for result in known.evaluations))
    if splits:
        said.append(
            f"Accuracy is known on {' and '.join(splits)} of the data set {inputs.report.dataset} "
            "alone. For other cameras, places, times or ways of choosing images it was not "
            "measured."
        )
    said += [
        f"{leak['set']} and {leak['other']} share images: {formats.count(leak['n_same_bytes'])} "
        f"with the same bytes, {formats.count(leak['n_near'])} near-duplicates."
        for leak in known.summary.get("leaks", ())
    ]
    said.append(
        "Fairness between groups of people, robustness against attacks and the behaviour on "
        "images of none of the classes were not examined."
    )
    return [Bullets(tuple(said))]


def _accuracy(inputs: CardInputs, known: _Known) -> list[Block]:
    if not known.evaluations:
        return [
            Notice(
                "Not measured when this card was written",
                f"{inputs.report.run_command} --pipeline evaluation --params "
                f"model={known.manifest.get('model')}",
            )
        ]
    first = known.evaluations[0]
    rest: list[Block] = []
    if known.several:
        rest += [accuracy.map_table(known.evaluations)]
    else:
        rest += [tables.evaluation_table(known.evaluations)]
        worst = tables.worst_classes_table(first)
        rest += [Text(f"On {first['split']}, by class:"), worst] if worst else []
    if any(result["split"] == "val" for result in known.evaluations):
        said = (
            "The images of val helped to choose: the step whose weights were kept, or the training "
            "that is used. Figures on val are too good for that reason"
        )
        tested = any(result["split"] == "test" for result in known.evaluations)
        said += ", those on test are not." if tested else "; there is none on a test set."
        rest.append(Text(said))
    return rest


def _speed(inputs: CardInputs, known: _Known, ledger: FileLedger) -> list[Block]:
    """What the exported files took on one machine, where that was measured."""
    command = f"{inputs.report.run_command} --pipeline latency"
    again = f"{command} --params model={known.manifest.get('model')}"
    timed = [ledger.read_json(path, "latency") for path in inputs.latencies]
    try:
        found = speed.measurements(timed)
    except AbsentError:
        said = "Not measured when this card was written; measure, then export with redo=export"
        return [Notice(said, again)]
    return [
        *speed.timing_blocks(found, {}, command),
        Notice("Times of one machine; another has others", again),
    ]


def _files(inputs: CardInputs, known: _Known, ledger: FileLedger) -> list[Block]:
    found, troubles = speed.read_exports(inputs.report, ledger)
    said = []
    for entry in found:
        gate = entry.get("gate")
        if not isinstance(gate, Mapping):
            continue
        limits = gate.get("limits", {})
        words = [
            f"{entry['file']} on {gate.get('images')}: its logits are off from those of model.onnx "
            f"by {formats.significant(gate.get('rms_error'), 2)} of their standard deviation "
            f"(root mean square; allowed {formats.significant(limits.get('rms_error'), 2)})"
        ]
        if gate.get("drop_points") is not None:
            metric = "mAP" if "map" in gate else "top-1"
            words.append(
                f"{metric} falls by {formats.percent(float(gate['drop_points']) / 100)} points "
                f"(allowed {formats.percent(float(limits['drop_points']) / 100)})"
            )
        words.append(f"{gate.get('same_answer')} of {gate.get('n')} answers are the same")
        said.append(f"{'; '.join(words)}.")
    blocks: list[Block] = [*troubles, speed.export_table(found)]
    blocks += [Bullets(tuple(said))] if said else []
    return blocks


def _data(inputs: CardInputs, known: _Known) -> list[Block]:
    rows: dict[str, dict[str, Any]] = {}

    def note(digest: Any, images: Any, use: str, who: str) -> None:
        if digest:
            what = inputs.lists.get(digest, "a list that is not here any more")
            row = rows.setdefault(digest, {"list": what, "images": None, "uses": {}})
            row["images"] = row["images"] or images
            row["uses"].setdefault(use, []).append(who)

    for run, manifest, result in (*known.trainings, *known.teachers):
        lists = manifest["inputs"]
        note(lists.get("train"), result.get("n_listed"), "training of", run)
        note(lists.get("val"), (result.get("val") or {}).get("n"), "choosing the step of", run)
    for result in known.evaluations:
        note(result[_LIST], result.get("n_listed"), "accuracy of", str(result["model"]))
    records = [
        {
            "list": row["list"],
            "images": formats.count(row["images"]),
            "used for": "; ".join(
                f"{use} {', '.join(dict.fromkeys(who))}" for use, who in row["uses"].items()
            ),
            _LIST: digest,
        }
        for digest, row in rows.items()
    ]
    blocks: list[Block] = []
    if records:
        blocks.append(table_of(records, list(records[0]), left=("list", "used for", _LIST)))
    else:
        blocks.append(Text("Which images it was trained with is not known here."))
    license_ = inputs.stated.get("data_license")
    return [*blocks, Text(f"Licence of the images: {license_ or 'not stated'}.")]


def _training(inputs: CardInputs, known: _Known, ledger: FileLedger) -> list[Block]:
    if not known.trainings:
        return [Text(f"Weights from elsewhere ({known.manifest.get('model')}): how they were "
                     "trained is not known here.")]  # fmt: skip
    records = [
        {
            "run": run,
            "role": role,
            "variant": formats.words(manifest["params"].get("variant")),
            "seed": str(manifest["params"].get("seed", formats.NOTHING)),
            "steps": formats.count(result.get("steps")),
            "step kept": formats.count(result.get("best_step")),
            "images seen": formats.count(result.get("images_seen")),
            "weights": formats.words(result.get("weights")),
            "right on val": _right(result.get("val") or {}),
        }
        for role, group in _roles(known)
        for run, manifest, result in group
    ]
    blocks: list[Block] = [
        table_of(records, list(records[0]), left=("run", "role", "weights"),
                 drop_empty=("variant", "right on val"))
    ]  # fmt: skip
    blocks += [Text(_teacher(inputs, known, ledger))]
    choice = read_choice(inputs.report, ledger)
    if choice and choice["model"] == known.manifest.get("model"):
        blocks.append(Bullets(tuple(explain_choice(choice))))
    return blocks


def _roles(known: _Known) -> list[tuple[str, Sequence[tuple[str, Json, Json]]]]:
    return [
        ("made these weights", known.trainings[:1]),
        ("made the weights it started from", known.trainings[1:]),
        ("member of the teacher", known.teachers),
    ]


def _right(val: Json) -> str:
    if "top1_count" not in val:
        return formats.NOTHING
    return f"{formats.count(val['top1_count'])} of {formats.count(val['n'])}"


def _teacher(inputs: CardInputs, known: _Known, ledger: FileLedger) -> str:
    if not any("teacher" in manifest["inputs"] for _, manifest, _ in known.trainings):
        return "Teacher: none; it was trained on labels."
    try:
        record = ledger.read_json(inputs.report.own.get("teacher"), "teacher")
    except AbsentError:
        return "Teacher: one that is not here any more."
    members = ", ".join(map(str, record.get("members", ())))
    val, said = record.get("val") or {}, ""
    if "top1_count" in val:
        n, right = int(val["n"]), int(val["top1_count"])
        low, high = wilson_interval(right, n)
        said = (
            f"; top-1 on {val.get('split')} {formats.percent(right / n, n)} % ({right} of {n}, "
            f"95 % interval {formats.percent(low, n)} to {formats.percent(high, n)} %)"
        )
    return f"Teacher: {members}{said}."


def _provenance(inputs: CardInputs, known: _Known) -> list[Block]:
    report, manifest = inputs.report, known.manifest
    rows = [
        ("weights that were exported", str(manifest.get("source_sha256") or "not known")),
        *((name, digest) for name, digest in sorted(manifest["files"].items())),
    ]
    said = [f"Revision of the code that wrote this card: {report.revision or 'not known'}."]
    said.append(
        "Versions there: "
        + ", ".join(f"{name} {report.versions[name]}" for name in sorted(report.versions))
        + "."
    )
    license_ = inputs.stated.get("license")
    said.append(f"Licence of the model: {license_ or 'not stated'}.")
    return [
        Bullets(tuple(said)),
        Notice("The export again", f"{report.run_command} --pipeline export --params "
               f"model={manifest.get('model')}"),
        Table(("file", "SHA-256"), tuple(rows), left=("file",), code=("SHA-256",)),
    ]  # fmt: skip


def _recipes(inputs: CardInputs, known: _Known) -> list[str]:
    import yaml

    parts = []
    for each, (run, manifest, _) in zip(inputs.trainings, known.trainings, strict=True):
        command = f"Made by `{each.command}`. " if each.command else ""
        if config := manifest["params"].get("config"):
            text = yaml.safe_dump(dict(config), sort_keys=True, allow_unicode=True)
            said = f"{command}Every value that decided the outcome:"
            parts.append(f"## Recipe of `{run}`\n\n{said}\n\n```yaml\n{text}```\n")
    return parts


_HOW_TO_USE = """\
## How to use it

Where nothing of this project is installed (`pip install onnxruntime numpy pillow`), in this folder:

```
python predict.py picture.jpg folder/
```

With the project: `hgnetv2 predict --model model.onnx picture.jpg`, and as a server
`hgnetv2 serve .`. From Python, in this folder:

```python
from predict import ExportedModel, iter_predictions

model = ExportedModel(".")
[answer] = iter_predictions(model, ["picture.jpg"], topk=5)
answer["label_names"], answer["scores"]
```

Another program needs `preprocess.json`: size, resampling, mean and standard deviation of the
pixels. The order of the logits is that of `labels.txt`.
"""

_CITE = """\
## Citation

Networks and training are those of PaddleClas (https://github.com/PaddlePaddle/PaddleClas,
Apache-2.0), re-created in PyTorch.

```bibtex
@article{cui2021ssld,
  title={Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to
         Improve Backbones},
  author={Cui, Cheng and Guo, Ruoyu and Du, Yuning and He, Dongliang and Li, Fu and Wu, Zewu and
          Liu, Qiwen and Wen, Shilei and Huang, Jizhou and Hu, Xiaoguang and Yu, Dianhai and
          Ding, Errui and Ma, Yanjun},
  journal={arXiv preprint arXiv:2103.05959},
  year={2021}
}
```
"""
