"""PaddleClas's YAMLs of PPHGNetV2 and PPHGNet as tables of keys and values, transcribed by hand.

From ppcls/configs/ImageNet/PPHGNetV2 and PPHGNet (twelve files) and MultiLabelCOCO/MLDecoder
(three) of PaddleClas at d178931fc. In a key the names of operations stand for their places in a
list; the tables keep the order of the files.
"""

from __future__ import annotations

from typing import Any

Table = dict[str, Any]

TRAIN, EVAL = "DataLoader.Train.dataset", "DataLoader.Eval.dataset"
# Keys below which the file has a list of blocks of one name each.
LISTS = (
    "Loss.Train", "Loss.Eval", f"{TRAIN}.transform_ops", f"{TRAIN}.batch_transform_ops",
    f"{EVAL}.transform_ops", "Infer.transforms", "Metric.Train", "Metric.Eval", "Arch.models",
)  # fmt: skip

_GLOBAL: Table = {
    "Global.checkpoints": None,
    "Global.pretrained_model": None,
    "Global.output_dir": "./output/",
    "Global.device": "gpu",
    "Global.save_interval": 1,
    "Global.eval_during_train": True,
    "Global.eval_interval": 1,
    "Global.epochs": 200,
    "Global.print_batch_step": 10,
    "Global.use_visualdl": False,
    "Global.image_shape": [3, 224, 224],
    "Global.save_inference_dir": "./inference",
}
_AMP: Table = {
    "AMP.use_amp": True,
    "AMP.use_fp16_test": False,
    "AMP.scale_loss": 128.0,
    "AMP.use_dynamic_loss_scaling": True,
    "AMP.use_promote": False,
    "AMP.level": "O1",
}
_LOSS: Table = {
    "Loss.Train.CELoss.weight": 1.0,
    "Loss.Train.CELoss.epsilon": 0.1,
    "Loss.Eval.CELoss.weight": 1.0,
}
_SGD: Table = {
    "Optimizer.name": "Momentum",
    "Optimizer.momentum": 0.9,
    "Optimizer.lr.name": "Cosine",
    "Optimizer.lr.learning_rate": 0.5,
    "Optimizer.lr.warmup_epoch": 5,
    "Optimizer.regularizer.name": "L2",
    "Optimizer.regularizer.coeff": 0.00002,
}


def _decoded(at: str) -> Table:
    return {f"{at}.DecodeImage.to_rgb": True, f"{at}.DecodeImage.channel_first": False}


def _normalised(at: str, scale: Any) -> Table:
    return {
        f"{at}.NormalizeImage.scale": scale,
        f"{at}.NormalizeImage.mean": [0.485, 0.456, 0.406],
        f"{at}.NormalizeImage.std": [0.229, 0.224, 0.225],
        f"{at}.NormalizeImage.order": "",
    }


def _shown(at: str, short: int, scale: Any, *, how: bool = True) -> Table:
    """The evaluation view."""
    filters = {f"{at}.ResizeImage.interpolation": "bicubic", f"{at}.ResizeImage.backend": "pil"}
    return (
        _decoded(at)
        | {f"{at}.ResizeImage.resize_short": short}
        | (filters if how else {})
        | {f"{at}.CropImage.size": 224}
        | _normalised(at, scale)
    )


def _loaded(part: str, batch: int, workers: int) -> Table:
    return {
        f"DataLoader.{part}.sampler.name": "DistributedBatchSampler",
        f"DataLoader.{part}.sampler.batch_size": batch,
        f"DataLoader.{part}.sampler.drop_last": False,
        f"DataLoader.{part}.sampler.shuffle": part == "Train",
        f"DataLoader.{part}.loader.num_workers": workers,
        f"DataLoader.{part}.loader.use_shared_memory": True,
    }


def _listed(at: str, root: str, file: str, kind: str = "ImageNetDataset") -> Table:
    return {f"{at}.name": kind, f"{at}.image_root": root, f"{at}.cls_label_path": file}


def _augmented(randaugment: str, scale: Any) -> Table:
    ops = f"{TRAIN}.transform_ops"
    return (
        _decoded(ops)
        | {
            f"{ops}.RandCropImage.size": 224,
            f"{ops}.RandCropImage.interpolation": "bicubic",
            f"{ops}.RandCropImage.backend": "pil",
            f"{ops}.RandFlipImage.flip_code": 1,
            f"{ops}.TimmAutoAugment.config_str": randaugment,
            f"{ops}.TimmAutoAugment.interpolation": "bicubic",
            f"{ops}.TimmAutoAugment.img_size": 224,
        }
        | _normalised(ops, scale)
    )


def _erased(share: float) -> Table:
    at = f"{TRAIN}.transform_ops.RandomErasing"
    return {
        f"{at}.EPSILON": share, f"{at}.sl": 0.02, f"{at}.sh": "1.0/3.0", f"{at}.r1": 0.3,
        f"{at}.attempt": 10, f"{at}.use_log_aspect": True, f"{at}.mode": "pixel",
    }  # fmt: skip


def _mixed(mixup: float) -> Table:
    at = f"{TRAIN}.batch_transform_ops.OpSampler"
    return {
        f"{at}.MixupOperator.alpha": mixup, f"{at}.MixupOperator.prob": 0.5,
        f"{at}.CutmixOperator.alpha": 1.0, f"{at}.CutmixOperator.prob": 0.5,
    }  # fmt: skip


def _inferred(short: int, *, how: bool = True) -> Table:
    return {
        "Infer.infer_imgs": "docs/images/inference_deployment/whl_demo.jpg",
        "Infer.batch_size": 10,
        **_shown("Infer.transforms", short, "1.0/255.0", how=how),
        "Infer.transforms.ToCHWImage": None,
        "Infer.PostProcess.name": "Topk",
        "Infer.PostProcess.topk": 5,
        "Infer.PostProcess.class_id_map_file": "ppcls/utils/imagenet1k_label_list.txt",
    }


_ROOT = "./dataset/ILSVRC2012/"


def _imagenet(arch: Table, short: int, randaugment: str, erasing: float, mixup: float | None,
              changes: Table) -> Table:  # fmt: skip
    """A training on ImageNet with labels: PPHGNetV2 and PPHGNet."""
    return (
        _GLOBAL
        | {"Global.to_static": False, "Global.use_dali": False}
        | _AMP
        | arch
        | _LOSS
        | _SGD
        | _listed(TRAIN, _ROOT, f"{_ROOT}train_list.txt")
        | _augmented(randaugment, "1.0/255.0")
        | _erased(erasing)
        | (_mixed(mixup) if mixup else {})
        | _loaded("Train", 128, 16)
        | _listed(EVAL, _ROOT, f"{_ROOT}val_list.txt")
        | _shown(f"{EVAL}.transform_ops", short, "1.0/255.0")
        | _loaded("Eval", 128, 16)
        | _inferred(short)
        | {"Metric.Train.TopkAcc.topk": [1, 5], "Metric.Eval.TopkAcc.topk": [1, 5]}
        | changes
    )


def _arch(name: str, *, pretrained: bool) -> Table:
    known = {"Arch.name": name, "Arch.class_num": 1000}
    return known | ({"Arch.pretrained": True} if pretrained else {})


def _ssld(epochs: int, lr: float, start: Any, root: str, listed: str) -> Table:
    """A stage of SSLD: PPHGNetV2_B4 learns from PPHGNet_small."""
    teacher, student = "Arch.models.Teacher", "Arch.models.Student"
    return (
        _GLOBAL
        | {"Global.use_dali": False, "Global.epochs": epochs}
        | _AMP
        | {
            "Arch.name": "DistillationModel", "Arch.class_num": 1000, "Arch.pretrained_list": None,
            "Arch.freeze_params_list": [True, False],
            f"{teacher}.name": "PPHGNet_small", f"{teacher}.class_num": 1000,
            f"{teacher}.pretrained": True, f"{teacher}.use_ssld": True,
            f"{student}.name": "PPHGNetV2_B4", f"{student}.class_num": 1000,
            f"{student}.pretrained": start,
            "Arch.infer_model_name": "Student",
            "Loss.Train.DistillationCELoss.weight": 1.0,
            "Loss.Train.DistillationCELoss.model_name_pairs": [["Student", "Teacher"]],
            "Loss.Eval.CELoss.weight": 1.0,
        }
        | _SGD
        | {"Optimizer.lr.learning_rate": lr}
        | _listed(TRAIN, root, listed)
        | _augmented("rand-m7-mstd0.5-inc1", 0.00392157)
        | _loaded("Train", 128, 8)
        | _listed(EVAL, _ROOT, f"{_ROOT}val_list.txt")
        | _shown(f"{EVAL}.transform_ops", 236, 0.00392157)
        | _loaded("Eval", 128, 8)
        | _inferred(236, how=False)
        | {
            f"Metric.{part}.DistillationTopkAcc.{key}": value
            for part in ("Train", "Eval")
            for key, value in (("model_key", "Student"), ("topk", [1, 5]))
        }
    )  # fmt: skip


def _multi_label(arch: str, batch: int, evaluated: int) -> Table:
    """PP-HGNetV2-B*_ml_decoder_448."""
    asymmetric = {"weight": 1.0, "gamma_pos": 0, "gamma_neg": 4, "clip": 0.05,
                  "disable_focal_loss_grad": True}  # fmt: skip
    images, lists = "dataset/coco_ml/images", "dataset/coco_ml"

    def resized(at: str) -> Table:
        return {
            f"{at}.ResizeImage.size": 448, f"{at}.ResizeImage.interpolation": "bilinear",
            f"{at}.ResizeImage.backend": "pil",
        }  # fmt: skip

    ops, shown = f"{TRAIN}.transform_ops", f"{EVAL}.transform_ops"
    return (
        _GLOBAL
        | {
            "Global.save_interval": 10, "Global.epochs": 40, "Global.image_shape": [3, 448, 448],
            "Global.to_static": False, "Global.use_multilabel": True, "EMA.decay": 0.9997,
        }
        | _AMP
        | {
            "Arch.name": arch, "Arch.class_num": 80, "Arch.pretrained": True,
            "Arch.use_ml_decoder": True, "MLDecoder.query_num": 80, "MLDecoder.in_channels": 2048,
        }
        | {
            f"Loss.{part}.MultiLabelAsymmetricLoss.{key}": value
            for part in ("Train", "Eval")
            for key, value in asymmetric.items()
        }
        | {
            "Optimizer.name": "AdamW", "Optimizer.beta1": 0.9, "Optimizer.beta2": 0.999,
            "Optimizer.epsilon": "1e-8", "Optimizer.weight_decay": "1e-4",
            "Optimizer.one_dim_param_no_weight_decay": True, "Optimizer.lr.name": "Cosine",
            "Optimizer.lr.learning_rate": "1e-4", "Optimizer.lr.eta_min": "1e-10",
            "Optimizer.lr.warmup_epoch": 5, "Optimizer.lr.warmup_start_lr": "1e-6",
        }
        | _listed(TRAIN, images, f"{lists}/train.txt", "MultiLabelDataset")
        | _decoded(ops)
        | resized(ops)
        | {f"{ops}.Cutout.length": 224, f"{ops}.Cutout.fill_value": "none",
           f"{ops}.RandAugmentV4": None}
        | _normalised(ops, "1.0/255.0")
        | _loaded("Train", batch, 8)
        | _listed(EVAL, images, f"{lists}/val.txt", "MultiLabelDataset")
        | _decoded(shown)
        | resized(shown)
        | _normalised(shown, "1.0/255.0")
        | _loaded("Eval", evaluated, 8)
        | {"Infer.infer_imgs": "deploy/images/coco_000000570688.jpg", "Infer.batch_size": 10}
        | _decoded("Infer.transforms")
        | resized("Infer.transforms")
        | _normalised("Infer.transforms", "1.0/255.0")
        | {
            "Infer.transforms.ToCHWImage": None,
            "Infer.PostProcess.name": "MultiLabelThreshOutput",
            "Infer.PostProcess.threshold": 0.5,
            "Infer.PostProcess.class_id_map_file": "ppcls/utils/COCO2017_label_list.txt",
            "Metric.Train": None,
            "Metric.Eval.MultiLabelMAP.map_type": "integral",
        }
    )  # fmt: skip


_M7 = "rand-m7-mstd0.5-inc1"
_LONG: Table = {"Global.epochs": 600, "Optimizer.regularizer.coeff": 0.00004}
TWELVE: dict[str, Table] = {
    **{
        f"PPHGNetV2_B{n}": _imagenet(_arch(f"PPHGNetV2_B{n}", pretrained=True), 232, _M7, 0.25,
                                     None, {})
        for n in range(7)
    },
    "PPHGNetV2_B4_ssld_stage1": _ssld(
        360, 0.5, False, "./dataset/", "./dataset/train_list_imagenet_5M.txt"),
    "PPHGNetV2_B4_ssld_stage2": _ssld(
        60, 0.005, "path/to/stage1_best_model_student", _ROOT, f"{_ROOT}train_list.txt"),
    "PPHGNet_tiny": _imagenet(_arch("PPHGNet_tiny", pretrained=True), 232, _M7, 0.25, 0.2, _LONG),
    "PPHGNet_small": _imagenet(_arch("PPHGNet_small", pretrained=True), 236, _M7, 0.25, 0.2, _LONG),
    "PPHGNet_base": _imagenet(_arch("PPHGNet_base", pretrained=False), 236, "rand-m15-mstd0.5-inc1",
                              0.4, 0.4, _LONG),
}  # fmt: skip
MULTI_LABEL: dict[str, Table] = {
    "PP-HGNetV2-B0_ml_decoder_448": _multi_label("PPHGNetV2_B0", 64, 32),
    "PP-HGNetV2-B4_ml_decoder_448": _multi_label("PPHGNetV2_B4", 64, 16),
    "PP-HGNetV2-B6_ml_decoder_448": _multi_label("PPHGNetV2_B6", 32, 8),
}


def nested(table: Table) -> dict[str, Any]:
    """The table as the file has it: blocks, and lists of blocks of one name each."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        above = next((name for name in LISTS if key.startswith(f"{name}.")), None)
        block = found
        for part in (above or key).split(".")[: None if above else -1]:
            outer, name = block, part
            block = block.setdefault(part, {})
        if above is None:
            block[key.split(".")[-1]] = value
            continue
        if not block:
            outer[name] = block = []  # type: ignore[assignment]
        operation, *path = key.removeprefix(f"{above}.").split(".")
        entry = next((one for one in block if operation in one), None)
        if entry is None:
            entry = {operation: {} if path else value}
            block.append(entry)  # type: ignore[attr-defined]
        inner = entry[operation]
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        if path:
            inner[path[-1]] = value
    return found
