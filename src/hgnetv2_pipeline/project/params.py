"""Every parameter's type and limits (a recipe's: ``training/config``); values are in conf/.

``validate`` turns the merged YAML and ``--params`` into clean values or one ``ParameterError`` that
names the key, what was given, what is allowed and where to set it. There are no defaults here: a
missing value is a mistake in conf/, not something to guess.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from hgnetv2_pipeline.deployment.choices import (
    DEVICE_ENGINES,
    FILE_PRECISIONS,
    FILES,
    MOST_BATCH,
    PLAN_TARGETS,
    DeviceEngine,
    EngineName,
    FilePrecision,
    LowerPrecision,
    OnnxEngine,
    PlanTarget,
    Precision,
)
from hgnetv2_pipeline.differences import flatten
from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.processor import MOST_THREADS
from hgnetv2_pipeline.training.config import (
    FREE,
    Amp,
    BatchNorm,
    BatchSize,
    Count,
    Device,
    DistributedConfig,
    Loaders,
    ParameterModel,
    Processes,
    Resume,
    Threads,
    TrainConfig,
    Views,
    read_typed_numbers,
)
from hgnetv2_pipeline.variants import VARIANTS, Lab, PoolPadding, read_image_size, variant_name
from hgnetv2_pipeline.weights.places import Part, Wanted


def _split_plus(value: Any) -> Any:
    """Lists on the command line are ``b0+b1``, for a comma would end them; ``key=`` is none."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split("+") if part.strip()]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _unique(value: list[Any]) -> list[Any]:
    if len(set(value)) != len(value):
        raise ValueError(f"{value} names something twice")
    return value


# What makes results, each of which can be asked for again.
REDOABLE = (
    "ingestion", "import_weights", "train_teacher", "mining", "label_next", "label_errors",
    "teacher_logits", "ssld_stage1", "ssld_stage2", "train", "finetune", "comparison", "best",
    "evaluation", "export", "latency", "prediction", "reporting", "sweep", "all",
)  # fmt: skip


def _redoable(names: list[str]) -> list[str]:
    for name in names:
        if name not in REDOABLE:
            raise unknown_name("name", name, REDOABLE, "--params redo=..., joined by +")
    return names


Names = Annotated[list[str], BeforeValidator(_split_plus), AfterValidator(_unique)]
Share = Annotated[float, Field(ge=0, le=1)]
Numbers = Annotated[list[int], BeforeValidator(_split_plus), AfterValidator(_unique)]
Counts = Annotated[
    list[BatchSize], BeforeValidator(_split_plus), AfterValidator(_unique), Field(min_length=1)
]


def _compiles(value: str) -> str:
    from hgnetv2_pipeline.data.patterns import compile_pattern

    try:
        compile_pattern(value, "regular expression")
    except ParameterError as error:
        raise ValueError(str(error)) from error
    return value


Pattern = Annotated[str, AfterValidator(_compiles)]


def _known_alpha(value: Any) -> Any:
    from hgnetv2_pipeline.data.decode import background_of

    background_of(value)
    return value


def _known_delimiter(value: str) -> str:
    from hgnetv2_pipeline.data.lists.kinds import delimiter_of

    delimiter_of(value)
    return value


Delimiter = Annotated[str, AfterValidator(_known_delimiter)]


def _known_depth(value: Any) -> Any:
    from hgnetv2_pipeline.data.depth import check_depth

    return value if value == "auto" else check_depth(value, "data.depth; auto: as the files need")


Depth = Annotated[Any, BeforeValidator(read_typed_numbers), AfterValidator(_known_depth)]
"""``auto``, bits or two levels."""
Alpha = Annotated[Any, BeforeValidator(read_typed_numbers), AfterValidator(_known_alpha)]
"""A name of ``decode.ALPHA`` or a colour."""


class _Block(ParameterModel):
    model_config = ConfigDict(allow_inf_nan=False)


class SplitParams(_Block):
    """How labelled images without lists of their own are divided (multi_label: one list)."""

    val: Share = Field(description="share of each class for validation")
    test: Share = Field(description="share of each class for the final test; 0 for none")
    group_pattern: Pattern | None = Field(
        description="regular expression on the key; images with the same match stay together"
    )
    groups: str | None = Field(
        description="CSV with columns path (below data.root) and group; images of one group stay "
        "together"
    )
    near_duplicates: bool = Field(description="keep images that look the same on one side")


class ListParams(_Block):
    """The lists or tables of a dataset, below list_root; null: by their usual names."""

    train: str | None = Field(description="train_list.txt, train.csv, ...; or the only table")
    val: str | None = Field(description="null and not there: split says what val is")
    test: str | None = Field(description="null and not there: split.test says what test is")
    class_map: str | None = Field(
        description="class_map.txt, label_list.txt, labels.txt: 'id name' lines, or one name per "
        "line"
    )


class ColumnParams(_Block):
    """The columns of a table of images; null: by their usual names."""

    path: str | None = Field(description="path of each image, below list_root")
    label: str | None = Field(description="class of each image: its name or number")
    split: str | None = Field(description="train, val or test of each row")


class DataParams(_Block):
    """Where the images are and how they become lists."""

    layout: Literal[
        "auto",
        "sample",
        "folders",
        "split_folders",
        "lists",
        "imagenet",
        "multi_label",
        "webdataset",
    ] = Field(  # fmt: skip
        description="auto: recognised, or refused where it may be two; folders: a folder per "
        "class; split_folders: train/, val/ and test/ of such folders; lists: train_list.txt of "
        "'path label' or a table, with or without others; imagenet: ILSVRC2012 as PaddleClas "
        "has it, with train_list.txt and val_list.txt or with train/ and val/; multi_label: "
        "several labels per image, train_list.txt of 'path<TAB>0,1,0' and, unless split says how, "
        "val_list.txt; "
        "webdataset: tars of pictures with a .cls or .json beside them"
    )
    root: str | Annotated[list[str], AfterValidator(_unique)] = Field(
        description="labelled images: a folder or .tar, or several; relative to the project or "
        "absolute"
    )
    list_root: str | None = Field(
        description="the folder of lists and class names, or one list; null: root"
    )
    lists: ListParams
    delimiter: Delimiter = Field(
        description="between path and label: auto, space, tab, comma, pipe or one character"
    )
    columns: ColumnParams
    class_from: Literal["auto", "first", "last", "path"] = Field(
        description="which folder names the class: the first below root, the last, or all of them; "
        "auto: first, but layout auto asks where folders are nested"
    )
    pool: Names = Field(
        description="unlabelled images: folders (tars inside are read in place), .tar files, lists"
    )
    test: str | None = Field(
        description="a folder per class of images for the final test, or null: then the test set "
        "of the layout itself, if it has one, is taken"
    )
    split: SplitParams
    min_per_class: Count = Field(description="a class with fewer images stops ingestion")
    max_bad: Share = Field(description="share of unreadable images above which ingestion stops")
    duplicates: Literal["refuse", "drop"] = Field(
        description="lines of a list that repeat an earlier one: stop, or leave them out"
    )
    leaks: Literal["refuse", "report", "clean"] = Field(
        description="images of train (val) that are in val or test (test) as well; refuse: the "
        "same bytes in two sets stop ingestion, near copies are reported; report: all are; clean: "
        "all are left out, and so are copies within a set"
    )
    alpha: Alpha = Field(
        description="what becomes of transparent pixels: drop (their hidden colours are kept), or "
        "the colour behind them: white, black, grey or [red, green, blue]"
    )
    depth: Depth = Field(
        description="what of files with 16 bits a channel the networks see: auto (the upper 8 of "
        "the bits that the highest level of the set needs), bits from 8 to 16, or [lowest, "
        "highest] level, scaled to 0 and 255"
    )
    trusted_roots: Names = Field(description="folders that symlinks may lead into")
    workers: Annotated[int, Field(ge=0, le=MOST_THREADS)] = Field(
        description="threads that scan; 0: one for each processor of ours"
    )


class GateParams(_Block):
    """The teacher must be better than what it teaches."""

    action: Literal["stop", "warn", "off"] = Field(
        description="where the teacher is no better than the baseline"
    )
    baseline: str = Field(
        description="members (mean of the members' accuracies), a run id, or an accuracy like 0.83"
    )


class SelfTrainingParams(_Block):
    """Probes that learn from the pool as well."""

    rounds: Annotated[int, Field(ge=0, le=20)] = Field(
        description="how often images of the pool are chosen and the classifiers of the probes "
        "fitted to them and the labelled ones; 0: to the labelled ones alone"
    )
    images: Count = Field(description="of the pool, at most, drawn by the seed")


class TeacherParams(_Block):
    """What the teacher is, and how its members are trained."""

    arch: Annotated[str, AfterValidator(variant_name)] = Field(
        description="b0..b6, hgnet_tiny|small|base or timm:<name>"
    )
    members: Annotated[int, Field(ge=0, le=100)] = Field(
        description="networks of arch to train by recipe, where source is empty; 0: none"
    )
    source: Names = Field(
        description="ready weights (zoo names, files, run ids) to use as they are; empty: train"
    )
    probes: Names = Field(
        description="frozen networks on whose features a linear classifier is fitted in seconds: "
        "timm:NAME@FILE, timm:NAME:packaged or timm:NAME:pretrained, or simple (gradients and "
        "colours, no weights)"
    )
    probe_size: Annotated[int, Field(ge=32, le=4096)] | None = Field(
        description="pixels a side that a probed network sees; null: its own, of small images "
        "twice theirs"
    )
    choose: Literal["all", "best"] = Field(
        description="who teaches: all, or the best on val and those whose help is clear there"
    )
    self_training: SelfTrainingParams
    bn: BatchNorm = Field(
        description="statistics of the frozen teacher's batch norms when it teaches online; "
        "PaddleClas happens to use those of the batch"
    )
    jobs: Processes = Field(description="members trained side by side")
    gate: GateParams
    recipe: TrainConfig


class DeduplicateParams(_Block):
    """Near-duplicates of validation and test images leave the pool."""

    channels: Annotated[
        list[Literal["bytes", "name", "phash", "features"]],
        BeforeValidator(_split_plus),
        AfterValidator(_unique),
        Field(min_length=1),
    ] = Field(description="what is compared; features need mining.features")
    name_pattern: Pattern | None = Field(
        description="regular expression of the part of a key that names the image, for 'name'"
    )
    views: Annotated[int, Field(ge=1, le=64)] = Field(
        description="hashes of each protected image: whole, mirrored, cut, turned, framed"
    )
    auto_max: Annotated[int, Field(ge=0, le=32)] = Field(
        description="64-bit pHash distance up to which a pool image is removed unseen"
    )
    verify_max: Annotated[int, Field(ge=0, le=32)] = Field(
        description="distance up to which a pair is compared pixel by pixel"
    )
    verify_budget: Count | None = Field(
        description="pool images that may be compared pixel by pixel: lowers verify_max; null: all"
    )
    feature_min: Share = Field(
        description="cosine of the teacher's features from which a pair is compared pixel by pixel"
    )
    strict: bool = Field(description="true: pairs in doubt are removed; false: kept")

    @model_validator(mode="after")
    def _names(self) -> DeduplicateParams:
        # Found out here, not after days of scoring.
        if ("name" in self.channels) != (self.name_pattern is not None):
            raise ValueError("the channel 'name' and name_pattern go together: set both or neither")
        if self.auto_max > self.verify_max:
            raise ValueError(f"auto_max {self.auto_max} is above verify_max {self.verify_max}")
        return self


class PurityParams(_Block):
    """How pure the mined list is, estimated by labelled images hidden among the pool."""

    probes: Literal["val", "train"] = Field(
        description="which labelled images are hidden; the teacher was trained on those of train, "
        "which makes them look purer than they are"
    )
    images: Count = Field(description="at most so many of them")


class LabelNextParams(_Block):
    """Which images of the pool a person should label next."""

    images: Annotated[int, Field(gt=0, le=5000)] = Field(description="how many are proposed")


class MiningParams(_Block):
    """From the pool to the images that the students train on."""

    batch_size: BatchSize = Field(description="images of the pool that are scored at once")
    shard_rows: Count = Field(description="images per shard of scores, what a stop can lose")
    workers: Loaders = Field(description="loader processes of each scoring process")
    processes: Processes = Field(
        description="that share the scoring, on a GPU each if there are any"
    )
    features: bool = Field(description="keep what the teacher's classifier sees (feat), 16 bits")
    rank_by: Literal["confidence", "typicality"] = Field(
        description="what images are ranked by. confidence: the teacher's probability; typicality: "
        "the share of labelled images that are less typical of their class, which also shows what "
        "belongs to no class"
    )
    k: Count | None = Field(description="images per class; null: by target_total or a stated rule")
    target_total: Count | None = Field(description="the smallest k that brings so many images")
    min_conf: Share = Field(description="the least confidence or typicality, as rank_by says")
    top_p: Count = Field(description="an image may serve its 1st..top_p-th class")
    diversity: Annotated[int, Field(ge=0, le=64)] | None = Field(
        description="pHash distance up to which two images of a class count as the same"
    )
    exclude: Names = Field(description="lists of images of the pool that are not to be mined")
    label_mode: Literal["teacher_top1", "zero"] = Field(
        description="what the list says of a mined image; the loss asks the teacher in any case"
    )
    max_bad: Share = Field(description="share of unreadable images above which scoring stops")
    map_images: Annotated[int, Field(ge=0, le=100_000)] = Field(
        description="images on the map of the pool; the teacher looks at those once more whose "
        "features are not kept; 0: no map"
    )
    deduplicate: DeduplicateParams
    purity: PurityParams

    @model_validator(mode="after")
    def _features(self) -> MiningParams:
        if "features" in self.deduplicate.channels and not self.features:
            raise ValueError(
                "the channel 'features' of deduplicate compares what mining.features keeps; set "
                "mining.features: true"
            )
        if self.top_p > 1 and self.rank_by == "typicality":
            raise ValueError(
                f"top_p {self.top_p} asks for second classes, which have no typicality; set "
                "mining.rank_by: confidence or mining.top_p: 1"
            )
        return self


class TeacherLogitsParams(_Block):
    """How a student of stages 1 and 2 comes to its teacher's answers."""

    source: Literal["online", "stored", "clean"] = Field(
        description="online: the teacher runs beside the student and answers the views that it is "
        "shown; stored: it answers so many views of each image once, for every student and both "
        "stages; clean: it answers each image once, which each of its networks sees as it does in "
        "mining, and students follow that in whatever view"
    )
    views: Views = Field(
        description="stored views per image; epoch e shows view e mod views; clean: one in any case"
    )
    topk: Count = Field(description="classes kept of an answer; the rest share what is left of 1")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(description="of the views")
    check: Annotated[int, Field(ge=0, le=10**6)] = Field(
        description="stored answers that the teacher is asked for again before training; 0: none"
    )
    amp: Amp = Field(
        description="precision of the pass; off: float32; the 16-bit kinds are faster on a GPU"
    )
    batch_size: BatchSize = Field(description="views that the teacher answers at once")
    shard_images: Count = Field(
        description="images per shard, the unit of work that a stop can lose"
    )
    workers: Loaders = Field(description="loader processes")
    max_bad: Share = Field(description="share of unreadable images above which the pass stops")


class ComparisonParams(_Block):
    """The honest table: which arms are trained besides the chain itself, with which seeds."""

    supervised_seeds: Numbers = Field(
        description="training on the labels alone, besides members of the teacher that are that"
    )
    equal_steps_seeds: Numbers = Field(
        description="supervised at the number of steps of the whole SSLD run"
    )
    unmined_seeds: Numbers = Field(description="stage 1 on the whole pool, in as many steps")
    stage1_seeds: Numbers = Field(description="further seeds of stage 1")
    stage2_seeds: Numbers = Field(description="further seeds of stage 2 (need the stage-1 seed)")
    jobs: Processes = Field(description="runs trained side by side")


class BestParams(_Block):
    """By which rule the model is chosen that is evaluated, exported and timed."""

    standard_errors: Annotated[float, Field(ge=0, le=10)] = Field(
        description="a candidate stays before one that is more accurate on val by no more than so "
        "many standard errors of the paired difference; 0: the most accurate is used"
    )


class EvaluationParams(_Block):
    """How a model is measured."""

    engine: Literal["torch", OnnxEngine] = Field(
        description="torch: the weights; another: the exported file, as it will be deployed"
    )
    precision: FilePrecision = Field(description="which exported file, where engine takes one")
    batch_size: BatchSize = Field(description="images answered at once")
    workers: Loaders = Field(description="loader processes")
    max_bad: Share = Field(description="0: one unreadable image fails the evaluation")
    resize_short: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        description="short side before the crop; null: as the weights say (236 for SSLD's); timm "
        "measures them at 232"
    )
    fast: bool = Field(
        description="resize by fixed-point arithmetic, a level off here and there: for a quick look"
    )


class PredictionParams(_Block):
    """How images are answered."""

    topk: Count | None = Field(
        description="classes shown per image; null: 5, or all of several labels"
    )
    threshold: Share | None = Field(
        description="lowest score of a class that is shown; null: 0, or with several labels what "
        "the model says for each class (else 0.5)"
    )
    multi_label: bool | None = Field(
        description="a score for each class by itself; null: as the model says"
    )
    class_map: str | None = Field(
        description="file of 'id name' lines in place of the model's own class names"
    )
    batch_size: BatchSize = Field(description="images answered at once")
    engine: Literal["auto", OnnxEngine] = Field(
        description="what runs the exported file; auto: the fastest that is installed and right"
    )


class ExportGateParams(_Block):
    """What a lower precision may cost before it is refused its name."""

    images: Count | None = Field(
        description="validation images it is judged on, evenly spaced; null: all"
    )
    max_drop: dict[LowerPrecision, Annotated[float, Field(ge=0, le=100)]] = Field(
        description="points of top-1 accuracy (several labels: of mAP) it may lose against fp32"
    )


class CalibrationParams(_Block):
    """What the ranges of INT8 are taken from."""

    split: Literal["train", "val"] = Field(description="whose images are looked at")
    images: Count = Field(description="evenly spaced in the list; fewer where it is shorter")
    method: Literal["max", "percentile"] = Field(
        description="range of an activation: its largest value, or one that percentile leaves out"
    )
    percentile: Annotated[float, Field(gt=90, le=100)] = Field(
        description="share in % of the values that the range holds, with method percentile"
    )


class PlanProfileParams(_Block):
    """Batch sizes a TensorRT plan is built for."""

    least: BatchSize = Field(description="smallest batch that the plan takes")
    best: BatchSize = Field(description="batch that it is tuned for")
    most: BatchSize = Field(description="largest batch that it takes")

    @model_validator(mode="after")
    def _in_order(self) -> PlanProfileParams:
        if not self.least <= self.best <= self.most:
            raise ValueError(f"{self.least}, {self.best}, {self.most} must not fall")
        return self


class KitParams(_Block):
    """What the TensorRT kit holds."""

    precisions: Annotated[
        list[Precision],
        BeforeValidator(_split_plus),
        AfterValidator(_unique),
        Field(min_length=1),
    ] = Field(description="of the plans that it builds")
    labs: Annotated[
        list[Lab],
        BeforeValidator(_split_plus),
        AfterValidator(_unique),
    ] = Field(description="forms of LAB beside clip, for B0-B3")
    batch_sizes: Counts = Field(description="that it measures")
    images: Count = Field(description="validation images packed into it")


def _targets_in_order(names: list[PlanTarget]) -> list[PlanTarget]:
    if "all" in names and len(names) > 1:
        raise ValueError("all cannot be combined with others")
    return sorted(names, key=PLAN_TARGETS.index)


class CardParams(_Block):
    """What the model card says that no file of the project knows."""

    license: str | None = Field(
        description="of the model, as Hugging Face names it (apache-2.0); null: not stated"
    )
    data_license: str | None = Field(description="of the images; null: not stated")
    contact: str | None = Field(description="whom to ask; null: not stated")
    notes: str | None = Field(description="a paragraph about intended use; null: none")


class ExportParams(_Block):
    """What is exported."""

    target: Literal["onnx", "tensorrt-kit", "tensorrt-rtx", "triton", DeviceEngine] = Field(
        description="what is made of it beside the ONNX files: a kit that builds and measures "
        "TensorRT plans on another machine, plans of TensorRT for RTX, a model repository, or a "
        "file for phones and boards"
    )
    gpus: Annotated[
        list[PlanTarget],
        BeforeValidator(_split_plus),
        AfterValidator(_unique),
        AfterValidator(_targets_in_order),
    ] = Field(
        description="of target=tensorrt-rtx: compute capabilities of the GPUs that a plan is for; "
        "all; none: 8.0 and later"
    )
    precisions: Annotated[
        list[FilePrecision],
        BeforeValidator(_split_plus),
        AfterValidator(_unique),
        Field(min_length=1),
    ] = Field(description="model.onnx is fp32 and always made; the others beside it")
    opset: Annotated[int, Field(ge=13, le=20)] = Field(
        description="version of ONNX's operators; lower ones for older runtimes"
    )
    batch: Annotated[int, Field(ge=1, le=MOST_BATCH)] | None = Field(
        description="the only batch size of the files, for compilers that ask for one (RKNN, other "
        "NPUs); null: any, and 1 of the files for devices"
    )
    softmax: bool = Field(
        description="a second output, probabilities (several labels: a sigmoid each)"
    )
    embedding: bool = Field(
        description="a further output, embedding [batch, 2048]: what the classifier sees of an "
        "image; hgnetv2 predict --features writes it"
    )
    lab: Lab = Field(
        description="LAB of B0-B3 folded forward where it can be, leaving ReLU, and elsewhere a "
        "bound (relu) or multiply-add (affine); or a bound everywhere (clip); the same logits"
    )
    gate: ExportGateParams
    calibration: CalibrationParams
    tensorrt: PlanProfileParams
    kit: KitParams
    card: CardParams

    @model_validator(mode="after")
    def _devices_have_the_precisions(self) -> ExportParams:
        known = FILES[self.target] if self.target in DEVICE_ENGINES else FILE_PRECISIONS
        if lacking := [name for name in self.precisions if name not in known]:
            raise ValueError(
                f"target {self.target} has {', '.join(known)}, no {', '.join(lacking)} (precisions)"
            )
        if self.embedding and self.target in DEVICE_ENGINES:
            raise ValueError(f"target {self.target} gives logits alone; leave embedding=false")
        if self.batch and self.target.startswith("tensorrt"):
            raise ValueError(f"target {self.target} takes the batch sizes of tensorrt, not batch")
        if self.target == "ncnn" and self.batch not in (None, 1):
            raise ValueError(f"target ncnn takes one image at a time; batch={self.batch} is no 1")
        return self

    @model_validator(mode="after")
    def _gpus_have_the_precisions(self) -> ExportParams:
        from hgnetv2_pipeline.deployment.kit.plans import capabilities_of

        if self.gpus and self.target != "tensorrt-rtx":
            raise ValueError(f"gpus are for target tensorrt-rtx, and target is {self.target}")
        for precision in self.precisions if "all" not in self.gpus else ():
            known = capabilities_of(precision, embedding=self.embedding)
            if refused := [gpu for gpu in self.gpus if gpu not in known]:
                what = f"{precision} with embeddings" if self.embedding else precision
                raise ValueError(
                    f"TensorRT for RTX builds {what} for no {', '.join(refused)}: Turing (sm75) "
                    "has fp16 alone, without embeddings; change gpus, precisions or embedding"
                )
        return self


class LatencyParams(_Block):
    """The seed's protocol: batch 1, 2100 runs, the first 100 dropped."""

    engines: Annotated[
        list[EngineName],
        BeforeValidator(_split_plus),
        AfterValidator(_unique),
        Field(min_length=1),
    ] = Field(description="what runs the model, one row each; what is not installed is left out")
    precisions: Annotated[
        list[Precision],
        BeforeValidator(_split_plus),
        AfterValidator(_unique),
        Field(min_length=1),
    ] = Field(
        description="PyTorch has fp32, tf32, fp16, bf16, OpenVINO fp32, bf16; fp16 and int8 of an "
        "exported model are files (export.precisions); what an engine lacks is reported and left "
        "out"
    )
    batch_sizes: Counts = Field(description="images answered at once, one row each")
    warmup: Annotated[int, Field(ge=0, le=10**6)] = Field(
        description="first runs of each row, which do not count"
    )
    runs: Annotated[int, Field(ge=1, le=10**6)] = Field(description="runs of each row that count")
    threads: Threads = Field(description="of an engine on a CPU")
    beside: Names = Field(
        description="models measured beside ours: timm:resnet18, scratch:b4, a run, a zoo name"
    )
    turns: Annotated[int, Field(ge=0, le=1000)] = Field(
        description="rounds in which all models are timed in turns besides; 0: not"
    )
    cold_starts: Annotated[int, Field(ge=0, le=1000)] = Field(
        description="fresh processes timed from hgnetv2 predict to its answer; 0: none"
    )


def _known_variant(value: str) -> str:
    if variant_name(value) not in VARIANTS:
        raise unknown_name("variant", value, VARIANTS, "--params variants=..., joined by +")
    return variant_name(value)


def _a_side(value: int) -> int:
    if read_image_size(value, 32, 2048) is None:
        raise ValueError(f"{value} is no side of a square input; allowed are 32 to 2048 pixels")
    return value


Variants = Annotated[
    list[Annotated[str, AfterValidator(_known_variant)]],
    BeforeValidator(_split_plus),
    AfterValidator(_unique),
    Field(min_length=1),
]
Sides = Annotated[
    list[Annotated[int, AfterValidator(_a_side)]],
    BeforeValidator(_split_plus),
    AfterValidator(_unique),
]


class ImportParams(_Block):
    """Weights of others."""

    part: Part = Field(description="which network of a distillation checkpoint, which holds both")
    key: str | None = Field(
        description="keys of the dicts above its tensors, dotted; null: where networks usually are"
    )
    prefix: str | None = Field(
        description="what comes before the names of its tensors; null: found by their names"
    )
    pool_padding: PoolPadding | None = Field(
        description="border of the stem's max-pool: zero for b0 to b3 trained in timm, D-FINE or "
        "transformers, exclude for PaddleClas's weights; null: as the file says"
    )
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        description="what the file must hash to; null: whatever it is, recorded"
    )

    @property
    def wanted(self) -> Wanted:
        """Which network of the file is wanted, and how its stem pads."""
        return Wanted(self.part, self.key, self.prefix, self.pool_padding)


def _mlflow_block(value: Any) -> Any:
    """``true`` and ``false`` as the block they stand for; a block alone is one that records."""
    nothing: dict[str, Any] = {
        "enabled": True,
        "uri": None,
        "experiment": None,
        "register": True,
        "tags": {},
    }
    if isinstance(value, bool):
        return {**nothing, "enabled": value}
    return {**nothing, **value} if isinstance(value, Mapping) else value


class MLflowParams(_Block):
    """Where runs are recorded, and what is registered."""

    enabled: bool = Field(description="record runs at all")
    uri: str | None = Field(
        description="tracking server or store; null: mlflow.db in the project. MLFLOW_TRACKING_URI "
        "comes before it"
    )
    experiment: str | None = Field(
        description="null: hgnetv2_pipeline. MLFLOW_EXPERIMENT_NAME comes before it"
    )
    registered: bool | str = Field(
        alias="register",  # a name that pydantic's own classes have
        description="exports become versions of a registered model; its name, or true: "
        "DATASET-VARIANT",
    )
    tags: dict[str, str] = Field(description="of the run, by name")


_Split = Literal["train", "val", "test"]


class RunParams(_Block):
    """All top-level parameters."""

    variant: str = Field(description="the student's network: b0 to b6")
    dataset: str = Field(description="name of the data, by which the folders of results are named")
    run: str = Field(description="name of the trainings of this command, by default seed=SEED")
    seed: int = Field(description="of weights, order and augmentation")
    recipe: str = Field(description="published, or a recipe_<name>.yml merged over it: fast, short")
    teacher: str = Field(description="name of the teacher, by which its folders are named")
    download: bool = Field(description="whether published weights that are missing are fetched")
    model: str | None = Field(
        description="what is evaluated, exported, timed and asked: a run (train/b0/seed=0), a "
        "published name, a weight file, timm:NAME:pretrained; null: the best of this variant"
    )
    split: _Split = Field(description="what evaluation measures on")
    weights: str = Field(description="what import_weights takes: ssld_stage1, ..., or a file")
    images: Names = Field(description="what prediction answers: files, folders, lists; empty: val")
    device: Device = Field(description="auto: a GPU if there is one; cpu, cuda, or one: cuda:1")
    distributed: DistributedConfig
    redo: Annotated[Names, AfterValidator(_redoable)] = Field(
        description="pipelines, and teacher_logits, whose results are made again; or all"
    )
    plan_only: bool = Field(description="stop after the printed plan")
    resume: Resume = Field(
        description="force: an unfinished training goes on under changed parameters, on record"
    )
    mlflow: Annotated[MLflowParams, BeforeValidator(_mlflow_block)] = Field(
        description="what MLflow records, and where; true, false for short"
    )
    variants: Variants = Field(description="of sweep: the networks that are compared")
    size: Sides = Field(
        description="of sweep: sides of the students' square input in pixels; none: the recipe's"
    )
    precision: Annotated[
        list[FilePrecision],
        BeforeValidator(_split_plus),
        AfterValidator(_unique),
        Field(min_length=1),
    ] = Field(description="of sweep: the exported files that are compared")
    budget_ms: Annotated[float, Field(gt=0)] | None = Field(
        description="of sweep: milliseconds that an answer may take (median, batch 1); null: any"
    )
    data: DataParams
    import_weights: ImportParams
    train_teacher: TeacherParams
    mining: MiningParams
    label_next: LabelNextParams
    teacher_logits: TeacherLogitsParams
    training: TrainConfig = Field(description="what all trainings have in common")
    ssld_stage1: TrainConfig
    ssld_stage2: TrainConfig
    train: TrainConfig
    finetune: TrainConfig
    comparison: ComparisonParams
    best: BestParams
    evaluation: EvaluationParams
    prediction: PredictionParams
    export: ExportParams
    latency: LatencyParams


# Where the recipes are: each is ``training`` with what is different for it.
RECIPES = ("train", "ssld_stage1", "ssld_stage2", "finetune", "train_teacher.recipe")


def complete_recipes(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """``params`` with every recipe whole: what all have in common below what is its own.

    ``given`` is what was typed (``--params``): of it, what is said of ``training`` holds for all
    recipes, unless the same is said of one.
    """
    from omegaconf import OmegaConf

    whole = copy.deepcopy(dict(params))
    for recipe in RECIPES:
        *path, name = recipe.split(".")
        place, typed = whole, given
        for part in path:
            place, typed = place.setdefault(part, {}), typed.get(part) or {}
        layers = (
            params.get("training"), place.get(name), given.get("training"), typed.get(name),
        )  # fmt: skip
        # What is no block is said to be none when all is validated.
        if all(layer is None or isinstance(layer, Mapping) for layer in layers):
            merged = OmegaConf.merge(*(OmegaConf.create(dict(layer or {})) for layer in layers))
            place[name] = OmegaConf.to_container(merged)
    return whole


def own_values(params: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from ``usual``, by dotted name, but for what decides no result.

    What all recipes have alike is said once, of ``training``.
    """
    before, values = flatten(usual), flatten(params)
    own = {
        name: value
        for name, value in values.items()
        if before.get(name) != value and name.rpartition(".")[2] not in FREE
    }
    first, *others = RECIPES
    for key in [name for name in own if name.startswith(f"{first}.")]:
        leaf = key.removeprefix(first)
        same = [f"{recipe}{leaf}" for recipe in others]
        if all(name in own and own[name] == own[key] for name in same):
            own[f"training{leaf}"] = own[key]
            for name in (key, *same):
                del own[name]
    return own


def validate(params: Mapping[str, Any], *, environment: str) -> dict[str, Any]:
    """Check all parameters; return them with lists split and numbers typed.

    Raises ``ParameterError`` for the first mistake: unknown keys come with the nearest name.
    """
    try:
        return RunParams.model_validate(dict(params)).model_dump(mode="json", by_alias=True)
    except ValidationError as error:
        raise _in_words(error, environment) from None


def _in_words(error: ValidationError, environment: str) -> ParameterError:
    mistakes = error.errors()
    # An unknown key explains a missing one (varient=b4), so it is reported first.
    # What is wrong in ``training`` is wrong in every recipe.
    mistakes.sort(key=lambda m: (m["type"] != "extra_forbidden", "training" not in m["loc"]))
    first = mistakes[0]
    path = _named(first["loc"])
    if first["type"] == "extra_forbidden":  # whatever it is called: init misspelt is int
        path = [*_named(first["loc"][:-1]), str(first["loc"][-1])]
    key = ".".join(path)
    where = f"--params {key}=... or conf/{environment}/parameters*.yml"
    if first["type"] == "extra_forbidden":
        allowed = _fields_of(path[:-1])
        owner = f" of {'.'.join(path[:-1])}" if path[:-1] else ""
        owners = [name for name in RunParams.model_fields if key in _fields_of([name])]
        if "training" in owners:
            owners.insert(0, owners.pop(owners.index("training")))  # which holds for all of them
        if owners:
            known = ", ".join(f"{name}.{key}" for name in owners)
            known = known.replace(f"training.{key}", f"training.{key} (for all trainings)")
            return ParameterError(
                f"unknown parameter '{key}'; choose one of {known} (--params {owners[0]}.{key}=...)"
            )
        lists = f"hgnetv2 parameters{f' {path[0]}.' if path[:-1] else ''} lists them"
        return unknown_name(f"parameter{owner}", path[-1], allowed, lists)
    if first["type"] == "missing":
        return ParameterError(f"parameter {key} is missing (set it by {where})")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ParameterError):
        return cause
    # A value that may be one of several kinds is wrong once for each of them.
    same = [mistake for mistake in mistakes if _named(mistake["loc"]) == path]
    messages = [mistake["msg"][0].lower() + mistake["msg"][1:] for mistake in same]
    message = str(cause) if cause else ", or ".join(dict.fromkeys(messages))
    if first["input"] in ("None", "none", "nil"):
        message += "; no value is written null"
    others = len(mistakes) - len(same)
    more = f"; and {others} more" if others else ""
    named = f"parameter {key}" if key else "the parameters"
    given = first["input"]
    shown = "" if isinstance(given, Mapping) else f" = {given!r}"
    return ParameterError(f"{named}{shown}: {message} ({where}){more}")


def _named(place: tuple[int | str, ...]) -> list[str]:
    """The keys on the way to a mistake, without pydantic's names of the kinds a value may have."""
    path: list[str] = []
    for part in place:
        if (
            isinstance(part, str)
            and part.isidentifier()
            and part not in ("int", "str", "float", "bool")
        ):
            path.append(part)
    return path


def _fields_of(path: list[str]) -> list[str]:
    model: Any = RunParams
    for part in path:
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        found = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not found:
            return []
        model = found[0]
    return sorted(field.alias or name for name, field in model.model_fields.items())
