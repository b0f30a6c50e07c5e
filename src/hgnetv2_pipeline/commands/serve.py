"""``hgnetv2 serve``: exported models behind HTTP and gRPC, with a page to drop pictures on."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import click

from hgnetv2_pipeline.commands.choices import OneOf
from hgnetv2_pipeline.commands.deploy import PLACES
from hgnetv2_pipeline.deployment.choices import ENGINES
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.printable import echo

TOKEN = "HGNETV2_TOKEN"  # noqa: S105 - the name of the variable that has it
_LEAST_TOKEN = 16


@click.command(short_help="Answer requests over HTTP and gRPC, with a page to try it.")
@click.argument("models", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Where to listen; beyond this machine only with a token.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True,
              help="Port for HTTP; 0 takes any free one.")  # fmt: skip
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8001, show_default=True)
@click.option("--no-grpc", is_flag=True, help="Serve HTTP only.")
@click.option("--engine", type=OneOf(["auto", *ENGINES]), metavar="ENGINE", default="auto",
              show_default=True, help=f"auto, {', '.join(ENGINES)}.")  # fmt: skip
@click.option("--device", type=click.Choice(list(PLACES)), default="auto", show_default=True)
@click.option(
    "--threads", default=0, show_default=True, help="CPU threads; 0: the engine's choice."
)
@click.option("--batch-size", type=click.IntRange(1, 1024),
              help="Most images that requests are put together to; 1 on a CPU, 16 on a "
              "GPU.")  # fmt: skip
@click.option("--batch-delay", type=click.FloatRange(0, 1000), default=2.0, show_default=True,
              help="Milliseconds that the first image of a batch waits for others.")  # fmt: skip
@click.option("--queue", type=click.IntRange(1, 10**6),
              help="Images of a model that wait or are at work, from which on requests get 503; "
              "10, or four batches.")  # fmt: skip
@click.option("--token-file", type=click.Path(path_type=Path),
              help=f"A file that holds the token; else the environment's {TOKEN}.")  # fmt: skip
@click.option("--allowed-host", multiple=True,
              help="A name by which clients call it; may be given more than once.")  # fmt: skip
@click.option("--i-know", is_flag=True, help="Listen elsewhere without a token.")
@click.option("--log-requests", is_flag=True, help="A line for each request, not only for others "
              "than 200.")  # fmt: skip
def serve(
    models: tuple[str, ...], host: str, port: int, grpc_port: int, no_grpc: bool, engine: str,
    device: str, threads: int, batch_size: int | None, batch_delay: float, queue: int | None,
    token_file: Path | None, allowed_host: tuple[str, ...], i_know: bool, log_requests: bool,
) -> None:  # fmt: skip
    """Answer requests to MODELS, each a path or NAME=PATH: an exported folder, a folder of
    numbered versions (1/, 2/ ...), a model file, weights.

    \b
    hgnetv2 serve data/07_model_output/sample/best/b0/seed=0
    hgnetv2 serve cats=exported/cats dogs=exported/dogs --port 9000
    curl --data-binary @picture.jpg -H 'Content-Type: image/jpeg' localhost:8000/v1/classify

    Open Inference Protocol v2 by REST and gRPC, /v1/classify for pictures, /metrics, and a page at
    /. A folder that is replaced by another is loaded and takes over (docs/serving.md).
    """
    for package in ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client"):
        need_package(package)
    if not no_grpc:
        need_package("grpc")
    from hgnetv2_pipeline.serving.repository import parse_source
    from hgnetv2_pipeline.serving.server import ServerSpec, is_loopback, run_server
    from hgnetv2_pipeline.serving.structured_log import write_structured_logs

    token = _token(token_file)
    if not token and not is_loopback(host) and not i_know:
        raise ParameterError(
            f"--host {host} lets others ask this server, and there is no token: set {TOKEN} or "
            "--token-file, or say --i-know"
        )
    write_structured_logs()
    spec = ServerSpec(
        sources=[parse_source(text) for text in models], host=host, port=port,
        grpc_port=None if no_grpc else grpc_port, engine=engine, device=PLACES[device],
        threads=threads, batch_size=batch_size, delay=batch_delay / 1e3, waiting=queue,
        token=token, hosts=allowed_host, log_requests=log_requests,
    )  # fmt: skip
    run_server(spec, echo)


def need_package(package: str, command: str = "hgnetv2 serve") -> None:
    """Raise ``ParameterError`` where a package of the extra ``serve`` is not installed."""
    if find_spec(package) is None:
        raise ParameterError(
            f"{command} needs {package}, which is not installed here "
            "(in a clone of the project: pip install '.[serve]')"
        )


def _token(file: Path | None) -> str:
    """The token of the file or of the environment; empty where there is none."""
    token = os.environ.get(TOKEN, "") if file is None else _content(file)
    if not token and file is None:
        return ""
    if len(token) < _LEAST_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise ParameterError(
            f"the token of {file or TOKEN} has to be {_LEAST_TOKEN} printable ASCII characters or "
            "more, without spaces"
        )
    return token


def _content(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"--token-file {file} cannot be read: {error}") from error
