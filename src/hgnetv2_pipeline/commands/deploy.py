"""The commands of ``hgnetv2`` about models at work: answers to images, and what they cost."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hgnetv2_pipeline.commands.choices import OneOf
from hgnetv2_pipeline.deployment.choices import DEVICE_ENGINES, ENGINES, NAMED_ONLY, PRECISIONS
from hgnetv2_pipeline.durable import require_writable
from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.exits import leave_standard_output
from hgnetv2_pipeline.printable import echo, json_text
from hgnetv2_pipeline.progress import columns

if TYPE_CHECKING:
    from hgnetv2_pipeline.deployment.engines.base import Engine
    from hgnetv2_pipeline.deployment.inputs import ImageInput
    from hgnetv2_pipeline.deployment.predict import Record

_STYLES = ("predict_cls", "infer", "jsonl", "csv", "parquet")
_BY_SUFFIX = {".txt": "predict_cls", ".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
MOST_AT_ONCE = 2**16
PLACES = {"auto": None, "cpu": "cpu", "gpu": "cuda"}


@click.command(short_help="Classify images: files, folders, tars, lists, globs.")
@click.argument("inputs", nargs=-1, required=True)
@click.option("--model", type=click.Path(path_type=Path), required=True,
              help="model.onnx, its folder, an engine file, weights, a run's folder.")  # fmt: skip
@click.option("--engine", type=OneOf(["auto", *ENGINES]), metavar="ENGINE", default="auto",
              show_default=True,
              help=f"auto, {', '.join(e for e in ENGINES if e not in NAMED_ONLY)}; for their own "
              f"files {', '.join(DEVICE_ENGINES)}.")  # fmt: skip
@click.option("--device", type=click.Choice(list(PLACES)), default="auto", show_default=True,
              help="auto takes a GPU where an engine can use one.")  # fmt: skip
@click.option("--topk", type=int, help="Classes shown per image; 5, or all with several labels.")
@click.option("--threshold", type=float,
              help="Lowest score that is shown; 0, or with several labels what the model says "
              "for each (else 0.5).")  # fmt: skip
@click.option("--multi-label/--single-label", default=None,
              help="A score for each class by itself; else as the model says.")  # fmt: skip
@click.option("--class-map", type=click.Path(path_type=Path),
              help="File of 'id name' lines in place of the model's own class names.")  # fmt: skip
@click.option("--batch-size", default=16, show_default=True)
@click.option(
    "--threads", default=0, show_default=True, help="CPU threads; 0: the engine's choice."
)
@click.option("--root", type=click.Path(path_type=Path),
              help="What the paths of a list are relative to; else the list's folder.")  # fmt: skip
@click.option("--format", "style", type=click.Choice(_STYLES),
              help="predict_cls (the default) and infer print as PaddleClas's two tools do; "
              "without it the ending of --out decides.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Write there instead of printing.")
@click.option("--features", type=click.Path(path_type=Path),
              help="A Parquet file of embeddings besides: a row per image.")  # fmt: skip
@click.option("--sheet", type=click.Path(path_type=Path),
              help="A PNG of the first images with their answers.")  # fmt: skip
@click.option("--sheet-images", default=64, show_default=True)
@click.option("--strict", is_flag=True, help="Exit 3 when any image is bad, not only when all are.")
def predict(
    inputs: tuple[str, ...],
    model: Path,
    engine: str,
    device: str,
    topk: int | None,
    threshold: float | None,
    multi_label: bool | None,
    class_map: Path | None,
    batch_size: int,
    threads: int,
    root: Path | None,
    style: str | None,
    out: Path | None,
    features: Path | None,
    sheet: Path | None,
    sheet_images: int,
    strict: bool,
) -> None:
    """Classify images: files, folders, tars, list files, globs, or - for standard input.

    \b
    hgnetv2 predict --model model.onnx picture.jpg
    hgnetv2 predict --model model.onnx folder/ --out answers.jsonl --sheet answers.png
    hgnetv2 predict --model student.safetensors folder/ --features embeddings.parquet
    hgnetv2 predict --model model.onnx archive.tar --format csv --topk 1
    find . -name '*.jpg' | hgnetv2 predict --model model.onnx -
    curl -s URL | hgnetv2 predict --model model.onnx --format infer -

    Every input has its row, in order, a bad one with the reason. Standard input holds one image, or
    a path per line.
    """
    from hgnetv2_pipeline.deployment import prediction_formats
    from hgnetv2_pipeline.deployment.engines import ladder
    from hgnetv2_pipeline.deployment.predict import Tally, iter_predictions

    style = _style(style, out)
    _can_write(style, out, sheet, features)
    todo = _inputs(inputs, root)
    names = _class_names(class_map)
    tally = Tally()
    shown: list[Record] = []
    with ladder.load_engine(
        model, engine=engine, device=PLACES[device], threads=threads,
        batch_size=min(batch_size, max(len(todo), 1)), embeddings=features is not None,
    ) as loaded:  # fmt: skip
        echo(f"engine {loaded.name} on {loaded.device}", err=True)
        several = loaded.card.multi_label if multi_label is None else multi_label
        if topk is None and not several:
            topk = 5
        records = iter_predictions(
            loaded, todo, topk=topk, threshold=threshold, multi_label=several,
            batch_size=batch_size, label_names=names, embeddings=features is not None,
        )  # fmt: skip
        with (
            prediction_formats.write_features(features, _about(loaded))
            if features
            else nullcontext(iter) as passing
        ):
            kept = _first(passing(tally.watch(records)), sheet_images if sheet else 0, shown)
            shown_classes = min(topk or len(loaded.classes), len(loaded.classes))
            _write(kept, style, out, shown_classes, goes_on=bool(features or sheet))
    if sheet is not None:
        from hgnetv2_pipeline.durable import write_aside

        with write_aside(sheet) as aside:
            prediction_formats.prediction_sheet(
                todo[: len(shown)],
                shown,
                multi_label=several,
                decoding=loaded.preprocess.decoding,
            ).save(aside, "PNG")
    for file in (out, features):
        if file is not None:
            echo(f"{tally.total} rows in {file}, {tally.bad} of them bad", err=True)
    tally.check(strict=strict)


@click.command(short_help="List what can run a model here, and what is missing.")
def engines() -> None:
    """List what can run a model here, in the order in which auto tries it, and what is missing.

    \b
    hgnetv2 engines
    """
    from hgnetv2_pipeline.deployment.engines.ladder import find_engines

    for state in find_engines():
        name = f"{state.engine:<17}"
        if state.missing:
            echo(f"{name}{state.version or '-':<16}not here: {state.missing.partition(': ')[2]}")
        else:
            echo(f"{name}{state.version:<16}{state.device}")


def _style(given: str | None, out: Path | None) -> str:
    """The format asked for, or that of the file's ending."""
    if given == "parquet" and out is None:
        raise ParameterError("--format parquet writes a file: give --out FILE.parquet")
    if given is not None or out is None:
        return given or "predict_cls"
    if out.suffix.lower() not in _BY_SUFFIX:
        raise unknown_name("ending", out.suffix, _BY_SUFFIX, "--out, or --format ...")
    return _BY_SUFFIX[out.suffix.lower()]


def _about(engine: Engine) -> dict[str, str]:
    """What a file of embeddings says of the network that they are of."""
    card = engine.card
    return {
        "model": engine.model,
        "variant": card.variant,
        "source_sha256": card.source_sha256,
        "precision": engine.precision,
        "preprocess": json_text(card.preprocess.to_dict()),
    }


def _can_write(style: str, out: Path | None, sheet: Path | None, features: Path | None) -> None:
    """Refuse, before the first image, what could not be written after the last."""
    needed = {
        "--format parquet": ("pyarrow", style == "parquet"),
        "--features": ("pyarrow", features),
        "--sheet": ("pandas", sheet),
    }
    if features is not None and features.suffix.lower() != ".parquet":
        raise unknown_name("ending", features.suffix, [".parquet"], "--features")
    for option, (library, asked) in needed.items():
        if asked:
            try:
                importlib.import_module(library)
            except ImportError as error:
                raise ParameterError(
                    f"{option} needs {library}, which is not installed here (pip install {library})"
                ) from error
    for option, path in (("--out", out), ("--sheet", sheet), ("--features", features)):
        if path is not None:
            if path.is_dir():
                raise ParameterError(f"{option} {path} is a folder; name a file")
            require_writable(path, option)


def _inputs(inputs: tuple[str, ...], root: Path | None) -> list[ImageInput]:
    from hgnetv2_pipeline.deployment.inputs import expand_inputs, from_stream

    found: list[ImageInput] = []
    for given in inputs:
        if given == "-":
            found += from_stream(sys.stdin.buffer.read(), root=root)
        else:
            found += expand_inputs(given, root=root)
    return found


def _class_names(class_map: Path | None) -> list[str] | None:
    if class_map is None:
        return None
    from hgnetv2_pipeline.data.classmap import read_class_map

    return read_class_map(class_map)


def _first(records: Iterable[Record], count: int, into: list[Record]) -> Iterator[Record]:
    """The records, the first ``count`` of them kept in ``into``."""
    for record in records:
        if len(into) < count:
            into.append(record)
        yield record


def _write(
    records: Iterable[Record], style: str, out: Path | None, topk: int, *, goes_on: bool
) -> None:
    """To the file, or line by line to standard output as the answers come.

    ``goes_on``: a file is made of the records besides, and so all of them are answered even where
    nobody reads standard output any more (``| head``).
    """
    from hgnetv2_pipeline.deployment import prediction_formats as formats

    if style == "parquet":
        if out is not None:
            formats.write_predictions_parquet(out, records)
        return
    if style == "csv":
        lines = formats.csv_lines(records, topk=topk)
    elif style == "jsonl":
        lines = formats.jsonl_lines(records)
    elif style == "infer":
        lines = iter([formats.format_infer(records)])
    else:
        lines = map(formats.format_predict_cls, records)
    if out is not None:
        formats.write_lines(out, lines)
        return
    try:
        for line in lines:
            echo(line)
    except OSError as error:
        if error.errno != errno.EPIPE or not goes_on:
            raise
        leave_standard_output()
        for _ in lines:
            pass


def _names(_context: click.Context, _option: click.Parameter, value: str) -> list[str]:
    return [part.strip() for part in value.replace("+", ",").split(",") if part.strip()]


def _numbers(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    parts = _names(context, option, value)
    if not parts or not all(part.isdecimal() and 0 < int(part) <= MOST_AT_ONCE for part in parts):
        raise click.BadParameter(
            f"{value!r} is no list of counts such as 1,16, up to {MOST_AT_ONCE:,}"
        )
    return [int(part) for part in parts]


@click.command(short_help="Time models: batch 1, 2,100 runs, the first 100 dropped.")
@click.argument("models", nargs=-1, required=True)
@click.option("--engines", default="auto", show_default=True, callback=_names,
              help=f"Some of auto, {', '.join(ENGINES)}, with commas.")  # fmt: skip
@click.option("--precisions", default="own", show_default=True, callback=_names,
              help=f"own (the file's), or of {', '.join(PRECISIONS)}; fp32 is without "
              "TF32.")  # fmt: skip
@click.option("--batch-sizes", default="1", show_default=True, callback=_numbers)
@click.option(
    "--threads", default=1, show_default=True, help="CPU threads; 0: the engine's choice."
)
@click.option("--device", type=click.Choice(list(PLACES)), default="auto", show_default=True)
@click.option("--image-size", default=224, type=click.IntRange(1, 4096), show_default=True,
              help="Of models that bring no preprocessing.")  # fmt: skip
@click.option(
    "--warmup",
    default=100,
    type=click.IntRange(0, 10**6),
    show_default=True,
    help="Calls that are dropped.",
)
@click.option(
    "--runs",
    default=2000,
    type=click.IntRange(1, 10**6),
    show_default=True,
    help="Calls that count.",
)
@click.option("--turns", default=0, type=click.IntRange(0, 1000), show_default=True,
              help="Time them in turns instead, so many rounds; gives ratios.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON there too.")
def benchmark(
    models: tuple[str, ...],
    engines: list[str],
    precisions: list[str],
    batch_sizes: list[int],
    threads: int,
    device: str,
    image_size: int,
    warmup: int,
    runs: int,
    turns: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Time models by PaddleClas's protocol: batch 1, 2,100 runs, the first 100 dropped.

    A model is a file or folder of ``export``, weights, a run's folder, a published name
    (b0.ssld_stage2), timm:NAME or scratch:VARIANT; what is no exported file is exported for the
    engines that run ONNX. Prints a table.

    \b
    hgnetv2 benchmark data/07_model_output/sample/best/b0/seed=0/model.onnx
    hgnetv2 benchmark scratch:b0 timm:resnet18 timm:mobilenetv3_large_100 --engines ort --runs 200
    hgnetv2 benchmark scratch:b0 timm:hgnetv2_b0 --engines ort --batch-sizes 1,16 --turns 10
    hgnetv2 benchmark scratch:b4 --engines torch,torch-cuda-graph --precisions fp32,tf32,fp16
    """
    from hgnetv2_pipeline.commands.weights import weights_root
    from hgnetv2_pipeline.deployment.timing import benchmark as room
    from hgnetv2_pipeline.durable import write_json

    result = room.run_benchmark(
        list(models), engines=engines, precisions=precisions, batch_sizes=batch_sizes,
        threads=threads, device=PLACES[device], image_size=image_size, warmup=warmup, runs=runs,
        turns=turns, root=weights_root(),
    )  # fmt: skip
    if out is not None:
        write_json(out, result)
    echo(json_text(result) if as_json else room.as_table(result, columns()))
