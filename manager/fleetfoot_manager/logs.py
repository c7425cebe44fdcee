"""The manager's log: a line for each thing that happened, with the ids of what it is about.

Messages are words and `name=value` pairs. `text` writes them as they are; `json` writes an object a line, in
which the pairs are members too, so that `rollout`, `device`, `group`, `operator` or `code` can be asked for.
Both carry `request`, the id of the operator's request that was being decided, where there is one.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

#: No blank in it: a line is made of `name=value`.
_TIME = "%Y-%m-%dT%H:%M:%S%z"
_FORMAT = "ts=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s"
_PAIR = re.compile(r"(?<!\S)([a-z][a-z0-9_]*)=('[^']*'|\S+)")
#: What a pair of a message cannot take the place of.
_OURS = frozenset({"ts", "level", "logger", "message", "traceback", "request"})

_request: ContextVar[str] = ContextVar("request", default="")


@contextmanager
def about(request: str) -> Iterator[None]:
    """Everything that is logged in here, on this thread, is about a request."""
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)


def _one_line(text: str) -> str:
    """Some words of a message come from the network."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class OneLine(logging.Formatter):
    """Messages as they are, but on one line."""

    def __init__(self) -> None:
        super().__init__(_FORMAT, _TIME)

    def formatMessage(self, record: logging.LogRecord) -> str:
        request = _request.get()
        record.message = _one_line(record.message) + (f" request={request}" if request else "")
        return super().formatMessage(record)


class JsonLine(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        message = _one_line(record.getMessage())
        line = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
        }
        if request := _request.get():
            line["request"] = request
        pairs = ((name, value.strip("'").rstrip(",:")) for name, value in _PAIR.findall(message))
        line |= {name: value for name, value in pairs if name not in _OURS}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


#: What `--log-format` may be.
FORMATS: dict[str, Callable[[], logging.Formatter]] = {"text": OneLine, "json": JsonLine}
