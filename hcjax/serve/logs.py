"""Logs as JSON, one object a line, to stderr."""

from __future__ import annotations

import datetime
import json
import logging
import sys

LOG = logging.getLogger("hcjax.serve")


class Lines(logging.Formatter):
    """Formats a record as one line of JSON: time, level, event, and its `facts`."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        now = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {"time": now.isoformat(timespec="milliseconds"), "level": record.levelname.lower()}
        line |= {"event": record.getMessage(), **getattr(record, "facts", {})}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start(stream=None) -> None:
    """Sends our logs, and uvicorn's, to a stream, stderr by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Lines())
    for name in ("hcjax.serve", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    # its warnings are of what strangers send, who could fill the log
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


def log(event: str, *, level: int = logging.INFO, **facts) -> None:
    """Writes one line.

    Args:
      event: what happened. level: of `logging`. **facts: more keys of the line.
    """
    LOG.log(level, event, extra={"facts": facts})
