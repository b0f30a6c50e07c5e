from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from synthetic_inputs import CLASSES, HOSTILE, PUBLISHED, png, write_inputs
from test_page import read

from hgnetv2_pipeline.reporting.blocks import KeyFigures
from hgnetv2_pipeline.reporting.build import build_report, compose, terminal_summary
from hgnetv2_pipeline.reporting.inputs import ReportInputs
from hgnetv2_pipeline.reporting.page import to_html, to_markdown


def html(inputs: ReportInputs, out: Path) -> str:
    return build_report(inputs, out).read_text(encoding="utf-8")


def test_the_page_is_whole_small_and_offline(report_inputs: ReportInputs, tmp_path: Path) -> None:
    text = html(report_inputs, tmp_path / "out")
    reader = read(text)
    assert len(text) < 2_000_000
    elsewhere = {link for link in reader.links if not link.startswith(("#", "data:"))}
    assert elsewhere == {"../mining/mining_report.html"}
    assert "http" not in re.sub(r'xmlns="http://www.w3.org/2000/svg"|http-equiv', "", text)
    assert 'class="missing"' not in text
    assert text.count('class="warning"') == 1  # measured and published cannot be compared
    for title in (
        "What SSLD gained", "The data", "What was mined", "Learning curves", "Accuracy",
        "Class by class", "How sure the answers are", "Mistakes",
        "Beside the published figures", "Exported models", "Latency", "Predictions",
        "Where each number came from",
    ):  # fmt: skip
        assert f"<h2>{title}</h2>" in text
    assert text.count("<svg") == 19
    assert text.count("<img") == 4
    assert HOSTILE in reader.cells


def test_the_sample_carries_a_banner_and_own_data_does_not(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    own = dataclasses.replace(report_inputs, is_sample=False, dataset="birds")
    assert 'class="banner"' in html(report_inputs, tmp_path / "a")
    assert 'class="banner"' not in html(own, tmp_path / "b")


def test_the_bytes_depend_on_contents_only(tmp_path: Path) -> None:
    digests = set()
    for name in ("first", "second"):
        inputs = write_inputs(tmp_path / name / "data")
        page = build_report(inputs, tmp_path / name / "out")
        digests.add((page.read_bytes(), page.with_name("report.md").read_bytes()))
        assert str(tmp_path) not in page.read_text(encoding="utf-8")
    assert len(digests) == 1


def test_the_order_in_which_files_are_given_does_not_matter(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    turned = dataclasses.replace(
        report_inputs,
        evaluations=report_inputs.evaluations[::-1],
        latencies=report_inputs.latencies[::-1],
        histories=dict(reversed(list(report_inputs.histories.items()))),
    )
    assert html(report_inputs, tmp_path / "a") == html(turned, tmp_path / "b")


def test_markdown_has_every_table_of_the_page(report_inputs: ReportInputs, tmp_path: Path) -> None:
    page = build_report(report_inputs, tmp_path / "out")
    markdown = page.with_name("report.md").read_text(encoding="utf-8")
    tables = len(re.findall(r"^\| :?---", markdown, flags=re.M))
    assert tables == page.read_text(encoding="utf-8").count("<table>")
    assert "EMBEDDED SAMPLE" in markdown


def test_without_any_file_every_chapter_names_its_command(tmp_path: Path) -> None:
    inputs = ReportInputs(dataset="birds", run_command="kedro run --env birds")
    text = html(inputs, tmp_path)
    for pipeline in (
        "comparison", "ingestion", "train_teacher", "mining", "ssld_stage2", "evaluation",
        "export", "latency", "prediction",
    ):  # fmt: skip
        assert f"<code>kedro run --env birds --pipeline {pipeline}</code>" in text
    assert text.count('class="missing"') == 14
    assert "PP-HGNetV2-B6" in text


def test_a_path_that_is_not_there_is_named(report_inputs: ReportInputs, tmp_path: Path) -> None:
    gone = report_inputs.root / "08_reporting" / "gone.json"  # type: ignore[operator]
    text = html(dataclasses.replace(report_inputs, mining_audit=gone), tmp_path / "out")
    assert "Mining audit: 08_reporting/gone.json does not exist" in text


@pytest.mark.parametrize(
    "content", [b"{", b"[1]", b"\xff\xfe", b'{"rows": []}', b'{"rows": 3}'], ids=repr
)
def test_a_broken_file_takes_only_its_own_chapter(
    report_inputs: ReportInputs, tmp_path: Path, content: bytes
) -> None:
    assert report_inputs.comparison is not None
    report_inputs.comparison.write_bytes(content)
    text = html(report_inputs, tmp_path / "out")
    assert text.count('class="missing"') == 1
    assert "From the pool to the mined list" in text


def test_the_student_of_the_whole_pool_stands_beside_that_of_the_mined_list(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    text = html(report_inputs, tmp_path / "out")
    mining = text[text.index('<section id="mining">') : text.index('<section id="curves">')]
    for words in ("Was mining worth it?", "SSLD stage 1, whole pool unmined", "88.1", "85.8"):
        assert words in mining, words


def test_who_teaches_and_who_was_turned_away_are_told(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    cells = read(html(report_inputs, tmp_path / "out")).cells
    for member, share in (("member=0", "81.4"), ("member=1", "80.9")):
        place = cells.index(f"train_teacher/b0/{member}")
        assert cells[place + 1 : place + 3] == ["yes", share]
    place = cells.index(f"train_teacher/b0/probe={HOSTILE}")
    assert cells[place + 1 : place + 3] == ["no", "57.3"]
    assert cells[place + 3].startswith("401 right")
    assert "The mean of 2 teaches; it is right on 83.9 % of 700 images" in html(
        report_inputs, tmp_path / "out"
    )


def test_an_unknown_purity_is_said_to_be_unknown(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    text = html(dataclasses.replace(report_inputs, mining_purity=None), tmp_path)
    assert "How pure the mined list is, is not known" in text


def test_counts_that_do_not_add_up_are_not_shown(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    assert report_inputs.comparison is not None
    value = json.loads(report_inputs.comparison.read_text(encoding="utf-8"))
    value["rows"][0]["top1_count"] = 7001
    report_inputs.comparison.write_text(json.dumps(value), encoding="utf-8")
    text = html(report_inputs, tmp_path / "out")
    assert "does not add up" in text
    assert "7001 right of 700" in text
    assert "over supervised, as many steps as all of SSLD</span>" not in text
    assert "7001 right of 700" in terminal_summary(report_inputs)


def test_the_headline_is_of_the_model_that_is_exported(report_inputs: ReportInputs) -> None:
    """Stage 1's accuracy over stage 2's file, as it once was, would be two models as one."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in report_inputs.evaluations]
    for model in dict.fromkeys(result["model"] for result in results):
        head = compose(dataclasses.replace(report_inputs, model=model), []).head
        assert isinstance(head[0], KeyFigures)
        question, value, what, _ = head[0].items[0]
        ours = [result for result in results if result["model"] == model]
        assert question == "How good"
        assert value in {f"{100 * one['top1_count'] / one['n_used']:.1f} %" for one in ours}
        assert what == f"top-1 of {model}"
    head = compose(dataclasses.replace(report_inputs, model="nobody/b0/seed=0"), []).head
    assert isinstance(head[0], KeyFigures)
    assert {question for question, *_ in head[0].items}.isdisjoint({"How good", "How sure"})


def test_a_training_that_beats_the_exported_model_on_val_is_named_first(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    assert report_inputs.comparison is not None
    rows = json.loads(report_inputs.comparison.read_text(encoding="utf-8"))["rows"]
    students = [row for row in rows if row["arm"] != "teacher"]
    best = max(students, key=lambda row: row["top1_count"])
    worst = min(students, key=lambda row: row["top1_count"])
    inputs = dataclasses.replace(report_inputs, model=worst["run"], run_command="kedro run --env x")
    told = f"kedro run --env x --pipeline export --params model={best['run']}"
    assert told in html(inputs, tmp_path / "out")
    assert told in terminal_summary(inputs)
    for model in (best["run"], "", "of/another/run"):
        inputs = dataclasses.replace(report_inputs, model=model)
        assert "not the model that is exported" not in html(inputs, tmp_path / "out")


def chosen(inputs: ReportInputs, **given: Any) -> ReportInputs:
    """``inputs`` of a model that was chosen: stage 1, which stage 2 made worse."""
    stage1, stage2 = "ssld_stage1/b0/seed=0", "ssld_stage2/b0/seed=0"
    counts = {stage2: (567, 0.06, 0.011), stage1: (611, 0.0, 0.0)}
    choice = {
        "model": "best/b0/seed=0", "used": stage1, "leader": stage1, "metric": "top1",
        "split": "val", "n": 700, "standard_errors": 1.0, "left_out": {"train/b0/seed=0": "why"},
        "candidates": [
            {"run": run, "arm": arm, "label": f"SSLD {arm}", "seed": 0, "weights": "ema",
             "sha256": "0", "value": right / 700, "right": right, "behind": behind, "error": error,
             "command": f"kedro run --params model={run}"}
            for arm, (run, (right, behind, error)) in zip(
                ("stage2", "stage1"), counts.items(), strict=True
            )
        ],
    }  # fmt: skip
    assert inputs.root is not None
    path = inputs.root / "choice.json"
    path.write_text(json.dumps(choice | given), encoding="utf-8")
    evaluation = json.loads(inputs.evaluations[0].read_text(encoding="utf-8"))
    inputs.evaluations[0].write_text(json.dumps(evaluation | {"model": "best/b0/seed=0"}))
    return dataclasses.replace(inputs, model="best/b0/seed=0", own={**inputs.own, "choice": path})


def test_the_choice_of_the_best_model_is_told_on_the_card_in_the_chapter_and_on_the_terminal(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    inputs = chosen(report_inputs)
    text = html(inputs, tmp_path / "out")
    assert "top-1 of ssld_stage1/b0/seed=0, chosen on val" in text
    assert "SSLD stage 1, mined over supervised, as many steps as all of SSLD" in text
    worse = (
        "SSLD stage2 lowered top-1 on val by 6.0 ± 1.1 points against SSLD stage1, and is not used."
    )
    for told in (text, terminal_summary(inputs)):
        assert worse in told and "train/b0/seed=0 is not used: why." in told
        assert "not the model that is exported" not in told
    cells = read(text).cells
    place = cells.index("ssld_stage2/b0/seed=0")
    assert cells[place + 2 : place + 7] == ["ema", "81.0", "6.0", "1.1", "no"]
    assert "To use another one: kedro run --params model=CANDIDATE" in text
    assert "the test set was not looked at" in text


@pytest.mark.parametrize(
    "given", [{"model": "best/b4/seed=0"}, {"candidates": []}, {"used": "nobody"}]
)
def test_a_choice_that_does_not_fit_takes_only_what_it_would_say(
    report_inputs: ReportInputs, tmp_path: Path, given: dict[str, Any]
) -> None:
    inputs = chosen(report_inputs, **given)
    text = html(inputs, tmp_path / "out")
    assert "chosen on val" not in text
    assert "From the pool to the mined list" in text
    assert terminal_summary(inputs)


def test_one_broken_evaluation_leaves_the_others(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    report_inputs.evaluations[3].write_text('{"model": "x", "n_used": 5}', encoding="utf-8")
    text = html(report_inputs, tmp_path / "out")
    assert "n_used or top1_count is missing" in text
    assert "timm:resnet18" in text


def test_every_file_read_is_listed_with_its_hash_and_run(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    cells = read(html(report_inputs, tmp_path / "out")).cells
    files = [
        report_inputs.dataset_summary, report_inputs.own["teacher"],
        report_inputs.mining_audit, report_inputs.mining_purity,
        report_inputs.comparison, report_inputs.predictions, report_inputs.prediction_sheet,
        *report_inputs.mining_sheets, *report_inputs.histories.values(),
        *report_inputs.evaluations, *report_inputs.exports, *report_inputs.latencies,
    ]  # fmt: skip
    for path in files:
        assert path is not None
        assert hashlib.sha256(path.read_bytes()).hexdigest() in cells, path
    place = cells.index(hashlib.sha256(report_inputs.exports[0].read_bytes()).hexdigest())
    assert cells[place - 1] == "ssld_stage1/b0/seed=0"


def test_large_sheets_are_made_smaller_and_said_so(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    for place, path in enumerate(report_inputs.mining_sheets):
        path.write_bytes(png(1100, 900, place, noisy=True))
    page = build_report(report_inputs, tmp_path / "out")
    assert page.stat().st_size < 2_000_000
    shown = re.findall("<figcaption>.*made smaller for this page", page.read_text(encoding="utf-8"))
    assert len(shown) == 3


def test_a_sheet_that_is_no_picture_is_not_embedded(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    report_inputs.mining_sheets[0].write_text("<svg onload='x'/>", encoding="utf-8")
    text = html(report_inputs, tmp_path / "out")
    assert "neither PNG nor JPEG" in text
    assert text.count("<img") == 3


def test_a_model_without_accuracy_is_in_the_table_but_not_in_the_drawing(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    text = html(report_inputs, tmp_path / "out")
    latency = text[text.index('<section id="latency">') : text.index('<section id="predictions">')]
    drawing = latency[latency.index("<svg") : latency.index("</svg>")]
    assert "mobilenetv3" not in drawing
    assert "timm:resnet18" in drawing
    assert "mobilenetv3" in latency


def test_the_size_of_a_model_comes_from_the_file_beside_its_manifest(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    path = report_inputs.exports[0]
    manifest = {"precision": "fp32", "opset": 18, "parity_error": 2e-6, "macs": 7_300_000}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    (path.parent / "model.onnx").write_bytes(bytes(1_234_000))
    cells = read(html(report_inputs, tmp_path / "out")).cells
    assert "1.2 MB" in cells
    assert "ssld_stage1/b0/seed=0" in cells


def test_files_for_devices_are_rows_and_those_of_an_earlier_export_are_named(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    folder = report_inputs.exports[0].parent
    gate = {"top1_fp32": 627, "top1": 626, "n": 700}
    files: dict[str, dict[str, Any]] = {
        "manifest.json": {"precision": "fp32", "files": {"model.onnx": "new"}},
        "model.int8.pte.json": {
            "file": "model.int8.pte", "precision": "int8", "files": {"model.int8.pte": "x"},
            "onnx_sha256": "new", "size_bytes": 4_116_008, "parity_error": 0.24, "gate": gate,
        },
        "model.ncnn.json": {"file": "model.ncnn.bin", "precision": "fp32", "onnx_sha256": "old"},
    }  # fmt: skip
    for name, said in files.items():
        (folder / name).write_text(json.dumps(said), encoding="utf-8")
    inputs = dataclasses.replace(report_inputs, exports=tuple(folder / name for name in files))
    text = html(inputs, tmp_path / "out")
    cells = read(text).cells
    assert {"model.int8.pte", "4.1 MB", "0.24", "627 -> 626 of 700"} <= set(cells)
    assert "model.ncnn.bin" not in cells
    assert "model.ncnn.bin was made from another model.onnx than the one exported last" in text


def test_many_classes_become_a_curve_and_a_list_of_mistakes(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    path = report_inputs.evaluations[3]
    value = json.loads(path.read_text(encoding="utf-8"))
    names = [f"class {i}" for i in range(1000)]
    value |= {
        "classes": names,
        "confusion": None,
        "per_class": [{"class": name, "n": 1, "correct": i % 2} for i, name in enumerate(names)],
        "most_confused": [{"true": "class 1", "predicted": "class 2", "count": 9}],
    }
    path.write_text(json.dumps(value), encoding="utf-8")
    assert report_inputs.dataset_summary is not None
    counts = [{"label": i, "name": name, "n": 1300 - i} for i, name in enumerate(names)]
    report_inputs.dataset_summary.write_text(
        json.dumps({"sets": {"train": {"n_images": 800_500, "class_counts": counts}}}),
        encoding="utf-8",
    )
    text = html(report_inputs, tmp_path / "out")
    assert "The most frequent mistakes" in text
    assert "1000 classes has of each set; in train that is from 1,300 (class 0) down to 301" in text
    assert len(text) < 2_000_000


def test_an_earlier_report_stands_when_writing_fails(
    report_inputs: ReportInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = build_report(report_inputs, tmp_path / "out")
    before = page.read_bytes()

    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OSError, match="disk full"):
        build_report(dataclasses.replace(report_inputs, dataset="other"), tmp_path / "out")
    assert page.read_bytes() == before
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.md"]


def test_the_terminal_gets_the_banner_and_the_final_table(report_inputs: ReportInputs) -> None:
    text = terminal_summary(report_inputs)
    assert text.startswith("EMBEDDED SAMPLE")
    assert "SSLD stage 1, mined" in text
    assert terminal_summary(ReportInputs(dataset="x")).startswith("No final table.")


def test_a_report_needs_no_heavy_library(report_inputs: ReportInputs, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from hgnetv2_pipeline.reporting.build import build_report\n"
        "from hgnetv2_pipeline.reporting.inputs import ReportInputs\n"
        f"build_report(ReportInputs(dataset='x'), Path({str(tmp_path)!r}))\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'kedro', 'mlflow', 'numpy', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_class_names_reach_the_page_unharmed(report_inputs: ReportInputs, tmp_path: Path) -> None:
    cells = read(html(report_inputs, tmp_path / "out")).cells
    assert set(CLASSES) <= set(cells)


def test_composing_twice_gives_the_same_markdown(report_inputs: ReportInputs) -> None:
    assert to_markdown(compose(report_inputs, [])) == to_markdown(compose(report_inputs, []))


def _spoil(value: Any, generator: random.Random) -> Any:
    """The same JSON with one value somewhere in it replaced by another kind of value."""
    junk = [None, -1, 3.5, "many", [], {}, [None], {"n": "x"}, True, 10**30]
    if isinstance(value, dict) and value and generator.random() < 0.9:
        key = generator.choice(sorted(value))
        return {**value, key: _spoil(value[key], generator)}
    if isinstance(value, list) and value and generator.random() < 0.9:
        place = generator.randrange(len(value))
        return [*value[:place], _spoil(value[place], generator), *value[place + 1 :]]
    return generator.choice(junk)


def test_no_spoilt_json_takes_the_page_down(report_inputs: ReportInputs) -> None:
    generator = random.Random(7)
    files = [
        report_inputs.dataset_summary, report_inputs.own["teacher"],
        report_inputs.mining_audit, report_inputs.comparison,
        report_inputs.evaluations[0], report_inputs.exports[0], report_inputs.latencies[0],
        report_inputs.predictions, report_inputs.error_analyses[0],
    ]  # fmt: skip
    for path in files:
        assert path is not None
        sound = path.read_text(encoding="utf-8")
        for _ in range(12):
            spoilt = _spoil(json.loads(sound.splitlines()[0]), generator)
            path.write_text(json.dumps(spoilt), encoding="utf-8")
            text = to_html(compose(report_inputs, PUBLISHED))
            assert text.count("<h2>") == 14
        path.write_text(sound, encoding="utf-8")
