"""The sessions of a test: an attacker, a neighbour of the same tenant and a stranger of another, in one process."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, TypeAlias, cast

from copilot import CopilotSession, SessionFsSqliteQueryResult
from copilot.rpc import SessionFSSqliteQueryType, SessionFSSqliteTransactionStatement

from sessionfs_s3 import SessionFs, SessionProvider
from tests.hostile_sql import processes

CALL_S = 1.0
"""The time limit of one call in these tests, in seconds."""

EVENTS = "/session-state/events.jsonl"
KEPT = [{"id": number, "v": f"kept {number}"} for number in range(1, 6)]
"""The rows that every session begins with, in the table ``kept``."""

Kind = Literal["exec", "query", "run"]
Rows: TypeAlias = "list[dict[str, object]]"
Query = Callable[[str], Awaitable[Rows]]
Params = dict[str, "float | str | None"]

_LEAK_S = 5.0  # how long what a closed session held may take to go
_TICK_S = 0.02
_numbers = itertools.count()


def statement(sql: str, kind: Kind = "run", params: Params | None = None) -> SessionFSSqliteTransactionStatement:
    """Return one statement of a transaction."""
    return SessionFSSqliteTransactionStatement(query=sql, query_type=SessionFSSqliteQueryType(kind), params=params)


@dataclass
class Session:
    """One session through the provider, as the runtime uses it.

    Attributes:
        fs: the session file system of the session's tenant.
        name: the session's id.
        provider: what ``fs.handler`` returned for it.
        worked: how often :meth:`work` was done.
    """

    fs: SessionFs
    name: str
    provider: SessionProvider
    worked: int = 0

    @classmethod
    async def begin(cls, fs: SessionFs, name: str) -> Session:
        """Start a session whose acknowledged changes are stored, with the table ``kept``."""
        provider = fs.handler(cast("CopilotSession", SimpleNamespace(session_id=name)))
        await provider.append_file(EVENTS, '{"type":"session.start"}\n')
        session = cls(fs, name, provider)
        rows = ", ".join(f"({row['id']}, '{row['v']}')" for row in KEPT)
        await session.exec(
            f"CREATE TABLE kept (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO kept VALUES {rows};"
            "CREATE TABLE work (n INTEGER PRIMARY KEY)"
        )
        return session

    async def call(self, kind: Kind, sql: str, params: Params | None = None) -> SessionFsSqliteQueryResult | None:
        """Run *sql*."""
        return await self.provider.sqlite_query(SessionFSSqliteQueryType(kind), sql, params)

    async def exec(self, sql: str) -> None:
        """Run the script *sql*."""
        await self.call("exec", sql)

    async def rows(self, sql: str) -> Rows:
        """Return the rows of the query *sql*."""
        result = await self.call("query", sql)
        assert result is not None
        return cast("Rows", result.rows)

    async def transaction(self, *statements: str) -> list[SessionFsSqliteQueryResult]:
        """Run *statements* as one transaction, each with the kind ``exec``."""
        return await self.provider.sqlite_transaction([statement(sql, "exec") for sql in statements])

    async def stored(self) -> Rows:
        """Return what somebody who opens the session anew finds, as :func:`contents` does."""
        async with self.fs.volume(self.name, read_only=True) as volume:

            async def query(sql: str) -> Rows:
                result = await volume.sqlite_query("query", sql)
                assert result is not None
                return [dict(row) for row in result.rows]

            return await contents(query)

    async def work(self) -> None:
        """Do what an innocent session does, in SQL and in files, and make sure that the answers are right."""
        self.worked += 1
        number = self.worked
        done = await self.call("run", "INSERT INTO work VALUES (:n)", {"n": number})
        assert done is not None
        counts = (done.rows_affected, done.last_insert_rowid)
        assert counts == (1, number), f"{self.name} is told {counts} for row {number}"
        counted = await self.rows("SELECT count(*) AS n, max(n) AS last FROM work")
        assert counted == [{"n": number, "last": number}], f"{self.name} has lost or gained rows: {counted}"
        await self.provider.write_file("/workspace/work.txt", f"{self.name} {number}")
        text = await self.provider.read_file("/workspace/work.txt")
        assert text == f"{self.name} {number}", f"{self.name} reads {text!r} after its write number {number}"

    async def untouched(self) -> None:
        """Make sure that the session's rows are those that it wrote, here and in the store."""
        expected = [{"n": number} for number in range(1, self.worked + 1)]
        kept, work = await self.rows("SELECT * FROM kept ORDER BY id"), await self.rows("SELECT * FROM work ORDER BY n")
        assert kept == KEPT, f"{self.name} keeps other rows: {kept}"
        assert work == expected, f"{self.name} has other rows than it wrote: {work}"
        assert await self.stored() == await contents(self.rows), f"{self.name}: what is stored differs"

    async def usable(self) -> None:
        """Make sure that a statement is still stored and that the store holds exactly what the session does."""
        await self.work()
        for pragma, good in (("journal_mode", "wal"), ("integrity_check", "ok")):
            found = await self.rows(f"PRAGMA {pragma}")
            assert found == [{pragma: good}], f"{self.name}: {found}"
        assert await self.stored() == await contents(self.rows), f"{self.name}: what is stored differs"


async def contents(query: Query) -> Rows:
    """Return the schema of a database and the rows of all its tables, those behind virtual tables included.

    The innocent work of :meth:`Session.work` is left out: it goes on.
    """
    schema = await query("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")
    found = list(schema)
    for entry in schema:
        ordinary = entry["type"] == "table" and not str(entry["sql"]).upper().startswith("CREATE VIRTUAL")
        if ordinary and entry["name"] != "work":
            found += [{"of": entry["name"], **row} for row in await query(f'SELECT * FROM "{entry["name"]}"')]
    return found


@dataclass
class World:
    """Three open sessions, and what this process had before they were opened.

    Attributes:
        attacker: whose SQL is hostile.
        victims: a neighbour of the same tenant, and a stranger of another.
        call_s: the time limit of one call, in seconds.
        not_scratch: how the names of open files begin that are not the sessions' scratch.
        seen: every descendant of this process that a test has seen.
        scratch: every file that a test has seen open and that was not open before.
    """

    attacker: Session
    victims: Sequence[Session]
    call_s: float
    not_scratch: tuple[str, ...]
    seen: set[processes.Process] = field(default_factory=set)
    scratch: set[str] = field(default_factory=set)

    def look(self, files: Iterable[str] = (), alive: Iterable[processes.Process] = ()) -> None:
        """Take in which *files* are or were open, and which processes *alive*."""
        opened = {*files, *processes.open_files().values()}
        self.scratch |= {path for path in opened if not path.startswith(self.not_scratch)}
        self.seen |= {*alive, *processes.descendants()}

    @property
    def secrets(self) -> set[str]:
        """What no answer may contain: the folders of the scratch files."""
        folders = {str(Path(path.removesuffix(" (deleted)")).parent) for path in self.scratch if path.startswith("/")}
        return {folder for folder in folders if len(Path(folder).parts) > 2}


@asynccontextmanager
async def open_world(url: str, call_s: float = CALL_S, **settings: object) -> AsyncIterator[World]:
    """Open the three sessions in the store at *url*; afterwards make sure that nothing of them is left."""
    settings = {"probe": False, "sqlite_call_s": call_s, **settings}
    await _warm_up(settings)
    files_before = set(processes.open_files().values())
    descriptors_before = processes.own_descriptors()
    processes_before = processes.descendants()
    zombies_before = processes.zombies()
    async with AsyncExitStack() as opened:
        acme = await opened.enter_async_context(SessionFs.open(url, tenant="acme", **settings))
        other = await opened.enter_async_context(SessionFs.open(url, tenant="umbrella", **settings))
        world = World(
            await Session.begin(acme, "attacker"),
            [await Session.begin(acme, "neighbour"), await Session.begin(other, "stranger")],
            call_s,
            not_scratch=(*files_before, url.removeprefix("file://")),
        )
        world.look()
        yield world
        world.look()
    await _nothing_is_left(world, descriptors_before, processes_before, zombies_before)


async def _warm_up(settings: Mapping[str, object]) -> None:
    """Start what a process keeps for all its sessions, and other tests may have ended: it is no leak of this one's."""
    async with SessionFs.open(f"memory://warm-{next(_numbers)}", tenant="acme", **settings) as fs:
        await (await Session.begin(fs, "first")).rows("SELECT 1")


async def _nothing_is_left(
    world: World, descriptors: Mapping[str, str], before: set[processes.Process], zombies: set[int]
) -> None:
    def left() -> dict[str, object]:
        now = processes.own_descriptors()
        running = {process for process in world.seen if processes.lives(process)} | processes.descendants()
        found: dict[str, object] = {
            # One process may stand for all sessions, and be started again if it died.
            "processes": running - before if len(running) > len(before) else None,
            "zombies": processes.zombies() - zombies,
            "descriptors": {number: now[number] for number in now.keys() - descriptors.keys()},
            "files": [path for path in {*world.scratch, *world.secrets} if _stands(path)],
        }
        return {name: value for name, value in found.items() if value}

    end_s = asyncio.get_running_loop().time() + _LEAK_S
    while left() and asyncio.get_running_loop().time() < end_s:  # noqa: ASYNC110  # processes end without telling
        await asyncio.sleep(_TICK_S)
    assert not left(), f"left after closing: {left()}"


def _stands(path: str) -> bool:
    return not path.endswith(" (deleted)") and path.startswith(tempfile.gettempdir()) and Path(path).exists()
