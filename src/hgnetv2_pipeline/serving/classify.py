"""``POST /v1/classify``: pictures in, and out what ``hgnetv2 predict`` writes in JSON lines."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import JSONResponse, Response

from hgnetv2_pipeline.deployment.predict import Ranking, make_record
from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.serving.limits import Limits, RefusedRequest
from hgnetv2_pipeline.serving.service import body_of, service_of

if TYPE_CHECKING:
    from starlette.requests import Request

_YES = {"true": True, "1": True, "false": False, "0": False}
_QUERY = ("model", "version", "topk", "threshold", "embedding")


async def classify(request: Request) -> Response:
    """The best classes of one picture, the request's body, or of several, a form's files.

    Query: ``model``, ``version``, ``topk``, ``threshold``, ``embedding``. A bad picture among
    several has its reason in its row; where all are bad the status is 400.
    """
    service = service_of(request)
    for given in request.query_params:
        if given not in _QUERY:
            error = unknown_name("parameter", given[:40], _QUERY, "/v1/classify?...")
            raise RefusedRequest(400, str(error))
    name = request.query_params.get("model") or next(iter(service.repository.models))
    async with service.repository.using(name, request.query_params.get("version", "")) as model:
        engine = model.engine
        ranking = _ranking(request, engine)
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
            wide = [None] * len(arrays) if answer.embeddings is None else answer.embeddings
            rows = zip(ranking.of(answer.logits), wide, strict=True)
    results = []
    for (file, _), image in zip(files, decoded, strict=True):
        found: Any = image
        embedding = None
        if not isinstance(image, str):
            found, embedding = next(rows)
        ids, scores = ([], []) if isinstance(found, str) else found
        record: dict[str, Any] = {**make_record(file, ids, scores, engine.classes)}
        if isinstance(found, str):
            record["error"] = found
        elif embedding is not None:
            record["embedding"] = embedding.tolist()
        results.append(record)
    said = {"model": model.name, "version": model.version, "results": results}
    bad = [row["error"] for row in results if "error" in row]
    if len(bad) == len(results):
        return JSONResponse({"error": bad[0], **said}, 400)
    return JSONResponse(said)


def _ranking(request: Request, engine: Any) -> Ranking:
    asked = request.query_params
    try:
        several = engine.card.multi_label
        topk = int(asked["topk"]) if "topk" in asked else (None if several else 5)
        threshold = float(asked["threshold"]) if "threshold" in asked else None
        return Ranking.for_card(engine.card, topk=topk, threshold=threshold)
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
    ended = False

    def on_end(self) -> None:
        self.ended = True


async def _files(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """Names and contents of the pictures of a request."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request, limits)
    if kind and kind != "application/octet-stream" and not kind.startswith("image/"):
        raise RefusedRequest(
            415,
            f"content type {kind!r:.60}: a picture's own (-H 'Content-Type: image/jpeg'), "
            "application/octet-stream, or multipart/form-data with one file or more",
        )
    content = bytes(await body_of(request))
    if not content:
        raise RefusedRequest(400, "the body is empty; it is to be a picture")
    return [("-", content)]


async def _form(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield bytes(await body_of(request))

    try:
        parser = _InMemory(
            request.headers, stream(), max_files=limits.images, max_fields=limits.images
        )
        form = await parser.parse()
    except (MultiPartException, UnicodeDecodeError, ValueError) as error:
        said = getattr(error, "message", "it is damaged")
        raise RefusedRequest(400, f"the form cannot be read: {said}") from None
    if not parser.ended:
        raise RefusedRequest(400, "the form is cut off: its closing boundary is missing")
    parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if not parts:
        raise RefusedRequest(400, "the form has no file; each picture is a part with a file name")
    return [(part.filename or "-", await part.read()) for part in parts]
