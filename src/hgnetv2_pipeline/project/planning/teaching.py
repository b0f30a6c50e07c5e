"""How fast the teacher answers, also where it is not there yet."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import TeacherParams
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.training.config import TeacherConfig, TrainConfig

if TYPE_CHECKING:
    import pandas as pd

    from hgnetv2_pipeline.training.stored_logits.speed import Rate


def stand_ins(teacher: TeacherParams, short_side: int) -> list[str]:
    """Members with fresh weights of the kinds that ``teacher`` will have: as fast as they are.

    ``short_side`` of the images, which decides how closely a probe looks. Where the best of several
    candidates will teach, a probed network is taken for it: the slowest of them, as a rule.
    """
    from hgnetv2_pipeline.weights.zoo import ZOO

    networks = [spec for spec in teacher.probes if spec != "simple"]
    if networks or (teacher.probes and not teacher.members and not teacher.source):
        return [_stand_in_of_probe(spec, teacher, short_side) for spec in networks or ["simple"]]

    fresh = teacher.arch if teacher.arch.startswith("timm:") else f"scratch:{teacher.arch}"
    ready = [
        f"scratch:{ZOO[member].variant}" if member in ZOO else fresh for member in teacher.source
    ]
    return ready or [fresh] * teacher.members


def _stand_in_of_probe(spec: str, teacher: TeacherParams, short_side: int) -> str:
    from hgnetv2_pipeline.teacher.probing import probe_size
    from hgnetv2_pipeline.weights.foreign_network import input_of
    from hgnetv2_pipeline.weights.source_names import parse_timm, trunk_name

    if spec == "simple":
        return "scratch:probe:simple"
    own = input_of(parse_timm(spec.partition(":")[2]).name)
    size = own.side if own.fixed else teacher.probe_size or probe_size(own.side, short_side)
    return f"scratch:probe:{trunk_name(spec)}:{size}"


def teacher_rate(
    run: Run,
    teacher: TeacherConfig,
    index: Path,
    *,
    recipe: TrainConfig,
    batch_size: int,
    workers: int,
    amp: str = "off",
    views: int | None = None,
) -> Rate:
    """How fast ``teacher`` answers to the first images of ``index``, whole or in ``views``.

    ``recipe`` is stage 1's: its views, its sizes, its threads.
    """
    from hgnetv2_pipeline.data.quarantine import Ledger
    from hgnetv2_pipeline.devices import choose_device
    from hgnetv2_pipeline.input.augment import make_augment
    from hgnetv2_pipeline.input.loader import eval_batches, view_batches
    from hgnetv2_pipeline.input.workers import watch_workers
    from hgnetv2_pipeline.training.prepare import build_teacher
    from hgnetv2_pipeline.training.run import torch_settings
    from hgnetv2_pipeline.training.stored_logits.speed import BATCHES, pass_rate

    place, root = choose_device(run.device), run.folder("raw")
    preprocess = recipe.preprocess
    images = batch_size if views is None else max(1, batch_size // views)
    rows = _first_rows(index, images * (BATCHES + 1))
    ledger = Ledger(len(rows), 1.0)
    if views is None:
        batches = eval_batches(
            rows,
            root,
            preprocess=preprocess,
            batch_size=batch_size,
            workers=workers,
            ledger=ledger,
        )
    else:
        batches = view_batches(
            rows,
            root,
            view=make_augment(recipe.view()),
            seed=0,
            views=views,
            images=images,
            workers=workers,
            ledger=ledger,
        )
    with watch_workers(), torch_settings(place, recipe.threads):
        network, _ = build_teacher(
            teacher,
            classes=Lists(run.folder("lists")).classes,
            root=run.identity.project,
            preprocess=preprocess,
            channels_last=recipe.channels_last,
            device=place,
        )
        return pass_rate(network, batches, batch_size=batch_size, amp=amp, device=place)


def _first_rows(index: Path, count: int) -> pd.DataFrame:
    import pandas as pd
    import pyarrow.parquet as pq

    [first] = islice(pq.ParquetFile(index).iter_batches(batch_size=count), 1)
    return pd.DataFrame(first.to_pandas())
