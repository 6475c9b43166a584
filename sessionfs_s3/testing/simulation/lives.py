"""One process with the session open: what it does with files and SQL, and what it is told of each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sessionfs_s3.errors import Fenced, InvalidInput, SessionFsError, Unavailable
from sessionfs_s3.sqlite import ScratchError, SqlError, Statement
from sessionfs_s3.testing.simulation.databases import Killed
from sessionfs_s3.testing.simulation.history import KEYS, Append, Fence, Log, Sight
from sessionfs_s3.testing.simulation.loop import environment
from sessionfs_s3.testing.simulation.statements import LOOK, Call, Writing, shown_by
from sessionfs_s3.volume import Durability, Volume

if TYPE_CHECKING:
    from sessionfs_s3.testing.simulation.world import World

_LOOK: Final = [Statement("query", sql) for sql in LOOK]


class Life:
    """One process with the session open, from its start to its end."""

    def __init__(self, world: World, name: str, rng: random.Random) -> None:
        """Live in *world*, as *rng* has it."""
        self._world = world
        self._history = world.history
        self._name = name
        self._rng = rng
        self._writing = Writing(rng)
        self._has_tables = False
        self._count = 0
        self._writer = b""
        self._epoch = 0
        self._opened_s = 0.0

    async def live(self) -> None:
        """Open the session, work, and close it; or fail."""
        started_s = self._world.loop.time()
        self._world.tell(self._name, "opens the session")
        try:
            volume = await Volume.open(
                self._world.store(self._name),
                KEYS,
                read_only=False,
                environment=environment(
                    self._world.loop,
                    self._rng,
                    self._world.databases,
                    ahead_s=self._world.clock(self._rng),
                    kills=self._world.kills,
                ),
                options=self._world.options,
            )
        except SessionFsError as error:
            self._fails(error)
            return
        self._history.opened += 1
        self._opened_s = started_s
        self._epoch = volume.head.epoch
        self._writer = volume.writer
        self._world.tell(self._name, f"is open at {volume.head.sequence}, epoch {volume.head.epoch}")
        try:
            await self._work(volume)
            await volume.aclose()
            self._world.tell(self._name, "closes in peace")
        except SessionFsError as error:
            self._fails(error)
            if volume.failure is not None:
                await self._haunt(volume)

    async def _work(self, volume: Volume) -> None:
        await look(self._world, self._name, volume, self._opened_s)
        deeds = [self._append, self._append, self._append, self._burst, self._files, self._rest, self._read]
        most = 12 if self._world.is_quick else 30
        if self._world.with_sql:
            most = min(most, 14)  # they cost more than those without
        if self._world.with_sql and self._rng.random() < 0.6:
            deeds += [self._sql, self._sql, self._sql_burst, self._odd_sql, self._impatient_sql]
        for _ in range(self._rng.randint(1, most)):
            try:
                await self._rng.choice(deeds)(volume)
            except Unavailable as error:
                # Nothing is stored, and nothing is wrong with the volume: who is told so tries something else.
                if volume.failure is not None:
                    raise
                self._fails(error)

    # Files

    async def _append(self, volume: Volume) -> None:
        await self._write(volume, self._durability())

    async def _burst(self, volume: Volume) -> None:
        await side_by_side(self._write(volume, Durability.STORED) for _ in range(self._rng.randint(2, 6)))

    async def _write(self, volume: Volume, durability: Durability) -> None:
        append = self._begins(Log.FILE, durability, None)
        try:
            await volume.append_file(Log.FILE.value, f"{append.record}\n", durability=durability)
        except Unavailable:
            append.refused = True
            raise
        self._is_told(append)

    async def _files(self, volume: Volume) -> None:
        """Write, replace, move and remove files, the way the runtime does."""
        name = f"/workspace/{self._rng.randint(0, 4)}"
        changes: list[Callable[[], Awaitable[None]]] = [
            lambda: volume.write_file(name, self._rng.choice(["a", "bb", self._name]) * self._rng.randint(0, 40)),
            lambda: volume.append_file(name, f"{self._name} {self._rng.random()} " * self._rng.randint(1, 8)),
            lambda: volume.mkdir(f"{name}.d", recursive=True, durability=Durability.NEXT),
            lambda: self._replace(volume, name),
            lambda: volume.rm(name, force=True, recursive=True),
        ]
        await self._rng.choice(changes)()

    async def _replace(self, volume: Volume, name: str) -> None:
        await volume.write_file(f"{name}.tmp", f"by {self._name}", durability=Durability.NEXT)
        await volume.rename(f"{name}.tmp", name)

    # SQL

    async def _sql(self, volume: Volume) -> None:
        await self._change(volume, self._durability())

    async def _sql_burst(self, volume: Volume) -> None:
        """Have SQL, appends and a look run side by side."""
        await volume.flush()  # from here on nothing can be seen that is accepted and not stored
        works: list[Coroutine[Any, Any, None]] = []
        for _ in range(self._rng.randint(2, 5)):
            choice = self._rng.random()
            if choice < 0.5:
                works.append(self._change(volume, Durability.STORED))
            elif choice < 0.8:
                works.append(self._write(volume, Durability.STORED))
            else:
                works.append(look_into_database(self._world, self._name, volume, self._opened_s))
        await side_by_side(works)

    async def _odd_sql(self, volume: Volume) -> None:
        """Run SQL that fails, or that changes nothing."""
        if self._has_tables and self._rng.random() < 0.6:
            append = self._begins(Log.DATABASE, Durability.STORED, self._writing.failure)
            await self._call(volume, append)
        elif self._has_tables:
            await self._ask(volume, self._writing.nothing())
        else:
            await self._change(volume, Durability.STORED)

    async def _impatient_sql(self, volume: Volume) -> None:
        """Run SQL and do not wait for its end: whether it is stored nobody knows then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._rng.choice([0.0, 0.005, 0.03, 0.1])):
                await self._change(volume, Durability.STORED)

    async def _change(self, volume: Volume, durability: Durability) -> None:
        begun = self._has_tables
        append = self._begins(Log.DATABASE, durability, self._writing.change if begun else self._writing.first)
        await self._call(volume, append)
        self._has_tables = self._has_tables or append.ended is not None

    async def _call(self, volume: Volume, append: Append) -> None:
        assert append.call is not None
        try:
            await append.call.on(volume, append.durability)
        except SqlError as error:
            append.refused = True
            self._history.rolled_back += 1
            self._world.tell(self._name, f"{append.record} is rolled back: {error.reason}")
            if not append.call.fails and error.reason != "full":
                self._history.broken.append(f"{append.record} of {self._name} fails: {error}")
        except (ScratchError, InvalidInput) as error:
            append.refused = True
            self._check_scratch(error)
        except Unavailable:
            append.refused = True
            raise
        else:
            self._is_told(append)
            if append.call.fails:
                self._history.broken.append(f"{append.record} of {self._name} succeeds, and cannot")

    async def _ask(self, volume: Volume, call: Call) -> None:
        try:
            await call.on(volume, Durability.STORED)
        except SqlError as error:
            self._history.broken.append(f"{self._name} asks in vain: {error}")
        except (ScratchError, InvalidInput) as error:
            self._check_scratch(error)

    def _check_scratch(self, error: ScratchError | InvalidInput) -> None:
        self._world.tell(self._name, f"its database is lost: {error}")
        if not isinstance(error, Killed):
            self._history.broken.append(f"{self._name} loses its database: {error}")

    # Both

    def _durability(self) -> Durability:
        return self._rng.choice([Durability.STORED] * 4 + [Durability.SOON, Durability.NEXT])

    def _begins(self, log: Log, durability: Durability, write: Callable[[str], Call] | None) -> Append:
        record = f"{self._name}.{self._count}"
        call = None if write is None else write(record)
        now_s = self._world.loop.time()
        append = Append(record, self._name, self._count, durability, log, self._history.now(), now_s, call)
        self._count += 1
        self._history.appends.append(append)
        return append

    def _is_told(self, append: Append) -> None:
        append.acknowledged_s = self._world.loop.time()
        append.ended = self._history.now()
        if append.durability is Durability.STORED:
            self._world.tell(self._name, f"{append.record} is acknowledged")

    async def _rest(self, volume: Volume) -> None:
        del volume
        await asyncio.sleep(self._world.pause_s(self._rng))

    async def _read(self, volume: Volume) -> None:
        """Read everything: an owner that was superseded may show its own last state, and nothing else."""
        await volume.flush()
        await look(self._world, self._name, volume, self._opened_s)

    async def _haunt(self, volume: Volume) -> None:
        """A volume that failed serves nothing more: what it holds may not be what is stored."""
        path = Log.FILE.value
        attempts: list[Awaitable[object]] = [volume.read_file(path), volume.exists(path)]
        attempts += [volume.append_file(path, "ghost\n"), volume.sqlite_exists()]
        if self._world.with_sql:
            ghost = Statement("run", "INSERT INTO log(record) VALUES ('ghost')")
            attempts += [volume.sqlite_query("query", LOOK[0]), volume.sqlite_transaction([ghost])]
        for attempt in attempts:
            try:
                await attempt
            except SessionFsError:
                continue
            except (OSError, SqlError):
                pass
            self._history.broken.append(f"{self._name} is served by a volume that has failed")

    def _fails(self, error: SessionFsError) -> None:
        self._world.tell(self._name, f"fails: {type(error).__name__}: {error}")
        if isinstance(error, Fenced):
            self._history.fences.append(Fence(self._name, self._writer, self._epoch))
        self._world.check_damage(self._name, error)


async def look(world: World, who: str, volume: Volume, started_s: float) -> None:
    """Note what *volume*, whose load began at *started_s*, shows of both logs; look into every other file, too."""
    began = world.history.now()
    try:
        text = await volume.read_file(Log.FILE.value)
    except FileNotFoundError:
        text = ""
    records = tuple(text.split())
    if await volume.exists("/workspace"):
        for name, kind in await volume.readdir_with_types("/workspace"):
            if kind == "file":
                with suppress(FileNotFoundError):
                    await volume.read_file(f"/workspace/{name}")
    world.tell(who, f"sees {len(records)} records")
    world.history.sights.append(Sight(who, Log.FILE, began, started_s, world.loop.time(), records))
    if world.with_sql:
        await look_into_database(world, who, volume, started_s)


async def look_into_database(world: World, who: str, volume: Volume, started_s: float) -> None:
    """Note what *volume*, whose load began at *started_s*, shows of its database."""
    began = world.history.now()
    if not await volume.sqlite_exists():
        world.history.sights.append(Sight(who, Log.DATABASE, began, started_s, world.loop.time(), ()))
        return
    try:
        shown = shown_by(await volume.sqlite_transaction(_LOOK))
    except Killed:
        return
    except (SqlError, ScratchError, InvalidInput) as error:
        if world.with_deletions and volume.read_only and "no such table" in str(error):
            return  # it was deleted since the line above
        world.history.broken.append(f"{who} cannot look into the database: {error}")
        return
    records = tuple(str(record) for (record,) in shown[0])
    world.tell(who, f"sees {len(records)} records in the database")
    world.history.sights.append(Sight(who, Log.DATABASE, began, started_s, world.loop.time(), records, shown))


async def side_by_side(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of *works* side by side; raise the first failure when all have ended."""
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
