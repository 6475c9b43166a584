"""What is logged while a test runs, in the command's own form."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from sessionfs_s3.gateway import logs


@contextmanager
def captured(form: Literal["text", "json"], level: int = logging.DEBUG) -> Iterator[io.StringIO]:
    """Log as the command does, but into what this yields; logging is as it was afterwards."""
    root, package = logging.getLogger(), logging.getLogger("sessionfs_s3")
    handlers, levels = list(root.handlers), (root.level, package.level)
    stream = io.StringIO()
    logs.configure(form, level, stream=stream)
    try:
        yield stream
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        package.setLevel(levels[1])
