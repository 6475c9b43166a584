"""Whether a store can carry sessions: asked of the store itself, with a dozen small requests, and told by name.

A log of slots stands on four promises of :class:`~sessionfs_s3.store.protocol.Store`: of racing conditional creates one
wins, what was put is read, and listed, at once, and objects can be deleted. There are servers that speak S3 and pass
over ``If-None-Match``: every writer would be told that it owns the session. Touches one object of its own, which it
removes.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from sessionfs_s3.errors import (
    Conflict,
    Denied,
    InvalidInput,
    KeyNotFound,
    NoAnswer,
    PreconditionFailed,
    Refused,
    StoreAnswer,
    Unavailable,
)
from sessionfs_s3.store.protocol import IF_ABSENT, Entry, Fetched, IfMatches, Store

FOLDER: Final = "probe"
RACERS: Final = 8
DEADLINE_S: Final = 30.0
"""How long a probe may take with all its tries: as long as a verb of the engine may (``volume.retry.Patience``)."""

_BACKOFF_S_MIN: Final = 0.05
_BACKOFF_S_MAX: Final = 2.0
_PAGES_MAX: Final = 4
"""Pages of a listing of one object: the protocol allows empty ones."""

_SPAN: Final = (7, 71)
"""Neither the start nor the end of the object, and different for every racer."""

_T = TypeVar("_T")


async def probe(
    store: Store,
    *,
    racers: int = RACERS,
    replace: bool = False,
    folder: str = FOLDER,
    deadline_s: float = DEADLINE_S,
) -> None:
    """Make sure that *store* can carry sessions; return nothing, or say what it lacks.

    Three round trips and ``racers + 5`` requests, on one object of 100 bytes, ``<folder>/<32 hex digits>`` under the
    store's own prefix, which is a new one each time and is deleted at the end:

    1. *racers* conditional creates at once, of which exactly one may succeed;
    2. together: one more, which may not; a GET of the whole and one of a span, which have to yield the winner's bytes;
       a LIST, which has to show the object with its size;
    3. DELETE; before it, with *replace*, two conditional replaces at once, of which exactly one may succeed.

    A request that is not answered says nothing: the probe is tried again, on another object, with full jitter between,
    until the deadline. So is one whose every create met a 409. A probe that is cancelled, or gets no answer, leaves one
    object of 100 bytes behind, which nothing reads.

    Args:
        store: the store, open; it is not closed.
        racers: how many creates race, at least 2.
        replace: whether conditional replaces (``If-Match``) are needed as well; takes a fourth round trip.
        folder: the first part of the object's key, for those who may write in one place only.
        deadline_s: how long it may take with all its tries, in seconds.

    Raises:
        Refused: the store cannot carry sessions, or denies a request; the message names everything that it lacks.
        Unavailable: the store gave no answer; nothing is known about it.
        InvalidInput: *racers* is less than 2, or *folder* is not a key.
    """
    if racers < 2:
        raise InvalidInput("racers", racers, "must be at least 2: one alone wins every race")
    last = "no answer"
    tries = 0
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                if tries:
                    bound_s = min(_BACKOFF_S_MAX, _BACKOFF_S_MIN * 2.0 ** min(tries - 1, 16))
                    await asyncio.sleep(bound_s * random.random())  # noqa: S311  # jitter keeps no secret
                tries += 1
                findings = await _Trial(store, f"{folder}/{secrets.token_hex(16)}", racers).run(replace=replace)
                if findings.lacks:
                    lacks = "; ".join(findings.lacks)
                    raise Refused(f"{store.url}: this store cannot carry sessions: {lacks}")
                if not findings.unknown:
                    return
                last = findings.unknown[0]
    except TimeoutError:
        told = f"no answer in {deadline_s:g} s and {tries} tries"
        raise Unavailable(f"finding out whether {store.url} can carry sessions: {told}: {last}") from None


@dataclass(slots=True)
class _Findings:
    """What a trial showed: lacks that are certain, and requests that say nothing; neither means a store that is fit."""

    lacks: list[str] = field(default_factory=list[str])
    unknown: list[str] = field(default_factory=list[str])


class _Trial:
    """One try of the probe, on one key that nobody else uses."""

    def __init__(self, store: Store, key: str, racers: int) -> None:
        self._store = store
        self._key = key
        self._racers = racers
        # All of one length, so that LIST has one size to tell whoever won, and each another in every part.
        self._bids = [f"{number:04d}".encode() * 25 for number in range(racers + 1)]
        self._findings = _Findings()

    async def run(self, *, replace: bool) -> _Findings:
        """Ask everything; never raises what the store answered."""
        *bids, late_bid = self._bids
        race = await _answers(partial(self._create, bid) for bid in bids)
        created = {bid: answer for bid, answer in zip(bids, race, strict=True) if isinstance(answer, str)}
        self._take("a conditional create (PUT with If-None-Match)", race)
        if created:
            late, whole, part, listed = await asyncio.gather(
                _answer(partial(self._create, late_bid)),
                _answer(partial(self._store.get, self._key)),
                _answer(partial(self._store.get, self._key, span=_SPAN)),
                _answer(self._listed),
            )
            self._take("a conditional create (PUT with If-None-Match)", [late])
            for what, answer in (("GET", whole), ("GET of a part (Range)", part), ("LIST", listed)):
                self._take(what, [answer])
            self._judge_race(len(created), isinstance(late, str))
            # Whose bytes may stand there: of a store that lets several win, any of theirs.
            perhaps = [bid for bid, answer in zip(bids, race, strict=True) if isinstance(answer, (str, NoAnswer))]
            perhaps += [late_bid] if isinstance(late, (str, NoAnswer)) else []
            self._judge_reads(perhaps if len(created) > 1 or isinstance(late, str) else list(created), whole, part)
            self._judge_listing(listed)
            if replace and len(created) == 1:
                await self._try_replacing(*created.values())
        elif not self._findings.lacks and not self._findings.unknown:
            self._judge_no_winner(race)
        self._take("DELETE", [await _answer(partial(self._store.delete, [self._key]))])
        return self._findings

    def _create(self, bid: bytes) -> Awaitable[str]:
        return self._store.put(self._key, bid, condition=IF_ABSENT)

    async def _listed(self) -> list[Entry]:
        entries: list[Entry] = []
        cursor: str | None = None
        for _ in range(_PAGES_MAX):
            page = await self._store.list(self._key, cursor=cursor)
            entries += page.entries
            cursor = page.cursor
            if cursor is None:
                break
        return entries

    def _take(self, what: str, answers: Iterable[object]) -> None:
        """Note which requests were denied and which were not answered."""
        for answer in answers:
            if isinstance(answer, Denied):
                lack = f"it denies {what}: {answer.detail or answer}"
                if lack not in self._findings.lacks:
                    self._findings.lacks.append(lack)
            elif isinstance(answer, NoAnswer):
                self._findings.unknown.append(f"{what}: {answer.detail or answer}")

    def _judge_race(self, created: int, late: bool) -> None:
        told = f"{created} of {self._racers} concurrent conditional creates of one key succeeded"
        if late:
            self._lacks(f"it ignores If-None-Match ({told}, and one more after them)")
        elif created > 1:
            self._lacks(f"it does not decide races between conditional creates ({told})")

    def _judge_no_winner(self, race: Sequence[object]) -> None:
        kinds = Counter(type(answer).__name__ for answer in race)
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        if kinds.keys() == {Conflict.__name__}:
            # Allowed: all of them met one another. To be tried again.
            self._findings.unknown.append(f"no conditional create of a new key succeeded ({told})")
        else:
            self._lacks(f"no conditional create of a new key succeeds ({told})")

    def _judge_reads(self, expected: Sequence[bytes], whole: object, part: object) -> None:
        start, end = _SPAN
        for what, answer, right in (
            ("GET", whole, expected),
            ("GET of a part (Range)", part, [bid[start:end] for bid in expected]),
        ):
            if isinstance(answer, KeyNotFound):
                self._lacks(f"no read-after-write: {what} does not find an object that was just stored")
            elif isinstance(answer, Fetched) and answer.data not in right:
                size = len(right[0])
                told = f"{len(answer.data)} bytes instead of {size}" if len(answer.data) != size else "other bytes"
                self._lacks(f"no read-after-write: {what} of an object that was just stored yields {told}")

    def _judge_listing(self, listed: list[Entry] | StoreAnswer) -> None:
        if isinstance(listed, StoreAnswer):
            return
        sizes = [entry.size for entry in listed if entry.key == self._key]
        size = len(self._bids[0])
        if not sizes:
            self._lacks("no list-after-write: LIST does not show an object that was just stored")
        elif sizes != [size]:
            self._lacks(f"LIST tells a wrong size: {', '.join(map(str, sizes))} bytes of an object of {size}")

    async def _try_replacing(self, etag: str) -> None:
        replacements = [b"first", b"other"]
        answers = await _answers(
            partial(self._store.put, self._key, data, condition=IfMatches(etag)) for data in replacements
        )
        what = "a conditional replace (PUT with If-Match)"
        self._take(what, answers)
        replaced = sum(isinstance(answer, str) for answer in answers)
        told = f"{replaced} of {len(answers)} concurrent replaces of one entity tag succeeded"
        if replaced > 1:
            self._lacks(f"it ignores If-Match, or does not decide races ({told})")
        elif not replaced and all(isinstance(answer, PreconditionFailed) for answer in answers):
            self._lacks(f"no conditional replace (If-Match) of the object that stands there succeeds ({told})")
        elif not replaced and not self._findings.lacks:
            self._findings.unknown.append(told)

    def _lacks(self, lack: str) -> None:
        self._findings.lacks.append(lack)


async def _answer(request: Callable[[], Awaitable[_T]]) -> _T | StoreAnswer:
    # Not the awaitable itself: a task that is cancelled before it starts would leave it, never awaited.
    try:
        return await request()
    except StoreAnswer as answer:
        return answer


async def _answers(requests: Iterable[Callable[[], Awaitable[_T]]]) -> list[_T | StoreAnswer]:
    return await asyncio.gather(*(_answer(request) for request in requests))


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a probe was about: its answer holds for whoever asks the same, wherever in the store."""

    url: str
    replace: bool


_fit: set[_Asked] = set()
_running: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Asked, asyncio.Task[None]]] = WeakKeyDictionary()


async def probe_once(
    store: Store, *, replace: bool = False, folder: str = FOLDER, deadline_s: float = DEADLINE_S
) -> None:
    """Probe *store*, unless a store of the same URL has passed in this process; arguments as of :func:`probe`.

    Those who ask at the same time, in one event loop, share one probe and its answer. Only a store that passed is
    remembered: whoever comes after a failure asks again.

    Raises:
        Refused: as :func:`probe` does.
        Unavailable: likewise.
        InvalidInput: likewise.
    """
    asked = _Asked(store.url, replace)
    running = _running.setdefault(asyncio.get_running_loop(), {})
    while asked not in _fit:
        others = running.get(asked)
        if others is None:
            mine = running[asked] = asyncio.ensure_future(
                probe(store, replace=replace, folder=folder, deadline_s=deadline_s)
            )
            try:
                await mine  # Cancelled with whoever started it, who may close the store next.
            finally:
                del running[asked]
            _fit.add(asked)
        else:
            await asyncio.wait([others])
            if not others.cancelled():
                others.result()
                return
