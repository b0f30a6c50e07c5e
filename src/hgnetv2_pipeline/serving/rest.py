"""Open Inference Protocol v2 over HTTP: JSON, and tensors as raw bytes behind a JSON head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hgnetv2_pipeline.foreign import parse_json, reason
from hgnetv2_pipeline.serving import tensors
from hgnetv2_pipeline.serving.batching import Spent, Statistics
from hgnetv2_pipeline.serving.limits import RefusedRequest
from hgnetv2_pipeline.serving.service import HEAD_LENGTH, body_of, service_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from hgnetv2_pipeline.serving.repository import ServedModel
    from hgnetv2_pipeline.serving.service import Service


def routes() -> list[Route]:
    """The protocol's routes; ``request.app.state.service`` answers."""
    one = "/v2/models/{model}"
    return [
        Route(f"{place}/infer", infer, methods=["POST"])
        for place in (one, f"{one}/versions/{{version}}")
    ] + [
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2", server_metadata),
        Route("/v2/models/stats", all_statistics),
        Route("/v2/repository/index", repository_index, methods=["POST"]),
        *(
            Route(f"{place}{end}", answer)
            for place in (one, f"{one}/versions/{{version}}")
            for end, answer in (("", metadata), ("/ready", model_ready), ("/stats", statistics))
        ),
    ]


def _asked(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


async def live(request: Request) -> Response:
    """The process answers."""
    return Response()


async def ready(request: Request) -> Response:
    """It takes requests: 503 once it has been asked to stop."""
    return Response(status_code=503 if service_of(request).stopping else 200)


async def server_metadata(request: Request) -> Response:
    """Name, version and extensions."""
    return JSONResponse(about_server())


def about_server() -> dict[str, Any]:
    """The server's metadata."""
    return {
        "name": "hgnetv2", "version": installed_version("hgnetv2-pipeline"),
        "extensions": list(tensors.EXTENSIONS),
    }  # fmt: skip


async def metadata(request: Request) -> Response:
    """A model's inputs, outputs and versions."""
    service = service_of(request)
    model = service.repository.find(*_asked(request))
    return JSONResponse(tensors.model_metadata(model, [*service.repository.models[model.name]]))


async def model_ready(request: Request) -> Response:
    """Whether a model takes requests."""
    service_of(request).repository.find(*_asked(request))
    return await ready(request)


async def statistics(request: Request) -> Response:
    """What a model has done: all of its versions, or the one named."""
    name, version = _asked(request)
    repository = service_of(request).repository
    found = repository.find(name, version)
    versions = [found] if version else repository.models[name].values()
    return JSONResponse({"model_stats": [statistics_entry(model) for model in versions]})


async def all_statistics(request: Request) -> Response:
    """The same of every model."""
    models = service_of(request).repository
    return JSONResponse({"model_stats": [statistics_entry(model) for model in models]})


def statistics_entry(model: ServedModel) -> dict[str, Any]:
    """The statistics of one version, by the names of the protocol."""
    spent = model.batcher.statistics
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": spent.last_ms,
        "inference_count": spent.images,
        "execution_count": spent.executions,
        "inference_stats": {
            "success": vars(spent.success), "fail": vars(spent.fail), "queue": vars(spent.queue),
            **{part: vars(_sum(spent, part)) for part in _PARTS},
        },
        "batch_stats": [
            {"batch_size": size, **{part: vars(getattr(of_size, part)) for part in _PARTS}}
            for size, of_size in sorted(spent.batches.items())
        ],
    }  # fmt: skip


_PARTS = ("compute_input", "compute_infer", "compute_output")


def _sum(statistics: Statistics, part: str) -> Spent:
    spent = [getattr(of_size, part) for of_size in statistics.batches.values()]
    return Spent(sum(one.count for one in spent), sum(one.ns for one in spent))


async def repository_index(request: Request) -> Response:
    """Every version of every model."""
    return JSONResponse(index_entries(service_of(request)))


def index_entries(service: Service) -> list[dict[str, str]]:
    """The rows of the index."""
    return [
        {"name": model.name, "version": model.version, "state": "READY", "reason": ""}
        for model in service.repository
    ]


async def infer(request: Request) -> Response:
    """Logits, and embeddings where the model has them, of preprocessed images."""
    service = service_of(request)
    async with service.repository.using(*_asked(request)) as model:
        model.batcher.require_room()  # before the body is read
        asked, binary = _split(await body_of(request), request.headers.get(HEAD_LENGTH))
        images = _images(model, service, asked, binary)
        wishes = tensors.check_outputs(model, _wishes(asked))
        embeddings = any(wish.name == tensors.EMBEDDING for wish in wishes)
        answer = await model.batcher.answer(images, embeddings=embeddings)
        head: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
        if isinstance(asked.get("id"), str):
            head["id"] = asked["id"]
        head["outputs"], parts = [], []
        for wish in wishes:
            entry, part = _output(tensors.wanted_rows(answer, wish.name), wish, model)
            head["outputs"].append(entry)
            parts.append(part)
        return _response(head, parts)


def _split(whole: memoryview, head_length: str | None) -> tuple[Mapping[str, Any], memoryview]:
    """The request's JSON and the raw bytes behind it."""
    end = len(whole)
    if head_length is not None:
        if not head_length.isascii() or not head_length.isdecimal() or int(head_length) > end:
            raise RefusedRequest(
                400, f"{HEAD_LENGTH}: expected 0 to {end}, got {head_length!r:.40}"
            )
        end = int(head_length)
    try:
        asked = parse_json(str(whole[:end], "utf-8"), longest=end)
    except (ValueError, RecursionError) as error:
        raise RefusedRequest(
            400, f"the request is no JSON of this protocol: {reason(error)}"
        ) from None
    if not isinstance(asked, dict):
        raise RefusedRequest(400, "the request is no JSON object")
    return asked, whole[end:]


def _objects(asked: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The list of objects ``key`` of a request; each object's ``parameters`` are an object too."""
    found = asked.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise RefusedRequest(400, f"{key!r} is no list of objects")
    for one in found:
        _parameters(one)
    return found


def _parameters(of: Mapping[str, Any]) -> Mapping[str, Any]:
    found = of.get("parameters", {})
    if not isinstance(found, dict):
        raise RefusedRequest(400, "'parameters' is no object")
    return found


def _images(
    model: ServedModel, service: Service, asked: Mapping[str, Any], binary: memoryview
) -> np.ndarray:
    given = _objects(asked, "inputs")
    first = given[0] if given else {}
    shape = first.get("shape", [])
    tensors.check_images(
        model, service.limits, [str(one.get("name")) for one in given],
        str(first.get("datatype")), shape if isinstance(shape, list) else [],
    )  # fmt: skip
    if "shared_memory_region" in _parameters(first):
        raise RefusedRequest(400, tensors.NO_SHARED_MEMORY)
    size = _parameters(first).get("binary_data_size")
    if size is None:
        if len(binary):
            raise RefusedRequest(400, f"{len(binary)} bytes behind the JSON belong to no input")
        try:
            given_values = np.array(first.get("data"))
            if given_values.dtype.kind not in "iuf":
                raise ValueError("numbers alone, as many in each list")
            with np.errstate(over="ignore"):  # looked for below
                values = given_values.astype(np.float32)
        except (ValueError, TypeError, OverflowError) as error:
            raise RefusedRequest(
                400, f"input {tensors.INPUT!r}: its data are no numbers: {reason(error)}"
            ) from None
        if not np.isfinite(values).all():
            raise RefusedRequest(400, f"input {tensors.INPUT!r}: a number is too large for FP32")
        return tensors.images_of(values.reshape(-1), shape)
    if type(size) is not int or size != len(binary):
        raise RefusedRequest(
            400,
            f"input {tensors.INPUT!r}: binary_data_size is {str(size)[:40]}, and {len(binary)} "
            "bytes are behind the JSON",
        )
    return tensors.images_of(binary, shape)


def _wishes(asked: Mapping[str, Any]) -> list[tensors.OutputWish]:
    named = _objects(asked, "outputs")
    all_binary = _parameters(asked).get("binary_data_output", False) is True
    if not named and all_binary:
        return []
    if not named:
        return [tensors.OutputWish(tensors.LOGITS, binary=False)]
    wishes = []
    for output in named:
        parameters = _parameters(output)
        classes = parameters.get("classification", 0)
        if type(classes) is not int or not 0 <= classes <= 1 << 31:
            raise RefusedRequest(400, "'classification' is no count of classes")
        binary = parameters.get("binary_data", all_binary) is True
        wishes.append(tensors.OutputWish(str(output.get("name")), binary, classes))
    return wishes


def _output(
    rows: np.ndarray, wish: tensors.OutputWish, model: ServedModel
) -> tuple[dict[str, Any], bytes]:
    """The entry of an output in the JSON, and its bytes behind it."""
    entry: dict[str, Any] = {"name": wish.name, "datatype": "FP32", "shape": [*rows.shape]}
    if wish.classes and not wish.binary:
        cells = tensors.best_classes(rows, wish, model)
        data = [cell.decode() for row in cells for cell in row]
        return entry | {
            "datatype": "BYTES", "shape": [len(cells), len(cells[0])], "data": data
        }, b""  # fmt: skip
    if wish.classes:
        entry["datatype"], entry["shape"], part = tensors.classification(rows, wish, model)
    elif not wish.binary:
        if not np.isfinite(rows).all():
            raise RefusedRequest(
                400, "the answer is NaN or infinite, which JSON cannot say; ask for binary data"
            )
        return entry | {"data": rows.ravel().tolist()}, b""
    else:
        part = rows.astype("<f4", copy=False).tobytes()
    return entry | {"parameters": {"binary_data_size": len(part)}}, part


def _response(head: Mapping[str, Any], parts: list[bytes]) -> Response:
    text = json.dumps(head, separators=(",", ":")).encode()
    if not any(parts):
        return Response(text, media_type="application/json")
    return Response(
        b"".join([text, *parts]),
        media_type="application/octet-stream",
        headers={HEAD_LENGTH: str(len(text))},
    )
