"""What the delaying proxy saw: one record for each request, and what can be counted in a list of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

MAGIC: Final = b"SFS3"
FRAME_HEAD_BYTES: Final = 28
"""The part of an object that says how long its payload is: 8 bytes, big-endian, at 20 (docs/FORMAT.md)."""

NO_FRAME: Final = -1


class Exchange(NamedTuple):
    """One request and its answer. Times are in seconds on the proxy's own clock.

    Attributes:
        verb: PUT, GET, LIST, DELETE (also of many keys at once), POST, HEAD.
        target: what the request line named, percent-encoded.
        status: of the answer; 0 when the connection ended without one.
        started_s: when the request's head had arrived.
        delay_s: what was drawn for it: the answer leaves that long after ``started_s``, or as soon as there is one.
        answered_s: when the server's answer began to arrive.
        ended_s: when the answer had been handed on whole.
        bytes_up: size of the request's body.
        bytes_down: size of the answer's body, with its transfer coding.
        payload_bytes: what the frame in the body says its payload measures decompressed; NO_FRAME without a frame.
        connection: number of the client's connection, from 1.
    """

    verb: str
    target: str
    status: int
    started_s: float
    delay_s: float
    answered_s: float
    ended_s: float
    bytes_up: int
    bytes_down: int
    payload_bytes: int
    connection: int

    @property
    def held_s(self) -> float:
        """How long the proxy had it: the drawn delay, or what the server needed when that was longer."""
        return self.ended_s - self.started_s


def payload_bytes(head: bytes) -> int:
    """Return the decompressed payload length of the frame that begins with *head*; NO_FRAME where it is none."""
    if len(head) < FRAME_HEAD_BYTES or not head.startswith(MAGIC):
        return NO_FRAME
    return int.from_bytes(head[20:28], "big")


def verb_of(method: str, target: str) -> str:
    """Return the verb as the users of S3 know it, from the request line."""
    path, _, query = target.partition("?")
    names = {part.partition("=")[0] for part in query.split("&")}
    if method == "GET" and ("list-type" in names or path.strip("/").count("/") == 0):
        return "LIST"
    if method == "POST" and "delete" in names:
        return "DELETE"
    return method


def by_verb(exchanges: Iterable[Exchange]) -> dict[str, int]:
    """Return the number of requests of each verb that occurs: ``{"LIST": 1, "PUT": 2}``."""
    return dict(sorted(Counter(each.verb for each in exchanges).items()))


def round_trips(exchanges: Iterable[Exchange]) -> int:
    """Return the length of the longest chain in which every request began after the one before had ended.

    That many times somebody had to wait for the store. Requests side by side count once: of intervals on a line, taking
    the earliest end each time gives the longest chain.
    """
    count, free_s = 0, float("-inf")
    for each in sorted(exchanges, key=lambda each: each.ended_s):
        if each.started_s >= free_s:
            count += 1
            free_s = each.ended_s
    return count


def uncompressed_bytes(puts: Sequence[Exchange]) -> int:
    """Return what the bodies of *puts* measure without compression: a frame's payload length, any other body's size.

    A later part of a multipart upload belongs to the frame that its first part begins with, and is counted there.
    """
    total = 0
    framed_uploads: set[str] = set()
    for each in puts:
        upload, part = _multipart(each.target)
        if each.payload_bytes != NO_FRAME:
            total += each.payload_bytes
            framed_uploads.add(upload)
        elif not part or upload not in framed_uploads:
            total += each.bytes_up
    return total


def _multipart(target: str) -> tuple[str, str]:
    """Return the upload and the number of the part that *target* names; no part where it is no part."""
    path, _, query = target.partition("?")
    fields = dict(parse_qsl(query))
    return f"{path}?{fields.get('uploadId', '')}", fields.get("partNumber", "")
