"""The gateway itself: runtimes, tenants and clients together, from the first connection to the last flush."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

from sessionfs_s3.copilot import SessionFs
from sessionfs_s3.errors import InvalidInput, SessionFsError
from sessionfs_s3.gateway.auth.authenticator import Authenticator
from sessionfs_s3.gateway.auth.limits import Usages
from sessionfs_s3.gateway.auth.tenants import Identity, is_loopback
from sessionfs_s3.gateway.catalogue.answers import CatalogueAnswers
from sessionfs_s3.gateway.client import Client
from sessionfs_s3.gateway.errors import FAILED, RpcError
from sessionfs_s3.gateway.listener import Listener
from sessionfs_s3.gateway.live import LiveView
from sessionfs_s3.gateway.logs import know
from sessionfs_s3.gateway.messages import Json, Request, encode
from sessionfs_s3.gateway.metrics import Metrics
from sessionfs_s3.gateway.observe import ObserveServer, StoreHealth
from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.pool import Pool
from sessionfs_s3.gateway.provider import SessionFsMethods
from sessionfs_s3.gateway.runtimes import Runtime, Source
from sessionfs_s3.gateway.sessions import OpenSession, Sessions, Tenant
from sessionfs_s3.sqlite import SqlError

_logger = logging.getLogger(__name__)

MEASURE_S: Final = 60.0
"""How often it is looked up how much the tenants store that may not store everything: a listing of all they have."""

HOUSEKEEPING_S: Final = 5.0
"""How often the tenants file is looked at, and what is idle is let go."""


class Gateway:
    """One gateway; an asynchronous context manager that serves while it is entered.

    Attributes:
        options: how it behaves.
        store: the session file system of its store.
        sessions: what is open.
        tenants: those of whom something is in use, by name.
        clients: who is connected.
        usages: what the tenants use up.
        metrics: what is counted.
        draining: whether it takes no more sessions.
        http: where it tells its operator how it is; None: nowhere.
    """

    def __init__(
        self,
        options: GatewayOptions,
        authenticator: Authenticator,
        sources: Callable[[], list[Source]],
        *,
        may_grow: bool,
        **settings: object,
    ) -> None:
        """Serve as *options* say.

        Args:
            options: how it behaves.
            authenticator: who is let in.
            sources: where runtimes come from; called once for all tenants, or once for each.
            may_grow: whether the first source gives more than one.
            **settings: see :class:`~sessionfs_s3.settings.Settings`.

        Raises:
            InvalidInput: it would let everybody in from everywhere, or a setting breaks a rule.
        """
        if authenticator.single_tenant and not is_loopback(options.host):
            raise InvalidInput(
                "listen address",
                options.host,
                "must be a loopback address where there is no tenants file",
            )
        self.options = options
        self.store = SessionFs.open(options.store, tenant=options.tenant, **settings)
        self.metrics = Metrics()
        self.sessions = Sessions(self._place, self.metrics)
        self.tenants: dict[str, Tenant] = {}
        self.clients: set[Client] = set()
        self.usages = Usages(refused=self.metrics.limited)
        self.draining = False
        self.http: ObserveServer | None = None if options.http is None else ObserveServer(self, *options.http)
        self._store_health = StoreHealth()
        self.store.requests.listeners.append(self._store_health.heard)
        self.metrics.watch(self)
        self._started = False
        self.listener = Listener(self, authenticator)
        self._authenticator = authenticator
        self._sources = sources
        self._may_grow = may_grow
        self._pools: dict[str | None, Pool] = {}
        self._methods: dict[Runtime, SessionFsMethods] = {}
        self._hellos: dict[bytes, Mapping[str, Json]] = {}
        self._told: set[str] = set()
        self._measured_s = -MEASURE_S
        self._idle_since: dict[str, float] = {}
        self._stack = AsyncExitStack()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.listener.port

    @property
    def shared(self) -> bool:
        """Whether runtimes may serve more than one tenant."""
        return self.options.isolation == "shared" and not self._authenticator.single_tenant

    @property
    def pools(self) -> list[Pool]:
        """All runtimes."""
        return list(self._pools.values())

    @property
    def ready(self) -> bool:
        """Whether it can take a session now."""
        return not self.obstacles

    @property
    def obstacles(self) -> list[str]:
        """Why a session that came now could not be taken; empty if nothing is known to be in its way."""
        pools = self.pools
        if self.options.isolation == "shared":
            lacking = not any(pool.runtimes for pool in pools)
        else:
            # Runtimes are started for whoever comes, unless that has just turned out not to work for anybody.
            lacking = bool(pools) and all(pool.failing for pool in pools)
        told = {
            "the gateway is starting: the store has not been probed yet": not self._started,
            "the gateway is draining": self.draining,
            "no runtime serves": lacking,
        }
        return [*(what for what, holds in told.items() if holds), *filter(None, [self._store_health.obstacle])]

    async def __aenter__(self) -> Self:
        """Look whether the store can carry sessions, bring runtimes up and listen.

        Raises:
            Refused, Unavailable: the store cannot be used.
            OSError: the address cannot be listened on.
        """
        async with AsyncExitStack() as stack:
            if self.http is not None:
                # The first to come and the last to go: it has to tell of the way up and down as well.
                await stack.enter_async_context(self.http)
            await stack.enter_async_context(self.store)
            await self.store.probe()
            stack.push_async_callback(self._authenticator.close)
            stack.push_async_callback(self._close_pools)
            if self.options.isolation == "shared":
                self._pool(None)
            stack.push_async_callback(self._close_sessions)
            await stack.enter_async_context(self.listener)
            keeping = asyncio.create_task(self._keep_house())
            stack.callback(keeping.cancel)
            self._stack = stack.pop_all()
        self._started = True
        _logger.info("the gateway listens on port %d", self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close without waiting for turns that are running; everything that was accepted is stored."""
        self.draining = True
        await self._close_sessions()
        await self._stack.__aexit__(kind, error, trace)

    def reload(self) -> None:
        """Read the tenants file again, changed or not; a broken one changes nothing."""
        self._authenticator.reload(force=True)

    async def drain(self) -> bool:
        """Take no more connections and sessions, and wait until no turn is running, or the deadline has passed.

        Returns whether all of them ended.
        """
        self.draining = True
        _logger.info("the gateway drains")
        self.listener.stop()
        until_s = asyncio.get_running_loop().time() + self.options.drain_s
        while any(session.busy for session in self._open_sessions()):
            if asyncio.get_running_loop().time() >= until_s:
                return False
            await asyncio.sleep(0.05)
        return True

    # For clients.

    def enter(self, client_of: Callable[[Tenant], Client], identity: Identity) -> Client:
        """Count a client in. Raises LimitExceeded."""
        usage = self.usages.of(identity.tenant, identity.limits)
        usage.connect()
        tenant = self.tenants.get(identity.tenant)
        if tenant is None:
            tenant = self.tenants[identity.tenant] = Tenant(
                identity.tenant, self.store.of_tenant(identity.tenant), usage
            )
        client = client_of(tenant)
        tenant.clients.add(client)
        self.clients.add(client)
        return client

    def leave(self, client: Client) -> None:
        """Count a client out."""
        self.clients.discard(client)
        client.tenant.clients.discard(client)
        client.tenant.usage.disconnect()

    def catalogue(self, client: Client) -> CatalogueAnswers:
        """Return what answers the catalogue calls of *client*."""
        return CatalogueAnswers(
            client.tenant.fs.catalog,
            LiveView(self.sessions, client.tenant, client.permits),
            new_id=lambda: str(uuid4()),
            now_ms=lambda: time.time_ns() // 1_000_000,
            state_path=self.store.config["session_state_path"],
        )

    async def hello(self, greeting: Mapping[str, Json], tenant: str) -> Mapping[str, Json]:
        """Return what a runtime answers to ``connect`` with the parameters *greeting*. Raises RpcError."""
        key = hashlib.sha256(encode(Request("", greeting, is_notification=True))).digest()
        known = self._hellos.get(key)
        if known is None:
            runtime = await self._pool(self._owner(tenant)).any()
            try:
                stream, known = await runtime.connect(greeting)
            except OSError as problem:
                _logger.warning("%s cannot be reached: %s", runtime.name, problem)
                raise RpcError(FAILED, "no runtime can be reached") from None
            stream.close()
            if len(self._hellos) < 1000:
                self._hellos[key] = known
        return known

    async def any_runtime(self, tenant: Tenant) -> Runtime:
        """Return a runtime that serves *tenant*. Raises RpcError."""
        return await self._pool(self._owner(tenant.name)).any()

    def provider_refused(self, tenant: str) -> None:
        """Note that a client wanted to serve its sessions' files itself."""
        if tenant not in self._told:
            self._told.add(tenant)
            _logger.warning(
                "a client set a session file system provider of its own: its handler will not be called, this gateway "
                "keeps the sessions",
                extra={"tenant": tenant},
            )

    # For runtimes.

    async def serve(self, runtime: Runtime, request: Request) -> Json:
        """Answer a file request of *runtime*. Raises RpcError."""
        session = runtime.sessions.get(request.session_id or "")
        if session is None:
            raise RpcError(FAILED, f"session {request.session_id!r} is not open on this gateway")
        know(tenant=session.tenant.name, session=session.id, runtime=runtime.name)
        with session.answering():
            try:
                return await self._methods[runtime].answer(request.method, request.params)
            except (SessionFsError, SqlError) as problem:
                # The session failed, or the agent wrote SQL that is refused: no more than an answer.
                raise RpcError(FAILED, str(problem)) from None
            finally:
                failure = session.provider.failure
                if failure is not None:
                    self.sessions.lost(session, failure)

    def notified(self, runtime: Runtime, message: Request) -> None:
        """Pass on to a tenant what concerns its sessions: the runtime tells everybody."""
        if message.method == "session.lifecycle":
            session = runtime.sessions.get(message.session_id or "")
            if session is not None:
                session.tenant.tell(encode(message), session.id, heard_from=runtime)

    def began(self, runtime: Runtime) -> None:
        """Make ready to answer *runtime*."""
        self._methods[runtime] = SessionFsMethods(lambda session_id: runtime.sessions[session_id].handlers)

    def tried(self, outcome: str) -> None:
        """Count an attempt to bring a runtime up."""
        self.metrics.runtime(outcome)

    def lost(self, runtime: Runtime) -> None:  # noqa: ARG002  # all count alike
        """Count a runtime that ended by itself."""
        self.metrics.runtimes_lost.inc()

    def ended(self, runtime: Runtime) -> None:
        """Let go of what was open on *runtime*."""
        self._methods.pop(runtime, None)
        self.sessions.runtime_ended(runtime)

    # Within.

    async def _place(self, tenant: Tenant, session_id: str) -> Runtime:
        return await self._pool(self._owner(tenant.name)).place(session_id)

    def _owner(self, tenant: str) -> str | None:
        return None if self.options.isolation == "shared" else tenant

    def _pool(self, owner: str | None) -> Pool:
        pool = self._pools.get(owner)
        if pool is None:
            config = self.store.config
            slot: Mapping[str, Json] = {
                "initialCwd": config["initial_working_directory"],
                "sessionStatePath": config["session_state_path"],
                "conventions": config["conventions"],
                "capabilities": config.get("capabilities"),
            }
            dedicated = owner if owner is not None or self.shared else self.options.tenant
            pool = Pool(self._sources(), dedicated, slot, self, may_grow=self._may_grow)
            self._pools[owner] = pool
        return pool

    def _open_sessions(self) -> list[OpenSession]:
        return [session for tenant in self.tenants.values() for session in tenant.sessions.values()]

    async def _close_sessions(self) -> None:
        """Close what is open: once for the clients that still listen, and once for what was being opened meanwhile."""
        await asyncio.gather(*(self.sessions.close(session) for session in self._open_sessions()))
        await self.sessions.aclose()

    async def _close_pools(self) -> None:
        pools = self.pools
        self._pools.clear()
        await asyncio.gather(*(pool.aclose() for pool in pools))

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            try:
                self._authenticator.reload()
                await self._let_go_of_idle()
                await self._measure()
            except Exception:
                _logger.exception("housekeeping")

    async def _measure(self) -> None:
        """Find out how much is stored of the tenants that may not store everything."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._measured_s + MEASURE_S:
            return
        self._measured_s = now_s
        for tenant in list(self.tenants.values()):
            if tenant.usage.limits.bytes_stored_max is None or tenant.idle:
                continue
            try:
                tenant.usage.measured(sum([info.bytes for info in await tenant.fs.catalog.list()]))
            except SessionFsError as problem:
                _logger.warning("what is stored is not known: %s", problem, extra={"tenant": tenant.name})

    async def _let_go_of_idle(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for pool in self.pools:
            await pool.shrink()
        for name, tenant in list(self.tenants.items()):
            if not tenant.idle:
                self._idle_since.pop(name, None)
            elif now_s - self._idle_since.setdefault(name, now_s) >= self.options.tenant_idle_s:
                del self.tenants[name], self._idle_since[name]
                self.usages.forget(name)
                if name in self._pools:
                    await self._pools.pop(name).aclose()
                await tenant.fs.aclose()
