"""Open Inference Protocol v2 over gRPC, on the event loop of the HTTP server."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from hgnetv2_pipeline.printable import shorten
from hgnetv2_pipeline.serving import rest, tensors
from hgnetv2_pipeline.serving.limits import Overloaded, RefusedRequest
from hgnetv2_pipeline.serving.proto_messages import CALLS, MESSAGES, SERVICE
from hgnetv2_pipeline.serving.service import Service

_log = logging.getLogger(__name__)
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    503: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_OPEN = ("ServerLive", "ServerReady")  # probes have no token
_OPTIONS = {
    "grpc.max_send_message_length": -1,
    "grpc.so_reuseport": 0,  # a port in use is an error, not a share of it
    "grpc.max_metadata_size": 16 << 10,
    "grpc.absolute_max_metadata_size": 32 << 10,
}


def grpc_server(service: Service) -> grpc.aio.Server:
    """A server with the protocol's calls; it listens where ``add_insecure_port`` says."""
    limits = service.limits
    server = grpc.aio.server(
        maximum_concurrent_rpcs=limits.calls,
        options=[
            *_OPTIONS.items(),
            ("grpc.max_receive_message_length", limits.grpc_message),
            ("grpc.max_concurrent_streams", limits.calls),
        ],
    )
    answers = {
        "ServerLive": _server_live, "ServerReady": _server_ready, "ModelReady": _model_ready,
        "ServerMetadata": _server_metadata, "ModelMetadata": _model_metadata,
        "ModelInfer": _model_infer, "ModelStatistics": _model_statistics,
        "RepositoryIndex": _repository_index,
    }  # fmt: skip
    # Requests come as bytes, so that damaged ones are answered here.
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            _guarded(service, name, answers[name]),
            response_serializer=MESSAGES[CALLS[name][1]].SerializeToString,
        )
        for name in CALLS
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    return server


def _guarded(
    service: Service, name: str, answer: Callable[[Service, Any], Awaitable[Any]]
) -> Callable[[bytes, Any], Awaitable[Any]]:
    """Token, time, errors, log: around a call."""
    request_class = MESSAGES[CALLS[name][0]]

    async def handle(content: bytes, context: Any) -> Any:
        began, code, facts = time.monotonic(), grpc.StatusCode.OK, {"call": name}
        if service.closed:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        try:
            if name not in _OPEN and not service.knows(_authorization(context)):
                raise RefusedRequest(401, "a token is needed: authorization: Bearer TOKEN")
            try:
                request = request_class.FromString(content)
            except DecodeError:
                raise RefusedRequest(400, f"this is no {CALLS[name][0]}") from None
            async with asyncio.timeout(service.limits.total_seconds):
                return await answer(service, request)
        except RefusedRequest as error:
            code, facts["reason"] = _CODES[error.status], shorten(str(error), 200)
            if isinstance(error, Overloaded):
                context.set_trailing_metadata((("retry-after", error.retry_after),))
            await context.abort(code, str(error))
        except TimeoutError:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            seconds = f"{service.limits.total_seconds:g}"
            await context.abort(code, f"no answer within {seconds} seconds; try again")
        except Exception as error:
            code, request_id = grpc.StatusCode.INTERNAL, secrets.token_hex(8)
            _log.exception("request %s", request_id, exc_info=error)
            await context.abort(code, f"an error of the server, request {request_id}")
        finally:
            service.record("grpc", code.name, time.monotonic() - began, "-", **facts)

    return handle


def _authorization(context: Any) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return str(value)
    return ""


async def _server_live(service: Service, request: Any) -> Any:
    return MESSAGES["ServerLiveResponse"](live=True)


async def _server_ready(service: Service, request: Any) -> Any:
    return MESSAGES["ServerReadyResponse"](ready=not service.stopping)


async def _model_ready(service: Service, request: Any) -> Any:
    versions = service.repository.models.get(request.name, {})
    here = bool(versions) and request.version in ("", *versions)
    return MESSAGES["ModelReadyResponse"](ready=here and not service.stopping)


async def _server_metadata(service: Service, request: Any) -> Any:
    return MESSAGES["ServerMetadataResponse"](**rest.about_server())


async def _model_metadata(service: Service, request: Any) -> Any:
    model = service.repository.find(request.name, request.version)
    versions = [*service.repository.models[model.name]]
    return MESSAGES["ModelMetadataResponse"](**tensors.model_metadata(model, versions))


async def _model_statistics(service: Service, request: Any) -> Any:
    models = list(service.repository)
    if request.name:
        service.repository.find(request.name, request.version)
        models = [
            model
            for model in service.repository.models[request.name].values()
            if request.version in ("", model.version)
        ]
    entries = [rest.statistics_entry(model) for model in models]
    return MESSAGES["ModelStatisticsResponse"](model_stats=entries)


async def _repository_index(service: Service, request: Any) -> Any:
    return MESSAGES["RepositoryIndexResponse"](models=rest.index_entries(service))


async def _model_infer(service: Service, request: Any) -> Any:
    async with service.repository.using(request.model_name, request.model_version) as model:
        model.batcher.require_room()
        given = request.inputs
        first = given[0] if given else None
        shape = list(first.shape) if first is not None else []
        tensors.check_images(
            model, service.limits, [one.name for one in given],
            first.datatype if first is not None else "", shape,
        )  # fmt: skip
        images = tensors.images_of(_data(request), shape)
        wishes = tensors.check_outputs(model, [_wish(output) for output in request.outputs])
        embeddings = any(wish.name == tensors.EMBEDDING for wish in wishes)
        answer = await model.batcher.answer(images, embeddings=embeddings)
        response = MESSAGES["ModelInferResponse"](
            model_name=model.name, model_version=model.version, id=request.id
        )
        for wish in wishes:
            rows = tensors.wanted_rows(answer, wish.name)
            datatype, shape = "FP32", list(rows.shape)
            part = rows.astype("<f4", copy=False).tobytes()
            if wish.classes:
                datatype, shape, part = tensors.classification(rows, wish, model)
            response.outputs.add(name=wish.name, datatype=datatype, shape=shape)
            response.raw_output_contents.append(part)
        return response


def _data(request: Any) -> bytes | np.ndarray:
    """The input's data: raw bytes, or numbers."""
    raw, first = request.raw_input_contents, request.inputs[0]
    contents = first.contents
    if "shared_memory_region" in first.parameters:
        raise RefusedRequest(400, tensors.NO_SHARED_MEMORY)
    if len(raw) > 1:
        raise RefusedRequest(400, f"{len(raw)} raw_input_contents for one input")
    if raw and contents.ByteSize():
        raise RefusedRequest(400, "the input has both raw_input_contents and contents; send one")
    return raw[0] if raw else np.array(contents.fp32_contents, np.float32)


def _wish(output: Any) -> tensors.OutputWish:
    if "shared_memory_region" in output.parameters:
        raise RefusedRequest(400, tensors.NO_SHARED_MEMORY)
    classes, given = 0, output.parameters.get("classification")
    if given is not None:
        classes = given.int64_param if given.HasField("int64_param") else -1
    if not 0 <= classes <= 1 << 31:
        raise RefusedRequest(400, "'classification' is no count of classes")
    return tensors.OutputWish(output.name, classes=classes)
