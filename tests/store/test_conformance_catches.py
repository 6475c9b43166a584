"""The conformance suite fails stores that break a promise: each of these breaks one, and a test of it says so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from sessionfs_s3.errors import KeyNotFound, PreconditionFailed
from sessionfs_s3.store import (
    IF_ABSENT,
    PAGE_ENTRIES_MAX,
    UNCONDITIONAL,
    Condition,
    Entry,
    Fetched,
    IfAbsent,
    IfMatches,
    MemoryStore,
    Page,
)
from sessionfs_s3.testing.store import StoreConformance


class ChecksThenWrites(MemoryStore):
    """A precondition emulated with a read."""

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        if isinstance(condition, IfAbsent):
            try:
                await self.get(key)
            except KeyNotFound:
                return await super().put(key, data, condition=UNCONDITIONAL)
            raise PreconditionFailed(key)
        return await super().put(key, data, condition=condition)


class ComparesThenWrites(MemoryStore):
    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        if isinstance(condition, IfMatches):
            try:
                if (await self.get(key)).etag != condition.etag:
                    raise PreconditionFailed(key)
            except KeyNotFound:
                raise PreconditionFailed(key) from None
            return await super().put(key, data, condition=UNCONDITIONAL)
        return await super().put(key, data, condition=condition)


class IgnoresIfNoneMatch(MemoryStore):
    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        return await super().put(key, data, condition=UNCONDITIONAL if condition == IF_ABSENT else condition)


class IgnoresIfMatch(MemoryStore):
    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        return await super().put(key, data, condition=UNCONDITIONAL if isinstance(condition, IfMatches) else condition)


class TellsEveryRacerItWon(MemoryStore):
    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        try:
            return await super().put(key, data, condition=condition)
        except PreconditionFailed:
            if key.startswith("race/"):
                return (await self.get(key)).etag
            raise


class CreatesFromIfMatches(MemoryStore):
    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        try:
            return await super().put(key, data, condition=condition)
        except PreconditionFailed:
            if key == "missing":
                return await super().put(key, data, condition=UNCONDITIONAL)
            raise


class WritesInPieces(MemoryStore):
    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        if condition == UNCONDITIONAL:
            await super().put(key, data[: len(data) // 2], condition=condition)
        return await super().put(key, data, condition=condition)


class LosesTheLastByteOfLargeObjects(MemoryStore):
    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        fetched = await super().get(key, span=span)
        return Fetched(fetched.data[: 5 * 1024 * 1024 - 1], fetched.etag)


class SpansIncludeTheirEnd(MemoryStore):
    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        return await super().get(key, span=span and (span[0], span[1] + 1))


class SaysNothingForMissing(MemoryStore):
    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        try:
            return await super().get(key, span=span)
        except KeyNotFound:
            return Fetched(b"", "")


class FoldsCase(MemoryStore):
    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        return await super().put(key.lower(), data, condition=condition)

    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        return await super().get(key.lower(), span=span)


class DecodesPercents(MemoryStore):
    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        return await super().put(key.replace("%25", "%"), data, condition=condition)


class ListsUnsorted(MemoryStore):
    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        page = await super().list(prefix, cursor=cursor, limit=limit)
        return Page(tuple(random.Random(1).sample(page.entries, len(page.entries))), page.cursor)


class ListsByDirectory(MemoryStore):
    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        page = await super().list(prefix, cursor=cursor, limit=limit)
        return Page(tuple(sorted(page.entries, key=lambda entry: entry.key.split("/"))), page.cursor)


class ListsWholeNamesOnly(MemoryStore):
    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        page = await super().list(prefix, cursor=cursor, limit=limit)
        kept = [entry for entry in page.entries if prefix in ("", entry.key) or prefix.endswith("/")]
        return Page(tuple(kept), page.cursor)


class RepeatsTheLastEntry(MemoryStore):
    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        page = await super().list(prefix, cursor=cursor and cursor[:-1], limit=limit)
        return page if page.cursor != cursor else Page(page.entries, None)


class ForgetsTheCursor(MemoryStore):
    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        return Page((await super().list(prefix, cursor=cursor, limit=limit)).entries, None)


class ListsLate(MemoryStore):
    """A listing that is eventually consistent: it does not know what came since the last one."""

    known: Page = Page((), None)

    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        late, self.known = self.known, await super().list(prefix, cursor=cursor, limit=limit)
        return late


class TellsSeconds(MemoryStore):
    async def list(self, prefix: str, *, cursor: str | None = None, limit: int = PAGE_ENTRIES_MAX) -> Page:
        page = await super().list(prefix, cursor=cursor, limit=limit)
        return Page(
            tuple(Entry(entry.key, entry.size, entry.etag, entry.modified_ms // 1000) for entry in page.entries),
            page.cursor,
        )


class DeletesTheFirstOnly(MemoryStore):
    async def delete(self, keys: Sequence[str]) -> None:
        await super().delete(keys[:1])


class DeletesDirectories(MemoryStore):
    async def delete(self, keys: Sequence[str]) -> None:
        below = [entry.key for key in keys for entry in (await self.list(f"{key}/")).entries]
        await super().delete([*keys, *below])


class MissesMissingKeys(MemoryStore):
    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self.get(key)
        await super().delete(keys)


class StaysOpen(MemoryStore):
    async def aclose(self) -> None:
        await asyncio.sleep(0)


class ClosesOnce(MemoryStore):
    async def aclose(self) -> None:
        self._require_open()
        await super().aclose()


@pytest.mark.parametrize(
    ("broken", "caught_by"),
    [
        (ChecksThenWrites, "test_of_racing_creations_one_wins"),
        (ComparesThenWrites, "test_of_racing_replacements_one_wins"),
        (TellsEveryRacerItWon, "test_of_racing_creations_one_wins"),
        (IgnoresIfNoneMatch, "test_if_absent_creates_once"),
        (IgnoresIfMatch, "test_if_matches_replaces_what_it_names"),
        (CreatesFromIfMatches, "test_if_matches_replaces_what_it_names"),
        (WritesInPieces, "test_readers_see_whole_objects"),
        (LosesTheLastByteOfLargeObjects, "test_what_is_put_is_what_is_got"),
        (SpansIncludeTheirEnd, "test_a_span_is_a_slice"),
        (SaysNothingForMissing, "test_a_missing_key_is_said_to_be_missing"),
        (FoldsCase, "test_keys_are_kept_apart"),
        (DecodesPercents, "test_keys_are_kept_apart"),
        (ListsUnsorted, "test_a_log_lists_in_order"),
        (ListsByDirectory, "test_listings_are_in_order"),
        (ListsWholeNamesOnly, "test_a_prefix_may_end_anywhere"),
        (RepeatsTheLastEntry, "test_pages_add_up"),
        (ForgetsTheCursor, "test_a_full_page_has_a_thousand_entries"),
        (ListsLate, "test_a_listing_is_up_to_date"),
        (TellsSeconds, "test_modified_is_when_the_store_received_it"),
        (DeletesTheFirstOnly, "test_a_full_page_has_a_thousand_entries"),
        (DeletesDirectories, "test_a_part_of_a_key_is_not_an_object"),
        (MissesMissingKeys, "test_deleting_what_is_not_there_is_no_error"),
        (StaysOpen, "test_a_closed_store_refuses"),
        (ClosesOnce, "test_a_closed_store_refuses"),
    ],
)
async def test_a_broken_store_is_caught(broken: type[MemoryStore], caught_by: str) -> None:
    test = getattr(StoreConformance(), caught_by)
    await test(MemoryStore())
    with pytest.raises(Exception) as caught:  # noqa: PT011  # an assertion, or the store's own error, escaping
        await asyncio.wait_for(test(broken()), 10)
    assert not isinstance(caught.value, TimeoutError)
