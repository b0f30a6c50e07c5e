"""Every option of ``kedro run`` reaches Kedro, and names that nothing bears are refused at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import BashComplete
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.session import KedroSession

from hgnetv2_pipeline.cli import run
from project_copies import ROOT, copy_project, run_here


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from kedro.framework.startup import bootstrap_project

    folder = copy_project(tmp_path_factory.mktemp("options") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        bootstrap_project(folder)
        yield folder


@pytest.fixture
def asked(project: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the session was made and run with, in place of running."""
    seen: dict[str, Any] = {}

    class Session:
        def run(self, **options: Any) -> None:
            seen.update(options)

    def create(**options: Any) -> Any:
        seen.update(options)
        return nullcontext(Session())

    monkeypatch.setattr(KedroSession, "create", create)
    return seen


# Option, value, what the session is told, and as what.
PASSED = [
    ("--from-inputs", "ingestion.lists", "from_inputs", ["ingestion.lists"]),
    ("--to-outputs", "mining.scores", "to_outputs", ["mining.scores"]),
    ("--from-nodes", "mining.select", "from_nodes", ["mining.select"]),
    ("--to-nodes", "mining.select", "to_nodes", ["mining.select"]),
    ("--nodes", "ingestion.provide_raw", "node_names", ("ingestion.provide_raw",)),
    ("--tags", "mining,export", "tags", ("mining", "export")),
    ("--namespaces", "mining", "namespaces", ["mining"]),
    ("--load-versions", "export.export_history:2026-01-01T00.00.00.000Z", "load_versions",
     {"export.export_history": "2026-01-01T00.00.00.000Z"}),
    ("--pipeline", "mining", "pipeline_names", ["mining"]),
    ("--pipelines", "mining", "pipeline_names", ["mining"]),
    ("--env", "imagenet", "env", "imagenet"),
    ("--conf-source", str(ROOT / "conf"), "conf_source", str(ROOT / "conf")),
    ("--params", "run=007,train.lr=1e-3", "runtime_params", {"run": "007", "train": {"lr": 0.001}}),
    ("--only-missing-outputs", None, "only_missing_outputs", True),
    ("--runner", "ThreadRunner", "runner", "ThreadRunner"),
    ("--runner-params", "max_workers=2", "runner", "ThreadRunner"),
    ("--async", None, "runner", "SequentialRunner"),
    ("--config", "run.yml", "tags", ("mining",)),
]  # fmt: skip


@pytest.mark.parametrize(("option", "value", "name", "told"), PASSED, ids=[p[0] for p in PASSED])
def test_an_option_of_kedro_run_reaches_the_session(
    project: Path, asked: dict[str, Any], option: str, value: str | None, name: str, told: object
) -> None:
    from click.testing import CliRunner

    (project / "run.yml").write_text("run:\n  tags: mining\n")
    arguments = [option] if value is None else [option, value]
    if option == "--runner-params":
        arguments += ["--runner", "ThreadRunner"]
    done = CliRunner().invoke(run, arguments)
    assert done.exit_code == 0, done.output
    found = type(asked[name]).__name__ if name == "runner" else asked[name]
    assert found == told


def test_no_option_of_kedro_run_is_left_out() -> None:
    options = {option for parameter in kedro_run.params for option in parameter.opts}
    assert {row[0] for row in PASSED} == {name for name in options if name.startswith("--")}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--pipeline ingetsion", "pipeline 'ingetsion' .did you mean 'ingestion'"),
        ("--pipelines mining,exprot", "pipeline 'exprot' .did you mean 'export'"),
        ("--pipeline sssld", "unknown pipeline 'sssld' .did you mean 'ssld_stage[12]'.*reporting"),
        ("--nodes nope", "unknown node 'nope'; [0-9]+ are known .--nodes.*registry describe"),
        ("--tags minning", "tag 'minning' .did you mean 'mining'.*--tags"),
        ("--tags mining --pipeline ingestion", "tag 'mining'.*in pipeline ingestion"),
        ("--nodes mining.selct", "node 'mining.selct' .did you mean 'mining.select'"),
        ("--from-nodes mining.selct", "node 'mining.selct' .did you mean .*--from-nodes"),
        ("--to-nodes mining.selct", "node 'mining.selct' .did you mean .*--to-nodes"),
        ("--from-inputs ingestion.list", "dataset 'ingestion.list' .did you mean 'ingestion.lists"),
        ("--to-outputs mining.score", "dataset 'mining.score' .did you mean 'mining.scores'"),
        ("--namespaces minning", "namespace 'minning' .did you mean 'mining'"),
        (
            "--load-versions export.history:1",
            "dataset 'export.history' .did you mean 'export.ex",
        ),
        ("--runner ThreadRuner", "runner 'ThreadRuner' .did you mean 'ThreadRunner'"),
        ("--tags mining --nodes ingestion.make_lists", "together choose no node"),
        ("--env samble", "environment 'samble' .did you mean 'sample'"),
        ("--params redo=minning", "'minning' .did you mean 'mining'.*redo"),
        ("--params varient=b4", "'varient' .did you mean 'variant'"),
        ("--params recipe=fats", "recipe 'fats' .did you mean 'fast'"),
        ("--params seed=true", "seed True is not a whole number"),
        ("--params train.lr=true", "train.lr = True: input should be a number"),
        ("--params data.split.val=true", "data.split.val = True: input should be a number"),
        ("--params train.optimizer.betas=[true]", "betas"),
        ("--params train.steps=None", "train.steps = 'None'.*null"),
        ("--params run=archive", "run: 'archive' is the name of a place"),
        ("--params teacher=archive", "teacher: 'archive'"),
        ("--params dataset=lock", "dataset: 'lock'"),
        ("--params run=.hidden", "run: '.hidden' cannot name a folder"),
        ("--params run=..", r"run: '\.\.' cannot name a folder"),
        (f"--params run={'x' * 300}", r"run: 'x{40}\.\.\. \(300 letters\)' cannot name a folder"),
        ("--params device=cuda:x", "device = 'cuda:x'"),
        ("--params data.split.group_pattern=[", "group_pattern = '\\['.*no regular expression"),
        ("--params data.split.group_pattern=(", "group_pattern = '\\('.*no regular expression"),
        ("--params train.lr=[", r"--params train.lr=\[: no value of YAML"),
        ("--params train.lr", "--params train.lr: write KEY=VALUE"),
        ("--params =3", "--params =3: write KEY=VALUE"),
    ],
)
def test_a_name_or_value_that_means_nothing_is_answered_before_the_first_node(
    project: Path, arguments: str, named: str
) -> None:
    words = arguments.split()
    if "--params" not in words:
        words += ["--params", "seed=0"]
    code, said = run_here(*words)
    assert code == 2, said
    assert re.search(named, said), said
    assert not (project / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ("--pipeline evaluation --params model=train/b0/seed=9", 4, "mean 'train/b0/seed=0'"),
        ("--pipeline evaluation --params model=timm:hgnetv22", 2, "timm model 'hgnetv22'.*hgnetv2"),
        ("--pipeline export --params model=b4.ssld_stag2", 2, "'b4.ssld_stag2' .did you mean"),
        ("--pipeline export --params model=b4.ssld_stage2,download=false", 4, "put PPHGNetV2_B4"),
        ("--pipeline export --params model=nowhere/w.pdparams", 4, "no weight file or run at"),
        ("--pipeline latency --params latency.beside=scratch:b7,model=timm:vgg11", 2, "'b7'"),
        ("--pipeline train --params train.init=train/b0/x,train.head=reinit", 4, "no finished run"),
        ("--pipeline train_teacher --params train_teacher.source=nope.pth", 4, "no weight file"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_there_is_answered_before_the_first_node(
    project: Path, arguments: str, code: int, named: str
) -> None:
    there = project / "data/06_models/sample/train/b0/seed=0/student.safetensors"
    there.parent.mkdir(parents=True, exist_ok=True)
    there.touch()
    found, said = run_here(*arguments.split())
    assert (found, bool(re.search(named, said))) == (code, True), said
    assert not (project / "data/02_intermediate").exists()


@pytest.mark.parametrize(
    ("option", "begun", "offered"),
    [
        ("--pipeline", "ssld", ["ssld_stage1", "ssld_stage2"]),
        ("--pipeline", "__", []),
        ("--env", "im", ["imagenet"]),
    ],
)
def test_pipelines_and_environments_are_completed(
    project: Path, option: str, begun: str, offered: list[str]
) -> None:
    found = BashComplete(run, {}, "kedro", "_KEDRO_COMPLETE").get_completions([option], begun)
    assert [each.value for each in found] == offered
