"""``python -m hgnetv2_pipeline.training.launch spec.json``: one training run in its own process.

Also under ``torchrun``, which starts it several times. Exit codes are those of ``errors``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.errors import ParameterError

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None, run: Callable[[Path], None] | None = None) -> int:
    """Run the specification, by ``run`` if it is another than a RunSpec; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__ if run is None else None)
    parser.add_argument("spec", type=Path, help="JSON of what to run")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    # Under torchrun every process would say the same; the others speak up only about trouble.
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(message)s"
    )
    try:
        (run or _run)(options.spec)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if options.debug or code is None:
            raise
        _log.error("%s", error)
        return int(code)
    return 0


def _run(path: Path) -> None:
    from hgnetv2_pipeline.training.config import RunSpec, parse
    from hgnetv2_pipeline.training.run import train_run

    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path} is not a readable JSON file: {error}") from error
    train_run(parse(RunSpec, values, where="spec"))


if __name__ == "__main__":
    sys.exit(main())
