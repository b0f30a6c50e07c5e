"""Every registered pipeline runs alone, and the catalog knows all that is between nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hgnetv2_pipeline.pipeline_registry import register_pipelines

PIPELINES = register_pipelines()
CATALOG = yaml.safe_load(
    (Path(__file__).parents[2] / "conf/base/catalog.yml").read_text(encoding="utf-8")
)
NAMES = {
    "ingestion", "import_weights", "train_teacher", "mining", "ssld_stage1", "ssld_stage2", "train",
    "finetune", "best", "evaluation", "prediction", "export", "latency", "comparison",
    "label_errors", "label_next", "reporting", "sweep", "__default__", "__supervised__",
    "__supervised_sweep__",
}  # fmt: skip


def test_the_names_are_those_that_users_script_against() -> None:
    assert set(PIPELINES) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_pipeline_contains_all_that_it_needs(name: str) -> None:
    free = {given for given in PIPELINES[name].inputs() if not given.startswith("params:")}
    assert free == set()


@pytest.mark.parametrize("name", sorted(name for name in NAMES if not name.startswith("_")))
def test_its_own_nodes_carry_its_tag_and_no_other(name: str) -> None:
    own = [node for node in PIPELINES[name].nodes if name in node.tags]
    assert own and all(node.tags == {name} and node.namespace == name for node in own)


def test_every_dataset_is_in_the_catalog_with_a_layer() -> None:
    used = {
        dataset
        for pipeline in PIPELINES.values()
        for dataset in pipeline.datasets()
        if not dataset.startswith("params:")
    }
    assert used == {name for name in CATALOG if not name.startswith("_")}
    for name in used:
        assert CATALOG[name]["metadata"]["kedro-viz"]["layer"], name


def test_the_report_can_be_made_while_things_are_missing() -> None:
    """After ``dvc repro`` there is no latency; the page says so instead of failing."""
    (report,) = [each for each in PIPELINES["reporting"].nodes if each.name == "reporting.report"]
    for name in report.inputs:
        if not name.startswith("params:"):
            entry = CATALOG[name]
            kinds = (".ResultFolder", ".ResultPath")
            assert entry["type"].endswith(kinds) or "shows" in entry, name
