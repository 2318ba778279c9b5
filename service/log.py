"""The form of a line in the log, and what never stands in one: text of clients.

An exception that nobody expected may quote what a client wrote (KeyError does), and waitress names paths. So of such
an exception the log tells its kind and where it came from, and of waitress' lines which function wrote them.
Knows nothing of who logs what.
"""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType

from .errors import ConfigError, ModelError, ServiceError

FORM = "%(levelname)s %(name)s: %(message)s"
OURS = (ModelError, ConfigError, OSError)  # say what happened to the model, the settings, a file


class Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # another handler's, with the words
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.name.split(".")[0] == "waitress":
            record.message = f"in {record.module}.{record.funcName}"
        return super().formatMessage(record)

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        error, lines = ei[1], []
        while error is not None:
            frames = traceback.extract_tb(error.__traceback__)
            lines += [f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}' for frame in frames]
            lines.append(describe(error))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n".join(lines)


def describe(error: BaseException) -> str:
    """Its kind, and its words if they are ours."""
    kind = type(error).__name__
    return f"{kind}: {error}" if isinstance(error, OURS) and not isinstance(error, ServiceError) else kind


def write_to_stderr(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(FORM))
    logging.basicConfig(level=level.upper(), handlers=[handler])
