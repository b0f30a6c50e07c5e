"""What DVC knows of a stage, read from dvc.yaml, and what it sees when a user's images change."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hgnetv2_pipeline.project.stages import (
    _parameters,
    stages_for,
    warn_of_unwatched,
    write_stages,
)
from hgnetv2_pipeline.reporting.plots import PLOTS
from own_tree import draw, write_classes
from project_copies import ROOT, copy_project, quiet_environment

EXPORT = "data/07_model_output/sample/best/b0/seed=0"
# As text in the name of a folder; nothing looks it up (fault row G05).
CLASSES = ("${oc.env:HOME}", "two")
POOL, TEST = "my cats & dogs", "held out"


def dvc(project: Path, *arguments: str, limit: int = 120) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project,
        env=quiet_environment(PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def images(folder: Path, seed: int, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        draw(number, rng).save(folder / f"{seed}-{number}.png")


def write_project(folder: Path) -> Path:
    """A project with the environment ``mine``: two classes, a pool and a test folder."""
    from hgnetv2_pipeline.commands.init import write_environment

    project = copy_project(folder / "project")
    write_classes(folder / "labelled", CLASSES)
    images(folder / POOL, 1, 12)
    for number, name in enumerate(CLASSES):
        images(folder / TEST / name, 100 + number, 3)
    write_environment(
        project, "mine", labelled=folder / "labelled", pool=folder / POOL, test=folder / TEST,
        variant="b0",
    )  # fmt: skip
    config = project / ".dvc" / "config.local"
    config.write_text("[core]\n    no_scm = true\n")
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = write_project(tmp_path_factory.mktemp("stages"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def test_every_exported_precision_is_stored_and_what_is_no_result_is_not(tmp_path: Path) -> None:
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    results = {
        "model.onnx", "model.fp16.onnx", "model.int8.onnx", "labels.txt", "manifest.json",
        "predict.py", "export.manifest.json", "tensorrt-kit/run.py", "triton/b0/1/model.onnx",
        "MODEL_CARD.md", "card.manifest.json", "model.fp16.tensorrt-rtx.plan",
        "model.fp16.tensorrt-rtx.json",
    }  # fmt: skip
    others = {
        "export.made_by.json", "archive/0123abcd/model.onnx", "plans/key/model.plan",
        "card.made_by.json",
        "model.engine", "model.plan", "tensorrt-kit/results/a_card.json",
        "model.fp16.tensorrt-rtx.A-GPU-sm-89.cache",
    }  # fmt: skip
    needed = {
        "data/02_intermediate/sample/index_train.parquet",
        "data/02_intermediate/sample/index_val.parquet",
        "data/06_models/sample/best/b0/seed=0/student.safetensors",
        "data/08_reporting/sample/evaluation/best/b0/seed=0/test-torch-fp32.json",
    }
    assert stored(tmp_path, "export", EXPORT, results, others, needed) == results


def test_every_member_of_a_teacher_is_stored_and_what_is_no_result_is_not(tmp_path: Path) -> None:
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    results = {"teacher.json", "teacher.manifest.json"} | {
        f"member={number}/{name}"
        for number in range(3)
        for name in ("student.safetensors", "history.csv", "result.json", "manifest.json")
    }
    others = {
        "teacher.made_by.json", "logs/member=0.log", "specs/member=0.json", "member=0/timing.json",
        "member=0/views.png",
        "member=1/made_by.json", "member=1/checkpoints/step=1/a", "member=1/best/a.safetensors",
        "archive/0123abcd/member=0/student.safetensors", ".member=0.lock",
    }  # fmt: skip
    lists = "data/02_intermediate/sample"
    needed = {f"{lists}/{n}" for n in ("index_train.parquet", "index_val.parquet", "class_map.txt")}
    folder = "data/06_models/sample/train_teacher/mixed"
    assert stored(tmp_path, "train_teacher", folder, results, others, needed) == results


def stored(
    project: Path, stage: str, folder: str, results: set[str], others: set[str], needed: set[str]
) -> set[str]:
    """What DVC stores of ``folder`` as the out of ``stage``, of all that is there."""
    for name in needed | {f"{folder}/{name}" for name in results | others}:
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    from dvc.repo import Repo

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        with Repo.init(".", no_scm=True) as repo:
            repo.commit(stage, force=True)
    (listing,) = (project / ".dvc" / "cache" / "files" / "md5").rglob("*.dir")
    return {entry["relpath"] for entry in json.loads(listing.read_text(encoding="utf-8"))}


def test_a_change_in_pool_test_or_labelled_images_is_seen(project: Path) -> None:
    from dvc.repo import Repo

    from hgnetv2_pipeline.__main__ import main

    main(["--env", "mine", "--pipeline", "ingestion", "--params", "mlflow=false"])
    lists = project / "data/02_intermediate/mine"
    assert (lists / "class_map.txt").read_text().splitlines()[0] == f"0 {CLASSES[0]}"
    target = "conf/mine/dvc.yaml:ingestion"
    with Repo(str(project)) as repo:
        repo.commit(target, force=True)
        assert repo.status(targets=[target]) == {}
    places = {
        POOL: "pool/my_cats___dogs",
        f"{TEST}/two": "test",
        "labelled/two": "images",
    }
    for place, link in places.items():
        added = project.parent / place / "new.png"
        images(added.parent / "aside", 7, 1)
        (added.parent / "aside" / "7-0.png").rename(added)
        (added.parent / "aside").rmdir()
        with Repo(str(project)) as repo:
            changed = repo.status(targets=[target])[target]
        assert changed == [{"changed outs": {f"data/01_raw/mine/{link}": "modified"}}]
        added.unlink()
    with Repo(str(project)) as repo:
        assert repo.status(targets=[target]) == {}


def test_a_decision_of_a_person_is_seen_by_the_stages_that_obey_it(project: Path) -> None:
    """Where nobody has decided anything, the file is there all the same."""
    from dvc.repo import Repo

    from hgnetv2_pipeline.__main__ import main

    main(["--env", "mine", "--pipeline", "ingestion", "--params", "mlflow=false"])
    review = project / "data/01_raw/mine/review.csv"
    assert review.read_text("utf-8") == "list,key,shown,score,label,decision\n"
    target = "conf/mine/dvc.yaml:ingestion"
    place = "data/01_raw/mine/review.csv"
    with Repo(str(project)) as repo:
        repo.commit(target, force=True)
        assert repo.status(targets=[target]) == {}
        mining = next(stage for stage in repo.index.stages if stage.addressing.endswith(":mining"))
        assert review in [Path(dep.fs_path) for dep in mining.deps]
    decided = "mined,pool/some.png,,,,keep\n"
    review.write_text(review.read_text("utf-8") + decided)
    with Repo(str(project)) as repo:
        assert repo.status(targets=[target])[target] == [{"changed outs": {place: "modified"}}]
    main(["--env", "mine", "--pipeline", "ingestion", "--params", "mlflow=false"])
    assert review.read_text("utf-8").endswith(decided), "what a person wrote stays"


def test_stages_follow_the_configuration_when_written_again(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from click.testing import CliRunner

    from hgnetv2_pipeline.commands.main import main as command

    more = project.parent / "more of them"
    images(more, 3, 1)
    conf = project / "conf" / "mine" / "parameters.yml"
    before = conf.read_text(encoding="utf-8")
    path = project / "conf" / "mine" / "dvc.yaml"
    written = path.read_text(encoding="utf-8")
    conf.write_text(before.replace(f'{POOL}"]', f'{POOL}", "{more}"]'), encoding="utf-8")
    told = "conf/mine/dvc.yaml does not name pool/more_of_them"
    try:
        # A run that reads what DVC does not watch says so.
        caplog.set_level("WARNING", logger="hgnetv2_pipeline")
        warn_of_unwatched(_parameters(project, "mine"))
        assert told in caplog.text
        caplog.clear()
        done = CliRunner().invoke(command, ["stages", "mine"])
        assert (done.exit_code, done.output) == (0, "wrote conf/mine/dvc.yaml\n")
        warn_of_unwatched(_parameters(project, "mine"))
        assert told not in caplog.text
        outs = [*yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]["ingestion"]["outs"]]
        assert {"cache": False, "persist": True} in [
            out.get("data/01_raw/${dataset}/pool/more_of_them") for out in outs
        ]
    finally:
        conf.write_text(before, encoding="utf-8")
        CliRunner().invoke(command, ["stages", "mine"])
    assert path.read_text(encoding="utf-8") == written


OWN = ("data", "train_teacher", "ssld_stage1")
METRICS = "data/08_reporting/${dataset}/metrics.json"


@pytest.mark.parametrize("test", ["folder", "share", "none"])
@pytest.mark.parametrize("layout", ["folders", "multi_label"])
@pytest.mark.parametrize("sources", [0, 1, 3])
def test_stages_name_what_an_environment_has(
    tmp_path: Path, test: str, layout: str, sources: int
) -> None:
    template = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for number in range(sources):
        (tmp_path / f"source {number}").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"{split}_list.txt").write_text(f"{split}.png\t0,1\n")
    params: dict[str, Any] = {
        "this_run": {"identity": {
            "project": str(tmp_path), "environment": "mine", "dataset": "mine",
            "teacher": "two_b4", "variant": "b4", "run": "seed=3",
        }},
        "split": "val",
        "data": {
            "layout": layout, "root": str(tmp_path), "test": "x" if test == "folder" else None,
            "pool": [str(tmp_path / f"source {number}") for number in range(sources)],
            "min_per_class": 2, "max_bad": 0.0, "duplicates": "refuse", "leaks": "refuse",
            "trusted_roots": [], "workers": 1, "alpha": "drop", "depth": "auto", "list_root": None,
            "lists": {"train": None, "val": None, "test": None, "class_map": None},
            "delimiter": "auto", "columns": {"path": None, "label": None, "split": None},
            "class_from": "auto",
            "split": {"val": 0.2, "test": 0.1 if test == "share" else 0.0, "group_pattern": None,
                      "groups": None, "near_duplicates": True},
        },
    }  # fmt: skip
    said = {"variant": "b4", "dataset": "mine", "teacher": "two_b4"}
    made = stages_for(template, params, OWN, said)
    assert made["vars"][0] == "globals.yml:dataset,teacher,variant"
    assert not said.keys() & made["vars"][1].keys()
    other = stages_for(template, params, OWN, {**said, "variant": "hgnetv2_b4", "seed": 3})["vars"]
    assert other[0] == "globals.yml:dataset,teacher" and other[1]["variant"] == "b4"
    assert said.items() <= stages_for(template, params, OWN, {})["vars"][0].items()
    chain = sources > 0 and layout == "folders"
    for stage in ("mining", "ssld_stage1", "best"):
        assert (stage in made["stages"]) == chain
    assert made["vars"][1]["model"] == ("best" if chain else "train")
    assert all(stage["wdir"] == "../.." for stage in made["stages"].values())
    # What is shown of a run, whatever stages it has; and nothing waits for what none of them makes.
    assert [name for entry in made["stages"]["reporting"]["metrics"] for name in entry] == [METRICS]
    shown = {name for entry in made["stages"]["reporting"]["plots"] for name in entry}
    assert shown == {f"data/08_reporting/${{dataset}}/plots/{name}" for name in PLOTS}
    assert all(("/mining/" in name) <= chain for name in made["stages"]["reporting"]["deps"])
    outs = {name for out in made["stages"]["ingestion"]["outs"] for name in out}
    raw = {name.removeprefix("data/01_raw/${dataset}/") for name in outs if "01_raw" in name}
    pools = {f"pool/source_{number}" for number in range(sources)}
    assert raw == {"images", "review.csv", *pools, *(["test"] if test == "folder" else [])}
    # Lists bring their own val here, so a share of the labelled images is no test set.
    held_out = test == "folder" or (test == "share" and layout == "folders")
    assert any(name.endswith("index_test.parquet") for name in outs) == held_out
    if chain:  # test images are kept out of the mined list
        watched_lists = made["stages"]["mining"]["deps"]
        assert any(name.endswith("index_test.parquet") for name in watched_lists) == held_out
    assert any(name.endswith("index_pool.parquet") for name in outs) == (sources > 0)
    # DVC refuses to watch a parameter that a file does not have.
    watched = {
        key.partition(".")[0]
        for stage in made["stages"].values()
        for entry in stage.get("params", ())
        for key in entry.get("conf/${env}/parameters.yml", ())
    }
    assert watched == ({*OWN} if chain else {"data"})


def test_a_parameter_that_is_added_to_an_environment_is_missed_by_name(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    conf = project / "conf" / "mine" / "parameters.yml"
    stages = conf.with_name("dvc.yaml")
    before, stages_before = (path.read_text(encoding="utf-8") for path in (conf, stages))
    without, gone = re.subn(r"(?m)^teacher_logits:.*\n(?: .*\n)+", "", before)
    assert gone == 1
    caplog.set_level("WARNING", logger="hgnetv2_pipeline")
    try:
        conf.write_text(without, encoding="utf-8")
        write_stages(project, "mine")
        warn_of_unwatched(_parameters(project, "mine"))
        assert caplog.text == ""
        conf.write_text(before, encoding="utf-8")
        warn_of_unwatched(_parameters(project, "mine"))
        assert "does not name teacher_logits, whose changes DVC would not see" in caplog.text
    finally:
        conf.write_text(before, encoding="utf-8")
        stages.write_text(stages_before, encoding="utf-8")


def test_the_published_weights_are_no_business_of_the_projects_status(tmp_path: Path) -> None:
    from dvc.repo import Repo

    project = copy_project(tmp_path / "project")
    shutil.copytree(ROOT / "weights", project / "weights")
    for folder in (project, project / "weights"):
        (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    with Repo(str(project)) as repo:
        assert {stage.path_in_repo for stage in repo.index.stages} == {"dvc.yaml"}
    with Repo(str(project / "weights")) as repo:
        assert len(repo.index.stages) == len(list((ROOT / "weights").glob("*.pdparams.dvc"))) + 7


@pytest.mark.parametrize("change", ["a bit", "cut", "another result"])
def test_x03_a_result_that_dvc_brings_back_with_wrong_bytes_is_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """DVC trusts an object of its cache that is read-only; our manifests do not."""
    from dvc.repo import Repo

    from hgnetv2_pipeline.project.results import ResultSpec, Reuse

    monkeypatch.chdir(tmp_path)
    folder, right = tmp_path / "data" / "06_models" / "run", bytes(range(256)) * 8
    (tmp_path / "data" / "06_models").mkdir(parents=True)

    def produced() -> bool:
        spec = ResultSpec(
            folder=folder,
            pipeline="train",
            inputs={"train": "list"},
            params={"lr": 0.1},
            outputs=["student.safetensors"],
        )
        made = Reuse(tmp_path).produce(
            spec, lambda aside: (aside / "student.safetensors").write_bytes(right)
        )
        return made.reused

    assert not produced()
    with Repo.init(".", no_scm=True) as repo:
        repo.add("data/06_models/run")
        objects = [p for p in (tmp_path / ".dvc/cache/files/md5").rglob("*") if p.is_file()]
        (stored,) = [path for path in objects if path.read_bytes() == right]
        wrong = {"a bit": bytes([right[0] ^ 1]) + right[1:], "cut": right[:-1]}.get(change, b"x")
        stored.chmod(0o644)
        stored.write_bytes(wrong)
        stored.chmod(0o444)
        shutil.rmtree(folder)
        repo.checkout("data/06_models/run.dvc", force=True)
    assert (folder / "student.safetensors").read_bytes() == wrong
    assert not produced()
    assert (folder / "student.safetensors").read_bytes() == right
    (kept,) = (folder.parent / "archive").rglob("student.safetensors")
    assert kept.read_bytes() == wrong
    assert produced()


@pytest.mark.slow
def test_the_whole_chain_of_own_images_by_dvc_alone(tmp_path: Path) -> None:
    project = write_project(tmp_path)
    conf = project / "conf" / "mine" / "parameters.yml"
    text = conf.read_text(encoding="utf-8")
    for name in ("epochs: 240", "epochs: 60", "epochs: 20"):
        text = text.replace(name, "epochs: 2")
    text = text.replace("eval_every: 10", "eval_every: null")
    text = text.replace("min_per_class: 3", "min_per_class: 2")
    conf.write_text(text.replace("warmup_epochs: 1", "warmup_epochs: 0"), encoding="utf-8")
    stages = "conf/mine/dvc.yaml"
    dvc(project, "repro", stages, limit=1800)
    assert "up to date" in dvc(project, "status", stages)
    assert "Running stage" not in dvc(project, "repro", stages)
    assert (project / "data/08_reporting/mine/report/report.html").is_file()
    images(tmp_path / POOL, 9, 5)
    said = dvc(project, "repro", stages, limit=1800)
    for stage in ("ingestion", "mining", "ssld_stage1", "ssld_stage2", "best", "evaluation"):
        assert f"Running stage 'conf/mine/dvc.yaml:{stage}'" in said
    assert "up to date" in dvc(project, "status", stages)
