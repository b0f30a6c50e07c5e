"""Made-up inputs of a report in the shape of the sample's: files as the other rooms write them."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.reporting.chapters.published import PublishedModel
from hgnetv2_pipeline.reporting.inputs import ReportInputs

HOSTILE = '<b>&"x"|`y`'
CLASSES = ["zero", "one", "two", HOSTILE, "四", "five", "six", "seven", "eight", "nine with a name"]
N = 700

PUBLISHED = [
    PublishedModel("b0", 77.77, 93.91, 0.52, 76.87, 77.36),
    PublishedModel("b1", 79.18, 94.57, 0.58, 78.08, 78.88),
    PublishedModel("b2", 81.74, 95.88, 0.95, 80.74, 81.56),
    PublishedModel("b3", 82.98, 96.43, 1.18, 82.59, 82.91),
    PublishedModel("b4", 83.57, 96.72, 1.46, 82.89, 83.70),
    PublishedModel("b5", 84.75, 97.32, 2.84, 84.46, 84.82),
    PublishedModel("b6", 86.30, 97.84, 5.29, 86.05, 86.21),
]

_ARMS: dict[str, tuple[str, int, list[int]]] = {
    "supervised": ("supervised only", 150, [545, 571, 558]),
    "supervised_equal_steps": ("supervised, as many steps as all of SSLD", 450, [549, 575, 566]),
    "stage1_unmined": ("SSLD stage 1, whole pool unmined", 150, [597, 604, 600]),
    "stage1": ("SSLD stage 1, mined", 150, [611, 623, 617]),
    "stage2": ("SSLD stage 2", 60, [610, 622, 619]),
    "teacher": ("teacher (mean of two B0)", 300, [587]),
}


def comparison_rows(split: str = "val") -> list[dict[str, Any]]:
    """Rows of the comparison JSON."""
    return [
        {
            "arm": arm,
            "label": label,
            "seed": seed if len(hits) > 1 else None,
            "steps": steps,
            "images_seen": steps * 64,
            "split": split,
            "top1_count": value,
            "n": N,
            "run": f"{arm}/b0/seed={seed}",
        }
        for arm, (label, steps, hits) in _ARMS.items()
        for seed, value in enumerate(hits)
    ]


def confusion(hits: int, seed: int = 0) -> list[list[int]]:
    """A matrix of 10 classes and N images with ``hits`` on its diagonal."""
    generator = random.Random(seed)
    matrix = [[0] * 10 for _ in range(10)]
    for i in range(10):
        matrix[i][i] = hits // 10 + (i < hits % 10)
        for _ in range(N // 10 - matrix[i][i]):
            matrix[i][(i + generator.choice([1, 1, 1, 5, 8])) % 10] += 1
    return matrix


def evaluation(model: str, hits: int, **changes: Any) -> dict[str, Any]:
    """One evaluation JSON."""
    matrix = confusion(hits)
    return {
        "model": model,
        "split": "val",
        "engine": "ort",
        "precision": "fp32",
        "n_listed": N + 1,
        "n_used": N,
        "n_quarantined": 1,
        "top1_count": hits,
        "top5_count": min(N, hits + 70),
        "top1": hits / N,
        "top5": min(N, hits + 70) / N,
        "classes": CLASSES,
        "confusion": matrix,
        "per_class": [
            {"name": name, "n": N // 10, "top1_count": matrix[place][place]}
            for place, name in enumerate(CLASSES)
        ],
        "ece": 0.0412,
        "inputs": {"list": "0" * 64},
        **changes,
    }


def error_analysis(model: str, **changes: Any) -> dict[str, Any]:
    """The error analysis of a model with 89 wrong answers of N: two of them shown."""
    counts = {"images": [0] * 13 + [100, N - 100], "right": [0] * 13 + [60, 551]}
    return {
        "model": model,
        "split": "val",
        "engine": "torch",
        "precision": "fp32",
        "images": N,
        "wrong": 89,
        "reliability": {**counts, "confidence": [0.0] * 13 + [90.0, 594.0]},
        "risk_coverage": {
            "points": [[0.25, 0.0], [0.5, 0.02], [1.0, 89 / N]],
            "at": [
                {"coverage": share, "threshold": least, "answered": answered, "right": right}
                for share, least, answered, right in (
                    (0.8, 0.95, 560, 541), (0.9, 0.9, 630, 590), (0.95, 0.85, 665, 600),
                )
            ],
        },
        "map": {"method": "Grad-CAM", "layer": "stages.1", "rows": 4, "columns": 4},
        "compared": 40,
        "pictures": "0" * 64,
        "mistakes": [
            {
                "number": 1, "key": "val/7.png", "path": "val/7.png", "true": [HOSTILE],
                "about": "eight", "said": True, "score": 0.98,
                "nearest": {
                    "key": "train/3.png", "path": "train/3.png", "true": ["四"], "cosine": 0.91
                },
                "files": {name: f"01-{name}.jpg" for name in ("picture", "map", "nearest")},
            },
            {
                "number": 2, "key": "val/9.png", "path": "val/9.png", "true": ["one", "two"],
                "about": "six", "said": False, "score": 0.04, "nearest": None,
                "files": {"picture": "02-picture.jpg"},
            },
        ],
        **changes,
    }  # fmt: skip


def write_error_analysis(path: Path, value: dict[str, Any]) -> Path:
    """It as a file, with the pictures it names beside it."""
    from PIL import Image

    folder = path.parent / "mistakes"
    folder.mkdir(parents=True)
    for record in value["mistakes"]:
        for place, file in enumerate(record["files"].values()):
            Image.new("RGB", (40, 30), (60 * place, 90, 120)).save(folder / file)
    return _json(path, value)


def latency(model: str, p50: float, **changes: Any) -> dict[str, Any]:
    """One latency JSON."""
    return {
        "model": model,
        "engine": "ort",
        "precision": "fp32",
        "batch_size": 1,
        "image_size": 32,
        "threads": 1,
        "device": "Some CPU @ 2.5 GHz, 1 thread",
        "versions": {"onnxruntime": "1.23.0", "python": "3.11.9"},
        "n_warmup": 20,
        "n_timed": 200,
        "mean_ms": p50 * 1.03,
        "p50_ms": p50,
        "p90_ms": p50 * 1.08,
        "p99_ms": p50 * 1.4,
        "min_ms": p50 * 0.97,
        "cpu_ms": p50 * 1.01,
        "percent_of_peak": 41.2,
        "gmacs": 0.0073,
        **changes,
    }


def history_text(seed: int, epochs: int, last: float, *, agreement: bool) -> str:
    """A history.csv; the accuracy is not known at every epoch."""
    generator = random.Random(seed)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = ["epoch", "step", "loss", "lr", "val_top1", "val_top5", "teacher_agreement"]
    writer.writerow(names)
    for epoch in range(1, epochs + 1):
        done = epoch / epochs
        noise = generator.uniform(-0.02, 0.02) * (1 - done)
        known = epoch % 3 == 0 or epoch == epochs
        loss = round(2.3 * (1 - 0.8 * done) + noise, 4)
        writer.writerow(
            [
                epoch, epoch * 5, loss, round(0.002 * (1 - done), 6),
                round(last * (0.4 + 0.6 * done**0.5) + noise, 4) if known else "",
                round(min(1.0, last + 0.1), 4) if known else "",
                round(0.5 + 0.45 * done, 4) if agreement else "",
            ]
        )  # fmt: skip
    return file.getvalue()


def png(width: int, height: int, seed: int = 0, *, noisy: bool = False) -> bytes:
    """A small contact sheet; ``noisy`` makes it hard to compress."""
    from PIL import Image

    generator = random.Random(seed)
    image = Image.new("RGB", (width, height), "#f4f4f4")
    if noisy:
        image = Image.frombytes("RGB", (width, height), generator.randbytes(width * height * 3))
    for x in range(8, width - 60, 68):
        for y in range(8, height - 60, 68):
            colour = tuple(generator.randrange(40, 220) for _ in range(3))
            image.paste(colour, (x, y, x + 56, y + 56))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def _text(path: Path, value: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value, encoding="utf-8")
    return path


def _set(images: int, labels: list[int], bad: int, copies: int) -> dict[str, Any]:
    present = [value for value in labels if value]
    return {
        "n_images": images,
        "n_labelled": sum(labels),
        "n_classes": len(present),
        "n_quarantined": bad,
        "bytes": images * 412,
        "class_counts": [
            {"label": label, "name": CLASSES[label], "n": value}
            for label, value in enumerate(labels)
        ],
        "imbalance": max(present) / min(present) if present else None,
        "formats": {"JPEG": copies, "PNG": images - copies},
        "width": {"min": 32, "median": 32, "max": 32},
        "height": {"min": 32, "median": 32, "max": 48},
        "exact_copies": {"n_images": copies, "examples": []},
        "unreadable": [{"key": f"{place}.png", "reason": "truncated"} for place in range(bad)],
    }


def dataset_summary() -> dict[str, Any]:
    """A dataset summary of three sets, as ``data.summarise_sets`` makes it."""
    return {
        "sets": {
            "train": _set(40, [4, 4, 4, 4, 4, 4, 4, 4, 6, 2], 1, 0),
            "val": _set(700, [70] * 10, 1, 0),
            "pool": _set(1494, [], 3, 12),
        },
        "shared": [{"first": "val", "second": "pool", "n_images": 12, "examples": []}],
        "conflicting_labels": [],
    }


def mining_audit() -> dict[str, Any]:
    """A mining audit as the sample's, planted images included."""
    return {
        "pool_listed": 1497,
        "quarantined": 3,
        "scored": 1494,
        "exact_duplicates": 12,
        "near_removed": 31,
        "name_removed": 0,
        "person_removed": 0,
        "removed": 43,
        "review": 4,
        "excluded": 0,
        "candidates": 1447,
        "same_bytes": 2,
        "below_min_conf": 0,
        "not_reached": 855,
        "selected": 590,
        "k": 60,
        "classes": 10,
        "short_classes": 1,
        "empty_classes": 0,
        "gini": 0.013,
        "by_channel": {
            "bytes": {"remove": 12, "review": 0, "keep": 0},
            "phash": {"remove": 31, "review": 4, "keep": 300},
        },
        "estimate": {
            "set": "val", "probes": 300, "right": 294,
            "estimate": 0.98, "low": 0.957, "high": 0.991,
        },
        "person": {"obeyed": 3, "kept": 1, "removed": 2, "changed": 1, "waiting": 4},
        "purity": {
            "known": 590, "distractors": 28, "right": 551,
            "distractor_share": 28 / 590, "accuracy": 551 / 562,
        },
        "planted": {
            "kinds": {
                "exact": {"planted": 12, "remove": 12, "review": 0, "keep": 0},
                "jpeg75": {"planted": 12, "remove": 12, "review": 0, "keep": 0},
                "mirrored": {"planted": 12, "remove": 11, "review": 1, "keep": 0},
            },
            "clean": 1458,
            "clean_lost": 8,
            "clean_lost_share": 8 / 1458,
        },
    }  # fmt: skip


def teacher() -> dict[str, Any]:
    """A teacher.json of two members, the third candidate turned away."""
    return {
        "members": ["train_teacher/b0/member=0", "train_teacher/b0/member=1"],
        "bn": "eval",
        "val": {
            "split": "val", "n": N, "top1_count": 587, "members_top1_count": [570, 566],
            "majority_count": 70,
        },
        "candidates": {
            "train_teacher/b0/member=0": "the best: 570 of 700 right",
            f"train_teacher/b0/probe={HOSTILE}": "401 right; with it 540, log-loss lower by -0.1",
            "train_teacher/b0/member=1": "566 right; with it 587, log-loss lower by 0.1",
        },
        "candidates_top1_count": {
            "train_teacher/b0/member=0": 570,
            f"train_teacher/b0/probe={HOSTILE}": 401,
            "train_teacher/b0/member=1": 566,
        },
        "self_training": {
            "probes": [HOSTILE], "pool_images": 1500, "learnt_from": 420, "held_out": 60,
            "held_out_right_before": 50, "held_out_right_after": 48, "helps": True,
            "teaches": False,
        },
    }  # fmt: skip


def mined_classes(names: Sequence[str], k: int) -> str:
    """A classes.csv; the last class is short, one in 50 empty where there are many."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["label", "name", "candidates", "selected", "min_score", "median_score", "max_score",
         "probes", "right"]
    )  # fmt: skip
    generator = random.Random(0)
    for label, name in enumerate(names):
        taken = k if label < len(names) - 1 else k - 10
        scores = [round(value, 6) for value in sorted(generator.random() for _ in range(3))]
        row = [label, name, taken + 40, taken, *scores, 30, generator.randint(20, 30)]
        if label % 50 == 49:
            row = [label, name, 0, 0, "", "", "", 0, 0]
        writer.writerow(row)
    return file.getvalue()


PURITY = """k,images,probes,right,estimate,low,high,known,distractors,known_right,purity
1,10,0,0,,0.0,1.0,10,0,10,1.0
20,200,100,100,1.0,0.963,1.0,200,2,198,0.99
60,590,300,294,0.98,0.957,0.991,590,28,551,0.933898
130,1200,600,560,0.933333,0.91,0.95,1200,240,920,0.766667
"""


POOL_MAP = "key,kind,x,y\n" + "".join(
    f"{n}.png,{kind},{n % 7},{n % 5}\n"
    for n, kind in enumerate(["passed over", "mined", "removed", "train", "val"] * 8)
)
POOL_MAP_FACTS = {
    "images": 3000,
    "all": {"passed over": 640, "mined": 590, "removed": 8, "train": 8, "val": 8},
    "variance": [0.31, 0.125],
}


def write_inputs(folder: Path, *, dataset: str = "sample", is_sample: bool = True) -> ReportInputs:
    """All inputs as files below ``folder``."""
    runs: Sequence[tuple[str, int, float, bool]] = (
        ("train_teacher/b0/member=0", 30, 0.78, False),
        ("train_teacher/b0/member=1", 30, 0.81, False),
        ("train/b0/seed=0", 30, 0.79, False),
        ("ssld_stage1/b0/seed=0", 30, 0.873, True),
        ("ssld_stage1/b0/seed=1", 30, 0.89, True),
        ("ssld_stage1/b0/seed=2", 30, 0.881, True),
        ("ssld_stage2/b0/seed=0", 12, 0.871, True),
    )
    histories = {
        run: _text(
            folder / "06_models" / run / "history.csv",
            history_text(place, epochs, last, agreement=agreement),
        )
        for place, (run, epochs, last, agreement) in enumerate(runs)
    }
    results = {
        run: _json(
            folder / "06_models" / run / "result.json",
            {"steps": 5 * epochs, "images_seen": 320 * epochs},
        )
        for run, epochs, _, _ in runs
    }
    report = folder / "08_reporting"
    sheets = []
    for place, name in enumerate(("top", "bottom", "removed_pairs")):
        path = report / "mining" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(760, 210, place))
        sheets.append(path)
    prediction_sheet = report / "prediction" / "sheet.png"
    prediction_sheet.parent.mkdir(parents=True)
    prediction_sheet.write_bytes(png(560, 150, 9))
    records = [
        {
            "class_ids": [3, 8, 5],
            "scores": [0.91234, 0.05, 0.01],
            "file_name": f"pictures/ü {place} {HOSTILE}.png",
            "label_names": [HOSTILE, "eight", "five"],
        }
        for place in range(14)
    ]
    records[2] = {
        "class_ids": [], "scores": [], "label_names": [],
        "file_name": "pictures/broken.png", "error": "truncated",
    }  # fmt: skip
    stage1, stage2 = "ssld_stage1/b0/seed=0", "ssld_stage2/b0/seed=0"
    evaluations = [
        evaluation(stage1, 611),
        evaluation(
            stage1,
            611,
            engine="torch",
            temperature_scaling={
                "temperature": 1.31,
                "ece": 0.0412,
                "nll": 0.44,
                "ece_scaled": 0.0123,
                "nll_scaled": 0.4,
            },
        ),
        evaluation(stage1, 606, precision="int8"),
        evaluation(stage2, 610),
        evaluation("timm:resnet18", 590),
    ]
    latencies = [
        latency(stage1, 1.92),
        latency(stage1, 1.1, precision="int8"),
        latency(stage2, 1.95),
        latency("timm:resnet18", 3.4),
        latency("timm:mobilenetv3_large_100", 1.7),
    ]
    return ReportInputs(
        dataset=dataset,
        model=stage1,
        is_sample=is_sample,
        root=folder,
        revision="4f2a9c1",
        versions={"torch": "2.15.0", "hgnetv2_pipeline": "0.1.0", "python": "3.11.9"},
        dataset_summary=_json(report / "ingestion" / "summary.json", dataset_summary()),
        own={
            "teacher": _json(folder / "06_models" / "teacher.json", teacher()),
            "pool_map": _text(folder / "map" / "map.csv", POOL_MAP),
            "pool_map_facts": _json(folder / "map" / "map.json", POOL_MAP_FACTS),
        },
        mining_audit=_json(report / "mining" / "audit.json", mining_audit()),
        mining_sheets=tuple(sheets),
        mining_classes=_text(report / "mining" / "classes.csv", mined_classes(CLASSES, 60)),
        mining_page=_text(report / "mining" / "mining_report.html", "<p>"),
        home=report / "report",
        mining_purity=_text(report / "mining" / "purity.csv", PURITY),
        comparison=_json(report / "comparison.json", {"rows": comparison_rows()}),
        histories=histories,
        results=results,
        evaluations=tuple(
            _json(report / "evaluation" / f"{place}.json", value)
            for place, value in enumerate(evaluations)
        ),
        error_analyses=(
            write_error_analysis(
                report / "error_analysis" / "val-torch-fp32" / "analysis.json",
                error_analysis(stage1),
            ),
        ),
        exports=(
            _json(
                folder / "07_model_output" / stage1 / "manifest.json",
                {
                    "model": stage1, "file": "model.onnx", "precision": "fp32", "opset": 18,
                    "nodes": 85, "size_bytes": 15_923_112, "macs": 7_300_000,
                    "image_size": 32, "parity_error": 1.3e-6,
                    "batches": [1, 3, 8],
                },
            ),
        ),
        latencies=tuple(
            _json(report / "latency" / f"{place}.json", value)
            for place, value in enumerate(latencies)
        ),
        predictions=_text(
            report / "prediction" / "predictions.jsonl",
            "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records),
        ),
        prediction_sheet=prediction_sheet,
    )  # fmt: skip
