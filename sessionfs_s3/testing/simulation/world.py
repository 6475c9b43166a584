"""The world of one run: its store, its weather, replicas that die and take over from each other, readers that watch."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from enum import Enum
from typing import Any

from sessionfs_s3.errors import Corrupt, InvalidInput, SessionFsError
from sessionfs_s3.sqlite import PAGE_BYTES, Limits, ScratchError, SqlError
from sessionfs_s3.testing.simulation.databases import NO_KILLS, Kills, LocalDatabases
from sessionfs_s3.testing.simulation.deletions import delete
from sessionfs_s3.testing.simulation.history import KEYS, Append, History, Log
from sessionfs_s3.testing.simulation.lives import Life, look, look_into_database, side_by_side
from sessionfs_s3.testing.simulation.loop import LIFE, VirtualLoop, environment
from sessionfs_s3.testing.simulation.statements import Writing
from sessionfs_s3.testing.simulation.store import Bucket, Listings, SimulatedStore, Weather
from sessionfs_s3.volume import Durability, Volume, VolumeOptions
from sessionfs_s3.volume.retry import Patience

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


class Tempo(Enum):
    """What kind of life it is: each brings other dangers close."""

    QUICK = "short lives, many deaths"
    SLOW = "hours and days between two calls: what was needed is collected"
    CROWDED = "everybody at once and without pause, collecting all the time"


class World:
    """One bucket, one session, several replicas."""

    def __init__(
        self, loop: VirtualLoop, seed: int, databases: LocalDatabases, *, with_sql: bool, with_deletions: bool
    ) -> None:
        """Make the world that *seed* stands for; its machines keep their databases in *databases*.

        Its lives use SQL if it is *with_sql*, and the session is deleted now and then if it is *with_deletions*; if
        not, all is as it would be if there were none.
        """
        self.loop = loop
        self.databases = databases
        self.with_sql = with_sql
        self.with_deletions = with_deletions
        self.rng = random.Random(f"world {seed}")
        self.bucket = Bucket(self._listings())
        self.history = History()
        self.network: set[asyncio.Task[None]] = set()
        self.tempo = self.rng.choice(list(Tempo))
        self.weather = self._weather()
        self.options = self._options()
        if with_sql:
            self.options = replace(self.options, database=self._limits())
        self.kills = Kills(*self.rng.choice([(0.0, 0.0), (0.05, 0.1)])) if with_sql else NO_KILLS
        self.is_quick = self.tempo is Tempo.QUICK
        self._tasks: dict[str, set[asyncio.Task[Any]]] = {}
        loop.set_task_factory(self._task)

    async def live(self) -> None:
        """Let replicas and readers do their worst, then let the network calm down."""
        replicas = [self._replica(f"r{n}") for n in range(self.rng.randint(2, 4))]
        readers = [
            self._living(name, self._reader(name)) for name in self.rng.choice([["reader0"], ["reader0", "reader1"]])
        ]
        deleters: list[Coroutine[Any, Any, None]] = []
        if self.with_deletions:
            deleters = [self._deleter(f"d{n}") for n in range(self.rng.randint(1, 2))]
        await asyncio.gather(*replicas, *readers, *deleters)
        while self.network:
            await asyncio.wait(self.network)

    def stop(self) -> None:
        """End whatever goes on in the background of lives that are over."""
        for life, tasks in self._tasks.items():
            for task in tasks:
                task.cancel()
            self.loop.end(life)

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

    def _limits(self) -> Limits:
        choice = self.rng.choice
        return Limits(
            database_bytes_max=choice([10, 1 << 16, 1 << 16]) * PAGE_BYTES,
            wal_bytes_max=choice([1, 64 * 1024, 4 << 20]),
            cache_bytes=choice([8 * 1024, 2 << 20]),
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
            await self._mortal(life, Life(self, life, random.Random(rng.random())).live(), rng)

    async def _deleter(self, name: str) -> None:
        """Delete the session now and then, or sweep it; some die while they do."""
        rng = random.Random(f"{name} {self.rng.random()}")
        for number in range(rng.randint(1, 4)):
            await asyncio.sleep(rng.uniform(0.0, 1.0) * self.pause_s(rng))
            life = f"{name}.{number}"
            await self._mortal(life, delete(self, life, random.Random(rng.random())), rng)

    async def _mortal(self, life: str, work: Coroutine[Any, Any, None], rng: random.Random) -> None:
        """Have a machine of its own do *work*, and die before it is done, now and then."""
        living = self._living(life, work)
        until_s = rng.expovariate(1 / 30.0) if rng.random() < (0.5 if self.tempo is Tempo.QUICK else 0.1) else None
        done, _ = await asyncio.wait([living], timeout=until_s)
        if done:
            living.result()
            return
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
                    machine = environment(self.loop, rng, self.databases, kills=self.kills)
                    volume = await Volume.open(store, KEYS, read_only=True, environment=machine, options=self.options)
                elif rng.random() < 0.7:
                    await volume.refresh()
                else:
                    started_s = seen_s  # what is read now may be as old as what was read last
                if self.with_sql and rng.random() < 0.3:
                    # The copy that the look needs is begun of one state, and another comes along.
                    anew = look_into_database(self, name, volume, started_s)
                    await side_by_side([anew, volume.refresh()])
                await look(self, name, volume, started_s)
                seen_s = started_s
                if self.with_sql and rng.random() < 0.2:
                    await self._trespass(name, volume, rng)
            except SessionFsError as error:
                self._check_reason(name, error)
        if volume is not None:
            await volume.aclose()

    async def _trespass(self, name: str, volume: Volume, rng: random.Random) -> None:
        """Try to change what is open for reading only: nothing of it may be stored, or seen later."""
        began = self.history.now()
        record = f"{name}.{began}"
        call = Writing(rng).change(record)
        durability, now_s = Durability.STORED, self.loop.time()
        self.history.appends.append(
            Append(record, name, began, durability, Log.DATABASE, began, now_s, call, refused=True)
        )
        try:
            await call.on(volume, durability)
        except (SqlError, ScratchError):
            return  # no tables yet, or killed
        except InvalidInput as error:
            self.history.broken.append(f"{name} is given no database: {error}")
            return
        except OSError as error:
            if isinstance(error, SessionFsError):
                raise
            if error.errno == errno.EROFS:
                return
        self.history.broken.append(f"{name} changes what it may only read")

    def _check_reason(self, who: str, error: SessionFsError) -> None:
        self.tell(who, f"cannot read: {type(error).__name__}: {error}")
        self.check_damage(who, error)

    def check_damage(self, who: str, error: SessionFsError) -> None:
        """Note a complaint about something stored, unless it is one that the network did damage."""
        if isinstance(error, Corrupt) and error.key not in self.bucket.damaged:
            self.history.broken.append(f"{who} finds the session corrupt: {error}")
