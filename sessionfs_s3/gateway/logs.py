"""What a gateway logs, and in which form: text to be read, or a JSON object a line.

Of who it is about a line tells ``tenant``, ``session``, ``runtime``, ``subject`` and ``client``, where known. What a
message carries, a token or a parameter never stands in one: lines are written without them, an exception is told by its
class and its place and not by its own words, which quote what was given to it, and libraries that print their
parameters are heard from warnings on only. Writes to one stream.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, Literal, TextIO, cast

from pythonjsonlogger.json import JsonFormatter

FIELDS: Final = ("tenant", "session", "runtime", "subject", "client")
"""What is known of whom a line is about, in the order in which it is printed."""

_OWN: Final = "sessionfs_s3"
_CAUSES_MAX: Final = 10
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What would end a line, or move the cursor of a terminal."""

_known: ContextVar[Mapping[str, str]] = ContextVar("known", default={})  # noqa: B039  # replaced, never changed


def know(**fields: str | None) -> None:
    """Let every line of this task, and of the tasks that it starts from now on, tell *fields*: some of :data:`FIELDS`.

    What a line's own ``extra`` says goes before it.
    """
    _known.set({**_known.get(), **{name: value for name, value in fields.items() if value is not None}})


def configure(form: Literal["text", "json"], level: int, *, stream: TextIO | None = None) -> logging.Handler:
    """Log to *stream*, standard error unless given, in the form *form*: from *level* on, others from warnings on.

    Replaces whatever handlers the root logger has. Returns the new one.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    handler.addFilter(_complete)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger(_OWN).setLevel(level)
    return handler


def exception_lines(error: BaseException) -> list[str]:
    """Return what may be told of *error* and its causes: their classes, and where they were raised."""
    lines: list[str] = []
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen and len(seen) < _CAUSES_MAX:
        seen.add(id(following))
        kind = type(following)
        lines.append(f"{'caused by ' if lines else ''}{kind.__module__}.{kind.__qualname__}")
        lines += [f"  {each.filename}:{each.lineno} {each.name}" for each in _frames(following)]
        if isinstance(following, BaseExceptionGroup):
            inner = cast("BaseExceptionGroup[BaseException]", following).exceptions
            lines += [f"  holds {type(each).__module__}.{type(each).__qualname__}" for each in inner]
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return lines


def _frames(error: BaseException) -> traceback.StackSummary:
    return traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), limit=50, lookup_lines=False)


def _complete(record: logging.LogRecord) -> bool:
    """Add what is known, and take out what a library may have put into *record* against the rules."""
    for name, value in _known.get().items():
        if not hasattr(record, name):
            setattr(record, name, value)
    if record.name == "asyncio":
        # The event loop tells, after the first line, tasks and exceptions in their own words.
        record.msg, record.args = record.getMessage().partition("\n")[0], None
    return True


def _fields(record: logging.LogRecord) -> dict[str, str]:
    return {name: str(value) for name in FIELDS if (value := getattr(record, name, None)) is not None}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Text(logging.Formatter):
    """One line each: time, level, logger, message, and in brackets what is known; an exception's lines follow."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}"
        if fields := _fields(record):
            line += " [" + " ".join(f"{name}={value}" for name, value in fields.items()) + "]"
        line = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", line)
        error = record.exc_info[1] if record.exc_info else None
        return "\n".join([line, *(f"  {each}" for each in exception_lines(error))]) if error is not None else line


class _Json(JsonFormatter):
    """One object each: ``time``, ``level``, ``logger``, ``message``, what is known, and ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        # Built here, field by field: the library would print every attribute that anybody has given to the record.
        told: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            told["exception"] = exception_lines(error)
        return self.serialize_log_record(told)
