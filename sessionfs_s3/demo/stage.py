"""Everything around the story: the options, the store, the runtime, the deadline, and the last line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

from sessionfs_s3.demo.narrator import DemoFailed, Narrator
from sessionfs_s3.demo.story import tell
from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.store import parse_store_url
from sessionfs_s3.testing.runtime import find_runtime
from sessionfs_s3.testing.servers import SERVERS

DEADLINE_S: Final = 240.0
"""For the story; getting the runtime from npm the first time has a deadline of its own."""

_BUCKET: Final = "sessionfs-demo"


def run(arguments: list[str] | None = None) -> str:
    """Run the demo with the command line's *arguments* and return the last line; KeyboardInterrupt passes through."""
    parser = argparse.ArgumentParser(prog="python -m sessionfs_s3.demo", description="A session survives kill -9.")
    parser.add_argument(
        "--store",
        default="",
        metavar="URL",
        help=f"s3://…, file:///…, or {', '.join(SERVERS)} to start that server; else a temporary directory",
    )
    options = parser.parse_args(arguments)
    logging.getLogger("copilot").addHandler(logging.NullHandler())  # the story is told here, not in the SDK's warnings
    narrator = Narrator()
    try:
        with _store(options.store, narrator) as url:
            narrator.say(f"the store is {url}")
            narrator.say("looking for the Copilot runtime; the first time npm fetches it, about 190 MB")
            executable = find_runtime()
            return f"demo: ok: {asyncio.run(_told(narrator, url, executable))}"
    except Exception as error:  # noqa: BLE001 - whatever it was, the last line says so
        return f"demo: FAILED: {_described(error)}"


async def _told(narrator: Narrator, url: str, executable: Path) -> str:
    deadline = asyncio.timeout(DEADLINE_S)
    try:
        async with deadline:
            return await tell(narrator, url, executable)
    except TimeoutError:
        if deadline.expired():
            raise DemoFailed(f"the story took longer than {DEADLINE_S:.0f} s") from None
        raise


@contextmanager
def _store(given: str, narrator: Narrator) -> Generator[str]:
    """Give the URL of the store that was asked for, starting what it needs."""
    if given in SERVERS:
        with SERVERS[given]() as server:
            server.create_bucket(_BUCKET)
            os.environ.update(server.environment())
            narrator.say(f"{server.name} is up (pid {server.pid})")
            yield server.store_url(_BUCKET)
    elif given:
        parse_store_url(given)
        if given.startswith("memory:"):
            raise InvalidInput("store URL", given, "must be shared by two processes, which memory:// is not")
        yield given
    else:
        directory = tempfile.mkdtemp(prefix="sessionfs-demo-")
        try:
            yield Path(directory).as_uri()
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _described(error: Exception) -> str:
    """Return *error* on one line; of a group its first."""
    first: BaseException = error
    while isinstance(first, BaseExceptionGroup):
        first = cast("BaseExceptionGroup[BaseException]", first).exceptions[0]
    return f"{type(first).__name__}: {first}".replace("\n", " ")
