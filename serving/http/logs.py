"""Logs as one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
import time

__all__ = ["LOG", "configure_logs"]

LOG = logging.getLogger("palp.http")
"""Records carry their fields in `extra={"fields": {…}}`; the message is the event's name."""


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        written = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{written}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        line |= {"event": record.getMessage()} | getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logs() -> None:
    """Everything of this server, and warnings of the engine and the HTTP library, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name, level in (("palp.http", logging.INFO), ("serving", logging.WARNING), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
