"""``hgnetv2 models``, ``inspect`` and ``export-weights`` as typed: what they say, how they end."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from hgnetv2_pipeline.commands.main import main
from hgnetv2_pipeline.durable import sha256_file
from hgnetv2_pipeline.models import create
from hgnetv2_pipeline.weights import styles
from hgnetv2_pipeline.weights.load import read_metadata, read_state, save_weights, to_paddle
from hgnetv2_pipeline.weights.load import write_pdparams as write
from hgnetv2_pipeline.weights.zoo import ZOO


@pytest.fixture(scope="module")
def b0() -> torch.nn.Module:
    torch.manual_seed(0)
    return create.create_model("b0", 12).eval()


@pytest.fixture(scope="module")
def run(b0: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder, with the metadata a run writes."""
    folder = tmp_path_factory.mktemp("run")
    metadata = {
        "variant": "b0",
        "stage": "ssld_stage1",
        "classes": json.dumps([f"class {number}" for number in range(12)]),
        "preprocess": json.dumps({"resize_short": 236}),
    }
    save_weights(folder / "student.safetensors", b0, metadata)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def hgnetv2(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def said(*arguments: object) -> str:
    done = hgnetv2(*arguments)
    assert done.exit_code == 0, done.output
    return done.output


# --- models ---------------------------------------------------------------------------------------


def test_models_shows_cost_accuracy_and_the_state_of_every_file(here, b0):
    weights = here / "weights"
    good, changed, unknown = (ZOO[f"b0.{stage}"].filename for stage in (
        "ssld_stage1", "ssld_stage2", "ssld_stage2_inference"))  # fmt: skip
    for name in (good, changed, unknown):
        weights.mkdir(exist_ok=True)
        (weights / name).write_bytes(b"x" * 250_000)
    digest = sha256_file(weights / good)
    (weights / f"{good}.sha256").write_text(f"{digest}  {good}\n")
    (weights / f"{changed}.sha256").write_text(f"{'0' * 64}  {changed}\n")
    lines = said("models").splitlines()
    assert len(lines) == len(ZOO) + 2
    assert lines[0].split() == [
        "name", "params", "GMACs", "top-1", "top-5", "timm", "V100", "ms", "weights",
    ]  # fmt: skip
    assert lines[1].split()[:7] == [
        "b0.ssld_stage1", "6.00M", "0.32", "-", "-", "76.87", "0.52",
    ]  # fmt: skip
    assert max(map(len, lines[:-1])) <= 80
    assert [line.rpartition("  ")[2] for line in lines[1:5]] == ["ok", "DIFFERS", "no hash", "-"]
    assert lines[2].split()[3:7] == ["77.77", "93.91", "77.36", "0.52"]
    assert lines[-1] == f"3 of {len(ZOO)} files are in {weights}; checked by SHA-256"
    with_urls = said("models", "--urls")
    assert all(entry.url in with_urls for entry in ZOO.values())


def test_models_as_json_under_a_budget_of_milliseconds(here):
    rows = json.loads(said("models", "--json", "--max-ms", 1))
    fast = [each.name for each in ZOO.values() if (each.latency_v100_ms or 9) <= 1]
    assert [row["name"] for row in rows] == fast and len(fast) == 9
    assert rows[1]["top1"] == ZOO["b0.ssld_stage2"].top1 and rows[1]["weights"] is None
    assert len(json.loads(said("models", "--json"))) == len(ZOO)


# --- inspect --------------------------------------------------------------------------------------


def test_inspect_knows_a_run_and_shortens_its_class_names(run):
    text = said("inspect", run)
    assert str(run / "student.safetensors") in text
    assert "format      safetensors\n" in text
    assert f"sha256      {sha256_file(run / 'student.safetensors')}\n" in text
    assert "classes: 12: class 0, class 1, class 2, class 3, ... class 11\n" in text
    assert 'preprocess: {"resize_short": 236}\n' in text
    assert "network     b0, ours names (this project)\n" in text
    assert "275 tensors, 3,972,138 parameters, 12 classes\n" in text
    assert "loads       yes\n" in text
    assert "stem.stem1.conv.weight" not in text
    assert "stem.stem1.conv.weight" in said("inspect", run, "--tensors")


def test_inspect_as_json_is_one_object_with_every_tensor(run):
    facts = json.loads(said("inspect", run, "--json"))
    assert len(facts["tensors"]) == 275
    network = facts["networks"][0]
    assert (network["variant"], network["num_classes"], network["loads"]) == ("b0", 12, "yes")
    row = next(r for r in facts["tensors"] if r["name"] == "fc.weight")
    assert row == {"name": "fc.weight", "shape": [12, 2048], "dtype": "float32", "nonfinite": 0}


def test_inspect_counts_what_is_not_finite_where_loading_would_refuse(here, b0):
    arrays = {key: value.copy() for key, value in to_paddle(b0).items()}
    arrays["fc.bias"][:3] = np.nan
    write(here / "w.pdparams", arrays, 3)
    text = said("inspect", "w.pdparams")
    assert "format      Paddle state dict, pickle protocol 3\n" in text
    assert "not finite  fc.bias: 3 values\n" in text
    assert "loads       no: fc.bias contains NaN or infinite values\n" in text


def test_inspect_shows_both_networks_of_a_distillation_and_a_detectors_backbone(here, b0):
    state = b0.state_dict()
    both = {f"{part}.{key}": v for part in ("Teacher", "Student") for key, v in state.items()}
    torch.save(both, "both.pth")
    text = said("inspect", "both.pth")
    assert "b0, below Teacher., ours names" in text
    assert "b0, below Student., ours names" in text
    named, _ = styles.to_theirs(state, styles.style_for("dfine", state))
    backbone = {f"backbone.{key}": value for key, value in named.items()}
    torch.save({"ema": {"module": backbone}, "last_epoch": 3}, "detector.pth")
    text = said("inspect", "detector.pth")
    assert "b0, below backbone., dfine names (D-FINE, DEIM)" in text
    assert "no fc" in text
    assert "loads       with head: reinit" in text
    assert "also holds  last_epoch\n" in text


def test_inspect_reads_training_states_and_strangers(here):
    velocity = {"conv2d_0.w_0_velocity_0": ("conv2d_0.w_0_velocity_0", np.ones(4, np.float32)),
                "StructuredToParameterName@@": {"conv.weight": "conv2d_0.w_0"}}  # fmt: skip
    Path("w.pdopt").write_bytes(pickle.dumps([velocity, {"LR_Scheduler": {"last_epoch": 2}}], 4))
    text = said("inspect", "w.pdopt", "--tensors")
    assert "format      Paddle optimiser state, pickle protocol 4\n" in text
    assert "  0.conv2d_0.w_0_velocity_0" in text
    assert "also holds  1.LR_Scheduler.last_epoch = 2\n" in text
    assert "none of ours" not in text
    torch.save({"conv1.weight": torch.zeros(2, 2, dtype=torch.bfloat16)}, "other.pth")
    text = said("inspect", "other.pth")
    assert "tensors     1 (bfloat16)\n" in text
    assert "none of ours" in text


def test_inspect_reads_the_metadata_of_an_onnx_file(here):
    import onnx
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1], [2.0])
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1]) for n in "xy"]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weight])
    model = helper.make_model(graph)
    helper.set_model_props(model, {"variant": "b0"})
    onnx.save(model, "m.onnx")
    text = said("inspect", "m.onnx")
    assert "format      ONNX\n" in text
    assert "metadata    variant: b0\n" in text
    assert "tensors     1 (float32)\n" in text


def test_inspect_reads_weights_in_constant_nodes_of_an_onnx_file(here):
    """W8: paddle2onnx keeps them there, and no initialiser at all."""
    import onnx
    from onnx import TensorProto, helper

    weight = helper.make_tensor("", TensorProto.FLOAT, [1, 2], [2.0, float("nan")])
    shape = helper.make_tensor("", TensorProto.INT64, [2], [1, 2])
    nodes = [
        helper.make_node("Constant", [], ["conv_w"], value=weight),
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("MatMul", ["x", "conv_w"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y])), "m.onnx")
    text = said("inspect", "m.onnx", "--tensors")
    assert "tensors     1 (float32)\n" in text
    assert "not finite  conv_w: 1 values\n" in text


def test_inspect_lists_the_keys_of_networks_and_looks_below_the_one_that_is_said(here, b0):
    state = {key: value.half() for key, value in b0.state_dict().items()}
    wrapped = {f"model.{key}": value for key, value in state.items()}
    extra = wrapped | {"loss.weight": torch.ones(2)}
    torch.save({"state_dict": extra, "state_dict_ema": state, "epoch": 3}, "last.ckpt")
    text = said("inspect", "last.ckpt")
    assert "format      PyTorch checkpoint\n" in text
    assert "below       state_dict_ema\n" in text
    assert "networks    below the keys state_dict, state_dict_ema\n" in text
    assert "also holds  state_dict, epoch\n" in text
    text = said("inspect", "last.ckpt", "--key", "state_dict", "--prefix", "model.")
    assert "below       state_dict\n" in text
    assert "network     b0, below model., ours names" in text
    assert "also holds  loss.weight, state_dict_ema, epoch\n" in text
    done = hgnetv2("inspect", "last.ckpt", "--key", "ema")
    assert done.exit_code == 4
    assert "no dict below the key 'ema'; networks are below state_dict, " in done.output
    said("export-weights", "last.ckpt@key=state_dict@prefix=model.", "--style", "paddle",
         "--out", "w.pdparams")  # fmt: skip
    assert read_state(Path("w.pdparams")).tensors["fc.bias"].shape == (12,)


class Attack:
    def __reduce__(self):
        import os

        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("evil.pdparams", pickle.dumps({"w": Attack()}, 4), "posix.system"),
        ("evil.pdopt", pickle.dumps(Attack(), 4), "posix.system"),
        ("page.pdparams", b"<html>not found</html>", "web page"),
        ("cut.safetensors", b"\x10\0\0\0\0\0\0\0{", "not a whole safetensors file"),
        ("evil.pth", pickle.dumps({"w": Attack()}, 2), "posix.system"),
        ("page.onnx", b"<html>not found</html>", "not a whole ONNX file"),
        ("empty.onnx", b"", "it holds no graph"),
        ("notes.txt", b"hello", "is no weight file: read are"),
        ("absent.pth", None, "no weight file at"),
        ("absent.onnx", None, "no such model file"),
    ],
)
def test_inspect_ends_with_4_and_the_reason_and_runs_nothing(name, content, reason, here):
    if content is not None:
        Path(name).write_bytes(content)
    done = hgnetv2("inspect", name)
    assert done.exit_code == 4
    assert reason in done.output
    assert name in done.output
    assert "Traceback" not in done.output
    assert not Path("executed").exists()


# --- export-weights -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "name"),
    [
        ("paddle", "b0.pdparams"),
        ("timm", "b0.safetensors"),
        ("dfine", "b0.pth"),
        ("rtdetr", "b0.pth"),
        ("transformers", "b0.safetensors"),
        ("ours", "b0.safetensors"),
    ],
)
def test_export_weights_writes_every_style_and_says_what_to_know(style, name, run, here, b0):
    text = said("export-weights", run, "--style", style, "--out", name)
    read = read_state(Path(name))
    assert read.style == style
    state = b0.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in read.tensors.items())
    assert f"wrote {name}: {len(read.tensors)} tensors ({style} names" in text
    backbone = style in ("dfine", "rtdetr", "transformers")
    assert ("without last_conv, lab, fc, which it has no place for" in text) == backbone
    assert ("pads the 2x2 max-pool with zeros" in text) == (style not in ("paddle", "ours"))
    assert ("set use_lab: True there" in text) == (style in ("dfine", "rtdetr"))


def test_export_of_ours_keeps_what_is_known_of_the_weights(run, here):
    said("export-weights", run, "--style", "ours", "--out", "again.safetensors")
    metadata = read_metadata(Path("again.safetensors"))
    assert json.loads(metadata["classes"])[11] == "class 11"
    assert json.loads(metadata["preprocess"]) == {"resize_short": 236}
    assert (metadata["variant"], metadata["stage"]) == ("b0", "ssld_stage1")
    assert sha256_file(run / "student.safetensors") in metadata["inputs"]


def test_the_protocol_reaches_the_file(run, here):
    said("export-weights", run, "--style", "paddle", "--out", "w.pdparams", "--protocol", 2)
    assert Path("w.pdparams").read_bytes()[:2] == b"\x80\x02"


def test_export_weights_takes_a_published_name_from_the_weights_folder(here, b0):
    write(here / "weights" / ZOO["b0.ssld_stage1"].filename, to_paddle(b0))
    text = said("export-weights", "b0.ssld_stage1", "--style", "rtdetr", "--out", "b0.pth")
    assert "RT-DETR itself has b4, b5 and b6" in text


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("RUN", "--style", "dfin", "--out", "w.pth"), 2, "did you mean 'dfine'"),
        (("RUN", "--style", "dfine", "--out", "w.onnx"), 2, "weights of dfine are written to .pth"),
        (("RUN", "--style", "paddle", "--out", "w.pdparams", "--protocol", "7"), 2, "protocol 7"),
        (("timm:resnet18", "--style", "timm", "--out", "w.pth"), 2, "timm's own network"),
        (("absent.pth", "--style", "timm", "--out", "w.pth"), 4, "no weight file or run at"),
        (("b4.ssld_stage1", "--style", "timm", "--out", "w.pth"), 4, "are not here"),
        (("scratch:hgnet_tiny", "--style", "dfine", "--out", "w.pth"), 4, "has no PPHGNet"),
    ],
)
def test_export_weights_refuses_by_name_and_writes_nothing(arguments, code, reason, run, here):
    done = hgnetv2("export-weights", *(run if word == "RUN" else word for word in arguments))
    assert done.exit_code == code, done.output
    assert reason in done.output
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("command", ["models", "inspect", "export-weights"])
def test_help_shows_a_command_to_copy(command):
    assert f"  hgnetv2 {command}" in said(command, "--help")


@pytest.mark.parametrize(
    ("archive", "named"), [("tiny_pir", "conv2d_0.w_0"), ("tiny_legacy", "conv.weight")]
)
def test_an_inference_archive_of_another_network_is_looked_into(archive: str, named: str) -> None:
    folder = Path(__file__).parents[1] / "golden" / "paddle_files" / archive
    facts = json.loads(said("inspect", folder, "--json"))
    assert named in {tensor["name"] for tensor in facts["tensors"]}
    assert len(facts["sha256"]) == 64 and not facts["networks"]
    assert "none of ours" in said("inspect", folder)


def test_a_damaged_inference_archive_is_refused(tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "golden" / "paddle_files" / "tiny_pir"
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = tmp_path / "inference.pdiparams"
    tensors.write_bytes(tensors.read_bytes()[:-3])
    done = hgnetv2("inspect", tmp_path)
    assert done.exit_code == 4 and "inference.pdiparams" in done.output
