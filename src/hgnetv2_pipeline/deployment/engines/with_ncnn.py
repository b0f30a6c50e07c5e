"""ncnn on the CPU: one image at a time, float32 or with weights and values of 16 bits."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.base import Engine, EngineState, Wish, check_classes
from hgnetv2_pipeline.deployment.engines.device_file import files_of, open_device_file
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import foreign_file
from hgnetv2_pipeline.processor import cpu_name


class NcnnEngine(Engine):
    """A pair of ``.ncnn.param`` and ``.ncnn.bin``, as pnnx writes them.

    fp16: ncnn keeps weights and values in 16 bits where the processor converts them at no cost, and
    computes in 16 bits on ARM; fp32 does neither.
    """

    name, batch = "ncnn", 1

    def __init__(
        self, path: Path, card: ModelCard, *, threads: int = 0, named: bool = False
    ) -> None:
        import ncnn

        weights, graph = files_of(path)
        self._net = ncnn.Net()
        options = self._net.opt
        if threads:
            options.num_threads = threads
        if card.precision != "fp16":
            options.use_fp16_packed = options.use_fp16_storage = False
            options.use_fp16_arithmetic = options.use_bf16_storage = False
        with foreign_file(path, WeightsError, "is no network that ncnn runs"):
            for load, file in ((self._net.load_param, graph), (self._net.load_model, weights)):
                if load(str(file)) != 0:
                    raise ValueError(f"ncnn cannot read {file.name}")
            self._input, self._output = self._net.input_names()[0], self._net.output_names()[0]
        super().__init__(
            model=str(path),
            card=card,
            device=cpu_name(),
            threads=options.num_threads,
            versions={"ncnn": version("ncnn")},
        )
        height, width = card.preprocess.size
        answer = self._run(np.zeros((1, 3, height, width), np.float32))
        check_classes(card, answer.shape[1], str(path), named=named)

    def _run(self, images: np.ndarray) -> np.ndarray:
        import ncnn

        with foreign_file(self.model, WeightsError, "cannot answer an image"):
            extractor = self._net.create_extractor()
            extractor.input(self._input, ncnn.Mat(images[0]))
            failed, answer = extractor.extract(self._output)
            if failed:
                raise ValueError(f"ncnn ended with {failed}")
            return np.array(answer, np.float32)[None]


def find_engine(name: str) -> EngineState:
    """ncnn's version on this processor."""
    return EngineState(name, version("ncnn"), cpu_name())


def open_engine(name: str, wish: Wish) -> Engine:
    """ncnn on the files of ``wish``."""
    path, card = open_device_file(wish)
    return NcnnEngine(path, card, threads=wish.threads, named=wish.classes is not None)
