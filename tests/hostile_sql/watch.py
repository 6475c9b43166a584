"""What a hostile statement may do to the process that serves it: measured, with bounds, while victims go on working."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from copilot import SessionFsSqliteQueryResult, SessionFsSqliteTransactionFailure
from copilot.rpc import SessionFSSqliteTransactionErrorClass

from sessionfs_s3.sqlite import SqlError
from tests.hostile_sql.processes import Meter
from tests.hostile_sql.sessions import Kind, Session, World, contents, statement

GRACE_S = 5.0
"""How long after its time limit a call may take to answer: it has to be ended, and to be undone."""

LAG_S_MAX = 0.25
HOST_BYTES_MAX = 150 << 20
TOTAL_BYTES_MAX = 700 << 20
VICTIM_S_MAX = 5.0
MESSAGE_CHARS_MAX = 10_000

Reasons = Collection[str]
KINDS: Final[Sequence[Kind]] = ("query", "run", "exec")

CUT = ("timeout", "limit", "full")
"""Why a statement that asks for too much ends: out of time, or at another limit, whichever comes first."""

REFUSED = ("refused", "sql")
"""Why a statement that asks for what it may not is not carried out: a rule of the engine's, or SQLite's own."""

_SHOWN_CHARS = 1_000
_SHOWN_VALUES = 100
_PROBE_S = 0.005
_PAUSE_S = 0.05


class LoopProbe:
    """Wakes every 5 ms and notes how late; the time in which the machine ran something else is not the loop's."""

    def __init__(self) -> None:
        """Probe the running loop from now on."""
        self.lag_s = 0.0
        self._task = asyncio.get_running_loop().create_task(self._probe())

    async def stop(self) -> None:
        """End the probe; its last look included."""
        await asyncio.sleep(2 * _PROBE_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _probe(self) -> None:
        while True:
            before_s, waited_s = time.perf_counter(), _waited_s()
            await asyncio.sleep(_PROBE_S)
            late_s = time.perf_counter() - before_s - _PROBE_S
            if late_s > self.lag_s:
                self.lag_s = max(self.lag_s, late_s - (_waited_s() - waited_s))


def _waited_s() -> float:
    """Return how long threads of this process were ready to run while the processors ran others.

    Of all threads: one of them that waits for a processor may have the interpreter, for which the loop waits. Zero
    where the kernel does not count it.
    """
    waited_ns = 0
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError, IndexError):
            waited_ns += int((thread / "schedstat").read_text("ascii").split()[1])
    return waited_ns / 1e9


@dataclass
class Watch:
    """A measurement under way.

    Attributes:
        world: the sessions.
        meter: memory, processes and files.
        answers: what the attacker was told: messages, rows.
        works_s: how long each victim's work took, in seconds.
    """

    world: World
    meter: Meter
    answers: list[str] = field(default_factory=list)
    works_s: list[float] = field(default_factory=list)

    async def fails(self, call: Awaitable[object], reasons: Reasons, names: str) -> SqlError:
        """Make sure that the hostile *call* ends in time, with a clear error.

        Args:
            call: what the attacker does.
            reasons: the error's ``reason`` is one of these.
            names: what the message names, a regular expression, in upper or lower case.
        """
        error = await self.ends(call)
        assert error is not None, f"the call was let through, and answered {self.answers[-1][:200]}"
        assert error.reason in reasons, f"{error.reason}: {str(error)[:200]}"
        assert re.search(names, str(error), re.IGNORECASE), f"the message does not name {names!r}: {str(error)[:200]}"
        return error

    async def refuses(self, sql: str, names: str, reasons: Reasons = REFUSED, kinds: Sequence[Kind] = KINDS) -> None:
        """Make sure that the attacker's *sql* is refused as each of *kinds* and at the end of a transaction."""
        attacker = self.world.attacker
        try:
            for kind in kinds:
                await self.fails(attacker.call(kind, sql), reasons, names)
            inside: list[Kind] = ["run", "exec"] if "run" in kinds else ["exec"]
            for kind in inside:
                statements = [statement("INSERT INTO kept VALUES (1000, 'hostile')"), statement(sql, kind)]
                await self.fails(attacker.provider.sqlite_transaction(statements), reasons, names)
        except AssertionError as failure:
            failure.add_note(f"the SQL was: {sql[:200]}")
            raise

    async def ends(self, call: Awaitable[object]) -> SqlError | None:
        """Make sure that the hostile *call* ends in time; return its error, or None where it was answered."""
        begun_s = time.perf_counter()
        most_s = self.world.call_s + GRACE_S
        error: SqlError | None = None
        try:
            answer = await asyncio.wait_for(call, most_s)
        except TimeoutError:
            raise AssertionError(f"no answer after {most_s:g} s") from None
        except Exception as failure:  # noqa: BLE001  # whatever it is, it has to be an SqlError
            error = _sql_error(failure)
        else:
            self.answers.append(_told(answer))
        assert time.perf_counter() - begun_s < most_s
        if error is not None:
            assert len(str(error)) <= MESSAGE_CHARS_MAX, f"a message of {len(str(error)):,} characters"
            self.answers.append(str(error))
        return error


def _told(answer: object) -> str:
    """Return the beginning of an *answer* as text; all of it would take longer than the engine did."""
    if isinstance(answer, SessionFsSqliteQueryResult):
        values = (value for row in answer.rows for value in row.values())
        return " ".join(str(value)[:_SHOWN_CHARS] for value in itertools.islice(values, _SHOWN_VALUES))
    return repr(answer) if answer is None else type(answer).__name__


def _sql_error(failure: Exception) -> SqlError:
    """Return the SqlError that *failure* is, or that the SDK's own exception carries."""
    if isinstance(failure, SessionFsSqliteTransactionFailure):
        fatal = SessionFSSqliteTransactionErrorClass.FATAL
        assert failure.error_class is fatal, f"a second try would be as hostile: {failure.error_class}: {failure}"
        assert isinstance(failure.__cause__, SqlError), f"{failure!r} from {failure.__cause__!r}"
        return failure.__cause__
    assert isinstance(failure, SqlError), f"no SqlError: {failure!r}"
    return failure


@asynccontextmanager
async def watched(world: World, *, changes: bool = False) -> AsyncIterator[Watch]:
    """Measure while the body runs hostile SQL; afterwards make sure that everything stayed within its bounds.

    Args:
        world: the sessions. The victims work all the time.
        changes: the attacker's own database may be changed by the body: it has to be as it is stored, and sound.
            Else it also has to be as it was before.
    """
    attacker = world.attacker
    before = await contents(attacker.rows)
    probe, watch = LoopProbe(), Watch(world, Meter())
    stop = asyncio.Event()
    workers = [asyncio.create_task(_work(watch, victim, stop)) for victim in world.victims]
    try:
        await asyncio.sleep(2 * _PROBE_S)  # the probe and the victims are under way
        yield watch
    finally:
        stop.set()
        outcomes = await asyncio.gather(*workers, return_exceptions=True)
        await probe.stop()
        watch.meter.stop()
        world.look(watch.meter.files, watch.meter.seen)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    _within_bounds(watch, probe)
    if not changes:
        assert await contents(attacker.rows) == before, "the attacker's own database has changed"
    await attacker.usable()
    for victim in world.victims:
        await victim.untouched()


async def _work(watch: Watch, victim: Session, stop: asyncio.Event) -> None:
    """Let *victim* work until *stop*, once at the least; each round has its bound."""
    while True:
        begun_s = time.perf_counter()
        try:
            await asyncio.wait_for(victim.work(), VICTIM_S_MAX)
        except TimeoutError:
            raise AssertionError(f"{victim.name}: its work took more than {VICTIM_S_MAX:g} s") from None
        watch.works_s.append(time.perf_counter() - begun_s)
        if stop.is_set():
            return
        await asyncio.sleep(_PAUSE_S)


def _within_bounds(watch: Watch, probe: LoopProbe) -> None:
    meter = watch.meter
    measured = (
        f"loop {probe.lag_s * 1000:.0f} ms late, this process {meter.host_growth_bytes >> 20} MiB larger, with its "
        f"descendants {meter.total_growth_bytes >> 20} MiB, {len(watch.works_s)} rounds of work, the slowest "
        f"{max(watch.works_s) * 1000:.0f} ms"
    )
    print(measured)
    assert probe.lag_s <= LAG_S_MAX, measured
    assert meter.host_growth_bytes <= HOST_BYTES_MAX, measured
    assert meter.total_growth_bytes <= TOTAL_BYTES_MAX, measured
    for answer in watch.answers:
        for secret in watch.world.secrets:
            assert secret not in answer, f"the answer tells where the scratch files are: {answer[:200]}"
