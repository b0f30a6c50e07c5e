"""Prediction: every input has its row, in order, and the lines are the seed page's to the byte."""

from __future__ import annotations

import ast
import csv
import io
import json
import logging
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from deployment_cases import CLASSES, SIDE
from PIL import Image

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.base import Engine
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.inputs import ImageInput, RefusedInput, expand_inputs, from_stream
from hgnetv2_pipeline.deployment.predict import (
    Record,
    check_predictions,
    iter_predictions,
    predict_paths,
)
from hgnetv2_pipeline.deployment.prediction_formats import (
    format_infer,
    format_predict_cls,
    prediction_sheet,
    write_predictions_csv,
    write_predictions_jsonl,
    write_predictions_parquet,
)
from hgnetv2_pipeline.errors import DataError, ParameterError, WeightsError
from hgnetv2_pipeline.evaluation.metrics import sigmoid, softmax

GOLDEN = Path(__file__).parents[1] / "golden"
SEED_LINES = (GOLDEN / "seed_predict_cls.txt").read_text().splitlines()

HEN = Record(
    class_ids=[8, 7, 86, 82, 83],
    scores=[0.924734, 0.0747756, 0.000251, 0.0000701, 0.0000599],
    file_name="docs/images/inference_deployment/whl_demo.jpg",
    label_names=[
        "hen",
        "cock",
        "partridge",
        "ruffed grouse (also known as partridge, Bonasa umbellus)",
        "prairie chicken (also known as prairie grouse, prairie fowl)",
    ],
)
RABBIT = Record(
    class_ids=[332, 153, 283, 338, 265],
    scores=[0.9421, 0.0309, 0.0151, 0.0049, 0.0001],
    file_name="./images/ImageNet/ILSVRC2012_val_00000010.jpeg",
    label_names=[
        "Angora, Angora rabbit",
        "Maltese dog, Maltese terrier, Maltese",
        "Persian cat",
        "guinea pig, Cavia cobaya",
        "toy poodle",
    ],
)


class Fixed(Engine):
    """Answers image after image with the next of the given rows; remembers the batches."""

    name = "fixed"

    def __init__(self, rows: list[list[float]]) -> None:
        card = ModelCard(preprocess=Preprocess(SIDE, SIDE), classes=CLASSES[: len(rows[0])])
        super().__init__(model="fixed", card=card, device="none")
        self.rows, self.batches, self.seen = rows, [], 0

    def _run(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        answers = [self.rows[(self.seen + at) % len(self.rows)] for at in range(len(images))]
        self.seen += len(images)
        return np.array(answers, np.float32)


@pytest.mark.parametrize("line", SEED_LINES)
def test_every_predict_cls_line_of_the_seed_page_is_printed_to_the_byte(line: str) -> None:
    name, ids, scores, labels = re.fullmatch(
        r"(\S+):    class id\(s\): (\[.*?\]), score\(s\): (\[.*?\]), label_name\(s\): (.*)", line
    ).groups()  # type: ignore[union-attr]
    record = Record(
        class_ids=ast.literal_eval(ids), scores=ast.literal_eval(scores),
        file_name=f"images/ImageNet/{name}", label_names=ast.literal_eval(labels),
    )  # fmt: skip
    assert format_predict_cls(record) == line


def test_the_infer_line_is_the_seed_pages_byte_for_byte() -> None:
    assert format_infer([HEN]) == (GOLDEN / "seed_infer.txt").read_text().rstrip("\n")


def test_the_predict_cls_line_is_the_seed_pages_byte_for_byte() -> None:
    assert format_predict_cls(RABBIT) == (
        "ILSVRC2012_val_00000010.jpeg:    class id(s): [332, 153, 283, 338, 265], score(s): "
        "[0.94, 0.03, 0.02, 0.00, 0.00], label_name(s): ['Angora, Angora rabbit', 'Maltese dog, "
        "Maltese terrier, Maltese', 'Persian cat', 'guinea pig, Cavia cobaya', 'toy poodle']"
    )


def test_an_apostrophe_in_a_name_is_printed_as_python_does() -> None:
    record = Record(class_ids=[2], scores=[1.0], file_name="x.jpg", label_names=["cat's eye"])
    assert format_predict_cls(record).endswith('label_name(s): ["cat\'s eye"]')


def test_a_bad_last_image_keeps_all_the_others(b0_onnx: Path, pictures: Path) -> None:
    engine = load_engine(b0_onnx)
    records = predict_paths(engine, pictures, batch_size=5)
    names = ["a.jpg", "b.PNG", "inner dir/c.bmp", "inner dir/é 7.webp", "zz.jpeg"]
    assert [record["file_name"] for record in records] == [str(pictures / name) for name in names]
    assert [len(record["class_ids"]) for record in records] == [5, 5, 5, 5, 0]
    assert "not an image" in records[-1]["error"]
    assert not any("error" in record for record in records[:-1])


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_the_batch_size_does_not_change_the_answers(
    batch_size: int, b0_onnx: Path, pictures: Path
) -> None:
    engine = load_engine(b0_onnx, threads=1)
    alone = [
        engine.predict(path)[0] for path in sorted(pictures.rglob("*.*")) if path.stem != "notes"
    ]
    together = engine.predict(pictures, batch_size=batch_size)
    assert [row["class_ids"] for row in together] == [row["class_ids"] for row in alone]
    for row, other in zip(together, alone, strict=True):
        assert row["scores"] == pytest.approx(other["scores"], abs=1e-6)


def test_batches_of_bad_images_cost_no_call(tmp_path: Path) -> None:
    engine = Fixed([[1.0, 0.0]])
    missing = [tmp_path / f"{number}.jpg" for number in range(4)] + ["x" * 5000 + ".jpg"]
    records = predict_paths(engine, missing, batch_size=2)
    assert engine.batches == []
    assert [record["error"] for record in records] == ["no such file"] * 5


def test_scores_are_the_softmax_best_first_and_ties_go_to_the_lower_id(pictures: Path) -> None:
    engine = Fixed([[1.0, 3.0, 1.0, -200.0]])
    (record,) = engine.predict(pictures / "a.jpg", topk=3)
    assert record["class_ids"] == [1, 0, 2]
    assert record["scores"] == pytest.approx([0.786986, 0.106507, 0.106507], abs=1e-6)
    assert record["label_names"] == [CLASSES[1], CLASSES[0], CLASSES[2]]


def test_softmax_of_huge_logits_is_finite() -> None:
    assert softmax(np.array([[3e4, -3e4]], np.float32)).tolist() == [[1.0, 0.0]]


def test_topk_beyond_the_classes_gives_all_of_them(pictures: Path) -> None:
    (record,) = Fixed([[0.0, 1.0]]).predict(pictures / "a.jpg", topk=5)
    assert record["class_ids"] == [1, 0]


def test_other_label_names_replace_the_models(pictures: Path) -> None:
    engine = Fixed([[0.0, 1.0]])
    (record,) = predict_paths(engine, pictures / "a.jpg", label_names=["no", "yes"])
    assert record["label_names"] == ["yes", "no"]
    with pytest.raises(ParameterError, match="3 label names for the 2 classes"):
        predict_paths(engine, pictures / "a.jpg", label_names=["a", "b", "c"])


@pytest.mark.parametrize("name", ["topk", "batch_size", "workers"])
def test_counts_below_one_are_refused_at_the_call(name: str, pictures: Path) -> None:
    with pytest.raises(ParameterError, match=f"{name}=0"):
        iter_predictions(Fixed([[0.0]]), pictures, **{name: 0})


def test_a_list_file_gives_its_lines_with_or_without_labels(pictures: Path) -> None:
    listed = pictures / "inner dir" / "some.txt"
    lines = "\ufeffc.bmp 3\r\n\n# a remark\né 7.webp\n../a.jpg 12\n../gone.jpg 0\n"
    listed.write_text(lines, encoding="utf-8")
    found = expand_inputs(listed)
    assert [entry.name for entry in found] == ["c.bmp", "é 7.webp", "../a.jpg", "../gone.jpg"]
    records = predict_paths(Fixed([[0.0, 1.0]]), listed)
    assert ["error" in record for record in records] == [False, False, False, True]


def test_a_lists_paths_are_relative_to_the_given_root(pictures: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("inner dir/c.bmp 0\n")
    assert expand_inputs(listed, root=pictures)[0].source == pictures / "inner dir/c.bmp"


def test_a_glob_gives_its_sorted_matches(pictures: Path) -> None:
    found = expand_inputs(f"{pictures}/**/*.[bw]*")
    assert [Path(entry.name).name for entry in found] == ["c.bmp", "é 7.webp"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(pictures: Path) -> None:
    odd = pictures / "a[1].jpg"
    odd.write_bytes((pictures / "a.jpg").read_bytes())
    assert [entry.source for entry in expand_inputs(odd)] == [odd]


def test_bytes_images_and_sequences_are_inputs_too(pictures: Path) -> None:
    buffer = io.BytesIO()
    image = Image.open(pictures / "b.PNG")
    image.save(buffer, "PNG")
    records = Fixed([[0.0, 1.0]]).predict([buffer.getvalue(), image, str(pictures / "b.PNG")])
    names = ["<bytes>", "<image>", str(pictures / "b.PNG")]
    assert [record["file_name"] for record in records] == names


def pack(archive: Path, folder: Path) -> Path:
    """A plain tar of the folder's files, in their order."""
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                tar.add(path, path.relative_to(folder).as_posix())
    return archive


def test_a_tar_gives_its_images_in_its_order_and_a_bad_one_its_reason(
    pictures: Path, tmp_path: Path
) -> None:
    archive = pack(tmp_path / "all.tar", pictures)
    records = Fixed([[0.0, 1.0]]).predict(archive)
    inside = ["a.jpg", "b.PNG", "inner dir/c.bmp", "inner dir/é 7.webp", "zz.jpeg"]
    assert [record["file_name"] for record in records] == [f"{archive}!{name}" for name in inside]
    assert ["error" in record for record in records] == [False] * 4 + [True]
    # The answers are those of the files themselves.
    images = [Fixed([[0.0, 1.0]]).preprocess(pictures / name) for name in inside[:4]]
    spans = expand_inputs(archive)[:4]
    for span, image in zip((entry.source for entry in spans), images, strict=True):
        content = archive.read_bytes()[span.offset : span.offset + span.length]
        assert np.array_equal(Fixed([[0.0, 1.0]]).preprocess(content), image)


def test_a_folders_tars_are_opened_and_a_broken_one_has_a_row(
    pictures: Path, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    pack(mixed / "b.tar", pictures)
    (mixed / "a.tar").write_bytes(b"no tar" * 200)
    (mixed / "c.jpg").write_bytes((pictures / "a.jpg").read_bytes())
    records = Fixed([[0.0, 1.0]]).predict(mixed)
    assert len(records) == 1 + 5 + 1
    assert records[0]["file_name"] == str(mixed / "a.tar")
    assert "not a plain tar" in records[0]["error"]
    assert records[-1]["file_name"] == str(mixed / "c.jpg")


def test_a_pipe_holds_an_image_or_paths(pictures: Path) -> None:
    (image,) = from_stream((pictures / "a.jpg").read_bytes())
    assert (image.name, image.source[:3]) == ("-", b"\xff\xd8\xff")
    found = from_stream("a.jpg 3\n\n# remark\ninner dir/é 7.webp\n".encode(), root=pictures)
    assert [entry.source for entry in found] == [
        pictures / "a.jpg", pictures / "inner dir/é 7.webp",
    ]  # fmt: skip
    # Texts that begin as a BMP or a WebP does.
    found = from_stream(b"BMW/1.jpg\nRIFF/2.jpg\n")
    assert [entry.name for entry in found] == ["BMW/1.jpg", "RIFF/2.jpg"]
    assert [entry.name for entry in from_stream(b"RIFF/2.jpg\n")] == ["RIFF/2.jpg"]
    for name in ("inner dir/c.bmp", "inner dir/é 7.webp"):
        assert [one.name for one in from_stream((pictures / name).read_bytes())] == ["-"]
    with pytest.raises(DataError, match="neither an image nor paths"):
        from_stream(b"\x00\xff\xfe\x01")
    with pytest.raises(DataError, match="nothing to predict on standard input"):
        from_stream(b"\n")


def test_several_labels_are_sigmoids_above_the_threshold_best_first(pictures: Path) -> None:
    engine = Fixed([[0.0, 2.0, -1.0, 3.0]])
    one = pictures / "a.jpg"
    (record,) = predict_paths(engine, one, topk=None, multi_label=True)
    assert record["class_ids"] == [3, 1, 0]
    assert record["scores"] == pytest.approx([0.952574, 0.880797, 0.5], abs=1e-6)
    (strict,) = predict_paths(engine, one, multi_label=True, threshold=0.9)
    assert strict["class_ids"] == [3]
    (none,) = predict_paths(engine, one, multi_label=True, threshold=1.0)
    assert (none["class_ids"], none["label_names"], "error" in none) == ([], [], False)


def test_the_models_card_says_whether_there_are_several_labels(pictures: Path) -> None:
    engine = Fixed([[0.0, 2.0]])
    engine.card = ModelCard(
        preprocess=engine.preprocess, classes=engine.card.classes, more={"task": "multi_label"}
    )
    (record,) = predict_paths(engine, pictures / "a.jpg")
    assert record["scores"] == pytest.approx([0.880797, 0.5], abs=1e-6)
    (single,) = predict_paths(engine, pictures / "a.jpg", multi_label=False)
    assert sum(single["scores"]) == pytest.approx(1)


def test_each_class_has_the_threshold_of_the_card(pictures: Path) -> None:
    engine = Fixed([[0.0, 2.0, -1.0, 3.0]])
    given = {"task": "multi_label", "thresholds": "[0.4, 0.9, 0.2, 0.99]"}
    engine.card = ModelCard(engine.preprocess, engine.card.classes, more=given)
    one = pictures / "a.jpg"
    (record,) = predict_paths(engine, one, topk=None)
    assert record["class_ids"] == [0, 2]
    (record,) = predict_paths(engine, one, topk=None, threshold=0.5)
    assert record["class_ids"] == [3, 1, 0]
    again = ModelCard.from_props(engine.card.to_props(), Path("m.onnx"))
    assert again.thresholds == (0.4, 0.9, 0.2, 0.99)


@pytest.mark.parametrize("text", ["[0.5]", "[0.5, 1.5, 0, 0]", "0.5", '["a", 0, 0, 0]', "{"])
def test_damaged_thresholds_of_a_card_are_an_error(pictures: Path, text: str) -> None:
    engine = Fixed([[0.0, 2.0, -1.0, 3.0]])
    given = {"task": "multi_label", "thresholds": text}
    engine.card = ModelCard(engine.preprocess, engine.card.classes, more=given)
    with pytest.raises(WeightsError, match="damaged entry 'thresholds'"):
        predict_paths(engine, pictures / "a.jpg")


def test_a_threshold_leaves_out_unlikely_classes_of_one_label_too(pictures: Path) -> None:
    (record,) = predict_paths(Fixed([[0.0, 2.0, 1.0]]), pictures / "a.jpg", threshold=0.2)
    assert record["class_ids"] == [1, 2]
    with pytest.raises(ParameterError, match=r"threshold=1\.5"):
        iter_predictions(Fixed([[0.0]]), pictures, threshold=1.5)


def test_the_sigmoid_of_huge_logits_is_finite() -> None:
    assert sigmoid(np.array([-1e4, 0.0, 1e4], np.float32)).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("what", ["folder", "list", "glob"])
def test_inputs_that_stand_for_nothing_are_an_error(what: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    given = {"folder": tmp_path / "empty", "list": tmp_path / "empty.txt", "glob": "nowhere/*.jpg"}
    with pytest.raises(DataError, match="nothing to predict"):
        expand_inputs(given[what])


def test_all_bad_is_an_error_some_bad_only_when_strict() -> None:
    bad = Record(class_ids=[], scores=[], file_name="x", label_names=[], error="no such file")
    check_predictions([HEN, bad])
    with pytest.raises(DataError, match="1 of 2 inputs .* x: no such file"):
        check_predictions([HEN, bad], strict=True)
    with pytest.raises(DataError, match="1 of 1"):
        check_predictions([bad])


def test_csv_has_a_row_an_input_and_three_columns_a_rank(tmp_path: Path) -> None:
    bad = Record(class_ids=[], scores=[], file_name="bad,1.jpg", label_names=[], error="empty")
    path = write_predictions_csv(tmp_path / "p.csv", [HEN, bad], topk=2)
    rows = list(csv.reader(path.open(encoding="utf-8", newline="")))
    assert rows[0] == [
        "file_name", "error", "id_1", "score_1", "label_1", "id_2", "score_2", "label_2",
    ]  # fmt: skip
    assert rows[1] == [HEN["file_name"], "", "8", "0.924734", "hen", "7", "0.0747756", "cock"]
    assert rows[2] == ["bad,1.jpg", "empty", "", "", "", "", "", ""]


def test_parquet_gives_the_records_back_with_the_error_as_a_column(tmp_path: Path) -> None:
    import pyarrow.parquet

    bad = Record(class_ids=[], scores=[], file_name="x.jpg", label_names=[], error="empty")
    path = write_predictions_parquet(tmp_path / "p.parquet", iter([HEN, bad]))
    rows = pyarrow.parquet.read_table(path).to_pylist()
    assert rows == [{**HEN, "error": None}, dict(bad)]


def test_a_sheet_has_a_cell_for_every_file_and_crosses_out_the_bad_ones(
    pictures: Path, tmp_path: Path
) -> None:
    archive = pack(tmp_path / "all.tar", pictures)
    todo = [
        *expand_inputs([pictures, archive]),
        ImageInput("<bytes>", b""),
        ImageInput("x", RefusedInput("no")),
    ]
    records = predict_paths(Fixed([[0.0, 1.0]]), todo)
    sheet = prediction_sheet(todo, records, columns=5, cell=32)
    assert sheet.size == (5 * 34 + 2, 2 * 48 + 2)
    red = (178, 34, 34)
    crossed = [
        any(sheet.getpixel((2 + 34 * at + step, 2 + step)) == red for step in range(32))
        for at in range(5)
    ]
    assert crossed == [False] * 4 + [True]


def test_json_lines_give_the_records_back(tmp_path: Path) -> None:
    path = write_predictions_jsonl(tmp_path / "p.jsonl", iter([HEN, RABBIT]))
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
        HEN,
        RABBIT,
    ]


def test_a_bad_input_is_logged_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        predict_paths(Fixed([[0.0]]), tmp_path / "gone.jpg")
    assert "gone.jpg: no such file" in caplog.text


def test_a_linked_folder_that_is_not_entered_is_named(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    (outer / "link").symlink_to(pictures)
    (outer / "a.jpg").symlink_to(pictures / "a.jpg")
    with caplog.at_level(logging.WARNING):
        assert [entry.name for entry in expand_inputs(outer)] == [str(outer / "a.jpg")]
    assert f"{outer / 'link'} is a link to a folder and was not entered" in caplog.text
    assert len(expand_inputs(outer / "link")) == 5  # named itself it is


def test_a_name_that_is_no_utf_8_costs_no_answer(pictures: Path, tmp_path: Path) -> None:
    strange = os.fsdecode(b"caf\xe9.jpg")
    (pictures / strange).write_bytes((pictures / "a.jpg").read_bytes())
    todo = expand_inputs(pictures)
    records = predict_paths(Fixed([[0.0, 1.0]]), todo)
    shown = str(pictures / "caf\\xe9.jpg")
    assert [r["file_name"] for r in records if not r["file_name"].isascii() or "caf" in
            r["file_name"]] == [shown, str(pictures / "inner dir/é 7.webp")]  # fmt: skip
    assert not any("error" in record for record in records[:-1])
    path = write_predictions_jsonl(tmp_path / "p.jsonl", records)
    assert shown in [json.loads(line)["file_name"] for line in path.read_text("utf-8").splitlines()]
    write_predictions_parquet(tmp_path / "p.parquet", records)
    prediction_sheet(todo, records)
