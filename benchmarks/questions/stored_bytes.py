"""How many bytes are put into the store for a conversation, against the bytes that the runtime appended."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.conversation import Call, conversation, replay
from benchmarks.harness.exchanges import Exchange, by_verb, uncompressed_bytes
from benchmarks.harness.lab import TENANT, Lab, Sizes
from benchmarks.harness.report import Row
from sessionfs_s3 import SessionFs

NAME = "bytes"
_SEED = 4


async def run(lab: Lab, sizes: Sizes) -> list[Row]:
    """Replay the conversation through the provider; count every PUT at the proxy, also of what is deleted later."""
    calls = list(conversation(_SEED, sizes.turns, sizes.events_bytes))
    lab.proxy.take()
    async with SessionFs.open(lab.delayed(lab.prefix()), tenant=TENANT, **sizes.settings) as fs:
        appended = await replay(fs.provider("conversation"), iter(calls))
    seen = lab.proxy.take()
    puts = [each for each in seen if each.verb == "PUT"]
    plain = uncompressed_bytes(puts)
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
        share = f"uncompressed {uncompressed_bytes(part) / appended:.2f}x, {len(part)} objects"
        rows.append(
            Row(NAME, f"of it, {kind} objects", sum(each.bytes_up for each in part) / appended, "x", note=share)
        )
    return rows


def _other_bytes(calls: Sequence[Call]) -> int:
    return sum(len(call.text.encode()) for call in calls if call.op == "write")


def _kind(put: Exchange) -> str:
    return {".c": "commit", ".s": "snapshot"}.get(put.target.partition("?")[0][-2:], "other")
