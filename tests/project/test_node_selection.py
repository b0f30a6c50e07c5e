"""Which parts of the graph a command line needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hgnetv2_pipeline.pipeline_registry import register_pipelines
from hgnetv2_pipeline.project import logs
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.node_selection import chain_of, needed_tags

PIPELINES = register_pipelines()
STAGE1 = {"ingestion", "train_teacher", "mining", "ssld_stage1"}


@pytest.mark.parametrize(
    ("wanted", "tags"),
    [
        ("evaluation", {"ingestion", "evaluation"}),
        ("export", {"ingestion", "export"}),
        ("latency", {"ingestion", "export", "latency"}),
        ("prediction", {"ingestion", "export", "prediction"}),
        ("evaluation+latency", {"ingestion", "evaluation", "export", "latency"}),
        # Something else that is wanted needs its own upstream.
        ("evaluation+mining", set()),
        ("ssld_stage2", set()),
    ],
)
def test_a_named_model_makes_nothing_that_would_make_another(wanted: str, tags: set[str]) -> None:
    def load() -> Any:
        raise AssertionError("nothing to look up")

    names = wanted.split("+")
    assert set(needed_tags(names, PIPELINES, {"model": "train/b0/seed=0"}, load)) == tags
    # Without a model, or with best, all that it is chosen from is needed; for stage 2 no arm is.
    assert needed_tags(names, PIPELINES, {}, load) == []
    assert needed_tags(names, PIPELINES, {"model": "best"}, load) == []
    stage2 = set(needed_tags(names, PIPELINES, {"model": None}, load))
    assert stage2 == (tags | STAGE1 | {"ssld_stage2"} if tags else set())


@pytest.mark.parametrize(
    ("init", "tags"),
    [
        ("ssld_stage1/b0/seed=0", STAGE1 | {"finetune"}),
        ("import_weights/b0/ssld_stage1", {"ingestion", "import_weights", "finetune"}),
        ("ssld_stage1/b0/other", {"ingestion", "finetune"}),
        ("b4.ssld_stage1", {"ingestion", "finetune"}),
        ("/somewhere/w.pdparams", {"ingestion", "finetune"}),
    ],
)
def test_fine_tuning_needs_what_it_starts_from(tmp_path: Path, init: str, tags: set[str]) -> None:
    class Conf(dict[str, Any]):
        identity = Identity(
            project=tmp_path, environment="mine", dataset="mine", variant="b0", run="seed=0",
            seed=0, teacher="mixed", model="train/b0/seed=0", download=False,
        )  # fmt: skip

    conf = Conf(parameters={"finetune": {"init": init}})
    assert set(needed_tags(["finetune"], PIPELINES, {}, lambda: conf)) == tags


@pytest.mark.parametrize("below", [".", "src/hgnetv2_pipeline", "notebooks"])
def test_logging_is_the_projects_own_wherever_a_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "logging.yml").write_text("version: 1\nroot: {level: ERROR}\n")
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / below)
    monkeypatch.delenv("KEDRO_LOGGING_CONFIG", raising=False)
    told: list[Any] = []
    monkeypatch.setattr(logs, "configure_logging", told.append)
    monkeypatch.setattr(logs, "LOGGING", {})
    logs.use_project_logging()
    assert told == [{"version": 1, "root": {"level": "ERROR"}}]
    monkeypatch.setattr(logs, "LOGGING", told[0])
    logs.use_project_logging()
    monkeypatch.setenv("KEDRO_LOGGING_CONFIG", "mine.yml")
    monkeypatch.setattr(logs, "LOGGING", {})
    logs.use_project_logging()
    assert len(told) == 1


@pytest.mark.parametrize(
    ("data", "options", "meant"),
    [
        ({"pool": [], "layout": "folders"}, {}, ["__supervised__"]),
        ({"pool": [], "layout": "multi_label"}, {}, ["__supervised__"]),
        ({"pool": ["/pool"], "layout": "folders"}, {}, []),
        ({"pool": [], "layout": "sample"}, {}, []),
        ({"pool": [], "layout": "folders"}, {"pipelines": ["mining"]}, ["mining"]),
        ({"pool": [], "layout": "folders"}, {"pipelines": ["evaluation"]}, ["__supervised__"]),
        ({"pool": [], "layout": "folders"}, {"pipelines": ["train"]}, ["train"]),
        ({"pool": ["/pool"], "layout": "folders"}, {"pipelines": ["export"]}, ["export"]),
        (
            {"pool": [], "layout": "folders"},
            {"pipelines": ["export"], "params": {"model": "train/b0/seed=0"}},
            ["export"],
        ),
        ({"pool": [], "layout": "folders"}, {"tags": ["mining"]}, []),
        ({"pool": [], "layout": "folders"}, {"from_nodes": ["train.train"]}, []),
    ],
)
def test_without_a_pool_the_whole_chain_is_that_of_labelled_images(
    data: dict[str, Any], options: dict[str, Any], meant: list[str]
) -> None:
    """D20. What was named stays what was named, unless it can be had without a pool."""
    names = ("pipelines", "tags", "node_names", "from_nodes", "to_nodes", "from_inputs",
             "to_outputs", "namespaces", "params")  # fmt: skip
    given = dict.fromkeys(names) | options
    assert chain_of(given, lambda: {"parameters": {"data": data}}) == meant
    own = {name for node in PIPELINES["__supervised__"].nodes for name in node.tags}
    assert own == {"ingestion", "train", "best", "evaluation", "export", "latency", "prediction",
                   "reporting"}  # fmt: skip
