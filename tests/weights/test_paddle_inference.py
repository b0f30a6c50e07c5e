"""Inference archives give the tensors of the .pdparams, by .info or by the program alone."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from paddle_archive_writer import (
    Tiny,
    export,
    info,
    network,
    pdiparams,
    pdmodel,
    pir,
    tar_bytes,
    write_folder,
)

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.models import create
from hgnetv2_pipeline.variants import HGNET_SIZES, VARIANTS
from hgnetv2_pipeline.weights import formula
from hgnetv2_pipeline.weights.build import build_from
from hgnetv2_pipeline.weights.load import load_weights, read_state, write_pdparams
from hgnetv2_pipeline.weights.paddle.graph_names import names_from_program
from hgnetv2_pipeline.weights.paddle.inference import archive_sha256, read_inference, read_variables
from hgnetv2_pipeline.weights.paddle.program import Op, Program, read_pdmodel, read_pir
from hgnetv2_pipeline.weights.places import Wanted

GOLDEN = Path(__file__).parents[1] / "golden" / "paddle_files"
FORMATS = ["pdmodel", "pir"]
NETWORKS = [*VARIANTS, *HGNET_SIZES]


def truth() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "tiny_values.npz"))


def tiny_layout() -> dict[str, dict[str, tuple[int, ...]]]:
    return {"tiny": {name: value.shape for name, value in truth().items()}}


def same(given: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> bool:
    return given.keys() == wanted.keys() and all(
        given[name].dtype == value.dtype and np.array_equal(given[name], value)
        for name, value in wanted.items()
    )


def empty(variant: str, classes: int = 4) -> torch.nn.Module:
    with torch.device("meta"):
        return create.create_model(variant, classes)


def shapes_only(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Arrays of the right shapes that take no memory."""
    from hgnetv2_pipeline.weights.load import paddle_shapes

    return {
        name: np.broadcast_to(np.float32(0), shape) for name, shape in paddle_shapes(model).items()
    }


@pytest.fixture(scope="module")
def b0() -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    model = empty("b0")
    return model, formula.formula_state(model)


# --- files written by Paddle ----------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["tiny_legacy", "tiny_pir"])
@pytest.mark.parametrize("packing", ["folder", "tar"])
def test_paddles_own_files_read_to_their_true_values(folder, packing, tmp_path):
    path = GOLDEN / folder
    if packing == "tar":
        files = {file.name: file.read_bytes() for file in path.iterdir()}
        path = tmp_path / "tiny_infer.tar"
        path.write_bytes(tar_bytes(files))
    assert same(read_inference(path, tiny_layout()), truth())


@pytest.mark.parametrize("folder", ["tiny_legacy", "tiny_pir"])
def test_tensors_of_an_unknown_network_come_under_their_framework_names(folder):
    given = read_variables(GOLDEN / folder)
    assert np.array_equal(given["conv2d_0.w_0"], truth()["conv.weight"])
    assert np.array_equal(given["batch_norm2d_0.w_2"], truth()["bn._variance"])
    assert len(given) == 7


def test_a_network_that_is_none_of_ours_is_named_by_where_it_departs():
    with pytest.raises(
        WeightsError, match=r"after 0 of 7 parameters the program has conv2d_0\.w_0"
    ):
        read_inference(GOLDEN / "tiny_pir")


# --- the writer of these tests against Paddle's files ---------------------------------------------


@pytest.fixture(scope="module")
def tiny_net():
    net = network(Tiny())
    net.nodes.pop()  # the golden network ends without softmax
    variables = {net.framework[name]: value for name, value in truth().items()}
    return net, variables


def test_the_writers_tensors_and_names_are_paddles_byte_for_byte(tiny_net):
    net, variables = tiny_net
    for folder in ("tiny_legacy", "tiny_pir"):
        assert pdiparams(variables) == (GOLDEN / folder / "inference.pdiparams").read_bytes()
    assert info(net) == (GOLDEN / "tiny_legacy" / "inference.pdiparams.info").read_bytes()


def test_the_writers_pir_program_has_paddles_operations_on_the_same_values(tiny_net):
    def outline(data: bytes) -> list:
        block = json.loads(data)["program"]["regions"][0]["blocks"][0]
        ops = [op for op in block["ops"] if op["#"] != "1.fetch"]
        numbered = [op["O"] if isinstance(op["O"], list) else [op["O"]] for op in ops]
        return [
            (op["#"], op["A"] if op["#"] == "p" else None, op.get("I"), [o["%"] for o in out])
            for op, out in zip(ops, numbered, strict=True)
        ]

    golden = (GOLDEN / "tiny_pir" / "inference.json").read_bytes()
    assert outline(pir(*tiny_net)) == outline(golden)


def test_the_writers_pdmodel_has_paddles_parameters_and_operations(tiny_net):
    def outline(program: Program) -> tuple:
        known = [op for op in program.ops if op.kind in ("conv", "batch_norm", "linear", "add")]
        uses = [[v for v in op.inputs if v in program.parameters] for op in known]
        return program.parameters, [op.kind for op in known], uses

    golden = (GOLDEN / "tiny_legacy" / "inference.pdmodel").read_bytes()
    assert outline(read_pdmodel(pdmodel(*tiny_net))) == outline(read_pdmodel(golden))


# --- our ten networks -----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", NETWORKS)
def test_the_program_alone_names_every_tensor_of_the_ten_networks(variant):
    model = empty(variant)
    arrays = shapes_only(model)
    net = network(model, {"conv2d": 211, "linear": 1}, shuffle=5)
    variables = {net.framework[name]: array for name, array in arrays.items()}
    wanted = {variable: name for name, variable in net.framework.items()}
    assert names_from_program(read_pdmodel(pdmodel(net, variables))) == wanted
    assert names_from_program(read_pir(pir(net, variables))) == wanted


def the_archive_equals_the_pdparams(variant: str, folder: Path) -> None:
    model = empty(variant, 3)
    arrays = formula.formula_state(model)
    path = folder / "w.pdparams"
    write_pdparams(path, arrays)
    wanted = read_state(path).tensors
    path.unlink()
    for style in FORMATS:
        for prefix in (None, "base_model."):
            archive = folder / "w_infer.tar"
            archive.write_bytes(tar_bytes(export(model, arrays, style, prefix=prefix)))
            given = read_state(archive)
            assert given.style == "paddle"
            assert given.tensors.keys() == wanted.keys()
            assert all(torch.equal(given.tensors[key], value) for key, value in wanted.items())
            archive.unlink()


def test_the_archive_of_b0_equals_its_pdparams_bit_for_bit(tmp_path):
    the_archive_equals_the_pdparams("b0", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("variant", NETWORKS)
def test_every_archive_equals_its_pdparams_bit_for_bit(variant, tmp_path):
    the_archive_equals_the_pdparams(variant, tmp_path)


def test_logits_from_tar_and_folder_are_those_from_the_pdparams(b0, tmp_path):
    model, arrays = b0
    write_pdparams(tmp_path / "w.pdparams", arrays)
    (tmp_path / "w.tar").write_bytes(tar_bytes(export(model, arrays, "pdmodel")))
    write_folder(tmp_path / "PPHGNetV2_B0_infer", export(model, arrays, "pir"))
    image = torch.from_numpy(np.random.RandomState(1).normal(size=(1, 3, 32, 32)).astype("f4"))
    logits = []
    for name in ("w.pdparams", "w.tar", "PPHGNetV2_B0_infer"):
        loaded, known = build_from(name, num_classes=None, root=tmp_path)
        assert (known["variant"], known["num_classes"], len(known["sha256"])) == ("b0", 4, 64)
        with torch.no_grad():
            logits.append(loaded.eval()(image))
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "shuffle"),
    [({"conv2d": 64, "batch_norm2d": 63, "linear": 1}, 0), ({}, 1), ({"conv2d": 7}, 2)],
    ids=["student built after its teacher", "shuffled", "both"],
)
def test_counters_of_framework_names_do_not_matter(first, shuffle, b0, tmp_path):
    model, arrays = b0
    style = FORMATS[shuffle % 2]
    files = export(model, arrays, style, first=first, shuffle=shuffle)
    assert same(read_inference(write_folder(tmp_path / "x", files)), arrays)


def test_a_distilled_student_is_found_beside_a_teacher_that_only_info_lists(b0, tmp_path):
    model, arrays = b0
    student = network(model, {"conv2d": 90, "batch_norm2d": 90, "linear": 1})
    both = network(model)
    both.framework = {f"Teacher.{name}": v for name, v in both.framework.items()}
    both.framework |= {f"Student.{name}": v for name, v in student.framework.items()}
    assert len(both.framework) == 2 * len(arrays)
    files = export(model, arrays, "pdmodel", first={"conv2d": 90, "batch_norm2d": 90, "linear": 1})
    files["inference.pdiparams.info"] = info(both, "base_model.")
    folder = write_folder(tmp_path / "ssld_infer", files)
    assert set(read_inference(folder)) == {f"Student.{name}" for name in arrays}
    loaded = create.create_model("b0", 4)
    report = load_weights(loaded, folder)
    assert (report.n_tensors, report.sha256) == (len(arrays), archive_sha256(folder))
    with pytest.raises(WeightsError, match="without a teacher"):
        read_state(folder, Wanted("teacher"))


def test_info_without_a_name_or_with_one_twice_is_refused(tmp_path):
    files = export(Tiny(), truth(), "pdmodel", prefix="")
    net = network(Tiny())
    variable = net.framework.pop("fc.bias")
    folder = write_folder(tmp_path / "x", files | {"inference.pdiparams.info": info(net)})
    with pytest.raises(WeightsError, match=rf"info is refused: it has no .* name for {variable}"):
        read_inference(folder)
    net.framework["base_model.bn.bias"] = variable
    write_folder(folder, {"inference.pdiparams.info": info(net)})
    with pytest.raises(WeightsError, match=r"are both bn\.bias"):
        read_inference(folder)


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("kind", ["<f2", "<u2"], ids=["float16", "bfloat16"])
def test_half_precision_archives_keep_their_type(kind, style, tmp_path):
    given = {name: value.astype("f2").view(kind) for name, value in truth().items()}
    folder = write_folder(tmp_path / "x", export(Tiny(), given, style))
    assert same(read_inference(folder, tiny_layout()), given)


def changed(program: Program, index: int, op: Op | None) -> Program:
    ops = list(program.ops)
    ops[index : index + 1] = [op] if op else []
    return Program(program.parameters, ops)


def test_programs_whose_order_or_use_of_parameters_is_unclear_are_refused():
    program = read_pdmodel((GOLDEN / "tiny_legacy" / "inference.pdmodel").read_bytes())
    at = {op.kind: index for index, op in enumerate(program.ops)}
    conv, bn, add = (program.ops[at[kind]] for kind in ("conv", "batch_norm", "add"))
    loose = Op("batch_norm", ("x", *bn.inputs[1:]), bn.outputs)
    swapped = Op("batch_norm", (bn.inputs[1], bn.inputs[0], *bn.inputs[2:]), bn.outputs)
    for broken, reason in [
        (changed(program, at["batch_norm"], loose), r"ambiguous which comes first, conv2d_0\.w_0"),
        (changed(program, at["batch_norm"], swapped), "batch_norm uses .* in an unknown way"),
        (changed(program, at["add"], None), r"never uses its parameter linear_0\.b_0"),
        (changed(program, at["add"], Op("gelu", add.inputs, add.outputs)), "gelu uses linear_0"),
        (
            changed(program, at["add"], Op("add", (add.inputs[0], "batch_norm2d_0.b_0"), ("y",))),
            r"batch_norm2d_0\.b_0 is used twice",
        ),
        (changed(program, at["conv"], Op("conv", conv.inputs[::-1], conv.outputs)), "conv uses"),
    ]:
        with pytest.raises(ValueError, match=reason):
            names_from_program(broken, tiny_layout())


def test_tensors_of_equal_shape_in_another_role_do_not_pass_for_each_other():
    program = read_pdmodel((GOLDEN / "tiny_legacy" / "inference.pdmodel").read_bytes())
    layout = {"tiny": dict(sorted(tiny_layout()["tiny"].items()))}  # BN in the wrong order
    with pytest.raises(ValueError, match="fits no known network"):
        names_from_program(program, layout)


# --- places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT],
    ids=["ustar", "gnu", "pax"],
)
@pytest.mark.parametrize("folder", ["", ".", "a/" * 60 + "ümlaut"], ids=["bare", "dot", "long"])
def test_every_common_form_of_tar_is_read_in_place(kind, folder, tmp_path):
    if kind == tarfile.USTAR_FORMAT and len(folder) > 100:
        folder = "b" * 90  # what the oldest form has room for
    files = {file.name: file.read_bytes() for file in (GOLDEN / "tiny_legacy").iterdir()}
    files |= {"._inference.pdmodel": b"of another system", "inference.yml": b"Global: {}"}
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes(files, folder, kind))
    assert same(read_inference(path), truth())
    assert list(tmp_path.iterdir()) == [path]


def test_the_hash_of_a_folder_follows_its_content_alone(tmp_path):
    files = {file.name: file.read_bytes() for file in (GOLDEN / "tiny_pir").iterdir()}
    one = write_folder(tmp_path / "one", files)
    other = write_folder(tmp_path / "other", files | {"readme.txt": b"x"})
    assert archive_sha256(one) == archive_sha256(other) == archive_sha256(GOLDEN / "tiny_pir")
    write_folder(other, {"inference.json": files["inference.json"] + b"\n"})
    assert archive_sha256(one) != archive_sha256(other)
