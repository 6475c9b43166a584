"""Looking at what a session has stored: a store that writes down what it is asked, and what its objects refer to."""

from __future__ import annotations

from sessionfs_s3.format import Kind, SessionKeys, blobs_of, decode_commit, decode_snapshot, parse_log_name
from sessionfs_s3.fs import AppendFile, Blob, WriteFile
from sessionfs_s3.store.protocol import UNCONDITIONAL, Condition, Entry, Fetched, Store
from sessionfs_s3.testing.faults import FaultyStore
from sessionfs_s3.volume import Volume
from tests.volume.conftest import KEYS


class RecordingStore(FaultyStore):
    """A store that fails on demand and writes down sizes and spans.

    Attributes:
        gets: (key, span) of every GET, in order.
        puts: (key, size in bytes) of every PUT that succeeded.
        at_once_max: how many requests of one verb were under way together at most.
    """

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.gets: list[tuple[str, tuple[int, int] | None]] = []
        self.puts: list[tuple[str, int]] = []
        self.at_once_max = {"GET": 0, "PUT": 0}
        self._under_way = {"GET": 0, "PUT": 0}

    async def get(self, key: str, *, span: tuple[int, int] | None = None) -> Fetched:
        self.gets.append((key, span))
        self._begin("GET")
        try:
            return await super().get(key, span=span)
        finally:
            self._under_way["GET"] -= 1

    async def put(self, key: str, data: bytes, *, condition: Condition) -> str:
        self._begin("PUT")
        try:
            etag = await super().put(key, data, condition=condition)
        finally:
            self._under_way["PUT"] -= 1
        self.puts.append((key, len(data)))
        return etag

    def forget(self) -> None:
        """Begin to write down anew."""
        self.gets.clear()
        self.puts.clear()
        self.requests.clear()
        self.at_once_max = {"GET": 0, "PUT": 0}

    def blob_puts(self) -> list[tuple[str, int]]:
        """Return the PUTs of blobs."""
        return [put for put in self.puts if "/blob/" in put[0]]

    def commit_puts(self) -> list[tuple[str, int]]:
        """Return the PUTs of commits and claims."""
        return [put for put in self.puts if put[0].endswith(".c")]

    def blob_gets(self) -> list[tuple[str, tuple[int, int] | None]]:
        """Return the GETs of blobs."""
        return [get for get in self.gets if "/blob/" in get[0]]

    def _begin(self, verb: str) -> None:
        self._under_way[verb] += 1
        self.at_once_max[verb] = max(self.at_once_max[verb], self._under_way[verb])


async def entries(store: Store, prefix: str) -> list[Entry]:
    """Return everything that is listed below *prefix*."""
    found: list[Entry] = []
    cursor: str | None = None
    while True:
        page = await store.list(prefix, cursor=cursor)
        found.extend(page.entries)
        cursor = page.cursor
        if cursor is None:
            return found


async def numbers(store: FaultyStore, kind: Kind, keys: SessionKeys = KEYS) -> list[int]:
    """Return the numbers of the commits or snapshots that are stored, ascending."""
    names = [parse_log_name(entry.key.removeprefix(keys.log)) for entry in await entries(store.inner, keys.log)]
    return sorted(name.sequence for name in names if name is not None and name.kind is kind)


async def blobs(store: FaultyStore, keys: SessionKeys = KEYS) -> list[str]:
    """Return the keys of the blobs that are stored."""
    return [entry.key for entry in await entries(store.inner, keys.blobs)]


async def needed(store: FaultyStore, keys: SessionKeys = KEYS) -> dict[str, str]:
    """Return the key of every blob that a stored snapshot or commit refers to, and which object does."""
    found: dict[str, str] = {}
    for number in await numbers(store, Kind.SNAPSHOT, keys):
        key = keys.snapshot(number)
        snapshot = decode_snapshot(key, (await store.inner.get(key)).data, sequence=number)
        found.update({keys.blob(blob): f"snapshot {number}" for blob in snapshot.blobs})
    for number in await numbers(store, Kind.COMMIT, keys):
        for blob in await referred(store, number, keys):
            found[keys.blob(blob)] = f"commit {number}"
    return found


async def referred(store: FaultyStore, number: int, keys: SessionKeys = KEYS) -> set[Blob]:
    """Return the blobs that commit *number* refers to."""
    key = keys.commit(number)
    commit, _ = decode_commit(key, (await store.inner.get(key)).data, sequence=number)
    return blobs_of(each.content for each in commit.operations if isinstance(each, (WriteFile, AppendFile)))


async def copy(source: FaultyStore, target: Store, old: str, new: str) -> None:
    """Copy every object of *source* whose key starts with *old* to *target*, under *new* instead."""
    for entry in await entries(source.inner, old):
        data = (await source.inner.get(entry.key)).data
        await target.put(new + entry.key.removeprefix(old), data, condition=UNCONDITIONAL)


async def snapshot_after(volume: Volume, store: FaultyStore, keys: SessionKeys = KEYS) -> int:
    """Commit until a snapshot of something later than now is stored and everything after it is done; return its number.

    The first commits wait for a snapshot that is being written already.
    """
    before = volume.head.sequence
    for _ in range(150):
        await volume.append_file("/counter", "x")
        assert volume._committer is not None  # nothing else tells when a snapshot is done
        await volume._committer._snapshots.finish()
        stored = await numbers(store, Kind.SNAPSHOT, keys)
        if stored and stored[-1] > before:
            return stored[-1]
    raise AssertionError("no snapshot is written")
