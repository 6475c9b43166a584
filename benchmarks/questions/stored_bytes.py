"""How many bytes are put into the store for a conversation, against the bytes that the runtime appended."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.conversation import Call, conversation, replay
from benchmarks.harness.exchanges import Exchange, by_verb, uncompressed_bytes
from benchmarks.harness.lab import TENANT, Lab, Sizes
from benchmarks.harness.report import Row
from sessionfs_s3 import SessionFs
from sessionfs_s3.format import Kind, SessionKeys, decode_snapshot, parse_log_name
from sessionfs_s3.fs import Place, contents
from sessionfs_s3.store import open_store

NAME = "bytes"
_SEED = 4


async def run(lab: Lab, sizes: Sizes) -> list[Row]:
    """Replay the conversation through the provider; count every PUT at the proxy, also of what is deleted later."""
    calls = list(conversation(_SEED, sizes.turns, sizes.events_bytes))
    url = lab.delayed(lab.prefix())
    lab.proxy.take()
    async with SessionFs.open(url, tenant=TENANT, **sizes.settings) as fs:
        appended = await replay(fs.provider("conversation"), iter(calls))
    seen = lab.proxy.take()
    puts = [each for each in seen if each.verb == "PUT"]
    sealed, packed = await _sealed(url)
    plain = uncompressed_bytes(puts) + sealed - packed
    stored = sum(each.bytes_up for each in puts)
    rows = [
        Row(
            *(NAME, "bytes PUT / bytes appended", stored / appended, "x", 0.6, "<"),
            f"{stored / 1e6:.2f} MB for {appended / 1e6:.2f} MB of events in {sizes.turns} turns",
        ),
        Row(
            *(NAME, "uncompressed bytes PUT / bytes appended", plain / appended, "x", 2.0, "<="),
            f"{plain / 1e6:.2f} MB; other files of the session are in it: {_other_bytes(calls) / 1e6:.2f} MB",
        ),
        Row(NAME, "requests", len(seen), "", note=f"{by_verb(seen)}"),
    ]
    for kind in ("commit", "snapshot", "other"):
        part = [each for each in puts if _kind(each) == kind]
        unpacked = uncompressed_bytes(part) + (sealed - packed if kind == "other" else 0)
        share = f"uncompressed {unpacked / appended:.2f}x, {len(part)} objects"
        rows.append(
            Row(NAME, f"of it, {kind} objects", sum(each.bytes_up for each in part) / appended, "x", note=share)
        )
    return rows


async def _sealed(url: str) -> tuple[int, int]:
    """Return the size of all chunks that snapshots refer to in blobs, which these do not say, and what they take there.

    Nothing that young has been collected, so that every snapshot ever written is there.
    """
    keys = SessionKeys.of(TENANT, "conversation")
    store = await open_store(url)
    places: set[Place] = set()
    cursor: str | None = None
    while True:
        page = await store.list(keys.log, cursor=cursor)
        for entry in page.entries:
            name = parse_log_name(entry.key.removeprefix(keys.log))
            if name is not None and name.kind is Kind.SNAPSHOT:
                data = (await store.get(entry.key)).data
                tree = decode_snapshot(entry.key, data, sequence=name.sequence).tree
                chunks = (chunk for content in contents(tree) for chunk in content.chunks)
                places |= {chunk.place for chunk in chunks if chunk.place is not None}
        cursor = page.cursor
        if cursor is None:
            break
    await store.aclose()
    return sum(place.size for place in places), sum(place.length for place in places)


def _other_bytes(calls: Sequence[Call]) -> int:
    return sum(len(call.text.encode()) for call in calls if call.op == "write")


def _kind(put: Exchange) -> str:
    return {".c": "commit", ".s": "snapshot"}.get(put.target.partition("?")[0][-2:], "other")
