"""``SessionFs``: what an application opens once and hands to the Copilot SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from copilot import CopilotSession, SessionFsConfig

from sessionfs_s3.catalog import Catalog
from sessionfs_s3.copilot.ownership import OwnedSession
from sessionfs_s3.copilot.provider import SessionProvider
from sessionfs_s3.errors import Closed, Denied, NoAnswer, Refused, Unavailable
from sessionfs_s3.format import SessionKeys, tenant_prefix
from sessionfs_s3.settings import Settings
from sessionfs_s3.store import MeteredStore, RequestLog, Store, Verb, open_store, parse_store_url, probe_once
from sessionfs_s3.volume import Environment, Volume, VolumeOptions
from sessionfs_s3.volume.environment import system_environment


class SessionFs:
    """The sessions of one tenant in one store; an asynchronous context manager.

    Example:
        ::

            async with SessionFs.open("s3://bucket/prefix", tenant="acme") as fs:
                client = CopilotClient(mode="empty", session_fs=fs.config)
                session = await client.create_session(
                    session_id="task-7",
                    create_session_fs_handler=fs.handler,
                    available_tools=ToolSet().add_builtin("*"),
                )

    Attributes:
        config: the SDK's ``SessionFsConfig``, for ``CopilotClient(session_fs=…)``.
        requests: every request made to the store, counted.
    """

    def __init__(self, url: str, tenant: str, settings: Settings, environment: Environment) -> None:
        """Use :meth:`open`."""
        parse_store_url(url)
        SessionKeys.of(tenant, "any")
        self._url = url
        self._tenant = tenant
        self._settings = settings
        self._environment = environment
        self._store: Store | None = None
        self._owns_store = True
        self._catalog: Catalog | None = None
        self._owned: dict[str, OwnedSession] = {}
        self.requests = RequestLog(kind=_kind)
        self.config: SessionFsConfig = {
            "initial_working_directory": settings.working_directory,
            "session_state_path": settings.session_state_path,
            "conventions": "posix",
            "capabilities": {"sqlite": True, "binary": True},
        }

    @classmethod
    def open(cls, url: str, *, tenant: str, **settings: object) -> Self:
        """Return the session file system of *tenant* in the store at *url*, to be entered with ``async with``.

        Args:
            url: ``s3://bucket/prefix?endpoint_url=…&region=…``, ``file:///directory`` or ``memory://name``.
            tenant: whose sessions; nothing of another tenant can be reached through it.
            **settings: see :class:`~sessionfs_s3.settings.Settings`.

        Raises:
            InvalidInput: the URL, the tenant or a setting breaks a rule; nothing was written.
        """
        loaded = Settings.load(**settings)
        return cls(url, tenant, loaded, system_environment(sqlite_processes=loaded.sqlite_processes))

    def of_tenant(self, tenant: str) -> SessionFs:
        """Return the session file system of another tenant in the same store, open for as long as this one is.

        It shares this one's connections, counts of requests, cache and SQL processes; closing it closes its sessions.

        Raises:
            InvalidInput: the tenant breaks a rule.
            Closed: this session file system is not open.
        """
        other = SessionFs(self._url, tenant, self._settings, self._environment)
        other._store, other._owns_store, other.requests = self._opened(), False, self.requests
        return other

    def handler(self, session: CopilotSession) -> SessionProvider:
        """Return the provider for *session*: the SDK's ``create_session_fs_handler``.

        The newest handler of a session owns it; an older one in this process is fenced.

        Raises:
            InvalidInput: the session's id breaks a rule.
            Closed: the session file system is not open.
        """
        return self.provider(session.session_id)

    def provider(self, session_id: str) -> SessionProvider:
        """Return the provider for *session_id*, as :meth:`handler` does for an SDK session."""
        keys = SessionKeys.of(self._tenant, session_id)
        store = self._opened()
        owned = self._owned.get(session_id)
        if owned is None:
            owned = OwnedSession(session_id, lambda: self._open_volume(store, keys, read_only=False))
            self._owned[session_id] = owned
        return SessionProvider(owned, self._settings)

    @asynccontextmanager
    async def volume(self, session_id: str, *, read_only: bool = False) -> AsyncGenerator[Volume]:
        """Open *session_id* directly; opening for writing takes the session over from whoever has it.

        Raises:
            InvalidInput: the session's id breaks a rule.
            SessionFsError: see :meth:`Volume.open`.
        """
        keys = SessionKeys.of(self._tenant, session_id)
        async with await self._open_volume(self._opened(), keys, read_only=read_only) as volume:
            yield volume

    @property
    def catalog(self) -> Catalog:
        """The tenant's sessions as the store has them: list, look at, delete, fork.

        Raises:
            Closed: the session file system is not open.
        """
        store = self._opened()
        if self._catalog is None:
            self._catalog = Catalog(
                store,
                self._tenant,
                environment=self._environment,
                options=self._settings.volume_options(),
                state_path=self._settings.session_state_path,
            )
        return self._catalog

    @property
    def environment(self) -> Environment:
        """What its sessions, and those of the other tenants of the same store, share: cache, SQL processes, clocks."""
        return self._environment

    @property
    def open_volumes(self) -> int:
        """How many sessions are loaded."""
        return sum(owned.loaded for owned in self._owned.values())

    async def probe(self) -> None:
        """Make sure that the store can carry sessions: 13 requests in three round trips, the first time in a process.

        Opening a session for writing does it by itself (setting ``probe``); a service may want to know when it starts.

        Raises:
            Refused: it cannot; the message names everything that it lacks.
            Unavailable: it does not answer.
        """
        folder = f"{tenant_prefix(self._tenant)}probe"
        await probe_once(self._opened(), folder=folder, deadline_s=self._settings.deadline_s)

    async def release(self, session_id: str) -> None:
        """Store what is not stored yet of *session_id* and give its memory back; its handlers are fenced from now on.

        To be called after ``session.disconnect()`` by an application that lives longer than its sessions: nothing tells
        a provider that its session has ended. A session that is not held here is passed over.

        Raises:
            SessionFsError: its last changes could not be stored.
        """
        owned = self._owned.pop(session_id, None)
        if owned is not None:
            await owned.aclose()

    async def aclose(self) -> None:
        """Store everything accepted so far and close. May be called twice.

        Raises:
            ExceptionGroup: the failures of those sessions whose changes could not be stored.
        """
        owned = list(self._owned.values())
        self._owned.clear()
        outcomes = await asyncio.gather(*(each.aclose() for each in owned), return_exceptions=True)
        store, self._store, self._catalog = self._store, None, None
        if store is not None and self._owns_store:
            await store.aclose()
        failures = [each for each in outcomes if isinstance(each, Exception)]
        if failures:
            raise ExceptionGroup("sessions whose last changes were not stored", failures)

    async def __aenter__(self) -> Self:
        """Open the store; that alone sends nothing.

        Raises:
            Refused, Unavailable: no credentials, no permission to open the directory, or a disk that does not answer.
        """
        try:
            store = await open_store(self._url)
        except Denied as answer:
            raise Refused(f"opening the store: {answer}") from answer
        except NoAnswer as answer:
            raise Unavailable(f"opening the store: {answer}") from answer
        self._store = MeteredStore(store, self.requests)
        self._environment.cache.budget_bytes = self._settings.cache_bytes
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        await self.aclose()

    async def _open_volume(self, store: Store, keys: SessionKeys, *, read_only: bool) -> Volume:
        options: VolumeOptions = self._settings.volume_options()
        if not read_only and self._settings.probe:
            await self.probe()
        return await Volume.open(
            store,
            keys,
            read_only=read_only,
            environment=self._environment,
            options=options,
        )

    def _opened(self) -> Store:
        if self._store is None:
            raise Closed("the session file system is not open: use it with 'async with'")
        return self._store


def _kind(verb: Verb, key: str) -> str:
    """Return what *key* is, for the table of requests."""
    if verb is Verb.LIST:
        return "log"
    folder = key.rpartition("/")[0].rpartition("/")[2]
    return {".c": "commit", ".s": "snapshot"}.get(
        key[-2:], folder if folder in {"blob", "catalog", "probe"} else "other"
    )
