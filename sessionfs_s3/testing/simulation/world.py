"""Replicas that write, die and take over from each other, readers that watch, and the history that they leave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from sessionfs_s3.errors import Fenced, SessionFsError
from sessionfs_s3.format import SessionKeys
from sessionfs_s3.testing.simulation.loop import VirtualLoop, environment
from sessionfs_s3.testing.simulation.store import Bucket, SimulatedStore, Weather
from sessionfs_s3.volume import Durability, Volume, VolumeOptions
from sessionfs_s3.volume.retry import Patience

KEYS = SessionKeys.of("simulated", "session")
LOG = "/session-state/events.jsonl"

_life: ContextVar[str] = ContextVar("life", default="")


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
    opened: int = 0


class World:
    """One bucket, one session, several replicas."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        """Make the world that *seed* stands for."""
        self.loop = loop
        self.rng = random.Random(f"world {seed}")
        self.bucket = Bucket()
        self.history = History()
        self.network: set[asyncio.Task[None]] = set()
        self.weather = self._weather()
        self.options = self._options()
        self._tasks: dict[str, set[asyncio.Task[Any]]] = {}
        loop.set_task_factory(self._task)

    async def live(self) -> None:
        """Let replicas and readers do their worst, then let the network calm down."""
        replicas = [self._replica(f"r{n}") for n in range(self.rng.randint(2, 4))]
        readers = [self._reader(f"reader{n}") for n in range(self.rng.randint(1, 2))]
        await asyncio.gather(*replicas, *readers)
        while self.network:
            await asyncio.wait(self.network)

    def tell(self, who: str, what: str) -> None:
        """Add a line to the timeline."""
        self.history.timeline.append(f"{self.loop.time():10.3f} {who:10} {what}")

    def store(self, name: str, *, calm: bool = False) -> SimulatedStore:
        """Return a way to the bucket."""
        weather = Weather(0, 0, 0, 0, 0, 0, 0) if calm else self.weather
        rng = random.Random(f"store {name} {self.rng.random()}")
        return SimulatedStore(
            name=name, bucket=self.bucket, rng=rng, weather=weather, told=self.tell, network=self.network
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
        )

    def _options(self) -> VolumeOptions:
        return VolumeOptions(
            patience=Patience(deadline_s=self.rng.choice([3.0, 30.0])),
            linger_s=self.rng.choice([0.1, 5.0]),
            commit_entries_max=self.rng.choice([2, 1024]),
            snapshot_commits=self.rng.choice([3, 8, 64]),
            directories=("/session-state",),
        )

    def _task(self, loop: Any, work: Any, **more: Any) -> Any:  # noqa: ANN401  # as asyncio's own factories are typed
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **more)
        life = _life.get()
        if life:
            self._tasks.setdefault(life, set()).add(task)
        return task

    async def _replica(self, name: str) -> None:
        """Live several lives; each ends by death, by failure, or by closing in peace."""
        rng = random.Random(f"{name} {self.rng.random()}")
        for number in range(rng.randint(1, 4)):
            await asyncio.sleep(rng.uniform(0.0, 20.0))
            life = f"{name}.{number}"
            token = _life.set(life)
            living = self.loop.create_task(_Life(self, life, random.Random(rng.random())).live())
            _life.reset(token)
            until_s = rng.expovariate(1 / 30.0) if rng.random() < 0.5 else None
            done, _ = await asyncio.wait([living], timeout=until_s)
            if done:
                living.result()
                continue
            self.history.deaths += 1
            self.tell(life, "dies")
            for task in self._tasks.get(life, set()):
                task.cancel()
            await asyncio.wait([living])

    async def _reader(self, name: str) -> None:
        rng = random.Random(f"{name} {self.rng.random()}")
        store = self.store(name)
        volume: Volume | None = None
        for _ in range(rng.randint(2, 8)):
            await asyncio.sleep(rng.uniform(0.0, 15.0))
            started_s = self.loop.time()
            try:
                if volume is None or rng.random() < 0.3:
                    volume = await Volume.open(
                        store, KEYS, read_only=True, environment=environment(self.loop, rng), options=self.options
                    )
                else:
                    await volume.refresh()
            except SessionFsError as error:
                self._check_reason(name, error)
                continue
            await self.look(name, volume, started_s)

    async def look(self, who: str, volume: Volume, started_s: float) -> None:
        """Note what *volume*, whose load began at *started_s*, shows of the log."""
        try:
            text = await volume.read_file(LOG)
        except FileNotFoundError:
            text = ""
        records = tuple(text.split())
        self.tell(who, f"sees {len(records)} records")
        self.history.sights.append(Sight(who, started_s, records))

    def _check_reason(self, who: str, error: SessionFsError) -> None:
        self.tell(who, f"cannot read: {type(error).__name__}: {error}")
        if type(error).__name__ == "Corrupt":
            self.history.broken.append(f"{who} finds the log corrupt: {error}")


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

    async def live(self) -> None:
        started_s = self._world.loop.time()
        self._world.tell(self._name, "opens the session")
        try:
            volume = await Volume.open(
                self._world.store(self._name),
                KEYS,
                read_only=False,
                environment=environment(self._world.loop, self._rng),
                options=self._world.options,
            )
        except SessionFsError as error:
            self._fails(error)
            return
        self._history.opened += 1
        self._epoch = volume.head.epoch
        self._writer = volume.writer
        self._world.tell(self._name, f"is open at {volume.head.sequence}, epoch {volume.head.epoch}")
        await self._world.look(self._name, volume, started_s)
        try:
            for _ in range(self._rng.randint(1, 12)):
                await self._rng.choice(
                    [self._append, self._append, self._append, self._burst, self._files, self._rest]
                )(volume)
            await volume.aclose()
            self._world.tell(self._name, "closes in peace")
        except SessionFsError as error:
            self._fails(error)
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
        await asyncio.sleep(self._rng.choice([0.05, 1.0, 20.0, 400.0 if self._rng.random() < 0.1 else 5.0]))

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
        if type(error).__name__ == "Corrupt":
            self._history.broken.append(f"{self._name} finds the log corrupt: {error}")
