"""How much a tenant may do at a time: its limits, and the counts that they are held against.

No input or output; the clock is injected. For one event loop: no call here waits, so none is interleaved with another.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""The largest frame that the Copilot runtime takes."""


class TenantLimits(BaseModel):
    """How much one tenant may do, all its connections together."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    connections_max: int = Field(default=1000, ge=1, description="Connections at a time.")
    open_sessions_max: int = Field(default=1000, ge=1, description="Sessions open at a time.")
    bytes_stored_max: int | None = Field(default=None, ge=1, description="Bytes in the store; unlimited unless given.")
    requests_per_s: float = Field(default=1000.0, gt=0, le=1e6, description="Requests a second, in the long run.")
    burst: int = Field(default=2000, ge=1, le=10**6, description="Requests at once, after a pause.")
    frame_bytes_max: int = Field(
        default=16 * 1024 * 1024, ge=1024, le=FRAME_BYTES_MAX, description="The largest message from a client."
    )

    def overridden(self, by: TenantLimits) -> TenantLimits:
        """Return these limits with those of *by* that were given explicitly."""
        return self.model_copy(update=by.model_dump(exclude_unset=True))


class LimitExceeded(Exception):
    """A tenant asked for more than its limits allow; nothing was counted.

    Attributes:
        code: the JSON-RPC error code, of the range left to servers (https://www.jsonrpc.org/specification).
        tenant: whose limit.
        setting: the name of the limit in the tenants file.
        value: what it is set to.
        retry_s: after how many seconds another try can succeed; None when time alone does not help.
    """

    code: int = -32000

    def __init__(self, tenant: str, setting: str, value: float, what: str, *, retry_s: float | None = None) -> None:
        """Say *what* was too much, and name the *setting* of *tenant* with its *value*."""
        again = "" if retry_s is None else f"; try again in {retry_s:.1f} s"
        super().__init__(f"limit exceeded: {what}, {setting} is {value:g}{again}")
        self.tenant = tenant
        self.setting = setting
        self.value = value
        self.retry_s = retry_s


class TokenBucket:
    """So much at once, so much a second in the long run; one number of state.

    The generic cell rate algorithm, read as a meter (ITU-T I.371, annex A): what is kept is the time at which the
    bucket will be full again. A clock that goes back takes nothing away and adds nothing.
    """

    __slots__ = ("_full_at_s",)

    def __init__(self) -> None:
        """Start full."""
        self._full_at_s = -math.inf

    def wait_s(self, now_s: float, per_s: float, burst: float) -> float:
        """Return after how many seconds one more can be taken; 0: now. Takes nothing."""
        missing_s = max(self._full_at_s - now_s, 0.0)
        wait_s = missing_s - (burst - 1) / per_s
        # Rounding of the additions in take() must not refuse the last one of a burst.
        return wait_s if wait_s > 1e-6 else 0.0

    def take(self, now_s: float, per_s: float) -> None:
        """Take one, whether or not it is there."""
        self._full_at_s = max(self._full_at_s, now_s) + 1 / per_s


class TenantUsage:
    """What one tenant has in use; shared by its connections.

    Attributes:
        tenant: whose.
        limits: what is in force; may be replaced at any time, and holds for what comes next.
    """

    def __init__(
        self,
        tenant: str,
        limits: TenantLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        refused: Callable[[LimitExceeded], None] | None = None,
    ) -> None:
        """Start with nothing in use; *clock* tells seconds and does not go back, *refused* hears what is refused."""
        self.tenant = tenant
        self.limits = limits
        self._clock = clock
        self._refused = refused
        self._connections = 0
        self._sessions: set[str] = set()
        self._bytes = 0
        self._requests = TokenBucket()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._connections

    @property
    def open_sessions(self) -> frozenset[str]:
        """Which sessions are open."""
        return frozenset(self._sessions)

    @property
    def bytes_stored(self) -> int:
        """How many bytes the tenant has in the store, as far as is known here."""
        return self._bytes

    def connect(self) -> None:
        """Count one more connection; :meth:`disconnect` takes it back.

        Raises:
            LimitExceeded: there are ``connections_max``.
        """
        if self._connections >= self.limits.connections_max:
            raise self._exceeded("connections_max", f"{self._connections} connections are open")
        self._connections += 1

    def disconnect(self) -> None:
        """Take one :meth:`connect` back.

        Raises:
            RuntimeError: there was none: the caller's counting is wrong.
        """
        if self._connections == 0:
            raise RuntimeError(f"tenant {self.tenant!r}: disconnect() without connect()")
        self._connections -= 1

    def open_session(self, session_id: str) -> bool:
        """Count *session_id* as open; return whether it was not before.

        A session counts once, however many connections use it: this and :meth:`close_session` may be repeated.

        Raises:
            LimitExceeded: there are ``open_sessions_max`` others.
        """
        if session_id in self._sessions:
            return False
        if len(self._sessions) >= self.limits.open_sessions_max:
            raise self._exceeded("open_sessions_max", f"{len(self._sessions)} sessions are open")
        self._sessions.add(session_id)
        return True

    def close_session(self, session_id: str) -> bool:
        """Count *session_id* as closed; return whether it was open."""
        was_open = session_id in self._sessions
        self._sessions.discard(session_id)
        return was_open

    @contextmanager
    def opening(self, session_id: str) -> Generator[None]:
        """Count *session_id* as open; if the block fails, and it was not open before, as closed again.

        Raises:
            LimitExceeded: as :meth:`open_session`.
        """
        opened = self.open_session(session_id)
        try:
            yield
        except BaseException:
            if opened:
                self.close_session(session_id)
            raise

    def request(self, now_s: float | None = None) -> None:
        """Count one request, at *now_s* of the clock (now, unless given).

        Raises:
            LimitExceeded: there were more than ``burst`` at once, or ``requests_per_s`` in the long run.
        """
        limits = self.limits
        now_s = self._clock() if now_s is None else now_s
        wait_s = self._requests.wait_s(now_s, limits.requests_per_s, limits.burst)
        if wait_s > 0:
            what = f"over {limits.burst} requests at once and too many since"
            raise self._exceeded("requests_per_s", what, retry_s=wait_s)
        self._requests.take(now_s, limits.requests_per_s)

    def check_stored(self) -> None:
        """Check that something more may be stored.

        Raises:
            LimitExceeded: there are ``bytes_stored_max``.
        """
        limit = self.limits.bytes_stored_max
        if limit is not None and self._bytes >= limit:
            raise self._exceeded("bytes_stored_max", f"{self._bytes} bytes are stored")

    def measured(self, bytes_stored: int) -> None:
        """Take *bytes_stored*, as found in the store, for the truth; refuses nothing."""
        self._bytes = max(bytes_stored, 0)

    def _exceeded(self, setting: str, what: str, *, retry_s: float | None = None) -> LimitExceeded:
        problem = LimitExceeded(self.tenant, setting, getattr(self.limits, setting), what, retry_s=retry_s)
        if self._refused is not None:
            self._refused(problem)
        return problem


class Usages:
    """The usage of every tenant seen by this process: one :class:`TenantUsage` each."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, refused: Callable[[LimitExceeded], None] | None = None
    ) -> None:
        """Start with none; *clock* and *refused* are handed to each usage."""
        self._clock = clock
        self._refused = refused
        self._usages: dict[str, TenantUsage] = {}

    def of(self, tenant: str, limits: TenantLimits) -> TenantUsage:
        """Return the usage of *tenant*, now held against *limits*: the newest hold for all of its connections."""
        usage = self._usages.get(tenant)
        if usage is None:
            usage = self._usages[tenant] = TenantUsage(tenant, limits, clock=self._clock, refused=self._refused)
        usage.limits = limits
        return usage

    def forget(self, tenant: str) -> bool:
        """Drop the usage of *tenant* unless something of it is open; return whether it is gone.

        Its count of requests starts anew then, and its bytes have to be measured again: call this when a tenant has
        been away for longer than ``burst / requests_per_s``.
        """
        usage = self._usages.get(tenant)
        if usage is not None and (usage.connections or usage.open_sessions):
            return False
        self._usages.pop(tenant, None)
        return True

    def __iter__(self) -> Iterator[TenantUsage]:
        """Return every usage, for a listing or for metrics."""
        return iter(list(self._usages.values()))
