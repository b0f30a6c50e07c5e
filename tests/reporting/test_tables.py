from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from synthetic_inputs import (
    CLASSES,
    HOSTILE,
    PUBLISHED,
    dataset_summary,
    evaluation,
    latency,
    mining_audit,
)

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.evaluation.metrics import summarise
from hgnetv2_pipeline.reporting import formats, tables
from hgnetv2_pipeline.reporting.chapters import data, mining, published, speed
from hgnetv2_pipeline.reporting.chapters.speed import measurements


def test_accuracy_is_computed_from_counts_not_copied() -> None:
    row = tables.evaluation_table([evaluation("m", 611, top1=0.5)]).records()[0]
    assert row["top-1 %"] == "87.3"
    assert row["95 % interval"] == "84.6 – 89.6"
    assert row["left out"] == "1"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_used": None}, "missing"),
        ({"top1_count": 701}, "701 right of 700"),
        ({"top5_count": 600}, "600 in the top 5, 611 in the top 1"),
        ({"n_listed": 705}, "705 listed, but 700 used and 1 left out"),
    ],
)
def test_an_evaluation_that_does_not_add_up_is_refused(changes: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        tables.evaluation_counts(evaluation("m", 611, **changes))


def test_fewer_than_five_classes_have_no_top_five_column() -> None:
    table = tables.evaluation_table([evaluation("m", 611, top5_count=None, top5=None)])
    assert "top-5 %" not in table.columns


def test_worst_classes_come_first_with_what_they_are_taken_for() -> None:
    matrix = [[70 if i == j else 0 for j in range(10)] for i in range(10)]
    matrix[3][3], matrix[3][5], matrix[3][8] = 40, 20, 10
    result = evaluation("m", 670, confusion=matrix, per_class=None)
    table = tables.worst_classes_table(result)
    assert table is not None
    assert table.records()[0]["class"] == HOSTILE
    assert table.records()[0]["mostly taken for"] == "five (20), eight (10)"
    assert len(table.rows) == 10


def test_per_class_counts_of_the_evaluation_room_are_read() -> None:
    # evaluation.metrics gives class, n, correct, and no confusion above 100 classes.
    rows = [{"class": f"c{i}", "n": 10, "correct": i % 11} for i in range(200)]
    result = evaluation("m", 600, classes=[f"c{i}" for i in range(200)], confusion=None)
    table = tables.worst_classes_table({**result, "per_class": rows}, most=5)
    assert table is not None
    assert [row[2] for row in table.rows] == ["0"] * 5
    assert table.caption == "The 5 weakest classes of 200, weakest first"


def test_what_rare_classes_count_is_shown_where_it_was_measured() -> None:
    logits = np.eye(3)[[0, 0, 0, 0, 1, 0]]
    found = summarise(logits, np.array([0, 0, 0, 0, 1, 2]), ["a", "b", "c"])
    before = evaluation("before", 500)
    table = tables.evaluation_table([evaluation("m", 500, **found), before])
    ours = next(row for row in table.records() if row["model"] == "m")
    assert ours["balanced %"].startswith("66.") and ours["F1 macro %"].startswith("63.")
    assert ours["ROC-AUC %"] == formats.percent(found["roc_auc"], 1000)
    old = next(row for row in table.records() if row["model"] == "before")
    assert (old["balanced %"], old["F1 macro %"], old["ROC-AUC %"]) == ("–", "–", "–")
    assert not {"balanced %", "F1 macro %", "ROC-AUC %"} & set(
        tables.evaluation_table([before]).columns
    )
    worst = tables.worst_classes_table(evaluation("m", 5, **found))
    assert worst is not None
    rows = {row["class"]: row for row in worst.records()}
    assert (rows["b"]["precision %"], rows["b"]["F1 %"]) == ("100.0", "100.0")
    assert (rows["c"]["precision %"], rows["c"]["F1 %"]) == ("–", "0.0")
    assert "AUC %" not in tables.worst_classes_table(before).columns


def test_many_classes_show_their_most_frequent_mistakes() -> None:
    mistakes = [{"true": "hen", "predicted": "cock", "count": 12}]
    table = tables.confused_table({"most_confused": mistakes})
    assert table is not None
    assert table.rows == (("hen", "cock", "12"),)


def test_a_confusion_matrix_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="not 10 x 10"):
        tables.confusion_of(evaluation("m", 611, confusion=[[1, 0], [0, 1]]))


def test_the_published_v100_figure_is_beside_our_row_of_its_setting_alone() -> None:
    rows = [
        latency("a", 1.0, variant="b4", image_size=224),
        latency("b", 2.0, variant="b4", image_size=224, batch_size=16),
        latency("c", 3.0, variant="b4", image_size=32),
        latency("d", 4.0, variant="", image_size=224),
    ]
    small, large = speed.latency_tables(rows, {})
    assert "V100 ms*" not in small.columns
    assert [(row["model"], row["V100 ms*"]) for row in large.records()] == [
        ("a", "1.46"), ("d", "–"), ("b", "–"),
    ]  # fmt: skip
    assert "not measured here" in large.caption


def test_a_gpus_time_is_shown_with_and_without_copies() -> None:
    row = latency("a", 1.0, gpu_p50_ms=0.5, without_copies={"gpu_p50_ms": 0.25})
    [table] = speed.latency_tables([row], {})
    [cells] = table.records()
    assert (cells["GPU p50 ms"], cells["without copies"]) == ("0.500", "0.250")


def test_what_was_timed_in_turns_too_is_told_once() -> None:
    alone = latency("a", 1.0)
    turns = {"rows": [latency("a", 2.0, label="a"), latency("b", 3.0, label="b")], "ratios": {}}
    found = measurements([alone, turns])
    assert [(row["model"], row["p50_ms"]) for row in found] == [("a", 1.0), ("b", 3.0)]


def test_cold_starts_have_a_table_of_their_own() -> None:
    start = {"median_s": 0.5, "min_s": 0.4, "max_s": 0.9, "cpu_s": 0.45, "n_starts": 11}
    table = speed.cold_start_table([latency("a", 1.0), {"model": "a", "cold_start": start}])
    assert table is not None
    assert table.rows == (("a", "0.500", "0.400", "0.900", "0.450", "11"),)
    assert speed.cold_start_table([latency("a", 1.0)]) is None


def test_a_latency_takes_its_accuracy_from_the_same_precision_only() -> None:
    results = [evaluation("m", 611), evaluation("m", 500, split="test")]
    accuracy = tables.accuracies(results, "val")
    [table] = speed.latency_tables(
        [latency("m", 2.0), latency("m", 1.0, precision="int8")], accuracy
    )
    assert [(row["precision"], row["top-1 %"]) for row in table.records()] == [
        ("int8", "–"), ("fp32", "87.3"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_size": 224}, "at 224 px on CPU, 1 thread"),
        ({"threads": 2}, "at 32 px on CPU, 2 threads"),
        ({"device": "A GPU"}, "at 32 px on A GPU, 1 thread"),
        ({"batch_size": 16}, None),
    ],
)
def test_only_what_can_be_compared_shares_a_table(change: dict[str, Any], said: str | None) -> None:
    rows = [latency("m", 2.0, device="CPU"), latency("n", 1.0, **{"device": "CPU"} | change)]
    captions = [table.caption for table in speed.latency_tables(rows, {})]
    assert len(captions) == (1 if said is None else 2)
    assert said is None or any(said in caption for caption in captions)


def test_what_all_latencies_share_is_said_once() -> None:
    [table] = speed.latency_tables([latency("m", 2.0), latency("n", 1.0, engine="torch")], {})
    assert table.columns[:3] == ("model", "p50 ms", "engine")
    assert ", fp32, batch 1, fastest first" in table.caption
    assert not {"precision", "batch"} & {*table.columns}


def test_a_share_above_100_is_not_printed() -> None:
    [table] = speed.latency_tables(
        [latency("m", 2.0, percent_of_bandwidth=382.0, percent_of_peak=100.0)], {}
    )
    [row] = table.records()
    assert (row["% of bandwidth"], row["% of peak"]) == ("over 100", "100")


def test_ratios_leave_out_other_image_sizes() -> None:
    def turns(size: int) -> dict[str, Any]:
        rows = [
            latency("ours", 1.0, label="ours"), latency("b", 2.0, label="b", image_size=size),
            latency("a", 9.0, label="a", image_size=224),
        ]  # fmt: skip
        ratios = {"a": {"cpu": 0.1, "wall": 0.1}, "b": {"cpu": 0.4, "wall": 0.5}}
        return {"rows": rows, "ratios": ratios | {"ours": {"cpu": 1.0, "wall": 1.0}}}

    table = speed.ratios_table(turns(32))
    assert table is not None
    assert table.rows == (("ours", "1.00", "1.00"), ("b", "0.400", "0.500"))
    assert "ours at 32 px" in table.caption
    assert speed.ratios_table(turns(224)) is None


def test_engines_timed_in_turns_show_their_ratios() -> None:
    table = speed.ratios_table(
        {
            "rows": [{"label": "stock"}, {"label": "ours"}],
            "ratios": {"ours": {"cpu": 1.18, "wall": 1.21}, "stock": {"cpu": 1.0, "wall": 1.0}},
        }
    )
    assert table is not None
    assert table.rows == (("stock", "1.00", "1.00"), ("ours", "1.18", "1.21"))
    assert "Times as fast as stock" in table.caption


def test_a_bad_prediction_keeps_its_row_and_its_reason() -> None:
    table = tables.predictions_table(
        [{"file_name": "a.png", "class_ids": [], "scores": [], "label_names": [], "error": "cut"}]
    )
    assert table.rows == (("a.png", "not read: cut", "–", "–"),)


def test_predictions_without_names_show_class_ids() -> None:
    table = tables.predictions_table(
        [{"file_name": "a.png", "class_ids": [7, 3], "scores": [0.9, 0.1], "label_names": []}]
    )
    assert table.rows == (("a.png", "7", "0.900", "3 0.100"),)


def test_the_data_table_shows_sets_and_drops_what_nobody_counts() -> None:
    table = data.dataset_table(dataset_summary())
    assert table is not None
    train = table.records()[0]
    assert (train["set"], train["images"], train["unreadable"]) == ("train", "40", "1")
    assert (train["imbalance"], train["width"], train["height"]) == ("3.0", "32", "32 / 32 / 48")
    bare = data.dataset_table({"sets": {"train": {"n_images": 5}}})
    assert bare is not None
    assert bare.columns == ("set", "images")


def test_sets_come_in_their_usual_order_and_only_shared_bytes_are_listed() -> None:
    summary = json.loads(json.dumps(dataset_summary(), sort_keys=True))
    assert list(data.dataset_sets(summary)) == ["train", "val", "pool"]
    shared = data.shared_table(summary)
    assert shared is not None
    assert shared.rows == (("val", "pool", "12"),)
    assert data.shared_table({"shared": [{"first": "a", "n_images": 0}]}) is None


def test_mining_steps_are_shares_of_the_pool() -> None:
    rows = {row["step"]: row for row in mining.mining_table(mining_audit()).records()}
    assert rows["selected for distillation"]["% of pool"] == "39.4"
    assert rows["listed in the pool"]["images"] == "1,497"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quarantined": 4}, "listed is not scored"),
        ({"candidates": 1446}, "candidates is not"),
        ({"selected": 1448}, "more images are selected"),
    ],
)
def test_a_mining_audit_that_does_not_add_up_is_refused(changes: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        mining.mining_table({**mining_audit(), **changes})


def test_planted_images_are_shown_by_kind_with_what_else_was_lost() -> None:
    table = mining.planted_table(mining_audit())
    assert table is not None
    assert table.rows[2] == ("mirrored", "12", "11", "1", "0")
    assert table.rows[3] == ("(everything else, lost with them)", "1,458", "8", "–", "–")


def test_a_pool_with_nothing_planted_has_no_such_table() -> None:
    assert mining.planted_table({"pool_listed": 3}) is None


def test_the_curve_in_numbers_has_the_truth_only_where_it_is_known() -> None:
    row = {
        "k": "60", "images": "600", "probes": "50", "right": "49", "estimate": "0.98",
        "low": "0.895", "high": "0.9965",
    }  # fmt: skip
    (shown,) = mining.curve_table([row]).records()
    assert (shown["estimate, %"], shown["95 %"]) == ("98.0", "89.5 – 99.7")
    assert not [name for name in shown if "truth" in name]
    known = {"known": "600", "distractors": "19", "known_right": "575", "purity": "0.958333"}
    (shown,) = mining.curve_table([{**row, **known}]).records()
    assert (shown["right (truth)"], shown["purity (truth), %"]) == ("575 of 600", "95.8")


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("ssld_stage1/b0/seed=0", ("b0", "ssld_stage1")),
        ("b4.ssld_stage2", ("b4", "ssld_stage2")),
        ("b4.ssld_stage2_inference", ("b4", "ssld_stage2")),
        ("timm:resnet50.a1_in1k", ("", "")),
        ("model.onnx", ("", "")),
    ],
)
def test_variant_and_stage_are_read_from_the_name(model: str, known: tuple[str, str]) -> None:
    assert published.variant_and_stage(model) == known


def test_imagenet_results_show_their_gap_and_whether_timm_agrees() -> None:
    near = evaluation(
        "b4.ssld_stage2", 41_860, n_used=50_000, n_listed=50_000, n_quarantined=0,
        preprocess={"resize_short": 232},
    )  # fmt: skip
    far = {**near, "model": "b0.ssld_stage1"}
    larger = {**near, "preprocess": {"resize_short": 236}}
    quick = {**near, "exact": False}
    table = published.beside_table([near, far, larger, quick], PUBLISHED, comparable=True)
    assert table is not None
    first, second, third, fourth = table.records()
    assert fourth["within 0.1 of timm's"] == "not comparable: evaluation.fast"
    assert [row["resize"] for row in (first, second, third)] == ["232", "232", "236"]
    assert third["within 0.1 of timm's"] == "not comparable: timm measures at resize 232"
    assert (first["to published"], first["to timm's"]) == ("+0.15", "+0.02")
    assert first["within 0.1 of timm's"] == "yes"
    assert (second["published top-1 %"], second["within 0.1 of timm's"]) == ("–", "no")


def test_other_data_shows_no_difference_to_the_published_figures() -> None:
    table = published.beside_table(
        [evaluation("ssld_stage2/b0/seed=0", 611)], PUBLISHED, comparable=False
    )
    assert table is not None
    assert not [name for name in table.columns if name.startswith("to ")]


def test_models_without_published_figures_are_not_set_beside_them() -> None:
    other = evaluation("comparison/b0/seed=0/unmined,seed=0", 611)
    assert published.beside_table([other], PUBLISHED, comparable=True) is None
    assert published.beside_table([evaluation("timm:x", 611)], PUBLISHED, comparable=True) is None


def test_the_zoo_gives_the_figures_of_the_seed_page() -> None:
    assert published.published_models() == PUBLISHED


def test_class_names_default_to_their_numbers() -> None:
    assert tables.evaluated_classes({"confusion": [[1, 0], [0, 1]]}) == ["0", "1"]
    assert tables.evaluated_classes(evaluation("m", 611)) == CLASSES
