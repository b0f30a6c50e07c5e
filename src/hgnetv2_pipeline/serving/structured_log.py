"""The log as one JSON object per line, for whatever collects logs."""

from __future__ import annotations

import json
import logging
import sys
import time

from hgnetv2_pipeline.printable import json_text, traceback_lines

_REQUEST = '{"request": '  # how the line of a request begins: its entries are those of the object


class StructuredFormatter(logging.Formatter):
    """Time, level, message; of a request its id, door, status and milliseconds."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        millis = f"{int(record.msecs):03}"
        said = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{millis}Z",
            "level": record.levelname,
        }
        text = record.getMessage()
        said |= json.loads(text) if text.startswith(_REQUEST) else {"message": text}
        if record.exc_info and record.exc_info[1] is not None:
            said["traceback"] = str(traceback_lines(record.exc_info[1]))
        return json_text(said)


def write_structured_logs() -> None:
    """All logs to standard error in this form; of uvicorn's the errors alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(StructuredFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # its findings are answers
