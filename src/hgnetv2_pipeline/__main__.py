"""``python -m hgnetv2_pipeline``: ``kedro run`` of the packaged project, wherever it is installed.

Data is in ``data/`` and weights in ``weights/`` of the current folder, or of the Kedro project
that holds it. The configuration is that folder's ``conf/``, or what ``--conf-source`` names: a
folder, or the ``conf-hgnetv2_pipeline.tar.gz`` that ``kedro package`` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


def main(args: Sequence[str] = ()) -> Any:
    """Run a pipeline from Python (Airflow, Databricks, a notebook): Kedro's documented entry.

    Args:
        args: what follows ``kedro run`` on a command line, for example
            ``["--pipeline", "ingestion", "--conf-source", "conf-hgnetv2_pipeline.tar.gz"]``.

    Returns:
        What ``KedroSession.run`` returns: the pipeline's free outputs by name.

    Raises:
        The error itself: ``ParameterError``, ``DataError``, ``WeightsError``, ``Interrupted``
        (which the same call resumes) and others; ``click.UsageError`` for an unknown option.
    """
    run = _configured()
    try:
        with run.make_context("hgnetv2_pipeline", list(args)) as context:
            return run.invoke_openly(context)
    except click.exceptions.Exit:  # --help
        return {}
    except Exception as error:
        if getattr(error, "exit_code", None) == 0:  # the plan that was asked for
            return {}
        raise


def _configured() -> Any:
    from kedro.framework.project import configure_project

    configure_project("hgnetv2_pipeline")
    from hgnetv2_pipeline.cli import run

    return run


if __name__ == "__main__":
    _configured().main(prog_name="python -m hgnetv2_pipeline")
