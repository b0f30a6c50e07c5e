"""Checkpoints as other people's training programs write them: read as they are, or refused with a
way forward. W5, W7, W9 of the findings about weights; W09 of the fault table for what is hostile.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import pathlib
import pickle
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.models import create
from hgnetv2_pipeline.weights import build, source_names, styles
from hgnetv2_pipeline.weights.inspect import inspect_file
from hgnetv2_pipeline.weights.load import (
    LoadReport,
    load_weights,
    read_file,
    read_state,
    save_weights,
    to_paddle,
    write_pdparams,
)
from hgnetv2_pipeline.weights.places import Wanted, as_typed, said_of, split_spec

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def b0(filled: Callable[..., nn.Module]) -> nn.Module:
    return filled("b0")


@pytest.fixture(scope="module")
def good(b0: nn.Module) -> State:
    """The network in timm's names, in half precision, which makes small files."""
    state, _ = styles.to_theirs(b0.state_dict(), styles.style_for("timm", b0.state_dict()))
    return {key: value.half() if value.ndim else value for key, value in state.items()}


@pytest.fixture(scope="module")
def empty(good: State) -> State:
    """Another network of the same names: nothing but zeros."""
    return {key: torch.zeros_like(value) for key, value in good.items()}


def below(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def is_good(path: Path, b0: nn.Module, **wanted: Any) -> LoadReport:
    """The report of loading, which gave the good network and no other."""
    model = create.create_model("b0", 3)
    report = load_weights(model, path, **wanted)
    last = model.stages[3].blocks[0].layers[0].conv2.conv.weight
    assert torch.equal(last, b0.stages[3].blocks[0].layers[0].conv2.conv.weight.half().float())
    assert torch.equal(model.fc.bias, b0.fc.bias.half().float())
    return report


# --- what kind of file it is ----------------------------------------------------------------------

ENDINGS = ["model_best.pth.tar", "last.ckpt", "pytorch_model.bin", "w.pt", "w.safetensors", "w"]


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("name", ENDINGS)
def test_the_content_says_that_it_is_a_checkpoint_whatever_it_is_called(name, archive, tmp_path):
    state = {"w": torch.arange(3.0)}
    torch.save({"state_dict": state}, tmp_path / name, _use_new_zipfile_serialization=archive)
    assert torch.equal(read_file(tmp_path / name).tensors["w"], state["w"])


@pytest.mark.parametrize("name", [*ENDINGS, "w.pth"])
def test_safetensors_and_paddles_pickles_are_known_by_content_too(name, tmp_path):
    save_weights(tmp_path / name, {"w": torch.arange(3.0)}, {"stage": "x"})
    assert read_file(tmp_path / name).metadata == {"stage": "x"}
    write_pdparams(tmp_path / "p.pdparams", {"w": np.arange(3, dtype=np.float32)})
    (tmp_path / "p.pdparams").rename(tmp_path / name)
    assert read_file(tmp_path / name).tensors["w"].tolist() == [0, 1, 2]


def test_one_file_of_an_unpacked_inference_model_stands_for_all_of_them(tmp_path):
    source = Path(__file__).parents[1] / "golden" / "paddle_files" / "tiny_legacy"
    whole = read_file(source)
    for path in sorted(source.iterdir()):
        assert read_file(path).tensors.keys() == whole.tensors.keys(), path
        other = tmp_path / path.name.replace("inference", "model")  # as PaddleDetection calls them
        other.write_bytes(path.read_bytes())
    found = read_file(tmp_path / "model.pdiparams").tensors
    assert all(torch.equal(found[key], value) for key, value in whole.tensors.items())
    (tmp_path / "model.pdmodel").unlink()
    with pytest.raises(WeightsError, match=r"no inference model: it needs inference\.pdiparams"):
        read_file(tmp_path / "model.pdiparams")


# --- where the network lies -----------------------------------------------------------------------

BESIDE = {"epoch": 3, "arch": "hgnetv2_b0", "optimizer": {"state": {0: {"step": 1}}}}
PLACES: dict[str, tuple[Callable[[State, State], Any], str, bool]] = {
    # what the file holds, given the right network and another; where it was read, averaged or not
    "timm": (lambda s, o: {"state_dict": s, **BESIDE}, "state_dict", False),
    "timm with ema": (lambda s, o: {"state_dict": o, "state_dict_ema": s}, "state_dict_ema", True),
    "tutorial": (lambda s, o: {"model_state_dict": s, "optimizer_state_dict": {}},
                 "model_state_dict", False),
    "model_state": (lambda s, o: {"model_state": s, **BESIDE}, "model_state", False),
    "net": (lambda s, o: {"net": s, "acc": 71.2}, "net", False),
    "weights": (lambda s, o: {"weights": s}, "weights", False),
    "BasicSR": (lambda s, o: {"params": o, "params_ema": s}, "params_ema", True),
    "torchvision": (lambda s, o: {"model": o, "model_ema": below("module.", s)
                                  | {"n_averaged": torch.tensor(9)}}, "model_ema", True),
    "ema_state_dict": (lambda s, o: {"state_dict": o, "ema_state_dict": s}, "ema_state_dict", True),
    "D-FINE": (lambda s, o: {"model": o, "ema": {"module": s, "updates": 3}}, "ema.module", True),
    "DeepSpeed": (lambda s, o: {"module": s, "lr_scheduler": None}, "module", False),
    "a key of nobody's": (lambda s, o: {"my_net": s, "lr": 0.1}, "my_net", False),
    "three deep": (lambda s, o: {"a": {"b": {"c": s}}, "lr": 0.1}, "a.b.c", False),
    "distillation": (lambda s, o: {"teacher": o, "student": s}, "student", False),
    "a number among the tensors": (lambda s, o: {**s, "epoch": 3}, "", False),
    "nothing round it": (lambda s, o: s, "", False),
    "averaged by torch": (lambda s, o: below("module.", s) | {"n_averaged": torch.tensor(4)},
                          "", False),
    "counted by thop": (lambda s, o: s | {"total_ops": torch.zeros(1, dtype=torch.float64),
                                          "stem.stem1.total_params": torch.zeros(1)}, "", False),
    "Lightning": (lambda s, o: {"state_dict": below("model.", s), "epoch": 1}, "state_dict", False),
    "Lightning with a loss": (lambda s, o: {"state_dict": below("model.", s)
                                            | {"criterion.weight": torch.ones(10)}},
                              "state_dict", False),
    "Lightning with ema": (lambda s, o: below("model.", o) | below("ema_model.", s), "ema_model.",
                           True),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_a_network_is_found_wherever_training_programs_put_it(name, good, empty, b0, tmp_path):
    make, place, averaged = PLACES[name]
    path = tmp_path / "w.pth"
    torch.save(make(good, empty), path)
    report = is_good(path, b0)
    assert report.below == (f"{place}, the averaged weights" if averaged else place)
    assert (f"; from {place}" in str(report)) == bool(place)


def test_what_timms_own_saver_writes_is_read(b0, good, tmp_path):
    """``train.py`` keeps its arguments, an optimiser and averaged weights in one file."""
    import timm
    from timm.utils import CheckpointSaver, ModelEmaV3

    model = timm.create_model("hgnetv2_b0", num_classes=3)
    ema = ModelEmaV3(model)
    ema.module.load_state_dict({key: value.float() for key, value in good.items()})
    saver = CheckpointSaver(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        args=argparse.Namespace(model="hgnetv2_b0", lr=0.1, output=Path("out"), amp=None),
        model_ema=ema,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
        max_history=1,
    )
    saver.save_checkpoint(epoch=3, metric=np.float64(71.2))
    report = is_good(tmp_path / "model_best.pth.tar", b0)
    assert report.below == "state_dict_ema, the averaged weights"
    assert {"state_dict", "args", "metric", "optimizer"} <= set(report.ignored)


def test_what_is_not_read_is_named(good, empty, b0, tmp_path):
    content = {"state_dict": below("model.", good) | {"criterion.weight": torch.ones(2)},
               "callbacks": {}, "total": 3}  # fmt: skip
    torch.save(content, tmp_path / "w.ckpt")
    assert is_good(tmp_path / "w.ckpt", b0).ignored == ("criterion.weight", "callbacks", "total")
    torch.save(good | {"total_ops": torch.zeros(1), "epoch": 3}, tmp_path / "w.pth")
    assert is_good(tmp_path / "w.pth", b0).ignored == ("total_ops", "epoch")


def test_two_networks_without_a_rule_are_listed_and_a_key_chooses(good, empty, b0, tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"left": empty, "right": {"net": good}, "epoch": 3}, path)
    with pytest.raises(
        WeightsError, match=r"holds 2 networks; networks are below left, right\.net"
    ):
        read_state(path)
    assert is_good(path, b0, key="right.net").below == "right.net"
    assert is_good(path, b0, key="right.net").ignored == ("left", "epoch")
    with pytest.raises(WeightsError, match="no dict below the key 'middle'; networks are below"):
        read_state(path, Wanted(key="middle"))
    torch.save({"a.b": good, "a": {"b": empty}}, path)  # a key may have a dot itself
    is_good(path, b0, key="a.b")


def test_two_prefixes_without_a_rule_are_listed_and_a_prefix_chooses(good, empty, b0, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(below("left.", empty) | below("right.net.", good), path)
    with pytest.raises(WeightsError, match=r"2 networks, below 'left\.', 'right\.net\.': .*prefix"):
        read_state(path)
    for prefix in ("right.net.", "right.net", "right"):
        assert len(is_good(path, b0, prefix=prefix).ignored) == len(good)
    with pytest.raises(WeightsError, match=r"prefix 'up\.'; networks are below left\., right\.net"):
        read_state(path, Wanted(prefix="up"))


def test_in_paddles_files_keys_are_the_beginnings_of_names(b0, tmp_path):
    arrays = to_paddle(b0)
    zeros = {key: np.zeros_like(value) for key, value in arrays.items()}
    write_pdparams(tmp_path / "w.pdparams", below("one.", zeros) | below("two.", arrays))
    read = read_state(tmp_path / "w.pdparams", Wanted(key="two"))
    assert torch.equal(read.tensors["fc.bias"], b0.fc.bias)
    assert len(read.ignored) == len(arrays)


def test_a_part_is_found_below_its_own_key(good, empty, b0, tmp_path):
    torch.save({"student": empty, "teacher": good}, tmp_path / "w.pth")
    is_good(tmp_path / "w.pth", b0, part="teacher")
    model = create.create_model("b0", 3)
    load_weights(model, tmp_path / "w.pth")
    assert not model.fc.bias.any()
    is_good(tmp_path / "w.pth", b0, key="teacher")
    torch.save({"teacher": good}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="distillation checkpoint without a student"):
        read_state(tmp_path / "w.pth")
    torch.save({"state_dict": good}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds one network, so it has no teacher"):
        read_state(tmp_path / "w.pth", Wanted("teacher"))


def test_a_stray_tensor_beside_a_wrapper_is_refused_and_a_prefix_leaves_it(good, b0, tmp_path):
    torch.save(below("module.", good) | {"queue": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="queue is unknown to the network"):
        load_weights(create.create_model("b0", 3), tmp_path / "w.pth")
    assert is_good(tmp_path / "w.pth", b0, prefix="module.").ignored == ("queue",)


# --- what lies beside it --------------------------------------------------------------------------


def of_class(module: str, name: str, base: type = object, **fields: Any) -> Any:
    """An object of a class that is said to be defined in ``module``, which need not exist."""
    made = type(name, (base,), {"__module__": module})()
    vars(made).update(fields)
    return made


HARMLESS: dict[str, Callable[[], Any]] = {
    "args": lambda: argparse.Namespace(lr=0.1, out=Path("x"), amp=None, dims=[1, 2]),
    "simple": lambda: types.SimpleNamespace(a=1),
    "numpy number": lambda: np.float64(71.2),
    "numpy bool": lambda: np.bool_(True),
    "numpy text": lambda: np.str_("best"),
    "numpy date": lambda: np.datetime64("2026-11-30"),
    "numpy texts": lambda: np.array(["cat", "dog"]),
    "numpy random state": lambda: np.random.RandomState(0).get_state(),
    "dtype": lambda: np.dtype("float32"),
    "text dtype": lambda: np.dtype("<U7"),
    "numpy class": lambda: np.float32,
    "path": lambda: Path("/data/x"),
    "windows path": lambda: pathlib.PureWindowsPath("c:/x"),
    "default dict": lambda: collections.defaultdict(list, {"a": [1]}),
    "deque": lambda: collections.deque([1.5, 2], maxlen=4),
    "counter": lambda: collections.Counter("aab"),
    "frozen set": lambda: frozenset({1}),
    "moment": lambda: datetime.datetime(2026, 11, 30),
    "duration": lambda: datetime.timedelta(seconds=3),
    "numbers for keys": lambda: {0.5: 1, None: 2, 7: 3, True: 4},
    "torch's version": lambda: torch.__version__,
    "easydict": lambda: of_class("easydict", "EasyDict", dict, lr=0.1),
    "yacs": lambda: of_class("yacs.config", "CfgNode", dict, lr=0.1),
    "mmengine": lambda: of_class("mmengine.logging.history_buffer", "HistoryBuffer",
                                 _log=np.zeros(3), _max_length=10),
    "lightning": lambda: of_class("lightning_fabric.utilities.data", "AttributeDict", dict, lr=1),
}  # fmt: skip


@pytest.fixture
def known_classes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``of_class``'s classes can be pickled, as if their modules were installed."""
    import sys

    def show(value: Any) -> Any:
        cls = type(value)
        if cls.__module__ not in sys.modules:
            parts = cls.__module__.split(".")
            for count in range(1, len(parts) + 1):
                module = types.ModuleType(".".join(parts[:count]))
                monkeypatch.setitem(sys.modules, module.__name__, module)
        if not hasattr(sys.modules[cls.__module__], cls.__name__):
            monkeypatch.setattr(sys.modules[cls.__module__], cls.__name__, cls, raising=False)
        return value

    monkeypatch.setattr("builtins._show", show, raising=False)
    return show


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("name", HARMLESS)
def test_what_training_programs_save_beside_a_network_stands_in_the_way_of_nothing(
    name, archive, known_classes, tmp_path
):
    beside = known_classes(HARMLESS[name]())
    state = {"w": torch.arange(4.0)}
    path = tmp_path / "w.pth"
    content = {"state_dict": state, "beside": beside, "again": [beside, {"x": beside}]}
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    file = read_file(path)
    assert torch.equal(file.tensors["w"], state["w"])
    assert file.left_aside == ("beside", "again")


def test_hydras_configuration_stands_in_the_way_of_nothing(tmp_path):
    from omegaconf import OmegaConf

    config = OmegaConf.create({"lr": 0.1, "dims": [1, 2], "out": {"dir": "x"}, "amp": None})
    torch.save({"state_dict": {"w": torch.ones(2)}, "cfg": config}, tmp_path / "w.pth")
    assert read_file(tmp_path / "w.pth").left_aside == ("cfg",)


class Loud:
    """Would leave a file if anything of it were run, made or filled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


class Filled:
    def __setstate__(self, state: Any) -> None:
        Path("executed").touch()

    def __getstate__(self) -> Any:
        return {"a": 1}


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        (Loud(), r"posix\.system"),
        (argparse.Namespace(hook=Loud()), r"posix\.system"),
        (Filled(), r"test_foreign_checkpoints\.Filled"),
        (nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
        ({"fn": os.getcwd}, r"posix\.getcwd"),
        (np.array([Loud()], dtype=object), r"posix\.system"),
    ],
)
def test_what_is_not_known_is_named_with_the_line_that_saves_it_again(
    beside, named, tmp_path, monkeypatch
):
    """W09."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"w": torch.ones(2)}, "beside": beside}, "w.pth")
    with pytest.raises(WeightsError, match=f"asks for {named}.*torch.save.model.state_dict"):
        read_file(Path("w.pth"))
    assert not Path("executed").exists()


def test_a_stand_in_is_no_network(tmp_path):
    torch.save({"state_dict": argparse.Namespace(w=torch.ones(2))}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds more than tensors: state_dict; and no network"):
        read_file(tmp_path / "w.pth")


# --- a trunk with another classifier --------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_classifier_of_transformers_gives_its_trunk(prefix, b0, tmp_path):
    """W7: it has an fc on the last stage itself, and no last_conv before it."""
    state, _ = styles.to_theirs(b0.state_dict(), styles.style_for("transformers", b0.state_dict()))
    state |= {"fc.weight": torch.zeros(10, 1024), "fc.bias": torch.zeros(10)}
    path = tmp_path / "classifier.pth"
    torch.save(below(prefix, state), path)
    model = create.create_model("b0", 7)
    with pytest.raises(WeightsError, match="backbone without a classifier: .* say head: reinit"):
        load_weights(model, path)
    report = load_weights(model, path, "reinit")
    assert report.fresh == ("last_conv", "lab", "fc")
    assert report.ignored == ("fc.weight", "fc.bias")
    assert torch.equal(model.stem.stem1.conv.weight, b0.stem.stem1.conv.weight)
    [network] = inspect_file(path)["networks"]
    assert (network["variant"], network["style"]) == ("b0", "transformers")
    assert network["loads"].startswith("with head: reinit")


@pytest.mark.parametrize("content", [np.ones(3, np.float32), ("fc.weight", np.ones(3))])
def test_a_single_tensor_of_paddles_says_what_to_save(content, tmp_path):
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps(content, 4))
    with pytest.raises(WeightsError, match=r"holds one tensor, .* paddle\.save\(layer\.state_dict"):
        read_state(tmp_path / "w.pdparams")


# --- what is said behind a file's name ------------------------------------------------------------


@given(
    st.text("ab.@=/_-", min_size=1, max_size=12).filter(lambda n: split_spec(n)[0] == n),
    st.text("ab._", min_size=1, max_size=8),
    st.text("ab._", min_size=1, max_size=8),
)
def test_what_is_said_behind_a_name_is_taken_off_in_any_order(name, key, prefix):
    for spec in (f"{name}@key={key}@prefix={prefix}", f"{name}@prefix={prefix}@key={key}"):
        assert split_spec(spec) == (name, Wanted(key=key, prefix=prefix))
        assert name + said_of(spec) == spec
    assert split_spec(name) == (name, Wanted())


def test_a_path_is_relative_to_where_it_was_typed_and_other_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").touch()
    assert as_typed("w.pth@key=ema") == f"{tmp_path / 'w.pth'}@key=ema"
    for name in ("b4.ssld_stage1", "timm:resnet18@w.pth", "absent.pth@key=a", "scratch:b0"):
        assert as_typed(name) == name


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("w.pth@key=a@key=b", "key= twice"),
        ("w.pth@key=", "key= without a value"),
        ("w.pth@part=tutor", "unknown part 'tutor'"),
        ("w.pth@pool_padding=none", "unknown pool_padding 'none'"),
    ],
)
def test_nonsense_behind_a_name_is_refused(spec, reason):
    with pytest.raises(ParameterError, match=reason):
        split_spec(spec)


def test_a_network_is_built_from_the_key_that_is_said(good, empty, b0, tmp_path):
    torch.save({"left": empty, "right": below("m.", good) | below("n.", empty)}, tmp_path / "w.pt")
    spec = "w.pt@key=right@prefix=m.@pool_padding=zero"
    built, info = build.build_from(spec, num_classes=None, root=tmp_path)
    assert torch.equal(built.fc.bias, b0.fc.bias.half().float())
    assert (info["variant"], info["num_classes"]) == ("b0", 3)
    source_names.check_name(spec, tmp_path)
