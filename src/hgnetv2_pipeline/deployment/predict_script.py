"""Classify images with the model beside this file: python predict.py picture.jpg folder/

Needs Python 3.11 or later and three packages: pip install onnxruntime numpy pillow

Every image has its line, in order, a bad one with its reason. This file is put together from the
sources of hgnetv2_pipeline, so that pixels and answers are those of ``hgnetv2 predict --engine
ort``. From Python: ``ExportedModel(folder)`` and ``iter_predictions(model, paths)``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.inputs import expand_inputs, from_stream
from hgnetv2_pipeline.deployment.onnx_session import LEFT_OUT, session_options
from hgnetv2_pipeline.deployment.predict import Record, Tally, iter_predictions
from hgnetv2_pipeline.deployment.prediction_formats import (
    csv_lines,
    format_infer,
    format_predict_cls,
    jsonl_lines,
)
from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.exits import explain, leave_standard_output
from hgnetv2_pipeline.foreign import foreign_file
from hgnetv2_pipeline.printable import printable, show_logs
from hgnetv2_pipeline.processor import check_threads, restricted_cpus

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.preprocess import Preprocess


class ExportedModel:
    """A model file of an export folder on ONNX Runtime's CPU.

    ``card``: classes, preprocessing, precision, from the file itself. WeightsError for a file that
    is missing, damaged, not ours, or that this machine computes wrongly.
    """

    def __init__(self, folder: Path, file: str = "model.onnx", *, threads: int = 0) -> None:
        import onnxruntime

        check_threads(threads)
        path = Path(folder) / file
        with foreign_file(path, WeightsError, "cannot be loaded"):
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(),
                sess_options=session_options(threads or restricted_cpus() or 0),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=LEFT_OUT,
            )
            props = self._session.get_modelmeta().custom_metadata_map
        self.model, self.card = str(path), ModelCard.from_props(props, path)
        if wrong := self.card.wrong_answers(self.logits):
            raise WeightsError(f"{path} is computed wrongly on this machine: its {wrong}")

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes its input."""
        return self.card.preprocess

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the logits."""
        return list(self.card.classes)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits, float32 [N, classes], of preprocessed images, float32 [N, 3, height, width]."""
        given = self._session.get_inputs()[0]
        fixed = isinstance(given.shape[0], int)  # the only batch size that the file takes
        size = given.shape[0] if fixed else max(len(images), 1)
        rest = np.zeros((-len(images) % size, *images.shape[1:]), np.float32)
        filled = np.concatenate([images, rest])
        with foreign_file(self.model, WeightsError, f"cannot answer {len(images)} images"):
            parts = [
                self._session.run(None, {given.name: filled[at : at + size]})[0]
                for at in range(0, len(filled), size)
            ]
        return np.concatenate(parts)[: len(images)]

    def require_embeddings(self) -> NoReturn:
        """Raise ParameterError: hgnetv2 predict --features has embeddings."""
        raise ParameterError("embeddings are not given here; hgnetv2 predict --features does")

    def logits_and_embeddings(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Refused as by ``require_embeddings``."""
        self.require_embeddings()


_FORMATS: dict[str, Callable[[Iterable[Record], int], Iterator[str]]] = {
    "predict_cls": lambda records, topk: map(format_predict_cls, records),
    "infer": lambda records, topk: iter([format_infer(records)]),
    "jsonl": lambda records, topk: jsonl_lines(records),
    "csv": lambda records, topk: csv_lines(records, topk=topk),
}


def script_parser() -> argparse.ArgumentParser:
    """What the script may be given."""
    parser = argparse.ArgumentParser(description="Classify images with the model beside this file.")
    parser.add_argument(
        "images", nargs="+", help="files, folders, tars, list files, globs; - for standard input"
    )
    parser.add_argument("--file", default="model.onnx", help="or model.fp16.onnx, model.int8.onnx")
    parser.add_argument("--topk", type=int, help="5, or all with several labels")
    parser.add_argument("--threshold", type=float, help="lowest score that is shown")
    parser.add_argument("--format", choices=_FORMATS, default="predict_cls")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0, help="0: ONNX Runtime's choice")
    parser.add_argument("--strict", action="store_true", help="exit 3 when any image is bad")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 2 parameters, 3 images, 4 the model."""
    given = script_parser().parse_args(arguments)
    show_logs()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        model = ExportedModel(Path(__file__).resolve().parent, given.file, threads=given.threads)
        todo = []
        for image in given.images:
            found = from_stream(sys.stdin.buffer.read()) if image == "-" else expand_inputs(image)
            todo += found
        topk = given.topk or (None if model.card.multi_label else 5)
        tally = Tally()
        records = iter_predictions(
            model, todo, topk=topk, threshold=given.threshold, batch_size=given.batch_size
        )
        every = len(model.classes)
        for line in _FORMATS[given.format](tally.watch(records), min(topk or every, every)):
            sys.stdout.write(f"{printable(line)}\n")
            sys.stdout.flush()
        tally.check(strict=given.strict)
    except BrokenPipeError:  # whoever read has read enough
        leave_standard_output()
        return 1
    except Exception as error:
        code, message = explain(error, debug="python -m pdb predict.py ...")
        leave_standard_output()
        sys.stderr.write(f"{message}\n")
        return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
