"""Which handler owns a session in this process: the newest. The volume is handed on, its older handlers are fenced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sessionfs_s3.errors import Closed, Fenced, SessionFsError
from sessionfs_s3.volume import Volume

_logger = logging.getLogger(__name__)

OpenVolume = Callable[[], Awaitable[Volume]]


class OwnedSession:
    """One session as this process holds it: at most one volume, and the handler that may use it."""

    def __init__(self, session_id: str, open_volume: OpenVolume) -> None:
        """Hold *session_id*; *open_volume* opens it for writing."""
        self._session_id = session_id
        self._open_volume = open_volume
        self._lock = asyncio.Lock()
        self._volume: Volume | None = None
        self._owner: object = None

    @property
    def loaded(self) -> bool:
        """Whether its volume is open."""
        return self._volume is not None

    def hand_to(self, handler: object) -> None:
        """Make *handler* the owner: every earlier one is fenced from now on."""
        self._owner = handler

    def check(self, handler: object) -> None:
        """Raise Fenced when *handler* is no longer the owner."""
        if self._owner is not handler:
            raise Fenced(
                f"session {self._session_id!r} was resumed again in this process; this handler's runtime is superseded"
            )

    async def enter(self, handler: object) -> Volume:
        """Return the volume for a handler that starts: the one held here if it still owns the session, else a new one.

        Raises:
            Fenced: a newer handler has come meanwhile.
            SessionFsError: the session cannot be opened.
        """
        async with self._lock:
            self.check(handler)
            if self._volume is not None and not await self._still_owned(self._volume):
                await self._give_up()
            if self._volume is None:
                self._volume = await self._open_volume()
            return self._volume

    async def aclose(self) -> None:
        """Close the volume; what is not stored yet is stored first.

        That another replica has taken the session over meanwhile is no failure: what is left then is what was
        acknowledged without a promise that it is stored.

        Raises:
            SessionFsError: it could not be stored.
        """
        async with self._lock:
            self._owner = None
            await self._close()

    async def _still_owned(self, volume: Volume) -> bool:
        try:
            return await volume.still_owned()
        except (Fenced, Closed):
            return False
        except SessionFsError:
            # Failed, or the store cannot say: opening again finds out, and fails loudly if need be.
            return False

    async def _give_up(self) -> None:
        """Close a volume that failed or lost the session: whatever is wrong, opening it again will say."""
        try:
            await self._close()
        except SessionFsError as error:
            _logger.info("session %r: %s", self._session_id, error)

    async def _close(self) -> None:
        volume, self._volume = self._volume, None
        if volume is None:
            return
        try:
            await volume.aclose()
        except Fenced as error:
            _logger.info("session %r: %s", self._session_id, error)
