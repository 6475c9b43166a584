"""What every store must do, as tests to inherit: one for each sentence of :mod:`sessionfs_s3.store.protocol`.

An adapter's test module subclasses :class:`StoreConformance` and provides a fixture ``store``: an open store with
nothing in it, another one for each test. The tests are coroutines, so pytest-asyncio runs in its auto mode::

    class TestMyStore(StoreConformance):
        @pytest.fixture
        async def store(self, tmp_path):
            async with contextlib.aclosing(await MyStore.open(tmp_path)) as store:
                yield store

This module itself needs no test framework: the methods take the store as an argument and assert.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Coroutine, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from sessionfs_s3.errors import Closed, Conflict, InvalidInput, KeyNotFound, PreconditionFailed
from sessionfs_s3.store.protocol import IF_ABSENT, PAGE_ENTRIES_MAX, UNCONDITIONAL, Entry, IfMatches, Store

_E = TypeVar("_E", bound=BaseException)

BAD_KEYS = (
    *("", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/../b", "a/./b", "a\\b", "a b", "a\0b", "a\nb", "a\n"),
    *("é", "a~b", "a+b", "a:b", "a?b", "a#b", "s" * 256, "/".join(["s" * 200] * 6)),
)
"""Keys that no adapter may pass on: each breaks one rule."""

GOOD_KEYS = (
    *("a", "A", "a/b.c", "tenants/acme/sessions/s-1/log/fffffffffffffffe.c", "%", "%25", "a%2Fb", "a%252Fb", "..."),
    *(".hidden", "a/..b", "-", "_", "CON", "s" * 255, "/".join(["s" * 200] * 5), "d" * 255 + "/" + "e" * 255),
)
"""Keys that every adapter must take, each an object of its own."""

_SIZE = 5 * 1024 * 1024


class StoreConformance:
    """Tests of one store. A subclass may say what its server cannot do; it must not say it of a store for production.

    Attributes:
        racers: puts at once in a race.
        race_rounds: races in one test.
        races_are_fair: whether the server decides races by itself; where False, racers take turns.
        sorts_by_whole_key: whether listings across "directories" come in byte order; within one they must.
        clock_skew_ms_max: how far the store's clock may be from this machine's.
    """

    racers: ClassVar[int] = 50
    race_rounds: ClassVar[int] = 10
    races_are_fair: ClassVar[bool] = True
    sorts_by_whole_key: ClassVar[bool] = True
    clock_skew_ms_max: ClassVar[int] = 5_000

    async def raw_get(self, store: Store, key: str) -> bytes | None:
        """Return what is stored under *key*, or None, past the adapter if possible; here, through it."""
        try:
            return (await store.get(key)).data
        except KeyNotFound:
            return None

    async def test_what_is_put_is_what_is_got(self, store: Store) -> None:
        """A round trip keeps every byte, and all three verbs name the same entity tag."""
        for number, data in enumerate((b"", b"x", bytes(range(256)), bytes(range(256)) * (_SIZE // 256))):
            key = f"objects/{number}"
            etag = await store.put(key, data, condition=IF_ABSENT)
            fetched = await store.get(key)
            assert etag, "put must return an entity tag"
            assert fetched.data == data, f"{len(data)} bytes were put, {len(fetched.data)} other bytes came back"
            assert isinstance(fetched.data, bytes)
            assert fetched.etag == etag
            assert await self.raw_get(store, key) == data, "what is stored is not what was put"
            (entry,) = await entries(store, key)
            assert (entry.key, entry.size, entry.etag) == (key, len(data), etag)

    async def test_keys_are_kept_apart(self, store: Store) -> None:
        """Case, percent signs, dots and length make no two keys one."""
        for number, key in enumerate(GOOD_KEYS):
            if not _stands_in_the_way(key, GOOD_KEYS[:number]):
                await store.put(key, key.encode(), condition=IF_ABSENT)
        kept = [key for number, key in enumerate(GOOD_KEYS) if not _stands_in_the_way(key, GOOD_KEYS[:number])]
        for key in kept:
            assert (await store.get(key)).data == key.encode(), key
        assert sorted(entry.key for entry in await entries(store, "")) == sorted(kept)

    async def test_a_missing_key_is_said_to_be_missing(self, store: Store) -> None:
        """Get raises KeyNotFound, with and without a span, before and after the object was there."""
        for span in (None, (0, 1)):
            with raises(KeyNotFound) as caught:
                await store.get("no/such.object", span=span)
            assert caught[0].key == "no/such.object"
        await store.put("no/such.object", b"now", condition=IF_ABSENT)
        await store.delete(["no/such.object"])
        with raises(KeyNotFound):
            await store.get("no/such.object")

    async def test_a_part_of_a_key_is_not_an_object(self, store: Store) -> None:
        """There are no directories: what keys have in common has no contents, and deleting it deletes nothing."""
        await store.put("a/b/c", b"x", condition=IF_ABSENT)
        for key in ("a", "a/b", "a/b/c/d"):
            with raises(KeyNotFound):
                await store.get(key)
        await store.delete(["a", "a/b", "a/b/c/d"])
        assert (await store.get("a/b/c")).data == b"x"

    async def test_if_absent_creates_once(self, store: Store) -> None:
        """The second put fails and leaves the first one's contents; after a delete the key is free again."""
        await store.put("slot", b"first", condition=IF_ABSENT)
        for data in (b"second", b"first"):
            with raises(PreconditionFailed) as caught:
                await store.put("slot", data, condition=IF_ABSENT)
            assert caught[0].key == "slot"
            assert await self.raw_get(store, "slot") == b"first"
        await store.delete(["slot"])
        await store.put("slot", b"third", condition=IF_ABSENT)
        assert await self.raw_get(store, "slot") == b"third"

    async def test_unconditional_replaces(self, store: Store) -> None:
        """A put without a condition stores, whatever stands there, shorter contents over longer too."""
        for data in (b"a longer one", b"short", b""):
            await store.put("key", data, condition=UNCONDITIONAL)
            assert await self.raw_get(store, "key") == data
            assert (await store.get("key")).data == data

    async def test_if_matches_replaces_what_it_names(self, store: Store) -> None:
        """Only the object with this entity tag is replaced: not a later one, and not one that is not there."""
        first = await store.put("key", b"first", condition=IF_ABSENT)
        second = await store.put("key", b"second", condition=IfMatches(first))
        assert second != first
        assert (await store.get("key")).etag == second
        with raises(PreconditionFailed):
            await store.put("key", b"late", condition=IfMatches(first))
        assert await self.raw_get(store, "key") == b"second"
        with raises(PreconditionFailed):
            await store.put("missing", b"x", condition=IfMatches(first))
        assert await self.raw_get(store, "missing") is None
        await store.delete(["key"])
        with raises(PreconditionFailed):
            await store.put("key", b"late", condition=IfMatches(second))
        assert await self.raw_get(store, "key") is None

    async def test_of_racing_creations_one_wins(self, store: Store) -> None:
        """Exactly one of many concurrent puts succeeds, and its bytes are those that are stored."""
        for number in range(self.race_rounds):
            key = f"race/{number}"
            bids = [f"{number}/{racer}".encode() * 100 for racer in range(self.racers)]
            outcomes = await self._race(store.put(key, bid, condition=IF_ABSENT) for bid in bids)
            winners = [bid for bid, outcome in zip(bids, outcomes, strict=True) if isinstance(outcome, str)]
            assert len(winners) == 1, f"{len(winners)} of {self.racers} puts were told that they created {key}"
            assert await self.raw_get(store, key) == winners[0], "the winner was told of success, another is stored"
            assert (await store.get(key)).data == winners[0]

    async def test_of_racing_replacements_one_wins(self, store: Store) -> None:
        """Of many puts that name the same object exactly one replaces it."""
        etag = await store.put("key", b"0", condition=IF_ABSENT)
        for number in range(max(1, self.race_rounds // 2)):
            bids = [f"{number}/{racer}".encode() for racer in range(self.racers)]
            outcomes = await self._race(store.put("key", bid, condition=IfMatches(etag)) for bid in bids)
            winners = [(bid, won) for bid, won in zip(bids, outcomes, strict=True) if isinstance(won, str)]
            assert len(winners) == 1, (
                f"{len(winners)} of {self.racers} puts were told that they replaced the same object"
            )
            bid, etag = winners[0]
            assert await self.raw_get(store, "key") == bid

    async def test_readers_see_whole_objects(self, store: Store) -> None:
        """While an object is replaced again and again, a reader gets one or another of them, never a mixture."""
        contents = [bytes([value]) * size for value, size in ((1, 300_000), (2, 100_000), (3, 200_000))]
        etags = {await store.put("key", data, condition=UNCONDITIONAL): data for data in contents}
        done = False

        async def read() -> int:
            reads = 0
            while not done:
                fetched = await store.get("key")
                assert fetched.data in contents, "a reader saw a mixture of two objects"
                assert etags.get(fetched.etag, fetched.data) == fetched.data, "the entity tag is another object's"
                reads += 1
            return reads

        readers = [asyncio.create_task(read()) for _ in range(4)]
        for data in contents * 4:
            await store.put("key", data, condition=UNCONDITIONAL)
            await asyncio.sleep(0)
        done = True
        assert min(await asyncio.gather(*readers)) > 0

    async def test_a_cancelled_put_stores_all_or_nothing(self, store: Store) -> None:
        """Whenever a put is cancelled, the object is there whole, or not there; the key can be used after it."""
        data = bytes(range(256)) * 512
        for number in range(8):
            key = f"cancelled/{number}"
            task = asyncio.create_task(store.put(key, data, condition=IF_ABSENT))
            for _ in range(number):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await self.raw_get(store, key) in (None, data)
            await store.put(key, data, condition=UNCONDITIONAL)
            assert await self.raw_get(store, key) == data

    async def test_a_span_is_a_slice(self, store: Store) -> None:
        """Spans are half open and clamped to the object's size."""
        data = bytes(range(100))
        etag = await store.put("key", data, condition=IF_ABSENT)
        for start, end in ((0, 1), (0, 100), (10, 20), (99, 100), (98, 200), (0, 10**9)):
            fetched = await store.get("key", span=(start, end))
            assert fetched.data == data[start:end], f"span ({start}, {end})"
            assert fetched.etag == etag, "a span's entity tag is the whole object's"
        for start, end in ((100, 101), (100, 10**9), (5_000, 6_000)):
            fetched = await store.get("key", span=(start, end))
            assert (fetched.data, fetched.etag) == (b"", ""), f"span ({start}, {end}) lies past the end"
        await store.put("empty", b"", condition=IF_ABSENT)
        assert (await store.get("empty", span=(0, 10))).data == b""

    async def test_listings_are_in_order(self, store: Store) -> None:
        """Keys come in ascending order: of the whole key, not directory by directory."""
        keys = ["a/b", "a-b", "a.b", "a0", "a/b-c", "a/b/c", "A", "b%", "b", "a/a", "a/%41", "Z/z", "a/b.c", "a-b/c"]
        keys = [key for number, key in enumerate(keys) if not _stands_in_the_way(key, keys[:number])]
        for key in keys:
            await store.put(key, b"x", condition=IF_ABSENT)
        listed = [entry.key for entry in await entries(store, "")]
        assert sorted(listed) == sorted(keys)
        if store.lists_sorted and self.sorts_by_whole_key:
            assert listed == sorted(keys), "not in ascending order of the whole key"

    async def test_a_log_lists_in_order(self, store: Store) -> None:
        """One directory of names of one width, as a session's log is, lists in order on every store."""
        slots = [f"log/{0xFFFFFFFFFFFFFFFF - number:016x}.{kind}" for number in (1, 2, 3, 16, 17, 300) for kind in "cs"]
        for slot in slots:
            await store.put(slot, b"x", condition=IF_ABSENT)
        listed = [entry.key for entry in await entries(store, "log/")]
        assert sorted(listed) == sorted(slots)
        if store.lists_sorted:
            assert listed == sorted(slots), "the newest slot must come first"

    async def test_a_prefix_may_end_anywhere(self, store: Store) -> None:
        """A prefix selects keys that start with it, wherever it ends, and no others."""
        keys = ["log/1.c", "log/10.c", "log/11.c", "log/2.c", "logs/1.c", "lo/1.c", "log-1", "LOG/1.c"]
        for key in keys:
            await store.put(key, b"x", condition=IF_ABSENT)
        for prefix in (
            "",
            "l",
            "lo",
            "lo/",
            "log",
            "log/",
            "log/1",
            "log/1.",
            "log/1.c",
            "log/1.cc",
            "log/x",
            "x",
            "L",
        ):
            listed = sorted(entry.key for entry in await entries(store, prefix))
            assert listed == sorted(key for key in keys if key.startswith(prefix)), f"prefix {prefix!r}"

    async def test_pages_add_up(self, store: Store) -> None:
        """Pages of every size give every key once; no page is longer than asked for."""
        keys = [f"log/{number:02d}" for number in range(7)] + [f"log/0{number}/{number}x" for number in (7, 8)]
        for key in keys:
            await store.put(key, b"x", condition=IF_ABSENT)
        for prefix, limit in itertools.product(("", "log/", "log/0"), range(1, len(keys) + 2)):
            pages = await pages_of(store, prefix, limit)
            assert all(len(page) <= limit for page in pages), f"a page is longer than {limit}"
            listed = [entry.key for page in pages for entry in page]
            assert Counter(listed) == Counter(keys), f"prefix {prefix!r} in pages of {limit}"
            if store.lists_sorted and self.sorts_by_whole_key:
                assert listed == sorted(keys)
            assert len(pages) <= len(keys) // limit + 1, f"pages of {limit} are not filled"

    async def test_a_page_goes_on_where_keys_were_deleted(self, store: Store) -> None:
        """A cursor stays good when the key it stopped at is deleted, and keys ahead of it appear and vanish."""
        for number in range(6):
            await store.put(f"log/{number}", b"x", condition=IF_ABSENT)
        page = await store.list("log/", limit=2)
        seen = [entry.key for entry in page.entries]
        await store.delete([seen[-1], "log/4"])
        await store.put("log/33", b"x", condition=IF_ABSENT)
        while page.cursor is not None:
            page = await store.list("log/", cursor=page.cursor, limit=2)
            seen += [entry.key for entry in page.entries]
        assert sorted(seen) == ["log/0", "log/1", "log/2", "log/3", "log/33", "log/5"]

    async def test_a_listing_is_up_to_date(self, store: Store) -> None:
        """Every acknowledged put is listed at once, and nothing that was deleted."""
        for number in range(5):
            await store.put(f"log/{number}", b"x", condition=IF_ABSENT)
            assert len(await entries(store, "log/")) == number + 1
        for number in range(5):
            await store.delete([f"log/{number}"])
            assert [entry.key for entry in await entries(store, "log/")] == [f"log/{n}" for n in range(number + 1, 5)]

    async def test_a_full_page_has_a_thousand_entries(self, store: Store) -> None:
        """1001 keys are a page of 1000 and a page of one; one delete takes 1000."""
        keys = [f"log/{number:06d}" for number in range(PAGE_ENTRIES_MAX + 1)]
        for batch in range(0, len(keys), 32):
            await asyncio.gather(*(store.put(key, b"x", condition=IF_ABSENT) for key in keys[batch : batch + 32]))
        first = await store.list("log/")
        assert len(first.entries) == PAGE_ENTRIES_MAX
        assert first.cursor is not None
        second = await store.list("log/", cursor=first.cursor)
        assert second.cursor is None
        assert sorted(entry.key for entry in (*first.entries, *second.entries)) == keys
        await store.delete(keys[:PAGE_ENTRIES_MAX])
        assert [entry.key for entry in await entries(store, "")] == keys[PAGE_ENTRIES_MAX:]

    async def test_deleting_what_is_not_there_is_no_error(self, store: Store) -> None:
        """Missing keys, repeated calls and no keys at all are fine; the others of the same call are deleted."""
        await store.put("here", b"x", condition=IF_ABSENT)
        await store.put("stays", b"x", condition=IF_ABSENT)
        await store.delete(["missing", "here", "a/b/c"])
        await store.delete(["here"])
        await store.delete([])
        assert await self.raw_get(store, "here") is None
        assert await self.raw_get(store, "stays") == b"x"

    async def test_modified_is_when_the_store_received_it(self, store: Store) -> None:
        """In milliseconds since the Unix epoch, by the store's clock; later for what is replaced later."""
        before_ms = time.time_ns() // 1_000_000
        await store.put("key", b"x", condition=IF_ABSENT)
        (entry,) = await entries(store, "key")
        after_ms = time.time_ns() // 1_000_000
        # Listings may give whole seconds, rounded down.
        assert before_ms - 1_000 - self.clock_skew_ms_max <= entry.modified_ms <= after_ms + self.clock_skew_ms_max
        await store.put("key", b"y", condition=UNCONDITIONAL)
        (later,) = await entries(store, "key")
        assert later.modified_ms >= entry.modified_ms

    async def test_bad_arguments_are_refused(self, store: Store) -> None:
        """A key, prefix, span, page size or number of keys that breaks a rule is refused, and nothing is stored."""
        for key in BAD_KEYS:
            for call in (
                lambda key=key: store.get(key),
                lambda key=key: store.put(key, b"x", condition=UNCONDITIONAL),
                lambda key=key: store.delete(["fine", key]),
            ):
                with raises(InvalidInput, key):
                    await call()
        for prefix in ("/", "/a", "a//", "../", "a/../b", "./a", "a b", "a\0", "s" * 1_025):
            with raises(InvalidInput, prefix):
                await store.list(prefix)
        for limit in (0, -1, PAGE_ENTRIES_MAX + 1):
            with raises(InvalidInput, limit):
                await store.list("", limit=limit)
        for span in ((0, 0), (5, 5), (5, 4), (-1, 5)):
            with raises(InvalidInput, span):
                await store.get("key", span=span)
        with raises(InvalidInput):
            await store.delete([f"{number}" for number in range(1_001)])
        assert await entries(store, "") == []

    async def test_a_closed_store_refuses(self, store: Store) -> None:
        """Closing twice is fine; every verb after it raises Closed."""
        assert store.url
        await store.put("key", b"x", condition=IF_ABSENT)
        await store.aclose()
        await store.aclose()
        with raises(Closed):
            await store.get("key")
        with raises(Closed):
            await store.put("key", b"x", condition=UNCONDITIONAL)
        with raises(Closed):
            await store.list("")
        with raises(Closed):
            await store.delete(["key"])

    async def _race(self, bids: Iterable[Coroutine[Any, Any, str]]) -> list[str | BaseException]:
        """Run the puts at once; return each one's entity tag, or that it lost. Any other error is raised."""
        if self.races_are_fair:
            outcomes = await asyncio.gather(*bids, return_exceptions=True)
        else:
            outcomes = [(await asyncio.gather(bid, return_exceptions=True))[0] for bid in bids]
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, (PreconditionFailed, Conflict)):
                raise outcome
        return outcomes


async def pages_of(store: Store, prefix: str, limit: int) -> list[tuple[Entry, ...]]:
    """Return all pages of a listing."""
    page = await store.list(prefix, limit=limit)
    pages = [page.entries]
    cursors: set[str] = set()
    while page.cursor is not None:
        assert page.cursor not in cursors, "a cursor came twice: the listing does not end"
        cursors.add(page.cursor)
        page = await store.list(prefix, cursor=page.cursor, limit=limit)
        pages.append(page.entries)
    return pages


async def entries(store: Store, prefix: str) -> list[Entry]:
    """Return everything that a listing gives."""
    return [entry for page in await pages_of(store, prefix, PAGE_ENTRIES_MAX) for entry in page]


@contextmanager
def raises(expected: type[_E], given: object = None) -> Generator[list[_E]]:
    """Assert that the block raises *expected*, having been given *given*; the error is put into the list."""
    caught: list[_E] = []
    try:
        yield caught
    except expected as error:
        caught.append(error)
    else:
        raise AssertionError(f"{expected.__name__} was not raised" + (f" for {given!r}" if given is not None else ""))


def _stands_in_the_way(key: str, others: Sequence[str]) -> bool:
    """Return whether *key* is a directory of one of *others*, or the reverse: a file system cannot hold both."""
    return any(key.startswith(f"{other}/") or other.startswith(f"{key}/") for other in others)
