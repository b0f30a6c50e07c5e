"""``hgnetv2 migrate``: PaddleClas's trainings as environments, with nothing dropped unsaid."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from paddleclas_tables import MULTI_LABEL, TRAIN, TWELVE, Table, nested

from hgnetv2_pipeline.commands.main import main
from hgnetv2_pipeline.project.config_loader import LOADER_ARGUMENTS, ProjectConfigLoader
from hgnetv2_pipeline.training.config import TrainConfig
from project_copies import ROOT

ALL = {**TWELVE, **MULTI_LABEL}
OPS = f"{TRAIN}.transform_ops"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, **changes: Any) -> Path:
    """The YAML of a table, changed; a change of ... takes its key out."""
    table: Table = {**ALL[name], **changes}
    table = {key: value for key, value in table.items() if value is not ...}
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump(nested(table), sort_keys=False), encoding="utf-8")
    return path


def hgnetv2(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in ("migrate", *arguments)])


def said(*arguments: object) -> str:
    done = hgnetv2(*arguments)
    assert done.exit_code == 0, done.output
    return str(done.output)


def loaded(project: Path, name: str) -> dict[str, Any]:
    loader = ProjectConfigLoader(project / "conf", env=name, project=project, **LOADER_ARGUMENTS)
    return loader["parameters"]


def recipe(values: dict[str, Any], block: str) -> TrainConfig:
    value: Any = values
    for part in block.split("."):
        value = value[part]
    return TrainConfig.model_validate(value)


# (block, epochs, lr, weight decay, mixup, evaluation's short side, randaugment, erasing, init)
M7 = "rand-m7-mstd0.5-inc1"
PUBLISHED: dict[str, tuple[Any, ...]] = {
    **{
        f"PPHGNetV2_B{n}": ("finetune", 200, 0.5, 2e-5, 0, 232, M7, 0.25,
                            f"import_weights/b{n}/ssld_stage1")
        for n in range(7)
    },
    "PPHGNetV2_B4_ssld_stage1": ("ssld_stage1", 360, 0.5, 2e-5, 0, 236, M7, 0, "scratch"),
    "PPHGNetV2_B4_ssld_stage2": ("ssld_stage2", 60, 0.005, 2e-5, 0, 236, M7, 0,
                                 "ssld_stage1/b4/seed=0"),
    "PPHGNet_tiny": ("train_teacher.recipe", 600, 0.5, 4e-5, 0.2, 232, M7, 0.25,
                     "hgnet_tiny.imagenet"),
    "PPHGNet_small": ("train_teacher.recipe", 600, 0.5, 4e-5, 0.2, 236, M7, 0.25,
                      "hgnet_small.imagenet"),
    "PPHGNet_base": ("train_teacher.recipe", 600, 0.5, 4e-5, 0.4, 236, "rand-m10-inc1", 0.4,
                     "scratch"),
}  # fmt: skip


@pytest.mark.parametrize("name", TWELVE)
def test_the_twelve_published_trainings_migrate_with_nothing_unnamed(name, project):
    text = said(write(name), "--name", "mine", "--gpus", 8, "--all")
    _every_key_is_answered(project, name, text)
    block, epochs, lr, decay, mixup, short, randaugment, erasing, init = PUBLISHED[name]
    values = loaded(project, "mine")
    found = recipe(values, block)
    assert (found.epochs, found.lr, found.warmup_epochs) == (epochs, lr, 5)
    assert (found.batch_size, found.lr_batch, found.amp) == (128, 1024, "fp16")
    how = found.optimizer
    assert (how.name, how.momentum, how.weight_decay) == ("sgd", 0.9, decay)
    assert (found.image_size, found.resize_short, found.erasing) == (224, short, erasing)
    assert found.augment == {
        "name": "published", "box": "paddle", "mirror": 0.5, "randaugment": randaugment,
        "interpolation": "bicubic",
    }  # fmt: skip
    mix = found.mix
    assert (mix.mixup, mix.cutmix, mix.probability, mix.switch) == (
        (mixup, 1.0, 1.0, 0.5) if mixup else (0, 0, 0, 0.5)
    )
    distils = "ssld" in name
    assert found.loss.name == ("ce" if distils else "label_smoothing")
    assert found.loss.label_smoothing == (0 if distils else 0.1)
    assert (found.ema_decay, found.init, found.compile) == (None, init, False)
    assert found.head == "strict"
    assert values["variant"] == (f"b{name[11]}" if "V2" in name else "b0")
    assert (values["data"]["layout"], values["data"]["root"]) == ("imagenet", "dataset/ILSVRC2012")
    teacher = values["train_teacher"]
    if "V2" not in name:
        assert (teacher["arch"], teacher["source"]) == (name.replace("PPHGNet", "hgnet"), [])
    elif distils:
        assert teacher["source"] == ["hgnet_small.ssld"]


def _every_key_is_answered(project: Path, name: str, text: str) -> None:
    """Each has its line, and those without a counterpart are in the file that was written too."""
    written = (project / "conf" / "mine" / "parameters.yml").read_text(encoding="utf-8")
    for key in ALL[name]:
        [line] = [line for line in text.splitlines() if f" {key}: " in line]
        kind, _, rest = line.strip().partition("  ")
        assert kind in ("set", "same", "differs") and rest.partition(" -> ")[2], line
        assert (f"#   {rest}\n" in written) == (kind == "differs")
    assert "next: kedro run --env mine --pipeline " in text


@pytest.mark.parametrize("name", MULTI_LABEL)
def test_every_key_of_a_training_of_several_labels_is_answered(name, project):
    _every_key_is_answered(project, name, said(write(name), "--name", "mine", "--all"))


def test_a_training_of_several_labels_keeps_what_can_be_kept(project):
    text = said(write("PP-HGNetV2-B4_ml_decoder_448"), "--name", "coco")
    values = loaded(project, "coco")
    found = recipe(values, "finetune")
    assert (found.epochs, found.lr, found.ema_decay, found.batch_size) == (40, 1e-4, 0.9997, 64)
    how = found.optimizer
    assert (how.name, how.weight_decay, how.betas) == ("adamw", 1e-4, (0.9, 0.999))
    powers = found.loss.asymmetric
    assert powers is not None
    assert (powers.gamma_neg, powers.gamma_pos, powers.clip) == (4, 0, 0.05)
    assert (found.image_size, found.resize_short, found.head) == (448, 448, "reinit")
    assert found.augment["mirror"] == 0
    assert values["data"]["layout"] == "multi_label"
    assert values["prediction"]["threshold"] == 0.5
    assert "Arch.use_ml_decoder: true -> ML-Decoder is not here: a linear classifier" in text
    assert "transform_ops.Cutout.length: 224 -> erasing" in text


def test_both_stages_make_one_environment_and_a_contradiction_is_refused(project):
    stages = [write(f"PPHGNetV2_B4_ssld_stage{n}") for n in (1, 2)]
    text = said(*stages, "--name", "ssld")
    assert "next: kedro run --env ssld --pipeline ssld_stage1\n" in text
    values = loaded(project, "ssld")
    assert recipe(values, "ssld_stage1").epochs == 360
    assert recipe(values, "ssld_stage2").init == "ssld_stage1/b4/seed=0"
    done = hgnetv2(write("PPHGNetV2_B4"), write("PPHGNetV2_B5"))
    assert done.exit_code == 2
    assert 'variant is "b4" in PPHGNetV2_B4.yaml and "b5" in PPHGNetV2_B5.yaml' in done.output


def test_the_changes_of_the_fine_tuning_page_are_taken_as_paddleclas_takes_them(project):
    said(
        write("PPHGNetV2_B4"), "--name", "mine",
        "-o", "Global.epochs=30", "-o", "Optimizer.lr.learning_rate=0.05",
        "-o", "Arch.class_num=102", "-o", f"{OPS}.1.RandCropImage.size=192",
        "-o", "DataLoader.Eval.dataset.transform_ops.2.CropImage.size=192",
        "-o", "DataLoader.Train.sampler.batch_size=64", "-o", "EMA.decay=0.999",
    )  # fmt: skip
    found = recipe(loaded(project, "mine"), "finetune")
    assert (found.epochs, found.lr, found.batch_size, found.lr_batch) == (30, 0.05, 64, None)
    assert (found.image_size, found.head, found.ema_decay) == (192, "reinit", 0.999)


def test_what_a_file_leaves_out_is_what_paddleclas_does_then(project):
    """Not what conf/base would say: no operation, no mixed precision, no smoothing."""
    gone = (
        "AMP.", f"{OPS}.RandFlip", f"{OPS}.TimmAuto", f"{OPS}.RandomErasing", "Arch.pretrained",
        f"{OPS}.RandCropImage.interpolation", f"{OPS}.RandCropImage.backend",
        "Loss.Train.CELoss.epsilon", "Optimizer.lr.warmup_epoch", "Optimizer.regularizer",
    )  # fmt: skip
    without = {key: ... for key in ALL["PPHGNetV2_B0"] if key.startswith(gone)}
    text = said(write("PPHGNetV2_B0", **without), "--name", "bare")
    found = recipe(loaded(project, "bare"), "train")
    assert (found.amp, found.erasing, found.warmup_epochs, found.init) == ("off", 0, 0, "scratch")
    assert (found.loss.label_smoothing, found.optimizer.weight_decay) == (0, 0)
    assert found.augment["randaugment"] is None and found.augment["mirror"] == 0
    assert found.augment["interpolation"] == "bilinear"
    assert f'{OPS}.RandCropImage.backend: "cv2" -> Pillow, which smooths' in text


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("Global.unheard_of", 3, "Global.unheard_of: it is not known here"),
        ("Arch.dropout_prob", 0.5, "Arch.dropout_prob: it is not known here"),
        ("Optimizer.name", "Lamb", "optimizer 'Lamb'; here are Momentum (sgd) and AdamW"),
        ("Optimizer.lr.name", "MultiStepDecay", "the schedule: here it is 'Cosine'"),
        ("Optimizer.lr.eta_min", 0.01, "the rate ends at 0: 0.01 is more than 0.001 of 0.5"),
        ("Optimizer.lr.warmup_epoch", "five", "Optimizer.lr.warmup_epoch: \"five\" cannot be read"),
        ("AMP.level", "O2", "AMP.level: AMP.level O2"),
        ("Optimizer.weight_decay", 1e-4, "a setting of AdamW, and the optimizer is Momentum"),
        ("Loss.Train.DistillationCELoss.weight", 1.0, "beside DistillationCELoss: here one loss"),
        (f"{TRAIN}.delimiter", ",", "path and label, a space between"),
        ("Global.device", "npu", "device 'npu'"),
        ("Global.checkpoints", "out/latest", "a run goes on from its own newest checkpoint"),
        (f"{OPS}.RandFlipImage.flip_code", 0, "only a left-right flip"),
        (f"{OPS}.NormalizeImage.mean", [0.5, 0.5, 0.5], "NormalizeImage.mean: (x / 255 - mean)"),
        (f"{OPS}.TimmAutoAugment.config_str", "rand-m11-mstd0.5", "levels are 0 to 10"),
        (f"{OPS}.RandomErasing.mode", "const", "filled by noise: here it is 'pixel'"),
        ("DataLoader.Eval.dataset.transform_ops.CropImage.size", 288, "crop at one size"),
        ("Loss.Train.CELoss.weight", 0.5, "a weight of 0.5"),
        (f"{TRAIN}.name", "LogoDataset", "dataset 'LogoDataset'; here are ImageNetDataset"),
    ],
)  # fmt: skip
def test_what_would_train_something_else_is_refused_and_can_be_left_out(
    key, value, reason, project
):
    path = write("PPHGNetV2_B0", **{key: value})
    done = hgnetv2(path, "--name", "mine")
    assert done.exit_code == 2, done.output
    assert reason in done.output and "--leave-out KEY" in done.output
    assert not (project / "conf" / "mine").exists()
    if key in ("Global.unheard_of", "AMP.level", f"{OPS}.RandFlipImage.flip_code"):
        text = said(path, "--name", "mine", "--leave-out", key)
        assert f"{key}: " in text and "left out, as --leave-out says" in text
        assert f"#   {key}: " in (project / "conf" / "mine" / "parameters.yml").read_text()


def test_another_network_another_order_and_no_training_at_all_are_refused(project):
    for changes, code, reason in (
        ({"Arch.name": "ResNet50"}, 2, "Arch.name is 'ResNet50'; migrated"),
        ({"Global.epochs": ...}, 3, "it lacks Global.epochs"),
    ):
        done = hgnetv2(write("PPHGNetV2_B0", **changes), "--name", "mine")
        assert done.exit_code == code and reason in done.output, done.output
    assert "there is no file absent.yaml" in hgnetv2("absent.yaml").output
    config = nested(ALL["PPHGNetV2_B0"])
    operations = config["DataLoader"]["Train"]["dataset"]["transform_ops"]
    operations[1], operations[3] = operations[3], operations[1]
    for content, reason in (
        (yaml.safe_dump(config, sort_keys=False), "here the order is DecodeImage"),
        ("just text", "no training of PaddleClas"),
        ("Global: !!python/object/apply:os.system [touch executed]", "no YAML|tag"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nGlobal: [*b, *b]\nArch: 1\n", "is no training|lacks"),
        ("x" * (1 << 21), "more than 1,048,576 bytes"),
    ):
        Path("w.yaml").write_text(content)
        done = hgnetv2("w.yaml", "--name", "mine")
        assert done.exit_code in (2, 3), done.output
        assert any(one in done.output for one in reason.split("|")), done.output
    assert not Path("executed").exists()
    assert not (project / "conf" / "mine").exists()


def test_nothing_of_a_file_is_looked_up_by_the_configuration(project):
    path = write("PPHGNetV2_B0", **{f"{OPS}.TimmAutoAugment.config_str": "${oc.env:HOME}"})
    done = hgnetv2(path, "--name", "mine")
    assert done.exit_code == 2 and "${ cannot be in a value" in done.output
    assert hgnetv2(write("PPHGNetV2_B0"), "-o", "nonsense").exit_code == 2
    assert hgnetv2(write("PPHGNetV2_B0"), "-o", f"{OPS}.99.X.y=1").exit_code == 2


def test_an_environment_that_is_there_is_not_overwritten(project):
    said(write("PPHGNetV2_B0"))
    kept = (project / "conf" / "PPHGNetV2_B0" / "parameters.yml").read_bytes()
    done = hgnetv2(write("PPHGNetV2_B0"), "-o", "Global.epochs=1")
    assert done.exit_code == 2 and "exists already" in done.output
    assert (project / "conf" / "PPHGNetV2_B0" / "parameters.yml").read_bytes() == kept


def test_lists_that_are_where_they_belong_are_taken_as_they_are(project):
    (project / "dataset" / "ILSVRC2012").mkdir(parents=True)
    text = said(write("PPHGNetV2_B0"), "--name", "mine")
    assert loaded(project, "mine")["data"]["root"] == str(project / "dataset" / "ILSVRC2012")
    assert "image_root" not in text
