"""Keeping runtimes alive, and choosing the one for a session.

A runtime that ends is replaced, after a pause that doubles while it goes on. Sessions of two tenants with the same id
never share a runtime: neither of them could be told from the other.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Final

from sessionfs_s3.gateway.errors import FAILED, RpcError
from sessionfs_s3.gateway.messages import Json
from sessionfs_s3.gateway.process import RuntimeUnavailable
from sessionfs_s3.gateway.runtimes import Host, Runtime, Source

_logger = logging.getLogger(__name__)

BACKOFF_S_MIN: Final = 0.1
BACKOFF_S_MAX: Final = 30.0
STABLE_S: Final = 60.0
"""A runtime that served for so long was no failure of the one before: the pauses begin anew."""

PLACE_DEADLINE_S: Final = 60.0
"""How long a session waits for a runtime; one starts in a second, and in a minute where it is unpacked first."""

FAILING_DEADLINE_S: Final = 5.0
"""How long where none could be brought up: one that ended is replaced sooner."""

SPARE_MAX: Final = 4
"""Runtimes beyond those asked for, started where sessions of several tenants have one id, and stopped when idle."""

_names = itertools.count(1)


class Keeper:
    """Keeps one runtime alive, with a new one whenever it ends.

    Attributes:
        runtime: the one that serves; None while there is none.
        spare: whether it is one beyond those asked for.
        failure: why there is none; "" while there is, or while the first one starts.
    """

    def __init__(
        self, source: Source, owner: str | None, slot: Mapping[str, Json], host: Host, changed: Callable[[], None]
    ) -> None:
        """Keep a runtime of *source* for *owner*, and call *changed* whenever it comes or goes."""
        self._source = source
        self._owner = owner
        self._slot = slot
        self._host = host
        self._changed = changed
        self.runtime: Runtime | None = None
        self.spare = False
        self.failure = ""
        self._served = False
        # It outlives whoever made it necessary: nothing that is known of them belongs into its log lines.
        self._task = asyncio.create_task(self._keep(), context=Context())

    async def aclose(self) -> None:
        """End the runtime, and bring up no other."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        pause_s = BACKOFF_S_MIN
        while True:
            began_s = asyncio.get_running_loop().time()
            try:
                await self._serve_once()
            except RuntimeUnavailable as problem:
                self.failure = str(problem)
                self._host.tried("failed")
                _logger.error("no runtime: %s", problem)  # noqa: TRY400  # the message says it all
            except Exception as problem:
                # A disk that is full, say. Whatever it is, it may pass, and nobody else brings up a runtime here.
                self.failure = type(problem).__name__
                self._host.tried("failed")
                _logger.exception("no runtime")
            self._changed()
            if asyncio.get_running_loop().time() - began_s > STABLE_S:
                pause_s = BACKOFF_S_MIN
            # Full jitter: runtimes that ended together must not start together for ever.
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))  # noqa: S311
            pause_s = min(pause_s * 2, BACKOFF_S_MAX)

    async def _serve_once(self) -> None:
        async with self._source.open() as endpoint:
            runtime = Runtime(f"runtime-{next(_names)}", self._owner, endpoint)
            try:
                await runtime.hold(self._slot, self._host)
                self.runtime, self.failure = runtime, ""
                self._host.tried("again" if self._served else "first")
                self._served = True
                self._changed()
                _logger.info("%s serves", runtime.name, extra={"runtime": runtime.name})
                await runtime.ended()
                self._host.lost(runtime)
                _logger.warning("%s ended", runtime.name, extra={"runtime": runtime.name})
            finally:
                self.runtime = None
                await runtime.aclose()
                self._host.ended(runtime)


class Pool:
    """The runtimes of one owner, or those that all tenants share."""

    def __init__(
        self, sources: list[Source], owner: str | None, slot: Mapping[str, Json], host: Host, *, may_grow: bool
    ) -> None:
        """Keep a runtime of each of *sources*; with *may_grow* the first of them gives spare ones, too."""
        self._sources = sources
        self._owner = owner
        self._slot = slot
        self._host = host
        self._may_grow = may_grow
        self._event = asyncio.Event()
        self._keepers = [self._keeper(source) for source in sources]

    @property
    def runtimes(self) -> list[Runtime]:
        """Those that serve."""
        return [keeper.runtime for keeper in self._keepers if keeper.runtime is not None]

    @property
    def wanted(self) -> int:
        """How many there should be."""
        return len(self._keepers)

    async def place(self, session_id: str, *, deadline_s: float = PLACE_DEADLINE_S) -> Runtime:
        """Return the least loaded runtime on which no session has this id, waiting for one if need be.

        Raises:
            RpcError: there is none within *deadline_s* seconds.
        """
        clock = asyncio.get_running_loop().time
        until_s = clock() + deadline_s
        while True:
            runtimes = self.runtimes
            free = [runtime for runtime in runtimes if session_id not in runtime.sessions]
            if free:
                if len(free) == 1 and len(runtimes) > 1:
                    # Ahead of need: how long a session takes must not tell that others have one of the same name.
                    self._grow()
                return min(free, key=lambda runtime: len(runtime.sessions))
            event = self._event
            if len(runtimes) == len(self._keepers) and not self._grow():
                raise RpcError(FAILED, "no runtime is free for the session: try later")
            if self.failing:
                until_s = min(until_s, clock() + FAILING_DEADLINE_S)
            try:
                async with asyncio.timeout_at(until_s):
                    await event.wait()
            except TimeoutError:
                # Why is in the log: what a runtime says when it ends may tell of its host.
                raise RpcError(FAILED, "no runtime serves at the moment: try again later") from None

    async def any(self, *, deadline_s: float = PLACE_DEADLINE_S) -> Runtime:
        """Return the least loaded runtime. Raises RpcError as :meth:`place`."""
        return await self.place("", deadline_s=deadline_s)

    @property
    def failing(self) -> bool:
        """Whether none serves, and one could not be brought up."""
        return not self.runtimes and any(keeper.failure for keeper in self._keepers)

    async def shrink(self) -> None:
        """Stop the spare runtimes on which nothing is open."""
        idle = [each for each in self._keepers if each.spare and each.runtime is not None and not each.runtime.sessions]
        for keeper in idle:
            self._keepers.remove(keeper)
        await asyncio.gather(*(keeper.aclose() for keeper in idle))

    async def aclose(self) -> None:
        """End all of them."""
        keepers, self._keepers = self._keepers, []
        await asyncio.gather(*(keeper.aclose() for keeper in keepers))

    def _keeper(self, source: Source) -> Keeper:
        return Keeper(source, self._owner, self._slot, self._host, self._changed)

    def _changed(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    def _grow(self) -> bool:
        """Begin to start a spare runtime; return whether that may be."""
        if not self._may_grow or len(self._keepers) >= len(self._sources) + SPARE_MAX:
            return False
        keeper = self._keeper(self._sources[0])
        keeper.spare = True
        self._keepers.append(keeper)
        return True
