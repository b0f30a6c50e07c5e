"""A typo, a wrong type or a wrong variant stops before any node, in one line that helps."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kedro.config import OmegaConfigLoader

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.project.config_loader import ProjectConfigLoader
from hgnetv2_pipeline.project.given import read_params
from hgnetv2_pipeline.project.identity import FOLDERS, model_id
from hgnetv2_pipeline.variants import VARIANTS
from run_params import ROOT, loader, parameters


@pytest.mark.parametrize("env", ["sample", "imagenet"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_validates_in_every_environment(env: str, variant: str) -> None:
    assert parameters(env, variant=variant)["variant"] == variant


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"varient": "b4"}, "'varient' .did you mean 'variant'"),
        ({"fit": "pad"}, r"'fit'; choose one of training.fit .for all trainings., ssld_stage1.fit"),
        ({"root": "x"}, r"unknown parameter 'root'; choose one of data.root .--params data.root="),
        ({"ssld_stage1": {"lrr": 1}}, "ssld_stage1: 'lrr'|parameter of ssld_stage1 'lrr'"),
        ({"variant": "b7"}, "variant 'b7'.*b0, b1, b2, b3, b4, b5, b6"),
        ({"ssld_stage1": {"lr": "fast"}}, "ssld_stage1.lr = 'fast'"),
        ({"ssld_stage1": {"lr": -1}}, "ssld_stage1.lr = -1"),
        ({"ssld_stage1": {"loss": {"name": "mse"}}}, "ssld_stage1.loss.name = 'mse'"),
        ({"train": {"steps": 0}}, "train.steps = 0"),
        ({"data": {"alpha": "wite"}}, "'wite' .did you mean 'white'.*drop, white, black, grey"),
        (
            {"data": {"alpha": "1+2+300"}},
            r"\[1, 2, 300\].*0 to 255.*data.alpha; drop, white",
        ),
        ({"data": {"alpha": None}}, "None; choose one of drop, white, black, grey"),
        ({"split": "tset"}, "split = 'tset'.*'train', 'val' or 'test'"),
        ({"seed": "one"}, "seed 'one'"),
        ({"run": "../../x"}, r"run: '\.\./\.\./x'"),
        ({"dataset": "/etc"}, "dataset: '/etc'"),
        ({"device": "tpu"}, "device = 'tpu'"),
        (
            {"distributed": {"nproc_per_node": 0}},
            r"distributed.nproc_per_node = 0: input should be greater than 0, or .*'auto' "
            r"\(--params distributed.nproc_per_node=",
        ),
        ({"redo": "mining+mining"}, "redo = .*twice"),
        ({"model": "../x/y"}, "model '../x/y'"),
        ({"export": {"precisions": "fp32+int4"}}, "export.precisions = 'int4'.*'fp16'"),
        ({"export": {"opset": 21}}, "export.opset = 21"),
        ({"latency": {"engines": "ort+orrt"}}, "latency.engines = 'orrt'.*'ort-cuda'"),
        ({"latency": {"engines": ""}}, "latency.engines = .*at least 1"),
        ({"latency": {"precisions": "fp31"}}, "latency.precisions = 'fp31'.*'tf32'"),
        ({"latency": {"batch_sizes": "1+0"}}, "latency.batch_sizes = '?0"),
        ({"latency": {"batch_sizes": ""}}, "latency.batch_sizes = .*at least 1"),
        ({"prediction": {"engine": "onnx"}}, "prediction.engine = 'onnx'.*'auto', 'tensorrt'"),
        ({"export": {"tensorrt": {"least": 4}}}, "export.tensorrt: 4, 1, 16 must not fall"),
        ({"export": {"gate": {"max_drop": {"int4": 1}}}}, "export.gate.max_drop.int4"),
        ({"mining": {"deduplicate": {"channels": "bytes+name"}}}, "'name' and name_pattern go"),
        ({"mining": {"deduplicate": {"channels": "bytes+sift"}}}, "channels.* = 'sift'"),
        ({"mining": {"deduplicate": {"auto_max": 11}}}, "auto_max 11 is above verify_max 10"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ParameterError, match=named) as caught:
        chosen = loader(**given)
        chosen["parameters"]
        _ = chosen.identity.model_id
    assert "\n" not in str(caught.value)


def test_lists_are_joined_by_plus_on_the_command_line() -> None:
    found = parameters(redo="mining+ssld_stage1", comparison={"stage1_seeds": "1+2"})
    assert found["redo"] == ["mining", "ssld_stage1"]
    assert found["comparison"]["stage1_seeds"] == [1, 2]


# Row G04 of docs/reliability.md.
def test_code_in_a_parameter_stays_a_string() -> None:
    found = parameters(images="__import__('os').getcwd()")
    assert found["images"] == ["__import__('os').getcwd()"]


@pytest.mark.parametrize("name", ["B4", "hgnetv2_b4", "PPHGNetV2_B4", "pphgnetv2_b4"])
def test_other_names_of_a_variant_lead_to_the_same_paths(name: str) -> None:
    """W12 of the findings about weights: names are made ours before any path is made of them."""
    conf, ours = loader(variant=name), loader(variant="b4")
    assert conf["parameters"]["variant"] == "b4"
    assert conf["catalog"] == ours["catalog"]
    assert read_params(f"variant={name},seed=3") == {"variant": "b4", "seed": 3}
    assert model_id(f"scratch:{name}") == "scratch/b4"
    assert model_id("best.ckpt@key=ema@prefix=m.") == "file/best.ckpt_key=ema_prefix=m."
    assert parameters(train_teacher={"arch": name})["train_teacher"]["arch"] == "b4"


@pytest.mark.parametrize("variant", ["b0", "b4"])
def test_catalog_and_nodes_agree_on_every_path(variant: str) -> None:
    conf = loader(variant=variant, seed=3)
    folders = {name: str(conf.identity.folder(name)) for name in FOLDERS}
    for name, entry in conf["catalog"].items():
        path = entry.get("filepath")
        assert path is None or any(path.startswith(folder) for folder in folders.values()), name
    assert conf["catalog"]["ssld_stage1.run"]["filepath"] == folders["ssld_stage1"]
    assert folders["ssld_stage1"].endswith(f"sample/ssld_stage1/{variant}/seed=3")


def test_a_variant_set_where_paths_do_not_see_it_is_refused(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    file = tmp_path / "conf" / "sample" / "parameters.yml"
    file.write_text(file.read_text() + "\nvariant: b4\n")
    with pytest.raises(ParameterError, match="variant='b4'.*'b0'.*globals.yml"):
        loader(conf=tmp_path / "conf")["parameters"]


# Row G05 of docs/reliability.md.
def test_nothing_in_the_configuration_reads_the_environment() -> None:
    assert issubclass(ProjectConfigLoader, OmegaConfigLoader)
    for path in (ROOT / "conf").rglob("*.yml"):
        assert "oc.env" not in path.read_text(encoding="utf-8"), path


def test_the_default_variant_lives_once() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "conf").glob("*/*.yml"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("variant: b")
    ]
    assert found == ["conf/base/globals.yml"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("ssld_stage2/b0/seed=0", "ssld_stage2/b0/seed=0"),
        ("b4.ssld_stage2", "zoo/b4.ssld_stage2"),
        ("timm:resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("/somewhere/my weights.pdparams", "file/my_weights.pdparams"),
    ],
)
def test_a_model_has_a_place_for_results_about_it(model: str, expected: str) -> None:
    assert model_id(model) == expected


@pytest.mark.parametrize(
    ("given", "found"),
    [("white", "white"), ("255+0+10", [255, 0, 10]), ([1, 2, 3], [1, 2, 3]), ("drop", "drop")],
)
def test_the_treatment_of_transparency_is_a_name_or_a_colour(given: Any, found: Any) -> None:
    assert parameters(data={"alpha": given})["data"]["alpha"] == found
    assert parameters()["data"]["alpha"] == "drop"


def messages() -> Iterator[tuple[Path, str]]:
    """The sentences in the code that are no docstrings, with their files."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        documented = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and " " in text and id(node) not in documented:
                yield path, text


def test_a_parameter_that_a_message_names_exists() -> None:
    """Who is told to set something must find it."""
    tree = parameters("sample")
    blocks = [name for name, value in tree.items() if isinstance(value, dict)]
    named = re.compile(rf"(?<![\w./])({'|'.join(blocks)})\.([a-z_.]*[a-z_])(?![\w(/])")
    found = 0
    for path, text in messages():
        for block, rest in named.findall(text):
            if rest.rpartition(".")[2] in ("json", "csv", "pkl", "parquet", "db"):  # a file
                continue
            place = tree[block]
            for part in rest.split("."):
                assert isinstance(place, dict) and part in place, f"{path}: {block}.{rest}"
                place = place[part]
            found += 1
    assert found > 50


def test_whoever_names_an_augmentation_starts_from_its_own_values(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf)
    path = conf / "sample" / "parameters.yml"
    text = path.read_text(encoding="utf-8")
    changed = (
        "train:\n  <<: *recipe\n  augment: {name: published, scale: [0.35, 1.0], randaugment: null}"
    )
    path.write_text(text.replace("train:\n  <<: *recipe", changed, 1), encoding="utf-8")
    seen = [
        loader(conf=conf, **given)["parameters"]["train"]["augment"]
        for given in (
            {},
            {"train": {"augment": {"mirror": 0.0}}},
            {"train": {"augment": {"name": "published"}}},
            {"train": {"augment": {"name": "affine", "degrees": 5}}},
        )
    ]
    kept = {"name": "published", "scale": [0.35, 1.0], "randaugment": None}
    assert kept.items() <= seen[0].items()
    assert (kept | {"mirror": 0.0}).items() <= seen[1].items()
    assert seen[2].get("scale") != [0.35, 1.0]
    assert (seen[3]["name"], seen[3]["degrees"]) == ("affine", 5)
    assert "randaugment" not in seen[3]
