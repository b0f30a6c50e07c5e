"""PaddleClas's keys of a training, and what each is here: one line of ``RULES`` per key.

A key has a counterpart (``set``), says what is so here anyway (``same``), or has none, and then the
nearest thing is named (``differs``). What would train something else is refused. ``migrate`` reads
a YAML by this table and writes what it answers; a counterpart that is new here is a line changed.

Source: PaddleClas ppcls/configs/ImageNet/PPHGNetV2, PPHGNet and MultiLabelCOCO/MLDecoder, and what
its ppcls does with a key that is absent.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hgnetv2_pipeline.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, RESAMPLING
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.variants import VARIANTS, variant_name
from hgnetv2_pipeline.weights.zoo import COSTS, ZOO

TRAIN, EVAL = "DataLoader.Train.dataset", "DataLoader.Eval.dataset"
OPS, SHOWN, INFER = f"{TRAIN}.transform_ops", f"{EVAL}.transform_ops", "Infer.transforms"
# The order in which operations are done here, whatever of them a recipe has.
ORDER = (
    "DecodeImage", "RandCropImage", "ResizeImage", "CropImage", "RandFlipImage", "TimmAutoAugment",
    "Cutout", "RandAugmentV4", "NormalizeImage", "RandomErasing", "ToCHWImage",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a key is here: parameters to set (``@.`` stands for the recipe's block), and words."""

    kind: Literal["set", "same", "differs", "refused"]
    words: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PaddleConfig:
    """A YAML as dotted keys, the names of operations in the place of their numbers."""

    values: Mapping[str, Any]

    @property
    def student(self) -> str:
        """Where the network that learns is described."""
        return "Arch.models.Student" if self.distils else "Arch"

    @property
    def distils(self) -> bool:
        return bool(self.values.get("Arch.name") == "DistillationModel")

    @property
    def variant(self) -> str:
        name = self.values.get(f"{self.student}.name")
        found = variant_name(str(name))
        if found not in COSTS:
            raise ParameterError(
                f"{self.student}.name is {name!r}; migrated are PPHGNetV2_B0 to B6, "
                "PPHGNet_tiny, _small and _base, and a DistillationModel with such a student"
            )
        return found

    @property
    def trained(self) -> Any:
        """What the network starts from: False, True (published weights) or a path."""
        return self.values.get("Global.pretrained_model") or self.values.get(
            f"{self.student}.pretrained", False
        )

    @property
    def block(self) -> str:
        """The block of the recipe here."""
        if self.variant not in VARIANTS:
            return "train_teacher.recipe"
        if self.distils:
            return "ssld_stage2" if self.trained else "ssld_stage1"
        return "finetune" if self.trained else "train"


Rule = Callable[[Any, PaddleConfig], Answer]


def as_number(value: Any) -> float:
    """A number as PaddleClas writes it: 0.5, '1e-4', '1.0/255.0'."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is no number")
    above, _, below = str(value).partition("/")
    found = float(above) / float(below) if below else float(above)
    if not math.isfinite(found):
        raise ValueError(f"{value!r} is no number")
    return int(found) if isinstance(value, int) else found


def to(*names: str, read: Callable[[Any], Any] = as_number) -> Rule:
    """Its counterparts, which take its value."""
    return lambda value, source: Answer("set", values=dict.fromkeys(names, read(value)))


def same(why: str, *allowed: Any) -> Rule:
    """It is so here; another value than ``allowed`` is refused."""

    def rule(value: Any, source: PaddleConfig) -> Answer:
        if any(_equal(value, one) for one in allowed):
            return Answer("same", why)
        known = " or ".join(map(repr, allowed))
        return Answer("refused", f"{why}: here it is {known}, and {value!r} cannot be had")

    return rule


def differs(nearest: str) -> Rule:
    """It has no counterpart; the nearest thing."""
    return lambda value, source: Answer("differs", nearest)


def either(allowed: Any, why: str, nearest: str) -> Rule:
    """It is so here where its value is ``allowed``; with another, the nearest thing."""
    return lambda value, source: (
        Answer("same", why) if _equal(value, allowed) else Answer("differs", nearest)
    )


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(_equal, value, other))
    if isinstance(other, bool) or other is None or isinstance(value, bool) or value is None:
        return value is other
    try:
        return math.isclose(as_number(value), as_number(other), rel_tol=1e-5)
    except ValueError:
        return bool(value == other)


# --- keys that need more than a line --------------------------------------------------------------


def _start(value: Any, source: PaddleConfig) -> Answer:
    """``pretrained``: published weights, a file, or nothing."""
    if source.values.get("Global.pretrained_model") not in (None, value):
        return Answer("same", "Global.pretrained_model is loaded after it")
    if not value:
        scratch = {} if source.trained else {"@.init": "scratch", "@.head": "strict"}
        return Answer("set", "training starts from scratch", scratch)
    # PaddleClas leaves out what does not fit, which is fc where classes are others.
    head = "strict" if source.values.get("Arch.class_num") == 1000 else "reinit"
    if isinstance(value, str):
        path = value if value.endswith(".pdparams") else f"{value}.pdparams"
        if source.block == "ssld_stage2":
            return Answer(
                "differs", "@.init is the run of stage 1 of the same variant; where it is a file "
                f"of yours: --params ssld_stage2.init={path}"
            )  # fmt: skip
        return Answer("set", values={"@.init": path, "@.head": head})
    if source.variant in VARIANTS:
        if source.block == "finetune":
            why = "import_weights/<variant>/ssld_stage1, the file that PaddleClas loads too"
            return Answer("set", why, {"@.head": head})
        return Answer("set", values={"@.init": f"{source.variant}.ssld_stage1", "@.head": head})
    name = f"{source.variant}.{'ssld' if source.values.get('Arch.use_ssld') else 'imagenet'}"
    if name not in ZOO:
        return Answer("refused", f"no weights of {source.variant} are published")
    return Answer("set", values={"@.init": name, "@.head": head})


def _teacher(value: Any, source: PaddleConfig) -> Answer:
    arch = variant_name(str(value))
    ssld = source.values.get("Arch.models.Teacher.use_ssld", False)
    name = f"{arch}.{'ssld' if ssld else 'imagenet'}"
    if name not in ZOO:
        return Answer("refused", f"the teacher {value!r}: published are those of {', '.join(ZOO)}")
    return Answer("set", values={"train_teacher.source": [name], "train_teacher.arch": arch})


def _teacher_start(value: Any, source: PaddleConfig) -> Answer:
    if isinstance(value, str):
        path = value if value.endswith(".pdparams") else f"{value}.pdparams"
        return Answer(
            "differs", f"the published weights; yours: --params train_teacher.source={path}"
        )
    return (
        Answer("same", "published") if value else Answer("refused", "the teacher must be trained")
    )


def _frozen(value: Any, source: PaddleConfig) -> Answer:
    if value != [True, False]:
        return Answer("refused", "here the teacher is frozen and the student learns: [true, false]")
    return Answer(
        "differs", "the teacher is frozen here too, but by its own statistics: PaddleClas's frozen "
        "teacher counts by those of the batch, as train_teacher.bn=batch does"
    )  # fmt: skip


def _name(value: Any, source: PaddleConfig) -> Answer:
    if source.distils:
        return Answer("same", "a teacher and a student")
    if source.variant in VARIANTS:
        return Answer("set", values={"variant": source.variant})
    # The first generation is trained here as what teaches the second.
    alone = {"arch": source.variant, "members": 1, "source": [], "gate.action": "warn"}
    why = "trained as a teacher, train_teacher.arch, whose gate warns"
    return Answer("set", why, {f"train_teacher.{key}": one for key, one in alone.items()})


def _classes(value: Any, source: PaddleConfig) -> Answer:
    return Answer("same", f"{value}: the classes are those of the lists in data.root")


def _amp(value: Any, source: PaddleConfig) -> Answer:
    return Answer("set", values={"@.amp": "fp16" if value else "off"})


def _level(value: Any, source: PaddleConfig) -> Answer:
    if value == "O1" or not source.values.get("AMP.use_amp"):
        return Answer("same", "autocast")
    return Answer(
        "refused", "AMP.level O2 (weights in fp16): here amp is autocast, PaddleClas's O1"
    )


def _eval_interval(value: Any, source: PaddleConfig) -> Answer:
    during = source.values.get("Global.eval_during_train", True)
    return Answer("set", values={"@.eval_every": as_number(value) if during else None})


def _optimizer(value: Any, source: PaddleConfig) -> Answer:
    values = source.values
    if value == "Momentum":
        decay = as_number(values.get("Optimizer.regularizer.coeff", 0.0))
        momentum = as_number(values.get("Optimizer.momentum", 0.9))
        how = {"name": "sgd", "momentum": momentum, "weight_decay": decay, "betas": None}
    elif value == "AdamW":
        betas = [as_number(values.get(f"Optimizer.beta{n}", b)) for n, b in ((1, 0.9), (2, 0.999))]
        decay = as_number(values.get("Optimizer.weight_decay", 0.01))
        how = {"name": "adamw", "momentum": None, "weight_decay": decay, "betas": betas}
    else:
        return Answer("refused", f"optimizer {value!r}; here are Momentum (sgd) and AdamW")
    return Answer("set", values={"@.optimizer": how, "@.lr_batch": None})


def _setting_of(optimizer: str) -> Rule:
    """A setting that one of the two optimisers has, read together with its name."""

    def rule(value: Any, source: PaddleConfig) -> Answer:
        name = source.values["Optimizer.name"]
        if name == optimizer:
            return Answer("same", "with Optimizer.name")
        return Answer("refused", f"a setting of {optimizer}, and the optimizer is {name}")

    return rule


def _small(share: float, why: str) -> Rule:
    """A rate that is next to nothing beside the peak, where here it is 0."""

    def rule(value: Any, source: PaddleConfig) -> Answer:
        peak = as_number(source.values["Optimizer.lr.learning_rate"])
        if as_number(value) > share * peak:
            return Answer("refused", f"{why}: {value} is more than {share:g} of {peak:g}")
        return Answer("same" if not as_number(value) else "differs", why)

    return rule


def _loss(name: str) -> Rule:
    """A loss of training, with what it has of settings."""

    def rule(value: Any, source: PaddleConfig) -> Answer:
        at, values = f"Loss.Train.{name}", source.values
        loss: dict[str, Any] = {"label_smoothing": 0.0, "asymmetric": None}
        if name == "CELoss":
            smooth = as_number(values.get(f"{at}.epsilon") or 0.0)
            loss |= {"name": "label_smoothing", "label_smoothing": smooth}
        elif name == "DistillationCELoss":
            loss |= {"name": "ce"}
        else:
            powers = {key: as_number(values.get(f"{at}.{key}", default)) for key, default in
                      (("gamma_neg", 4), ("gamma_pos", 1), ("clip", 0.05))}  # fmt: skip
            loss |= {"name": "asymmetric", "asymmetric": powers}
        if not _equal(value, 1.0):
            return Answer("refused", f"a weight of {value}: multiply the learning rate by it")
        others = {key.split(".")[2] for key in values if key.startswith("Loss.Train.")} - {name}
        if others:
            return Answer(
                "refused", f"beside {', '.join(sorted(others))}: here one loss is minimised"
            )
        return Answer("set", values={f"@.loss.{key}": one for key, one in loss.items()})

    return rule


def _of(key: str) -> Rule:
    """A setting of an operation or loss that is read together with another key."""
    return lambda value, source: Answer("same", f"with {key}")


def _randaugment(value: Any, source: PaddleConfig) -> Answer:
    """PaddleClas clips every level at 10: m15-mstd0.5, ten deviations above, is m10."""
    text = str(value)
    level, spread = (re.search(rf"-{name}([0-9.]+)", text) for name in ("m", "mstd"))
    above = as_number(level[1]) - 10 if level else 0
    if above > 0:
        if spread and above < 8 * as_number(spread[1]):
            return Answer(
                "refused", f"{text}: levels are 0 to 10, and m a little above has them all"
            )
        text = re.sub(r"-m[0-9.]+", "-m10", re.sub(r"-mstd[0-9.]+", "", text), count=1)
    return Answer("set", f"{text}: levels end at 10", {"@.augment.randaugment": text})


def _flip(value: Any, source: PaddleConfig) -> Answer:
    if value != 1:
        return Answer("refused", "only a left-right flip, flip_code 1, can be had (augment.mirror)")
    return Answer("set", values={"@.augment.mirror": 0.5})


def _aspect(value: Any, source: PaddleConfig) -> Answer:
    if not value:
        return Answer("same", "the ratio is uniform, as with augment.box: paddle")
    return Answer(
        "differs", "torchvision's way to draw a crop, whose ratio is log-uniform too",
        {"@.augment.box": "torchvision"},
    )  # fmt: skip


def _filter(value: Any, source: PaddleConfig) -> Answer:
    if value not in RESAMPLING:
        return Answer("refused", f"interpolation {value!r}; here are {', '.join(RESAMPLING)}")
    return Answer("set", values={"@.augment.interpolation": value})


def _mixing(value: Any, source: PaddleConfig) -> Answer:
    at, values = f"{TRAIN}.batch_transform_ops.OpSampler", source.values
    mixup, cutmix = (
        as_number(values.get(f"{at}.{n}.prob", 0)) for n in ("MixupOperator", "CutmixOperator")
    )
    mix = {
        "mixup": as_number(values.get(f"{at}.MixupOperator.alpha", 1.0)) if mixup else 0.0,
        "cutmix": as_number(values.get(f"{at}.CutmixOperator.alpha", 0.2)) if cutmix else 0.0,
        "probability": mixup + cutmix,
        "switch": cutmix / (mixup + cutmix) if mixup + cutmix else 0.5,
    }
    return Answer("set", values={f"@.mix.{key}": one for key, one in mix.items()})


def _shape(value: Any, source: PaddleConfig) -> Answer:
    size = source.values.get(
        f"{OPS}.RandCropImage.size", source.values.get(f"{OPS}.ResizeImage.size")
    )
    if value == [3, size, size]:
        return Answer("same", "the exported model takes the training's image_size")
    return Answer("differs", f"the exported model takes the training's image_size, {size}")


def _squash(value: Any, source: PaddleConfig) -> Answer:
    whole = {"@.augment.box": "torchvision", "@.augment.scale": [1, 1], "@.augment.ratio": [1, 1]}
    size = as_number(value)
    return Answer(
        "set", "the whole picture squashed to a square",
        {"@.image_size": size, "@.resize_short": size, "@.fit": "squash", **whole},
    )  # fmt: skip


def _size(value: Any, source: PaddleConfig) -> Answer:
    if isinstance(value, list):
        return Answer("refused", f"size {value}: views are squares, of one number")
    return Answer("set", values={"@.image_size": as_number(value)})


def _eval_size(value: Any, source: PaddleConfig) -> Answer:
    if _equal(value, source.values.get(f"{OPS}.RandCropImage.size")):
        return Answer("same", "evaluated at image_size")
    return Answer("refused", "evaluation and training crop at one size, image_size")


def _device(value: Any, source: PaddleConfig) -> Answer:
    if value not in ("gpu", "cpu"):
        return Answer("refused", f"device {value!r}; here are gpu (cuda) and cpu")
    return Answer("set", values={"device": "cuda" if value == "gpu" else "cpu"})


_VIEW = "predictions are made with the view that travels with the weights, that of evaluation"
_NO_DECODER = "ML-Decoder is not here: a linear classifier on pooled features"
_NORM = "(x / 255 - mean) / std, of RGB"


def _rules() -> dict[str, Rule]:
    rules: dict[str, Rule] = {
        "Global.checkpoints": same("a run goes on from its own newest checkpoint", None),
        "Global.pretrained_model": lambda v, s: _start(v, s) if v else Answer("same", "Arch says"),
        "Global.output_dir": differs("results are in data/06_models/NAME/..., below their names"),
        "Global.device": _device,
        "Global.save_interval": differs(
            "checkpoint_every_minutes (time, not epochs) and keep_checkpoints; keep_best keeps "
            "the weights of the best evaluations"
        ),
        "Global.eval_during_train": lambda v, s: Answer("same", "with Global.eval_interval")
        if v else Answer("set", values={"@.eval_every": None}),
        "Global.eval_interval": _eval_interval,
        "Global.epochs": to("@.epochs"),
        "Global.print_batch_step": differs("a bar on a terminal; a line per evaluation in a log"),
        "Global.use_visualdl": differs("mlflow: true records runs in mlflow.db"),
        "Global.image_shape": _shape,
        "Global.save_inference_dir": differs("--pipeline export writes into data/07_model_output"),
        "Global.to_static": to("@.compile", read=bool),
        "Global.use_dali": either(False, "images are decoded by workers",
                                  "input.device: all decodes and augments on the GPU"),
        "Global.use_multilabel": same("data.layout says", True, False),
        "Global.seed": to("seed"),
        "Global.class_num": _classes,
        "EMA.decay": to("@.ema_decay"),
        "AMP.use_amp": _amp,
        "AMP.level": _level,
        "AMP.use_fp16_test": either(False, "evaluation is in fp32", "evaluation is in fp32"),
        "AMP.use_promote": either(False, "torch's autocast decides", "torch's autocast decides"),
        "AMP.scale_loss": to("@.fp16_scale"),
        "AMP.use_dynamic_loss_scaling": either(True, "dynamic", "the scale is always dynamic"),
        "Arch.name": _name,
        "Arch.class_num": _classes,
        "Arch.pretrained": _start,
        "Arch.use_ssld": _of("Arch.pretrained"),
        "Arch.use_ml_decoder": either(False, "a linear classifier",
                                      _NO_DECODER),
        "MLDecoder.*": differs(_NO_DECODER),
        "Arch.pretrained_list": same("each model says for itself", None),
        "Arch.freeze_params_list": _frozen,
        "Arch.infer_model_name": same("the student is evaluated and exported", "Student"),
        "Arch.models.Teacher.name": _teacher,
        "Arch.models.Teacher.class_num": _classes,
        "Arch.models.Teacher.pretrained": _teacher_start,
        "Arch.models.Teacher.use_ssld": _of("Arch.models.Teacher.name"),
        "Arch.models.Student.name": lambda v, s: Answer("set", values={"variant": s.variant})
        if s.variant in VARIANTS else Answer("refused", f"{v} is no student here: B0 to B6 are"),
        "Arch.models.Student.class_num": _classes,
        "Arch.models.Student.pretrained": _start,
        "Arch.models.Student.use_ssld": _of("Arch.models.Student.pretrained"),
        "Loss.Train.CELoss.epsilon": _of("Loss.Train.CELoss.weight"),
        "Loss.Train.DistillationCELoss.model_name_pairs": same(
            "the student learns from the teacher", [["Student", "Teacher"]]),
        "Loss.Train.MultiLabelAsymmetricLoss.disable_focal_loss_grad": same(
            "the powers carry no gradient", True),
        "Loss.Eval.*": differs("val is measured by accuracy (mAP), which chooses the weights"),
        "Optimizer.name": _optimizer,
        "Optimizer.epsilon": same("torch's", 1e-8),
        "Optimizer.regularizer.name": same("weight decay", "L2"),
        "Optimizer.one_dim_param_no_weight_decay": either(
            True, "no decay on what batch norms and biases hold", "never any on batch norms"),
        "Optimizer.lr.name": same("the schedule", "Cosine"),
        "Optimizer.lr.learning_rate": to("@.lr"),
        "Optimizer.lr.warmup_epoch": to("@.warmup_epochs"),
        "Optimizer.lr.eta_min": _small(1e-3, "the rate ends at 0"),
        "Optimizer.lr.warmup_start_lr": _small(0.05, "the rate starts at 0"),
        "Optimizer.lr.by_epoch": same("the rate changes by step", False),
        f"{TRAIN}.batch_transform_ops.OpSampler.MixupOperator.alpha": _mixing,
        f"{TRAIN}.batch_transform_ops.OpSampler.CutmixOperator.alpha": _mixing,
        f"{TRAIN}.batch_transform_ops.MixupOperator.alpha": lambda v, s: Answer("set", values={
            "@.mix.mixup": as_number(v), "@.mix.probability": 1.0, "@.mix.switch": 0.0}),
        f"{OPS}.RandCropImage.size": _size,
        f"{OPS}.RandCropImage.scale": to("@.augment.scale", read=list),
        f"{OPS}.RandCropImage.ratio": to("@.augment.ratio", read=list),
        f"{OPS}.RandCropImage.use_log_aspect": _aspect,
        f"{OPS}.RandCropImage.interpolation": _filter,
        f"{OPS}.RandFlipImage.flip_code": _flip,
        f"{OPS}.TimmAutoAugment.config_str": _randaugment,
        f"{OPS}.TimmAutoAugment.interpolation": same("RandAugment turns by bicubic", "bicubic"),
        f"{OPS}.TimmAutoAugment.prob": same("every image", 1.0),
        f"{OPS}.TimmAutoAugment.img_size": either(224, "as the published recipe",
                                                  "operations are measured at image_size"),
        f"{OPS}.Cutout.*": differs("erasing cuts out a rectangle of noise; it is off here"),
        f"{OPS}.RandAugmentV4": lambda v, s: Answer(
            "differs", "RandAugment of the published recipe",
            {"@.augment.randaugment": "rand-m7-mstd0.5-inc1"}),
        f"{OPS}.RandomErasing.EPSILON": to("@.erasing"),
        f"{OPS}.RandomErasing.sl": same("erased area from", 0.02),
        f"{OPS}.RandomErasing.sh": same("erased area up to", "1.0/3.0"),
        f"{OPS}.RandomErasing.r1": same("aspect of what is erased", 0.3),
        f"{OPS}.RandomErasing.attempt": same("attempts", 10),
        f"{OPS}.RandomErasing.use_log_aspect": same("aspect by its logarithm", True),
        f"{OPS}.RandomErasing.mode": same("filled by noise", "pixel"),
        f"{OPS}.ResizeImage.size": _squash,
        f"{OPS}.ResizeImage.interpolation": differs("bicubic"),
        f"{SHOWN}.ResizeImage.size": _of(f"{OPS}.ResizeImage.size"),
        f"{SHOWN}.ResizeImage.resize_short": to("@.resize_short"),
        f"{SHOWN}.ResizeImage.interpolation": either("bicubic", "bicubic", "evaluation is bicubic"),
        f"{SHOWN}.CropImage.size": _eval_size,
        "Infer.infer_imgs": differs("--params images=FOLDER, for --pipeline prediction"),
        "Infer.batch_size": to("prediction.batch_size"),
        "Infer.transforms.*": lambda v, s: Answer("same", _VIEW),
        "Infer.PostProcess.name": same("classes by rank, or above a threshold", "Topk",
                                       "MultiLabelThreshOutput"),
        "Infer.PostProcess.topk": to("prediction.topk"),
        "Infer.PostProcess.threshold": to("prediction.threshold"),
        "Infer.PostProcess.class_id_map_file": differs(
            "class_map.txt ('id name' a line) beside the lists names the classes, which then "
            "travel with the weights"
        ),
        "Metric.Train": same("val is what is measured", None),
        "Metric.Train.*": differs("the training list is not measured; its loss is in history.csv"),
        "Metric.Eval.TopkAcc.topk": either([1, 5], "top-1 and top-5", "top-1 and top-5"),
        "Metric.Eval.DistillationTopkAcc.topk": either([1, 5], "top-1, top-5", "top-1 and top-5"),
        "Metric.Eval.DistillationTopkAcc.model_key": same("the student's", "Student"),
        "Metric.Eval.MultiLabelMAP.map_type": either("integral", "mAP", "mAP as an integral"),
        "Metric.Eval.*": differs("top-1, top-5 and what evaluation reports; mAP of several labels"),
    }  # fmt: skip
    for name in ("CELoss", "DistillationCELoss", "MultiLabelAsymmetricLoss"):
        rules[f"Loss.Train.{name}.weight"] = _loss(name)
    for name in ("gamma_pos", "gamma_neg", "clip"):
        rules[f"Loss.Train.MultiLabelAsymmetricLoss.{name}"] = _of("its weight")
    for name in ("momentum", "regularizer.coeff"):
        rules[f"Optimizer.{name}"] = _setting_of("Momentum")
    for name in ("beta1", "beta2", "weight_decay"):
        rules[f"Optimizer.{name}"] = _setting_of("AdamW")
    for name in ("MixupOperator", "CutmixOperator"):
        rules[f"{TRAIN}.batch_transform_ops.OpSampler.{name}.prob"] = _of("its alpha")
    for view in (OPS, SHOWN):
        rules |= {
            f"{view}.DecodeImage.to_rgb": same("images are RGB", True),
            f"{view}.DecodeImage.channel_first": same("an image is rows of pixels", False),
            f"{view}.NormalizeImage.scale": same(_NORM, 1 / 255),
            f"{view}.NormalizeImage.mean": same(_NORM, list(IMAGENET_MEAN)),
            f"{view}.NormalizeImage.std": same(_NORM, list(IMAGENET_STD)),
            f"{view}.NormalizeImage.order": same("channels come last there", ""),
        }
        for name in ("RandCropImage", "ResizeImage", "RandFlipImage", "TimmAutoAugment"):
            rules[f"{view}.{name}.backend"] = either(
                "pil", "Pillow", "Pillow, which smooths where it makes smaller and OpenCV does not"
            )
    for at, workers in (("Train", "@.workers"), ("Eval", "evaluation.workers")):
        batch = "@.batch_size" if at == "Train" else "evaluation.batch_size"
        rules |= {
            f"DataLoader.{at}.dataset.delimiter": same("path and label, a space between", " "),
            f"DataLoader.{at}.sampler.name": same(
                "an image once an epoch, shared by the processes", "DistributedBatchSampler"),
            f"DataLoader.{at}.sampler.batch_size": to(batch),
            f"DataLoader.{at}.sampler.shuffle": same("train is shuffled, not val", at == "Train"),
            f"DataLoader.{at}.loader.num_workers": to(workers),
            f"DataLoader.{at}.loader.use_shared_memory": either(
                True, "workers share memory", "workers share memory"),
        }  # fmt: skip
    rules["DataLoader.Eval.sampler.drop_last"] = same("every image counts", False)
    rules["DataLoader.Train.sampler.drop_last"] = differs(
        "an epoch's last batch is filled from the next: epochs x images / batch steps in all"
    )
    return rules


RULES: dict[str, Rule] = _rules()
REQUIRED = (
    "Arch.name", "Global.epochs", "Optimizer.name", "Optimizer.lr.learning_rate",
    "DataLoader.Train.sampler.batch_size",
)  # fmt: skip
# What a recipe has of which a YAML may say nothing: as PaddleClas does it then.
UNSAID: dict[str, Any] = {
    "@.warmup_epochs": 0,
    "@.ema_decay": None,
    "@.amp": "off",
    "@.eval_every": 1,
    "@.erasing": 0.0,
    "@.augment.name": "published",
    "@.augment.box": "paddle",
    "@.augment.mirror": 0.0,
    "@.augment.randaugment": None,
    "@.mix.mixup": 0.0,
    "@.mix.cutmix": 0.0,
    "@.mix.probability": 0.0,
    "@.mix.switch": 0.5,
}


# What an operation or block does where it is there and says nothing of it.
IMPLIED: dict[str, Any] = {
    "AMP.use_amp": True,
    f"{OPS}.RandCropImage.backend": "cv2",
    f"{OPS}.RandCropImage.interpolation": "bilinear",
    f"{SHOWN}.ResizeImage.backend": "cv2",
    f"{SHOWN}.ResizeImage.interpolation": "bilinear",
}


def rule_of(key: str) -> Rule | None:
    """The rule of a key: its own, or that of its group (``MLDecoder.*``)."""
    if key in RULES:
        return RULES[key]
    group = next((name for name in RULES if "*" in name and fnmatch.fnmatchcase(key, name)), None)
    return RULES[group] if group else None
