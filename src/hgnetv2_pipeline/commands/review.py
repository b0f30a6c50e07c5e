"""``hgnetv2 review``: a local page on which a person decides of pairs, mined images and labels."""

from __future__ import annotations

import logging

import click

from hgnetv2_pipeline.commands.serve import need_package
from hgnetv2_pipeline.commands.weights import project_folder
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.printable import echo


@click.command(short_help="Judge duplicates, mined images and labels in a browser.")
@click.argument("name", required=False)
@click.option("--env", "environment", help="The same as NAME, as kedro run has it.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True,
              help="Port on this machine; 0 takes any free one.")  # fmt: skip
@click.option("--open", "browser", is_flag=True, help="Open the page in a browser.")
def review(name: str | None, environment: str | None, port: int, browser: bool) -> None:
    """Decide of images in a browser: doubtful duplicates, mined images, suspected label errors and
    those to label next. NAME is an environment (conf/NAME); without one it is the sample.

    \b
    hgnetv2 review cats --open
    hgnetv2 review --env cats --port 8765        and, from another machine,
    ssh -L 8765:localhost:8765 THIS_MACHINE      then open the printed address there

    \b
    k keep   x remove   1-9, 0 or / another class   s the suggested one   u undo   arrows: move

    Each decision is written to data/01_raw/<dataset>/review.csv at once, and the next kedro run
    obeys it (docs/review.md). The page answers on this machine alone, to those who have its
    address.
    """
    for package in ("starlette", "uvicorn"):
        need_package(package, "hgnetv2 review")
    if name and environment and name != environment:
        raise ParameterError(f"NAME is {name} and --env {environment}; give one of them")
    from hgnetv2_pipeline.project.config_loader import LOADER_ARGUMENTS, ProjectConfigLoader
    from hgnetv2_pipeline.project.mining.reviewing import review_session
    from hgnetv2_pipeline.serving.review.app import run_review

    conf = project_folder() / "conf"
    identity = ProjectConfigLoader(conf, env=name or environment, **LOADER_ARGUMENTS).identity
    session = review_session(identity)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)

    def ready(address: str) -> None:
        for one in session.lists:
            echo(f"{one.title}: {len(one.items):,}")
        echo(f"decisions: {session.file}")
        echo(f"open {address} (Ctrl-C ends; every decision is written at once)")
        if browser:
            click.launch(address)

    run_review(session, port, ready)
    state = session.state()
    for said in state["judged"]:
        echo(said)
    count = sum(map(len, state["decided"].values()))
    echo(f"{count:,} of the images shown are decided; to obey: {identity.run_command}")
