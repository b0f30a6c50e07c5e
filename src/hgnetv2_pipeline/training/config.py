"""What a training run is given: recipe (TrainConfig), teacher (TeacherConfig) and job (RunSpec).

YAML holds every value and these models hold types and limits, so there are no defaults here: a
recipe that leaves something out is refused by name instead of being completed silently.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from hgnetv2_pipeline.devices import count_gpus
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.processor import MOST_THREADS
from hgnetv2_pipeline.variants import (
    Fit,
    ImageSize,
    height_and_width,
    read_image_size,
    size_in_words,
)
from hgnetv2_pipeline.weights.styles import Head

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.preprocess import Preprocess

DistillationLoss = Literal["ce", "kl", "skl", "dist"]
MultiLabelLoss = Literal["bce", "asymmetric"]
DISTILLATION_LOSSES: tuple[DistillationLoss, ...] = get_args(DistillationLoss)
MULTI_LABEL_LOSSES: tuple[MultiLabelLoss, ...] = get_args(MultiLabelLoss)
BatchNorm = Literal["eval", "batch"]
"""How a teacher's batch normalisation counts: by its own statistics, or by those of the batch."""
Resume = Literal["exact", "force"]
Keep = Literal["best", "last"]
# What a run may be resumed, and its result reused, with other values of: none changes a weight.
FREE = {
    "workers", "threads", "checkpoint_every_minutes", "keep_checkpoints", "keep_best", "profile",
    "max_bad",
}  # fmt: skip

# What came later, and what it was for runs that could not say: left out where it is still that, so
# that finished results and checkpoints of theirs hold.
_BEFORE: dict[str, Any] = {
    "augment.box": "torchvision",
    "fp16_scale": 65536.0,
    "loss.gamma": None,
    "loss.class_weights": None,
    "fit": "crop",
    "pad_colour": None,
    "keep": "best",
}

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
# Above these a number is a slip of the finger, which would be at work, or take memory, for ever.
Count = Annotated[int, Field(gt=0, le=10**10)]
Steps = Annotated[int, Field(gt=0, le=10**8)]
Epochs = Annotated[float, Field(gt=0, le=10**6, allow_inf_nan=False)]
BatchSize = Annotated[int, Field(gt=0, le=2**16)]
Threads = Annotated[int, Field(gt=0, le=MOST_THREADS)]
Processes = Annotated[int, Field(gt=0, le=MOST_THREADS)]
Loaders = Annotated[int, Field(ge=0, le=256)]
Views = Annotated[int, Field(gt=0, le=10**4)]
# off is false to YAML, which --params is read as.
Amp = Annotated[
    Literal["off", "bf16", "fp16"],
    BeforeValidator(lambda given: "off" if given is False else given),
]

Device = Annotated[str, Field(pattern="^(auto|cpu|cuda(:[0-9]{1,3})?)$")]
"""auto (a GPU if there is one), cpu, cuda, or one GPU of several: cuda:1."""


def read_typed_numbers(given: Any) -> Any:
    """``64+192`` as a list of numbers: on the command line a list is joined by +."""
    if isinstance(given, str) and "+" in given:
        parts = [part.strip() for part in given.split("+")]
        return [int(part) if part.isdecimal() else part for part in parts]
    return given


def _read_image_size(given: Any) -> Any:
    size = read_image_size(read_typed_numbers(given), 32, 2048)
    if size is None:
        raise ValueError(
            f"{given!r:.100}: one side in pixels, or [height, width] (typed height+width), each "
            "from 32 to 2048"
        )
    return size


def _read_colour(given: Any) -> Any:
    from hgnetv2_pipeline.data.decode import check_colour

    colour = read_typed_numbers(given)
    return None if colour is None else check_colour(colour, "pad_colour; null: ImageNet's mean")


class ParameterModel(BaseModel):
    """A block of parameters: frozen, closed, and strict where YAML is not: ``true`` is no 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="wrap")
    @classmethod
    def _no_number_from_a_truth(cls, given: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        found = validate(given)
        if _turned_into_number(given, found):
            raise ValueError("input should be a number, not true or false")
        return found


def _turned_into_number(given: Any, found: Any) -> bool:
    if isinstance(given, bool):
        return isinstance(found, int | float) and not isinstance(found, bool)
    if isinstance(given, dict) and isinstance(found, dict):
        return any(_turned_into_number(given[key], found.get(key)) for key in given)
    if isinstance(given, list | tuple) and isinstance(found, list | tuple):
        return any(map(_turned_into_number, given, found))
    return False


class OptimizerConfig(ParameterModel):
    """The update rule; L2 (sgd) or decoupled decay (adamw) spares BN weights and biases only."""

    name: Literal["sgd", "adamw"]
    """sgd is the published rule; adamw suits short runs."""
    momentum: Decay | None
    """Momentum of sgd; null with adamw."""
    weight_decay: NotNegative
    """L2 coefficient of sgd, decoupled decay of adamw."""
    betas: tuple[Decay, Decay] | None
    """Decay rates of adamw's two moments; null with sgd."""

    @model_validator(mode="after")
    def _its_own_numbers(self) -> Self:
        needed = "momentum" if self.name == "sgd" else "betas"
        if getattr(self, needed) is None:
            raise ValueError(f"optimizer.{needed} is null, but optimizer {self.name!r} needs it")
        return self


class AsymmetricConfig(ParameterModel):
    """How the asymmetric loss plays down what is easy; 4, 0 and 0.05 in its paper."""

    gamma_neg: NotNegative
    """Power by which easy negatives count less."""
    gamma_pos: NotNegative
    """The same of positives."""
    clip: Annotated[float, Field(ge=0, lt=1)]
    """Probability up to which a negative does not count at all."""


class LossConfig(ParameterModel):
    """What is minimised: label_smoothing and focal use labels; ce, kl, skl and dist follow a
    teacher; bce and asymmetric are for images of several labels.
    """

    name: Literal["label_smoothing", "focal", DistillationLoss, MultiLabelLoss]
    """ce is SSLD's loss as released; skl what its text calls JS; kl is softened by temperature."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """Share of the target spread evenly over the classes (bce: added to each, over the classes)."""
    temperature: Positive
    """Softening of both sides in kl; 1 with every other loss."""
    gt_weight: Share
    """Share of the labels' own loss beside the teacher's: 0 ignores labels; 0 without a teacher."""
    asymmetric: AsymmetricConfig | None
    """Numbers of the asymmetric loss; null with every other loss."""
    gamma: NotNegative | None
    """Power by which the focal loss plays down what is easy, 2 in its paper; null else."""
    class_weights: dict[str, NotNegative] | list[NotNegative] | None
    """Own weights of the classes: by name (others have 1), or a number per class in their order.
    Their ratios count, the mean over the list is made 1; with bce they multiply positives as they
    are. null = none."""

    @property
    def multi_label(self) -> bool:
        """Whether it is for images of several labels."""
        return self.name in MULTI_LABEL_LOSSES

    @model_validator(mode="after")
    def _numbers_that_would_be_ignored(self) -> Self:
        if self.name != "kl" and self.temperature != 1:
            raise ValueError(
                f"loss.temperature is {self.temperature:g}, but only loss 'kl' has a temperature; "
                f"set it to 1 with {self.name!r}"
            )
        if self.name not in DISTILLATION_LOSSES and self.gt_weight != 0:
            raise ValueError(
                "loss.gt_weight mixes labels into a distillation loss; set it to 0 with "
                f"{self.name!r}, which uses nothing but labels"
            )
        if (self.name == "asymmetric") != (self.asymmetric is not None):
            raise ValueError(
                f"loss.asymmetric is {'null' if self.asymmetric is None else 'given'} with loss "
                f"{self.name!r}: give gamma_neg, gamma_pos and clip with 'asymmetric', null else"
            )
        if self.name in ("asymmetric", "focal") and self.label_smoothing:
            raise ValueError(
                f"loss.label_smoothing is {self.label_smoothing:g}, but {self.name!r} has none; "
                "set it to 0"
            )
        if (self.name == "focal") != (self.gamma is not None):
            raise ValueError(
                f"loss.gamma is {self.gamma} with loss {self.name!r}: give a number (2.0 in the "
                "paper) with 'focal', null else"
            )
        return self

    @model_validator(mode="after")
    def _weights_of_labels(self) -> Self:
        if self.class_weights is None:
            return self
        if self.name == "asymmetric" or self.name in DISTILLATION_LOSSES:
            raise ValueError(
                f"loss.class_weights are given, but {self.name!r} does not use them; choose loss "
                "'label_smoothing', 'focal' or 'bce', or set them to null"
            )
        numbers = self.class_weights
        if not any(numbers.values() if isinstance(numbers, dict) else numbers):
            raise ValueError("loss.class_weights are all 0: nothing would be learnt; set some to 1")
        return self


class InputConfig(ParameterModel):
    """How training images reach the network; evaluation is always exact."""

    fast: bool
    """Crops, flips and operations of augment 'published' by fixed-point arithmetic (resizing is at
    most 2 levels off) instead of Pillow's, and JPEG crops at least four times as wide and high as
    the view decoded smaller (single pixels up to 13 levels off); a quarter to a half less CPU time
    per image."""
    resized: Annotated[int, Field(ge=32, le=4096)] | None
    """Short side of a copy of the training images, made once, from which they are then read: less
    to decode, at the price of another generation of JPEG. null = the originals."""
    device: Literal["none", "randaugment", "all"]
    """What the GPU does of augment 'published': nothing; the operations of RandAugment, a sixth of
    the CPU time of a fast image and more of an exact one; or all, decoding too (workers only read).
    """


class MixConfig(ParameterModel):
    """Mixup and CutMix of a batch, labels mixed alike (supervised training); timm's batch mode."""

    mixup: NotNegative
    """Alpha of Mixup's Beta distribution, 0.2 to 1; 0 = no Mixup."""
    cutmix: NotNegative
    """Alpha of CutMix's Beta distribution, mostly 1; 0 = no CutMix."""
    probability: Share
    """Chance of a batch to be mixed; 0 = never."""
    switch: Share
    """Chance of CutMix in place of Mixup where both are on."""

    @model_validator(mode="after")
    def _something_to_mix(self) -> Self:
        if self.probability and not (self.mixup or self.cutmix):
            raise ValueError(
                f"mix.probability is {self.probability:g}, but mixup and cutmix are both 0; "
                "give one of them an alpha, or set probability to 0"
            )
        return self


class EarlyStoppingConfig(ParameterModel):
    """A run ends before its time once val no longer rises; the schedule stays what it was."""

    patience: Count | None
    """Evaluations in a row without a gain that end the run; null = it goes to its end."""
    min_delta: Annotated[float, Field(ge=0, lt=1)]
    """What the best metric on val must rise by to count as a gain; 0.001 = 0.1 points of top-1."""


class ProfileConfig(ParameterModel):
    """Steps that torch.profiler records, into ``profile/`` of the run's folder."""

    start: Steps
    """Steps that this process takes before; the first ones are not like the others."""
    steps: Annotated[int, Field(ge=0, le=200)]
    """Steps recorded, some MB each; 0 = none, at no cost."""


class TrainConfig(ParameterModel):
    """One recipe: scratch, SSLD stage 1, stage 2 and fine-tune differ in nothing but this."""

    epochs: Epochs | None
    """Passes over the training list; null when steps is given."""
    steps: Steps | None
    """Optimiser steps; null when epochs is given."""
    batch_size: BatchSize
    """Images per step and process."""
    lr: Positive
    """Peak learning rate."""
    lr_batch: Annotated[int, Field(gt=0, le=2**24)] | None
    """Global batch that lr is meant for: lr is scaled linearly to the real one; null = as it is."""
    warmup_epochs: NotNegative
    """Passes over which lr climbs from 0."""
    optimizer: OptimizerConfig
    """The update rule."""
    stage_lr_mult: list[NotNegative] | None
    """Factors on lr for the stem and stages 1-4; null = 1 everywhere."""
    clip_norm: Positive | None
    """Largest global norm of the gradients; null = no clipping."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    """Decay of the running mean of the weights; null = none is kept."""
    loss: LossConfig
    """What is minimised."""
    augment: dict[str, Any]
    """Augmentation: its name and settings, for ``input.augment.make_augment``."""
    erasing: Share
    """Share of images with a random rectangle of noise (supervised training); 0 = none."""
    mix: MixConfig
    """Mixup and CutMix (supervised training)."""
    input: InputConfig
    """How training images are read and augmented: exactly, fast, or by the GPU."""
    image_size: Annotated[ImageSize, BeforeValidator(_read_image_size)]
    """Pixels that the network sees, in training and evaluation: one side, or [height, width]."""
    resize_short: Annotated[int, Field(ge=32, le=4096)]
    """Short side before the evaluation crop, pixels; counts with fit crop alone, and travels with
    the weights."""
    fit: Fit
    """How an image becomes that size, everywhere: crop (the middle is cut), squash (stretched), pad
    (whole, on pad_colour)."""
    pad_colour: Annotated[tuple[int, int, int] | None, BeforeValidator(_read_colour)]
    """[red, green, blue] around an image with fit pad; null = ImageNet's mean colour."""
    workers: Loaders
    """Loader processes; results do not depend on it."""
    amp: Amp
    """Mixed precision; fp16 needs a GPU."""
    fp16_scale: Positive
    """What losses are multiplied by at first in fp16, so that small gradients are not lost; from
    there on it rises and falls by itself. Other precisions have none."""
    channels_last: bool
    """Memory format of images and weights; a speed matter, 1.1-1.7x on CPU."""
    mode: Literal["as_set", "auto"]
    """auto: amp, channels_last and compile are replaced by the fastest that a trial of some steps
    finds sound, and the run says which; two machines may choose differently."""
    compile: bool
    """Whether torch.compile compiles the student: minutes at the start, then faster steps."""
    accumulate: BatchSize
    """Parts that a process works its batch through in, for less memory; the gradient is the same
    but for BN statistics, which are then each part's own."""
    sync_bn: bool
    """Whether BN statistics are those of all processes together; GPUs only."""
    threads: Threads | None
    """Threads of one process; null = torch's choice."""
    class_balance: Literal["none", "sampler", "weights"]
    """Unequal classes: as they are, drawn equally often, or weighted in the loss (bce: positives by
    their class's negatives over positives)."""
    eval_every: Positive | None
    """Passes between evaluations on val; null = only at the end."""
    keep: Keep
    """Which evaluation's weights become the result: the best on val, or the last, which val did not
    choose."""
    early_stopping: EarlyStoppingConfig
    """When to end before the time."""
    keep_best: Annotated[int, Field(ge=0, le=100)]
    """Best evaluations whose weights are kept as files in ``best/``; the best one of all is in
    every checkpoint besides."""
    profile: ProfileConfig
    """Which steps torch.profiler records."""
    checkpoint_every_minutes: Positive
    """Longest work lost to a power cut."""
    keep_checkpoints: Annotated[int, Field(gt=0, le=10**4)]
    """Newest checkpoints kept."""
    max_bad: Share
    """Largest share of unreadable training images before the run stops."""
    init: str
    """'scratch', a zoo name, a weight file or a run folder."""
    head: Head | Literal["match"]
    """What to do when the weights have other classes: strict refuses, reinit starts fc afresh,
    match keeps the rows of classes of the same names."""
    freeze_at: Annotated[int, Field(ge=0, le=5)]
    """What does not learn: 0 nothing, 1 the stem, 2 also stage 1, ... 5 all but the head."""
    freeze_norm: bool
    """Whether every BN layer keeps its statistics, weight and bias."""

    @field_validator("stage_lr_mult")
    @classmethod
    def _five(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and len(value) != 5:
            raise ValueError(f"needs 5 factors (stem and four stages), got {len(value)}")
        return value

    @field_validator("augment")
    @classmethod
    def _crop_is_named(cls, value: dict[str, Any]) -> dict[str, Any]:
        from hgnetv2_pipeline.input.augment import PUBLISHED_BOX

        # Results say how their crops were drawn: the default was another one once.
        unnamed = value.get("name") == "published" and value.get("box") is None
        return {**value, "box": PUBLISHED_BOX} if unnamed else value

    @model_validator(mode="after")
    def _length_and_shape(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps; set the other to null")
        if self.epochs is not None and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs:g}) must be less than epochs "
                f"({self.epochs:g}): the learning rate would never come down"
            )
        if self.early_stopping.patience is not None and self.eval_every is None:
            raise ValueError(
                f"early_stopping.patience is {self.early_stopping.patience} evaluations, but "
                "eval_every is null: there is one, at the end; set eval_every, or patience to null"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide into accumulate "
                f"{self.accumulate} equal parts"
            )
        if self.fit == "crop" and self.resize_short < min(height_and_width(self.image_size)):
            raise ValueError(
                f"resize_short ({self.resize_short}) must be at least image_size "
                f"({size_in_words(self.image_size)}): a crop cannot be larger than the image"
            )
        if self.pad_colour is not None and self.fit != "pad":
            raise ValueError(
                f"pad_colour is {list(self.pad_colour)}, but fit {self.fit!r} pads nothing; set "
                "fit to pad, or pad_colour to null"
            )
        if self.erasing and self.loss.name in DISTILLATION_LOSSES:
            raise ValueError(
                f"erasing is {self.erasing:g}, but SSLD's recipes have none: teacher and student "
                "see the same image; set it to 0 with a distillation loss"
            )
        if self.mix.probability and self.loss.name in DISTILLATION_LOSSES:
            raise ValueError(
                f"mix.probability is {self.mix.probability:g}, but a distillation loss has no "
                "labels to mix; set it to 0"
            )
        if self.class_balance == "sampler" and self.loss.multi_label:
            raise ValueError(
                "class_balance 'sampler' draws classes equally often, which images of several "
                "classes do not allow; choose 'weights' (bce) or 'none'"
            )
        if self.class_balance == "weights" and self.loss.name == "asymmetric":
            raise ValueError(
                "class_balance 'weights' beside loss 'asymmetric', whose powers are its balance; "
                "choose 'none'"
            )
        if self.class_balance == "weights" and self.loss.name in DISTILLATION_LOSSES:
            raise ValueError(
                "class_balance 'weights' weighs labels, which a distillation loss does not use; "
                "choose 'sampler' or 'none'"
            )
        if self.class_balance == "weights" and self.loss.class_weights is not None:
            raise ValueError(
                "class_balance 'weights' and loss.class_weights are two sets of weights; set "
                "class_balance to 'none' or loss.class_weights to null"
            )
        if (self.freeze_at or self.freeze_norm) and self.init.partition(":")[0] == "scratch":
            raise ValueError(
                "freeze_at and freeze_norm would keep weights that nobody trained; start init from "
                "weights, or set them to 0 and false"
            )
        return self

    @model_validator(mode="after")
    def _augment_can_be_made(self) -> Self:
        from hgnetv2_pipeline.input.augment import make_augment

        view = make_augment(self.view())
        if self.input.device != "none":
            from hgnetv2_pipeline.input.deferred_view import on_device

            on_device(view, self.input.device, "cuda")
        return self

    def check_device(self, device: str) -> None:
        """Raise ``ParameterError`` unless ``amp`` can be had on ``device`` (cpu, cuda, cuda:N)."""
        if self.amp == "fp16" and not device.startswith("cuda"):
            raise ParameterError("training.amp 'fp16' needs a GPU; use 'bf16' or 'off' on a CPU")

    def decisive(self, exclude: set[str] = FREE) -> dict[str, Any]:
        """What decides the result, as JSON values, for manifests and checkpoints."""
        values = self.model_dump(mode="json", exclude=exclude)
        if self.amp != "fp16" and self.mode == "as_set":
            del values["fp16_scale"]
        for name, before in _BEFORE.items():
            *blocks, last = name.split(".")
            place = values
            for block in blocks:
                place = place[block]
            if last in place and place[last] == before:
                del place[last]
        return values

    def view(self) -> dict[str, Any]:
        """What ``input.augment.make_augment`` needs: ``augment``, the two sizes and the fit."""
        fit = {} if self.fit == "crop" else {"fit": self.fit, "pad_colour": self.pad_colour}
        return {
            **self.augment,
            "fast": self.input.fast,
            "image_size": self.image_size,
            "resize_short": self.resize_short,
            **fit,
        }

    @property
    def preprocess(self) -> Preprocess:
        """The evaluation view; of images that are decoded by default."""
        from hgnetv2_pipeline.data.preprocess import Preprocess

        return Preprocess(
            resize_short=self.resize_short,
            crop=self.image_size,
            fit=self.fit,
            pad_colour=self.pad_colour,
        )

    @property
    def fit_of_others(self) -> Fit | None:
        """How networks that were not trained by this recipe, with square views of their own, are to
        see its images; None: as they always do.

        Where the recipe sees oblong views, others see the same squashed.
        """
        if self.fit != "crop":
            return self.fit
        return None if isinstance(self.image_size, int) else "squash"


class TeacherConfig(ParameterModel):
    """The network, or mean of networks, whose answers the student learns."""

    members: Annotated[list[str], Field(min_length=1)]
    """Zoo names, weight files, run folders or timm:<name>; each brings its own preprocessing."""
    bn: BatchNorm
    """Statistics of the frozen BN layers: stored ones, or the batch's as PaddleClas happens to."""


class StoredLogits(ParameterModel):
    """The teacher's answers in a file, in place of the teacher at every step."""

    folder: Path
    """A finished store, see data.teacher_logits."""
    check: Annotated[int, Field(ge=0)]
    """Records that the teacher is asked for again before the first step; 0 = none."""
    clean: bool
    """Whether the answers are to the images, one per image, and go with whatever views a training
    draws; else to the very views that it shows."""


class StoreSpec(ParameterModel):
    """One pass of a teacher over V views of every image; JSON-able, for processes of its own."""

    classes: list[str]
    """Class names in the order of the logits."""
    samples: Path
    """Parquet of the images, labelled or not."""
    samples_root: Path
    """Folder that their paths are relative to."""
    root: Path
    """The project's folder, for weights and runs named in teacher."""
    teacher: TeacherConfig
    """The networks that answer."""
    augment: dict[str, Any] | None
    """The views that are answered, as TrainConfig.view gives them; null = each image once, as every
    network of the teacher wants it."""
    fit: Fit | None
    """With augment null: how networks with square views of their own see an image; null = as their
    weights say."""
    resized: int | None
    """Short side of the copy that the samples are; null = the originals."""
    views: Views
    """V: views of an image; epoch e of a training shows view e mod V."""
    topk: Count
    """K: best classes kept of an answer; at least the number of classes keeps all."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Of the views; the order of a training has a seed of its own."""
    amp: Amp
    """Amp of the teacher; off is full float32 (no TF32)."""
    batch_size: BatchSize
    """Views that the teacher answers at once."""
    shard_images: Count
    """Images a shard; one that is not whole is made again after a stop."""
    workers: Loaders
    """Loader processes."""
    threads: Threads | None
    """Threads of one process; null = torch's choice."""
    channels_last: bool
    """Memory format; a speed matter."""
    max_bad: Share
    """Largest share of unreadable images."""
    earlier: list[Path]
    """Folders of other stores: answers in them to the same images, made the same way, are taken
    over instead of made."""
    out: Path
    """Folder of the store."""
    device: Device
    """cpu, cuda, cuda:1, or auto."""
    rank: Annotated[int, Field(ge=0)]
    """This process among those that share the work."""
    world_size: Annotated[int, Field(gt=0, le=MOST_THREADS * 1024)]
    """Their number; shards do not depend on it."""

    @model_validator(mode="after")
    def _views_can_be_replayed(self) -> Self:
        _only_eval(self.teacher)
        if self.rank >= self.world_size:
            raise ValueError(f"rank {self.rank} is not one of {self.world_size} processes")
        return self


def _only_eval(teacher: TeacherConfig) -> None:
    if teacher.bn != "eval":
        raise ValueError(
            f"teacher.bn is {teacher.bn!r}, so an answer depends on the other images of its batch "
            "and cannot be stored; set train_teacher.bn=eval or teacher_logits.source=online"
        )


class DistributedConfig(ParameterModel):
    """How many processes train one run, started and watched by torch elastic."""

    nproc_per_node: Processes | Literal["auto"]
    """Processes on a machine; auto = one per GPU, one alone on a CPU."""
    nnodes: Annotated[int, Field(gt=0, le=1024)]
    """Machines; each further one joins by the torchrun command that the first one prints."""
    rdzv_endpoint: str | None
    """host:port of the first machine, by which the others find it; null with one machine."""
    max_restarts: Annotated[int, Field(ge=0, le=10**4)]
    """Times that all processes start again, from the newest checkpoint, after one has died."""

    @model_validator(mode="after")
    def _a_place_to_meet(self) -> Self:
        if (self.nnodes > 1) != (self.rdzv_endpoint is not None):
            raise ValueError(
                f"distributed.nnodes is {self.nnodes} and rdzv_endpoint {self.rdzv_endpoint}: "
                "several machines meet at host:port of the first, one alone needs null"
            )
        return self

    def processes_here(self, device: str) -> int:
        """Processes on this machine for a run on ``device`` (auto, cpu, cuda, cuda:N)."""
        if self.nproc_per_node != "auto":
            if self.nproc_per_node > 1 and device.startswith("cuda:"):
                raise ParameterError(
                    f"distributed.nproc_per_node is {self.nproc_per_node}, but device {device!r} "
                    "is one GPU, and each process needs its own; set device to cuda"
                )
            return self.nproc_per_node
        if device not in ("auto", "cuda"):
            return 1
        return max(1, count_gpus())

    def processes(self, device: str) -> int:
        """Processes on all machines together; all have the same number."""
        return self.nnodes * self.processes_here(device)


class RunSpec(ParameterModel):
    """One training run, complete and JSON-able: what a process of its own is started with."""

    variant: str
    """Network to train: b0 to b6, or a PPHGNet."""
    num_classes: Count
    """Number of classes."""
    classes: list[str]
    """Class names in the order of the labels."""
    train: Path
    """Parquet of training samples."""
    train_root: Path
    """Folder that the training samples' paths are relative to."""
    val: Path
    """Parquet of validation samples, by which weights are chosen."""
    val_root: Path
    """Folder that the validation samples' paths are relative to."""
    root: Path
    """The project's folder: holds weights/, and paths of runs and files in init and teacher."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Decides initial weights, order and views."""
    config: TrainConfig
    """The recipe."""
    teacher: TeacherConfig | None
    """The teacher; null for supervised training."""
    teacher_logits: StoredLogits | None
    """Its stored answers; null = it runs along, or there is none."""
    out: Path
    """Folder of the run: student.safetensors, history.csv, result.json, checkpoints/."""
    stage: str
    """Name of the pipeline, kept in the weights' metadata."""
    inputs: dict[str, str]
    """Hashes of what the run was made from, kept in the weights' metadata."""
    device: Device
    """cpu, cuda, cuda:1, or auto."""
    resume: Resume
    """force: a checkpoint made under another recipe, list or number of processes is gone on with,
    and result.json says what changed and at which step; exact: it is refused."""

    @property
    def place(self) -> str:
        """Where the recipe is among the parameters, to be named by errors and advice."""
        return "train_teacher.recipe" if self.stage == "train_teacher" else self.stage

    @model_validator(mode="after")
    def _loss_and_teacher_belong_together(self) -> Self:
        name = self.config.loss.name
        if name in DISTILLATION_LOSSES and self.teacher is None:
            raise ValueError(
                f"loss {name!r} follows a teacher, but teacher is null; "
                "name one in teacher.members, or use loss 'label_smoothing'"
            )
        if name not in DISTILLATION_LOSSES and self.teacher is not None:
            raise ValueError(
                f"loss {name!r} would ignore the teacher; choose one of "
                f"{', '.join(DISTILLATION_LOSSES)}, or set teacher to null"
            )
        if self.teacher_logits is not None:
            if self.teacher is None:
                raise ValueError("teacher_logits are stored answers of a teacher; name it")
            _only_eval(self.teacher)
            if self.config.input.device != "none":
                raise ValueError(
                    "stored teacher logits belong to views that workers make; set input.device "
                    "to none, or teacher_logits.source to online"
                )
        if len(self.classes) != self.num_classes:
            raise ValueError(f"{len(self.classes)} class names for num_classes {self.num_classes}")
        return self
