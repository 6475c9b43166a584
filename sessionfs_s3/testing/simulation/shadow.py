"""What a plain SQLite makes of what is stored: Python's own, in memory, with none of the engine's code.

The engine stores pages. Here the SQL of the calls that are stored is run anew, in the order of their records, and has
to come to the same contents.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Final

from sessionfs_s3.testing.simulation.history import Append, Log, Sight
from sessionfs_s3.testing.simulation.statements import LOOK, Shown, shown_to

# https://www.sqlite.org/fileformat2.html#the_database_header: a database in memory has no log to read beside the file.
_VERSIONS: Final = slice(18, 20)
_VERSIONS_WITHOUT_LOG: Final = b"\x01\x01"


class NoDatabase(Exception):
    """An image is none of a sound database."""


def patched(image: bytes, size: int, extents: Sequence[tuple[int, bytes]]) -> bytes:
    """Return *image* cut or zero-filled to *size*, with *extents* written over it."""
    out = bytearray(image[:size].ljust(size, b"\0"))
    for offset, data in extents:
        out[offset : offset + len(data)] = data
    return bytes(out)


def records_in(image: bytes) -> list[str]:
    """Return the records in the log of the database *image*, in order.

    Raises:
        NoDatabase: it is not whole.
    """
    with _opened(image) as connection:
        try:
            (state,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if state != "ok":
                raise NoDatabase(state)
            return [record for (record,) in connection.execute(LOOK[0])]
        except sqlite3.Error as error:
            raise NoDatabase(str(error)) from error


def judge(image: bytes, records: Sequence[str], appends: Sequence[Append], sights: Sequence[Sight]) -> Iterator[str]:
    """Yield what is wrong with the contents of the database *image*, whose log has *records*, and with *sights* of it.

    Each sight shows the first so many records: what it shows besides is what the calls up to there give.
    """
    calls = {append.record: append.call for append in appends if append.call is not None}
    shown: dict[int, list[Sight]] = {}
    for sight in sights:
        if sight.log is Log.DATABASE and sight.shown is not None:
            shown.setdefault(len(sight.records), []).append(sight)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as shadow:
        for count, record in enumerate(records, 1):
            call = calls.get(record)
            if call is None:
                yield f"{record} is in the database, and no call was to leave it"
                return
            try:
                call.replay(shadow)
            except sqlite3.Error as error:
                yield f"{record} is stored, and its SQL cannot come after what is stored before it: {error}"
                return
            if count in shown:
                expected = shown_to(shadow)
                yield from (_difference(sight, expected) for sight in shown[count] if sight.shown != expected)
        with _opened(image) as stored:
            if list(stored.iterdump()) != list(shadow.iterdump()):
                yield f"the database has other contents than its {len(records)} calls give in a plain SQLite"


def _difference(sight: Sight, expected: Shown) -> str:
    assert sight.shown is not None
    query, got, right = next(each for each in zip(LOOK, sight.shown, expected, strict=True) if each[1] != each[2])
    return (
        f"{sight.who} saw at {sight.started_s:.3f}, after {len(sight.records)} records, another database"
        f" than these give: {query}: {got}, and not {right}"
    )


@contextmanager
def _opened(image: bytes) -> Generator[sqlite3.Connection]:
    head = bytearray(image)
    if head:
        head[_VERSIONS] = _VERSIONS_WITHOUT_LOG
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        if head:
            connection.deserialize(bytes(head))
        yield connection
