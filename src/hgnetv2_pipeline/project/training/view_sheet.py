"""What the network sees: some images of a training, each beside views of it, as one picture."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hgnetv2_pipeline.durable import write_aside
from hgnetv2_pipeline.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

    from hgnetv2_pipeline.training.config import RunSpec

VIEWS = "views.png"
_IMAGES, _VIEWS, _CELL, _GAP = 6, 4, 96, 2

_log = logging.getLogger(__name__)


def write_views(spec: RunSpec) -> None:
    """Write ``views.png`` into the folder of a training; where no image can be read, a warning.

    It is beside the result and no part of it: the training does not depend on it.
    """
    try:
        sheet = view_sheet(spec)
    except DataError as error:
        _log.warning("%s: no picture of what the network sees: %s", spec.stage, error)
        return
    spec.out.mkdir(parents=True, exist_ok=True)
    with write_aside(spec.out / VIEWS) as path:
        sheet.save(path, "PNG")


def view_sheet(spec: RunSpec) -> Image.Image:
    """A row per image: its evaluation view, then views of the first epochs, mixed and erased."""
    from PIL import Image

    from hgnetv2_pipeline.data.report import fit_into

    rows = shown_views(spec)
    step = _CELL + _GAP
    size = (1 + _VIEWS) * step + _GAP, len(rows) * step + _GAP
    sheet = Image.new("RGB", size, "white")
    for down, views in enumerate(rows):
        for across, pixels in enumerate(views):
            fitted = fit_into(Image.fromarray(pixels), _CELL)
            left, top = ((_CELL - side) // 2 for side in fitted.size)
            sheet.paste(fitted, (across * step + _GAP + left, down * step + _GAP + top))
    return sheet


def shown_views(spec: RunSpec) -> list[list[npt.NDArray[np.uint8]]]:
    """Pixels of some images of the training list, spread over it: uint8 [H, W, 3] each.

    A row is the evaluation view, then the views of the first epochs by the loader, the recipe and
    the seed of the training itself (stored teacher logits have a seed of their own), with Mixup,
    CutMix and erasing where the recipe has them. What the training mixes within a batch is mixed
    here among the images of the sheet. An image that cannot be read has no row.

    Raises:
        DataError: none can be read.
    """
    import torch

    from hgnetv2_pipeline.data.index import decoding_of
    from hgnetv2_pipeline.data.quarantine import Ledger
    from hgnetv2_pipeline.input.augment import make_augment
    from hgnetv2_pipeline.input.loader import eval_batches, train_batches
    from hgnetv2_pipeline.training.mixing import Mixing
    from hgnetv2_pipeline.training.prepare import make_view, read_samples
    from hgnetv2_pipeline.training.step import step_seed

    config = spec.config
    train = read_samples(spec.train, num_classes=spec.num_classes)
    preprocess = config.preprocess.reading(decoding_of(train))
    places = np.unique(np.linspace(0, len(train) - 1, _IMAGES).round().astype(int))
    some: Any = train.iloc[places]
    originals: dict[str, Any] = {}
    for batch in eval_batches(
        some, spec.train_root, preprocess=preprocess, batch_size=len(some), workers=0,
        ledger=Ledger(len(some), 1.0),
    ):  # fmt: skip
        originals |= dict(zip(batch.keys, _pixels(batch.images), strict=True))
    some = some[some["key"].isin(list(originals))]
    if not len(some):
        raise DataError(f"not one of {len(places)} images of {spec.train} can be read")
    view = make_view(preprocess, channels_last=False, erasing=config.erasing)
    # A teacher's students are trained on whole images.
    mixed = spec.teacher is None and config.mix.probability > 0
    mixing = Mixing(**config.mix.model_dump()) if mixed else None
    mean, deviation = (
        torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std)
    )
    rows = {key: [pixels] for key, pixels in originals.items()}
    with torch.random.fork_rng(devices=[]):  # the training's own random numbers stay as they are
        for batch in train_batches(
            some, spec.train_root, transform=make_augment(config.view()), seed=spec.seed,
            batch_size=len(some), start_step=0, steps=_VIEWS, workers=0,
            ledger=Ledger(len(some), 0.0),
        ):  # fmt: skip
            torch.manual_seed(step_seed(spec.seed, batch.step, 0))
            x = view(batch.images)
            if mixing is not None:
                x, _ = mixing(x)
            seen = ((x * deviation + mean) * 255).round().clamp(0, 255).to(torch.uint8)
            for key, pixels in zip(batch.keys, _pixels(seen), strict=True):
                rows[key].append(pixels)
    return list(rows.values())


def _pixels(images: Any) -> npt.NDArray[np.uint8]:
    """uint8 [N, H, W, 3] of a tensor [N, 3, H, W]."""
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
