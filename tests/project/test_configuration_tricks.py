"""What a configuration or a command line is made to say does not run, and is answered in a line.

The names of tests begin with the rows of docs/reliability.md that they hold.
"""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.project.given import read_params, takes_text
from hgnetv2_pipeline.project.identity import model_id
from hgnetv2_pipeline.project.params import REDOABLE, RunParams, validate
from run_params import loader, parameters

ROOT = Path(__file__).parents[2]


def paths(model: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every parameter's path, blocks included."""
    for name, field in model.model_fields.items():
        yield (*before, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from paths(field.annotation, (*before, name))


def misspelt(name: str, rng: random.Random) -> str:
    """``name`` with a letter left out, doubled, replaced or exchanged with the next."""
    at = rng.randrange(len(name))
    kind = rng.choice(("drop", "double", "replace", "swap"))
    if kind == "drop" and len(name) > 2:
        return name[:at] + name[at + 1 :]
    if kind == "double":
        return name[: at + 1] + name[at:]
    if kind == "swap" and at + 1 < len(name) and name[at] != name[at + 1]:
        return name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    return name[:at] + ("x" if name[at] != "x" else "y") + name[at + 1 :]


def test_g01_200_misspelt_names_are_refused_with_what_was_meant() -> None:
    rng = random.Random(0)
    sound = {key: value for key, value in parameters().items() if key != "this_run"}
    known = list(paths(RunParams))
    named = 0
    for _ in range(200):
        path = rng.choice(known)
        wrong = misspelt(path[-1], rng)
        values = copy.deepcopy(sound)
        block = values
        for part in path[:-1]:
            block = block[part]
        if wrong in block:
            continue
        block[wrong] = block.pop(path[-1])
        with pytest.raises(ParameterError, match=f"'{wrong}'") as caught:
            validate(values, environment="sample")
        assert "\n" not in str(caught.value)
        named += f"did you mean '{path[-1]}'" in str(caught.value)
    # A name of one or two letters (k, lr) has no nearest.
    assert named > 170


def test_g01_what_can_be_made_again_are_the_registered_pipelines() -> None:
    from hgnetv2_pipeline.pipeline_registry import register_pipelines

    pipelines = {name for name in register_pipelines() if name[0] != "_"}
    assert set(REDOABLE) == {*pipelines, "teacher_logits", "all"}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
TRICKS = {
    "python object": ("x: !!python/object/apply:os.mkdir [{marker}]\n", "tag .*python/object"),
    "python name": ("x: !!python/name:os.system\n", "tag .*python/name"),
    "tag of one's own": ("x: !thing 1\n", "tag !thing"),
    "anchors without end": (BOMB, "100,000 values"),
    "an anchor in itself": ("x: &x [*x]\n", "an anchor holds itself"),
    "key twice": ("train:\n  lr: 0.1\n  lr: 0.2\n", "line 3: the key lr appears twice"),
    "block twice": ("train: {steps: 3}\nmlflow: true\ntrain: {steps: 4}\n", "key train .*twice"),
    "too deep": ("x: " + "[" * 30_000 + "\n", "nested too deep|is no YAML"),
    "cut": ("train: {steps: 3\n", "is no YAML"),
    "no text": ("\x00\x01\n", "is no YAML"),
    "an anchor that is not there": ("x: *nowhere\n", "there is no anchor nowhere"),
    "a resolver that reads the environment": ("weights: ${oc.env:HOME}\n", "cannot be resolved"),
    "a resolver that is not there": ("weights: ${sh:id}\n", "cannot be resolved"),
    "a value in itself": ("weights: ${weights}\n", "cannot be resolved"),
    "the wrong kind": ("train: 3\n", "train"),
    "on": ("train: {lr: on}\n", "train.lr = True: input should be a number"),
    "truth for a whole number": ("mining: {k: yes}\n", "mining.k = True"),
    "truth in a list": ("comparison: {stage1_seeds: [true]}\n", "stage1_seeds"),
    "a date": ("run: 2024-01-01T00:00:00\n", "run"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_g03_g05_tricks_of_yaml_run_nothing_and_are_told_in_one_line(
    tmp_path: Path, trick: str
) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    text, named = TRICKS[trick]
    marker = tmp_path / "marker"
    file = tmp_path / "conf" / "sample" / "parameters_more.yml"
    file.write_text(text.format(marker=marker) if "{marker}" in text else text, encoding="utf-8")
    # Kedro refuses a key in two files; here the file is the only one to say it.
    own = tmp_path / "conf" / "sample" / "parameters.yml"
    own.write_text("data: {layout: sample}\n", encoding="utf-8")
    with pytest.raises(ParameterError, match=named) as caught:
        loader(conf=tmp_path / "conf")["parameters"]
    assert "\n" not in str(caught.value) and str(Path.home()) not in str(caught.value)
    assert not marker.exists()


def test_g03_numbers_of_either_yaml_are_numbers(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    file = tmp_path / "conf" / "sample" / "parameters.yml"
    text = file.read_text(encoding="utf-8").replace("lr: 2.0e-3", "lr: 1e-3", 1)
    file.write_text(text.replace('amp: "off"', "amp: off", 1), encoding="utf-8")
    found = loader(conf=tmp_path / "conf")["parameters"]["train_teacher"]["recipe"]
    assert (found["lr"], found["amp"]) == (1e-3, "off")


def test_g03_an_anchor_that_is_named_often_is_no_bomb(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    recipe = tmp_path / "conf" / "base" / "recipe_mine.yml"
    recipe.write_text("train: &a {steps: 7, epochs: null}\nfinetune:\n  <<: *a\n  lr: 1.0e-4\n")
    found = loader(conf=tmp_path / "conf", recipe="mine")["parameters"]
    assert (found["train"]["steps"], found["finetune"]["steps"]) == (7, 7)


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "${sh:id}", "${globals:seed}${oc.env:PATH}"])
@pytest.mark.parametrize("key", ["train.lr", "weights", "run", "data.root", "images"])
def test_g05_nothing_is_looked_up_for_a_parameter(key: str, value: str) -> None:
    given = read_params(f"{key}={value}")
    with pytest.raises(ParameterError) as caught:
        loader(**given)["parameters"]
    assert "\n" not in str(caught.value) and str(Path.home()) not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["007", "1e5", "0.10", "true", "2024-01-01", "on", "1_000", "0x1f"]
)
def test_a_name_stays_as_it_is_typed(text: str) -> None:
    given = read_params(f"run={text},teacher={text},dataset={text}")
    chosen = loader(**given)
    found = chosen["parameters"]
    assert (found["run"], found["teacher"], found["dataset"]) == (text, text, text)
    assert chosen.identity.folder("train").as_posix().endswith(f"{text}/train/b0/{text}")


def test_a_name_that_yaml_took_for_a_number_is_refused_with_the_remedy() -> None:
    for given in (7, 1e5, True):
        with pytest.raises(ParameterError, match=f"run {given!r} is no text.*run: '{given}'"):
            _ = loader(run=given).identity


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("run", True), ("model", True), ("data.root", True), ("data.split.group_pattern", True),
        ("redo", True), ("images", True), ("device", True), ("export.precisions", True),
        ("train.init", True), ("mining.deduplicate.channels", True), ("train.lr", False),
        ("train.steps", False), ("seed", False), ("comparison.stage1_seeds", False),
        ("distributed.nproc_per_node", False), ("mlflow", False), ("data", False),
        ("prediction.multi_label", False), ("no.such.thing", False), ("nothing", False),
    ],
)  # fmt: skip
def test_which_parameters_are_text_is_read_from_their_types(path: str, text: bool) -> None:
    assert takes_text(path.split(".")) is text


@pytest.mark.parametrize(
    "model",
    ["..", ".", "timm:..", "timm:.", "scratch:..", "timm:", "/somewhere/..", "train/../x", "a//b",
     "archive", "train/b0/archive", "train/b0/lock", "timm:" + "x" * 101, "x" * 101,
     "/w/" + "x" * 300 + ".pth", "train/b0/" + "x" * 101],
)  # fmt: skip
def test_a_model_without_a_place_for_its_results_is_refused(model: str) -> None:
    with pytest.raises(ParameterError, match=r"is no run id, zoo name.*--params model=") as caught:
        model_id(model)
    assert len(str(caught.value)) < 700
    with pytest.raises(ParameterError):
        _ = loader(model=model).identity


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:7"])
def test_a_device_is_named_as_torch_names_it(device: str) -> None:
    assert parameters(device=device)["device"] == device


def test_parameters_are_read_once_and_given_out_as_copies() -> None:
    conf = loader()
    first = conf["parameters"]
    first["train"]["lr"] = -1
    assert conf["parameters"]["train"]["lr"] > 0
    conf.project = Path("/elsewhere")
    assert conf["parameters"]["this_run"]["identity"]["project"] == Path("/elsewhere")


@pytest.mark.slow
def test_x02_a_hostile_name_makes_nothing_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hgnetv2_pipeline.__main__ import main

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    conf = ["--conf-source", str(ROOT / "conf"), "--pipeline", "ingestion"]
    names = ["../../x", "..", "a/b/..", "a\\b/", "a\nb", "\x1b[2J", "mlruns/../x", "/../x", "~/x"]
    for name in names:
        for key in ("run", "dataset", "teacher"):
            with pytest.raises(ParameterError) as caught:
                main([*conf, "--params", f"{key}={name}"])
            assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["work"]


def test_a_list_may_be_typed_in_brackets_between_others() -> None:
    given = read_params("train.image_size=[64, 192],train.fit=pad,seed=3")
    assert given == {"train": {"image_size": [64, 192], "fit": "pad"}, "seed": 3}
