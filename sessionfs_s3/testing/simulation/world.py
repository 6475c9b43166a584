"""Replicas that write, die and take over from each other, readers that watch, and the history that they leave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sessionfs_s3.errors import Corrupt, Fenced, SessionFsError
from sessionfs_s3.format import SessionKeys
from sessionfs_s3.testing.simulation.databases import LocalDatabases
from sessionfs_s3.testing.simulation.loop import LIFE, VirtualLoop, environment
from sessionfs_s3.testing.simulation.store import Bucket, Listings, SimulatedStore, Weather
from sessionfs_s3.volume import Durability, Volume, VolumeOptions
from sessionfs_s3.volume.retry import Patience

KEYS = SessionKeys.of("simulated", "session")
LOG = "/session-state/events.jsonl"

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


class Tempo(Enum):
    """What kind of life it is: each brings other dangers close."""

    QUICK = "short lives, many deaths"
    SLOW = "hours and days between two calls: what was needed is collected"
    CROWDED = "everybody at once and without pause, collecting all the time"


@dataclass(slots=True)
class Append:
    """One append to the log: what a replica knows of it. Times in seconds of virtual time."""

    record: str
    life: str
    order: int
    durability: Durability
    started_s: float
    acknowledged_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """What somebody read of the log: everything in it, by a load that began at *started_s*."""

    who: str
    started_s: float
    records: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fence:
    """A volume that was told that it is fenced: whose, by which writer it had been opened, in which epoch."""

    life: str
    writer: bytes
    epoch: int


@dataclass(slots=True)
class History:
    """What happened, for the oracle and for people."""

    appends: list[Append] = field(default_factory=list[Append])
    sights: list[Sight] = field(default_factory=list[Sight])
    broken: list[str] = field(default_factory=list[str])
    timeline: list[str] = field(default_factory=list[str])
    fences: list[Fence] = field(default_factory=list[Fence])
    deaths: int = 0
    suspensions: int = 0
    opened: int = 0


class World:
    """One bucket, one session, several replicas."""

    def __init__(self, loop: VirtualLoop, seed: int, databases: LocalDatabases) -> None:
        """Make the world that *seed* stands for; its machines keep their databases in *databases*."""
        self.loop = loop
        self.databases = databases
        self.rng = random.Random(f"world {seed}")
        self.bucket = Bucket(self._listings())
        self.history = History()
        self.network: set[asyncio.Task[None]] = set()
        self.tempo = self.rng.choice(list(Tempo))
        self.weather = self._weather()
        self.options = self._options()
        self._tasks: dict[str, set[asyncio.Task[Any]]] = {}
        loop.set_task_factory(self._task)

    async def live(self) -> None:
        """Let replicas and readers do their worst, then let the network calm down."""
        replicas = [self._replica(f"r{n}") for n in range(self.rng.randint(2, 4))]
        readers = [
            self._living(name, self._reader(name)) for name in self.rng.choice([["reader0"], ["reader0", "reader1"]])
        ]
        await asyncio.gather(*replicas, *readers)
        while self.network:
            await asyncio.wait(self.network)

    def tell(self, who: str, what: str) -> None:
        """Add a line to the timeline."""
        self.history.timeline.append(f"{self.loop.time():10.3f} {who:10} {what}")

    def store(self, name: str, *, calm: bool = False) -> SimulatedStore:
        """Return a way to the bucket."""
        weather = Weather(0, 0, 0, 0, 0, 0, 0, 0, 0) if calm else self.weather
        rng = random.Random(f"store {name} {self.rng.random()}")
        return SimulatedStore(
            name=name,
            bucket=self.bucket,
            rng=rng,
            weather=weather,
            told=self.tell,
            network=self.network,
            under_way=lambda verb: None if calm else self._suspend(name, rng, verb),
        )

    def _weather(self) -> Weather:
        worse = self.rng.choice([0.0, 1.0, 1.0, 4.0])
        fair = Weather()
        return Weather(
            lost_request=fair.lost_request * worse,
            lost_answer=fair.lost_answer * worse,
            repeated=fair.repeated * worse,
            delayed=fair.delayed * worse,
            conflict=fair.conflict * worse,
            burst=fair.burst * worse,
            stalled=fair.stalled * worse,
            slow=fair.slow * worse * (5 if self.tempo is Tempo.CROWDED else 1),
            damaged=fair.damaged * worse,
        )

    def _listings(self) -> Listings:
        return Listings(
            page_entries=self.rng.choice([3, 10, 1000]),
            sorted=self.rng.random() < 0.7,
            torn=self.rng.random() < 0.3,
        )

    def _options(self) -> VolumeOptions:
        choice = self.rng.choice
        return VolumeOptions(
            patience=Patience(deadline_s=choice([3.0, 30.0])),
            linger_s=choice([0.1, 5.0]),
            idle_s=choice([None, None, 2.0, 300.0]),
            takeover_idle_s=choice([None, None, None, None, None, 20.0]),
            commit_entries_max=choice([2, 1024]),
            inline_bytes_max=choice([8, 30, 1 << 20]),
            blob_bytes_max=choice([64, 1 << 23]),
            seal_bytes_min=choice([1, 100, 1 << 17]),
            snapshot_commits=choice([3, 8, 64] if self.tempo is Tempo.QUICK else [1, 2, 3]),
            collect_interval_s=choice([0.0, 600.0]) if self.tempo is Tempo.QUICK else 0.0,
            fence_age_s=choice([7 * DAY_S, 7 * DAY_S, 6 * HOUR_S]),
            retention_s=choice([0.0, 0.0, 2 * HOUR_S]),
            directories=("/session-state",),
        )

    def clock(self, rng: random.Random) -> Callable[[], float]:
        """Return how far ahead a machine's time of day is, in seconds: it jumps now and then."""
        ahead_s = rng.choice([0.0, 0.0, 1.0, -30.0, DAY_S])

        def ahead() -> float:
            nonlocal ahead_s
            if rng.random() < 0.01:
                ahead_s = rng.choice([0.0, -HOUR_S, HOUR_S])
            return ahead_s

        return ahead

    def pause_s(self, rng: random.Random) -> float:
        """Return how long somebody does nothing, in seconds."""
        if self.tempo is Tempo.CROWDED:
            return rng.choice([0.05, 0.2, 1.0])
        if self.tempo is Tempo.SLOW and rng.random() < 0.4:
            return rng.choice([400.0, 4000.0, 3 * HOUR_S, 7 * HOUR_S, 3 * DAY_S, 8 * DAY_S])
        return rng.choice([0.05, 1.0, 5.0, 20.0])

    def _task(self, loop: Any, work: Any, **more: Any) -> Any:  # noqa: ANN401  # as asyncio's own factories are typed
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **more)
        life = LIFE.get()
        if life:
            self._tasks.setdefault(life, set()).add(task)
        return task

    async def _replica(self, name: str) -> None:
        """Live several lives; each ends by death, by failure, or by closing in peace."""
        rng = random.Random(f"{name} {self.rng.random()}")
        for number in range(rng.randint(1, 4)):
            await asyncio.sleep(rng.uniform(0.0, 1.0) * self.pause_s(rng))
            life = f"{name}.{number}"
            living = self._living(life, _Life(self, life, random.Random(rng.random())).live())
            until_s = rng.expovariate(1 / 30.0) if rng.random() < (0.5 if self.tempo is Tempo.QUICK else 0.1) else None
            done, _ = await asyncio.wait([living], timeout=until_s)
            if done:
                living.result()
                continue
            self.history.deaths += 1
            self.tell(life, "dies")
            for task in self._tasks.get(life, set()):
                task.cancel()
            await asyncio.wait([living])
            self.loop.end(life)

    def _living(self, life: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have a machine of its own do *work*."""
        token = LIFE.set(life)
        living = self.loop.create_task(work)
        LIFE.reset(token)
        return living

    def _suspend(self, life: str, rng: random.Random, verb: str) -> None:
        """Suspend the machine of *life*, now and then, while a request is on its way; a PUT more often."""
        if rng.random() < (0.005 if self.tempo is Tempo.QUICK else 0.08 if verb == "PUT" else 0.02):
            short, long = [20.0, 100.0, 200.0, 250.0, 400.0], [2 * HOUR_S, 5 * HOUR_S, 2 * DAY_S, 9 * DAY_S]
            duration_s = rng.choice(long if self.tempo is Tempo.SLOW else short)
            self.tell(life, f"is suspended for {duration_s:g} s")
            self.history.suspensions += 1
            self.loop.suspend(life, duration_s)

    async def _reader(self, name: str) -> None:
        rng = random.Random(f"{name} {self.rng.random()}")
        store = self.store(name)
        volume: Volume | None = None
        seen_s = 0.0
        for _ in range(rng.randint(2, 8)):
            await asyncio.sleep(rng.uniform(0.0, 1.0) * self.pause_s(rng))
            started_s = self.loop.time()
            try:
                if volume is None or rng.random() < 0.3:
                    machine = environment(self.loop, rng, self.databases)
                    volume = await Volume.open(store, KEYS, read_only=True, environment=machine, options=self.options)
                elif rng.random() < 0.7:
                    await volume.refresh()
                else:
                    started_s = seen_s  # what is read now may be as old as what was read last
                await self.look(name, volume, started_s)
                seen_s = started_s
            except SessionFsError as error:
                self._check_reason(name, error)
        if volume is not None:
            await volume.aclose()

    async def look(self, who: str, volume: Volume, started_s: float) -> None:
        """Note what *volume*, whose load began at *started_s*, shows of the log; look into every other file, too."""
        try:
            text = await volume.read_file(LOG)
        except FileNotFoundError:
            text = ""
        records = tuple(text.split())
        if await volume.exists("/workspace"):
            for name, kind in await volume.readdir_with_types("/workspace"):
                if kind == "file":
                    with suppress(FileNotFoundError):
                        await volume.read_file(f"/workspace/{name}")
        self.tell(who, f"sees {len(records)} records")
        self.history.sights.append(Sight(who, started_s, records))

    def _check_reason(self, who: str, error: SessionFsError) -> None:
        self.tell(who, f"cannot read: {type(error).__name__}: {error}")
        self.check_damage(who, error)

    def check_damage(self, who: str, error: SessionFsError) -> None:
        """Note a complaint about something stored, unless it is one that the network did damage."""
        if isinstance(error, Corrupt) and error.key not in self.bucket.damaged:
            self.history.broken.append(f"{who} finds the session corrupt: {error}")


class _Life:
    """One process with the session open, from its start to its end."""

    def __init__(self, world: World, name: str, rng: random.Random) -> None:
        self._world = world
        self._history = world.history
        self._name = name
        self._rng = rng
        self._count = 0
        self._writer = b""
        self._epoch = 0
        self._opened_s = 0.0

    async def live(self) -> None:
        started_s = self._world.loop.time()
        self._world.tell(self._name, "opens the session")
        try:
            volume = await Volume.open(
                self._world.store(self._name),
                KEYS,
                read_only=False,
                environment=environment(
                    self._world.loop, self._rng, self._world.databases, ahead_s=self._world.clock(self._rng)
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
            await self._world.look(self._name, volume, started_s)
            for _ in range(self._rng.randint(1, 12 if self._world.tempo is Tempo.QUICK else 30)):
                await self._rng.choice(
                    [self._append, self._append, self._append, self._burst, self._files, self._rest, self._read]
                )(volume)
            await volume.aclose()
            self._world.tell(self._name, "closes in peace")
        except SessionFsError as error:
            self._fails(error)
            if volume.failure is not None:
                await self._haunt(volume)

    async def _append(self, volume: Volume) -> None:
        choices = [Durability.STORED] * 4 + [Durability.SOON, Durability.NEXT]
        await self._write(volume, self._rng.choice(choices))

    async def _burst(self, volume: Volume) -> None:
        outcomes = await asyncio.gather(
            *(self._write(volume, Durability.STORED) for _ in range(self._rng.randint(2, 6))), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _write(self, volume: Volume, durability: Durability) -> None:
        record = f"{self._name}.{self._count}"
        append = Append(record, self._name, self._count, durability, self._world.loop.time())
        self._count += 1
        self._history.appends.append(append)
        await volume.append_file(LOG, f"{record}\n", durability=durability)
        append.acknowledged_s = self._world.loop.time()
        if durability is Durability.STORED:
            self._world.tell(self._name, f"{record} is acknowledged")

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

    async def _rest(self, volume: Volume) -> None:
        del volume
        await asyncio.sleep(self._world.pause_s(self._rng))

    async def _read(self, volume: Volume) -> None:
        """Read everything: an owner that was superseded may show its own last state, and nothing else."""
        await volume.flush()
        await self._world.look(self._name, volume, self._opened_s)

    async def _haunt(self, volume: Volume) -> None:
        """A volume that failed serves nothing more: what it holds may not be what is stored."""
        for attempt in (volume.read_file(LOG), volume.exists(LOG), volume.append_file(LOG, "ghost\n")):
            try:
                await attempt
            except SessionFsError:
                continue
            except OSError:
                pass
            self._history.broken.append(f"{self._name} is served by a volume that has failed")

    def _fails(self, error: SessionFsError) -> None:
        self._world.tell(self._name, f"fails: {type(error).__name__}: {error}")
        if isinstance(error, Fenced):
            self._history.fences.append(Fence(self._name, self._writer, self._epoch))
        self._world.check_damage(self._name, error)
