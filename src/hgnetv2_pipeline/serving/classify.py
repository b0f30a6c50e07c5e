"""``POST /v1/classify``: pictures in, classes out, as ``hgnetv2 predict --format jsonl`` has them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import JSONResponse, Response

from hgnetv2_pipeline.deployment.predict import Choice, make_record
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.processor import available_cpus
from hgnetv2_pipeline.serving.limits import Limits, Overloaded, RefusedRequest
from hgnetv2_pipeline.serving.rest import service_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from hgnetv2_pipeline.data.preprocess import Preprocess

_YES = {"true": True, "1": True, "false": False, "0": False}


class Decoders:
    """Threads that turn the bytes of pictures into the input of a network, few at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._busy = limits, 0
        self._pool = ThreadPoolExecutor(min(available_cpus(), 4), thread_name_prefix="decode")

    def require_room(self) -> None:
        """Raise Overloaded where as many images are being decoded as may be."""
        if self._busy >= self._limits.decoding:
            raise Overloaded(f"{self._busy} images are being decoded")

    async def decode(self, preprocess: Preprocess, files: list[bytes]) -> list[np.ndarray | str]:
        """float32 [3, H, W] of each file, or the reason why there is none."""
        self.require_room()
        preprocess = replace(
            preprocess, max_pixels=min(preprocess.max_pixels, self._limits.pixels)
        )
        self._busy += len(files)
        try:
            loop = asyncio.get_running_loop()
            made = [loop.run_in_executor(self._pool, _load, preprocess, file) for file in files]
            return await asyncio.gather(*made)
        finally:
            self._busy -= len(files)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _load(preprocess: Preprocess, content: bytes) -> np.ndarray | str:
    try:
        return preprocess(content)
    except DataError as error:
        return " ".join(str(error).split())


async def classify(request: Request) -> Response:
    """The best classes of one picture, the request's body, or of several, a form's files.

    Query: ``model``, ``version``, ``topk``, ``threshold``, ``embedding``. A bad picture among
    several has its reason in its row; where all are bad the status is 400.
    """
    service = service_of(request)
    name = request.query_params.get("model") or next(iter(service.repository.models))
    async with service.repository.using(name, request.query_params.get("version", "")) as model:
        engine = model.engine
        choice = _choice(request, engine)
        embeddings = _embeddings(request)
        if embeddings and engine.embedding_size is None:
            raise RefusedRequest(
                400, f"model {model.name} gives no embeddings; export it with export.embedding=true"
            )
        model.batcher.require_room()
        service.decoders.require_room()
        files = await _files(request, service.limits)
        decoded = await service.decoders.decode(engine.preprocess, [each for _, each in files])
        arrays = [image for image in decoded if isinstance(image, np.ndarray)]
        rows: Any = iter(())
        if arrays:
            answer = await model.batcher.answer(np.stack(arrays), embeddings=embeddings)
            found = [None] * len(arrays) if answer.embeddings is None else answer.embeddings
            rows = zip(choice.of(answer.logits), found, strict=True)
    results = []
    for (file, _), image in zip(files, decoded, strict=True):
        answered, embedding = (image, None) if isinstance(image, str) else next(rows)
        if isinstance(answered, str):
            results.append({**make_record(file, [], [], engine.classes), "error": answered})
            continue
        record: dict[str, Any] = {**make_record(file, *answered, engine.classes)}
        if embedding is not None:
            record["embedding"] = embedding.tolist()
        results.append(record)
    said = {"model": model.name, "version": model.version, "results": results}
    bad = [row["error"] for row in results if "error" in row]
    if len(bad) == len(results):
        return JSONResponse({"error": bad[0], **said}, 400)
    return JSONResponse(said)


def _choice(request: Request, engine: Any) -> Choice:
    asked = request.query_params
    try:
        several = engine.card.multi_label
        topk = int(asked["topk"]) if "topk" in asked else (None if several else 5)
        threshold = float(asked["threshold"]) if "threshold" in asked else None
        return Choice.for_card(engine.card, topk=topk, threshold=threshold)
    except ParameterError as error:
        raise RefusedRequest(400, str(error)) from None
    except ValueError:
        raise RefusedRequest(
            400, "topk is a whole number from 1 on, threshold a number from 0 to 1"
        ) from None


def _embeddings(request: Request) -> bool:
    text = request.query_params.get("embedding", "false").lower()
    if text not in _YES:
        raise RefusedRequest(400, f"embedding={text!r:.40}: true or false")
    return _YES[text]


class _InMemory(MultiPartParser):
    spool_max_size = 1 << 30  # the body has its own bound, and is in memory already


async def _files(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """Names and contents of the pictures of a request."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        if kind and kind != "application/octet-stream" and not kind.startswith("image/"):
            raise RefusedRequest(
                415,
                f"content type {kind!r:.60}: a picture's own (image/jpeg ...), "
                "application/octet-stream, or multipart/form-data with one file or more",
            )
        content = await request.body()
        if not content:
            raise RefusedRequest(400, "the body is empty; it is to be a picture")
        return [("-", content)]
    try:
        form = await _InMemory(
            request.headers, request.stream(), max_files=limits.images, max_fields=limits.images
        ).parse()
    except (MultiPartException, UnicodeDecodeError, ValueError) as error:
        said = getattr(error, "message", "it is damaged")
        raise RefusedRequest(400, f"the form cannot be read: {said}") from None
    parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if not parts:
        raise RefusedRequest(400, "the form has no file; each picture is a part with a file name")
    return [(part.filename or "-", await part.read()) for part in parts]
