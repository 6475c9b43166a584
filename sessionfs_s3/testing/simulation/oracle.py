"""What has to hold after every run, whatever happened in it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format import (
    CHAIN_START,
    Commit,
    Kind,
    decode_commit,
    decode_snapshot,
    next_chain,
    parse_log_name,
    unpack_chunk,
)
from sessionfs_s3.fs import (
    AppendFile,
    Clear,
    Content,
    File,
    MakeDirectory,
    Node,
    Operation,
    Path,
    Remove,
    Rename,
    Tree,
    WriteDatabase,
    WriteFile,
    bytes_of,
    joined,
    source_of,
)
from sessionfs_s3.testing.simulation import shadow
from sessionfs_s3.testing.simulation.history import KEYS, Append, Deletion, Fence, History, Log, Sight
from sessionfs_s3.testing.simulation.store import Bucket, Stored
from sessionfs_s3.volume.collection import SNAPSHOTS_KEPT
from sessionfs_s3.volume.state import State, replay

DATABASE: Final = "the database"
"""Where the database is among the files: no path is like it."""


def violations(history: History, bucket: Bucket, files: Mapping[str, bytes]) -> Iterator[str]:
    """Yield every rule that is broken.

    Args:
        history: what the replicas and readers saw.
        bucket: what is stored, and what ever was.
        files: the files, and the database, as a fresh reader finds them: see :func:`files_of`.
    """
    yield from history.broken
    final = files.get(Log.FILE.value, b"").decode().split()
    try:
        stored = shadow.records_in(files[DATABASE]) if DATABASE in files else []
    except shadow.NoDatabase as error:
        yield f"the database that is stored is none: {error}"
        return
    commits, complaints = _commits(bucket)
    yield from complaints
    yield from _fences(history.fences, [commit for commit, _ in commits])
    if complaints:
        return
    model = _Model(bucket)
    yield from model.follow(commits)
    spans = model.spans
    if model.files != files or (final, stored) != (spans[-1].records[Log.FILE], spans[-1].records[Log.DATABASE]):
        yield "the files are not what the operations of the commits, applied one by one, give"
    yield from _kept(bucket, commits, files)
    yield from _ordered(history.appends, model.places)
    yield from _once(history.appends, spans)
    for sight in history.sights:
        yield from _prefix(sight, history.appends, spans)
    for span in spans:
        shown = set(span.records[Log.DATABASE])
        sights = [sight for sight in history.sights if sight.log is Log.DATABASE and shown.issuperset(sight.records)]
        yield from shadow.judge(span.image, span.records[Log.DATABASE], history.appends, sights)
    for deletion in history.deletions:
        yield from _ended(deletion, history.appends, spans)


def _commits(bucket: Bucket) -> tuple[list[tuple[Commit, float]], list[str]]:
    """Return the commits of the log, from the first, collected or not, and what is wrong with the chain.

    Beside each stands when it was stored, in seconds. Of two that came to one slot the first counts: the other came
    late, after that had been collected or deleted.
    """
    stored: dict[int, Stored] = {}
    for each in bucket.history:
        name = parse_log_name(each.key.removeprefix(KEYS.log))
        if name is not None and name.kind is Kind.COMMIT:
            stored.setdefault(name.sequence, each)
    commits: list[tuple[Commit, float]] = []
    chain, epoch, writer = CHAIN_START, 0, b""
    for sequence in range(1, len(stored) + 1):
        if sequence not in stored:
            return commits, [f"commit {sequence} is missing below the newest, {max(stored)}"]
        each = stored[sequence]
        try:
            commit, digest = decode_commit(each.key, each.data, sequence=sequence)
        except Corrupt as error:
            return commits, [str(error)]
        if commit.claim:
            epoch, writer = commit.epoch, commit.writer
        elif (commit.chain, commit.epoch, commit.writer) != (chain, epoch, writer):
            return commits, [f"commit {sequence} does not follow the one before it"]
        chain = next_chain(CHAIN_START if commit.is_tombstone else chain, digest)
        commits.append((commit, each.at_s))
    return commits, []


def _kept(bucket: Bucket, commits: Sequence[tuple[Commit, float]], files: Mapping[str, bytes]) -> Iterator[str]:
    """Yield what collection has removed and should not have: once it has begun, two snapshots lead to the end.

    What was removed below a tombstone is not needed.
    """
    head = len(commits)
    tombstone = max((commit.sequence for commit, _ in commits if commit.is_tombstone), default=0)
    deleted = [parse_log_name(key.removeprefix(KEYS.log)) for _, key in bucket.deleted]
    if not any(name is not None and name.kind is Kind.COMMIT and name.sequence > tombstone for name in deleted):
        return
    names = {key: parse_log_name(key.removeprefix(KEYS.log)) for key in bucket.objects}
    snapshots = [name.sequence for name in names.values() if name is not None and name.kind is Kind.SNAPSHOT]
    whole = [number for number in snapshots if _restored(bucket, number, head) == files]
    if len(whole) < SNAPSHOTS_KEPT:
        yield f"snapshots {sorted(snapshots)} are there, and only {sorted(whole)} lead to the end of the log"


def _restored(bucket: Bucket, number: int, head: int) -> dict[str, bytes] | None:
    """Return the files that snapshot *number* and the commits after it lead to; None where something is missing."""
    key = KEYS.snapshot(number)
    data = bucket.objects[key].data
    state = State.of_snapshot(decode_snapshot(key, data, sequence=number), len(data))
    try:
        for sequence in range(number + 1, head + 1):
            key = KEYS.commit(sequence)
            state = replay(state, key, bucket.objects[key].data, lenient=True)
        return files_of(state.tree, {key: found.data for key, found in bucket.objects.items()})
    except (KeyError, Corrupt):
        return None


def files_of(tree: Tree, objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of *tree* by path, contents from the blobs among *objects*; KeyError when one is missing.

    The database, if there is one, is among them as :data:`DATABASE`.
    """
    found: dict[str, bytes] = {}
    if tree.database is not None:
        found[DATABASE] = _bytes(tree.database, objects)
    waiting: list[tuple[Path, Node]] = [((), tree.root)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, File):
            found[joined(path)] = _bytes(node.content, objects)
        else:
            waiting.extend(((*path, name), child) for name, child in node.entries.items())
    return found


def _bytes(content: Content, objects: Mapping[str, bytes]) -> bytes:
    out: list[bytes] = []
    for chunk in content.chunks:
        place = source_of(chunk.body)
        source = b""
        if place is not None:
            key = KEYS.blob(place.blob)
            source = unpack_chunk(key, place, objects[key][place.offset : place.offset + place.length])
        out.append(bytes_of(chunk.body, source))
    return b"".join(out)


def _fences(fences: Sequence[Fence], commits: Sequence[Commit]) -> Iterator[str]:
    for fence in fences:
        if not any(each.claim and each.epoch > fence.epoch and each.writer != fence.writer for each in commits):
            yield f"{fence.life} was told that it is fenced, and nobody has claimed the session after it"


@dataclass(slots=True)
class _Span:
    """What a session held from its beginning, or a deletion, to its end, or the next deletion.

    Attributes:
        since_s: when it began, in seconds: when the tombstone was stored.
        records: what was in each log at the end.
        image: the database at the end.
    """

    since_s: float
    records: dict[Log, list[str]] = field(default_factory=dict[Log, list[str]])
    image: bytes = b""


class _Model:
    """What the operations of the commits give, one by one: a dictionary from paths to bytes, and none of the engine.

    Attributes:
        files: the files and the database so far, as :func:`files_of` has them.
        places: by which operation, counted from the first of all, each record came, in either log.
        spans: what there was between the deletions.
    """

    def __init__(self, bucket: Bucket) -> None:
        """Begin with nothing; contents are in the blobs that ever were in *bucket*."""
        self.files: dict[str, bytes] = {}
        self.places: dict[str, int] = {}
        self.spans = [_Span(-math.inf)]
        self._ever = {each.key: each.data for each in bucket.history if each.data}
        self._in_file = 0
        self._in_database: list[str] = []

    def follow(self, commits: Sequence[tuple[Commit, float]]) -> Iterator[str]:
        """Apply the operations of *commits*; yield what is wrong with any."""
        operations = [(operation, at_s) for commit, at_s in commits for operation in commit.operations]
        for number, (operation, at_s) in enumerate(operations):
            if isinstance(operation, Clear):
                self._end_span()
                self.spans.append(_Span(at_s))
                self.files = {}
                self._in_file, self._in_database = 0, []
                continue
            if isinstance(operation, WriteDatabase):
                yield from self._write_database(operation, number)
            else:
                self._apply(operation, number)
        self._end_span()

    def _end_span(self) -> None:
        span = self.spans[-1]
        *span.records[Log.FILE], _ = self.files.get(Log.FILE.value, b"").decode().split("\n")
        span.records[Log.DATABASE] = self._in_database
        span.image = self.files.get(DATABASE, b"")

    def _apply(self, operation: Operation, number: int) -> None:
        files = self.files
        match operation:
            case WriteFile(path=path, content=content):
                files[joined(path)] = _bytes(content, self._ever)
            case AppendFile(path=path, content=content):
                files[joined(path)] += _bytes(content, self._ever)
            case Remove(path=path):
                gone = joined(path)
                self.files = {name: data for name, data in files.items() if not _within(name, gone)}
            case Rename(source=source, target=target):
                old, new = joined(source), joined(target)
                files.pop(new, None)
                self.files = {
                    new + name[len(old) :] if _within(name, old) else name: data for name, data in files.items()
                }
            case MakeDirectory() | WriteDatabase() | Clear():
                pass
        # One append may be several operations: a record is there with the end of its line.
        *records, _ = self.files.get(Log.FILE.value, b"").decode().split("\n")
        for record in records[self._in_file :]:
            self.places.setdefault(record, number)
        self._in_file = len(records)

    def _write_database(self, operation: WriteDatabase, number: int) -> Iterator[str]:
        """Each operation on the database is one call, which leaves one record; each leaves it whole."""
        image = shadow.patched(self.files.get(DATABASE, b""), operation.size, operation.extents)
        self.files[DATABASE] = image
        try:
            records = shadow.records_in(image)
        except shadow.NoDatabase as error:
            yield f"operation {number} leaves no database: {error}"
            return
        if not records or records[:-1] != self._in_database:
            yield f"operation {number} is not one call: after {self._in_database} the database has {records}"
        else:
            self.places.setdefault(records[-1], number)
        self._in_database = records


def _within(name: str, top: str) -> bool:
    return name == top or name.startswith(f"{top}/")


def _once(appends: Sequence[Append], spans: Sequence[_Span]) -> Iterator[str]:
    stored = {log: Counter(record for span in spans for record in span.records[log]) for log in Log}
    for log, records in stored.items():
        for record, times in records.items():
            if times > 1:
                yield f"{record} is stored {times} times"
        for record in records.keys() - {append.record for append in appends if append.log is log}:
            yield f"{record} is stored in {log.value}, and nobody wrote it"
    for append in appends:
        if append.is_promised and not stored[append.log][append.record]:
            yield f"{append.record} was acknowledged at {append.acknowledged_s:.3f} and is lost"
        if append.refused and stored[append.log][append.record]:
            yield f"{append.record} was refused, nothing of it was to be stored, and it is"


def _ordered(appends: Sequence[Append], places: Mapping[str, int]) -> Iterator[str]:
    """Yield what is stored in another order than it has to be, in either log or across both."""
    nowhere = len(places) + max(places.values(), default=0)
    promised = [append for append in appends if append.is_promised and append.record in places]
    for later in promised:
        for earlier in appends:
            if earlier.ended is None or places.get(earlier.record, nowhere) < places[later.record]:
                continue
            # Whatever was accepted before it in the same process, waited for or not, is stored before it; and calls
            # side by side are accepted in their order by each of the two.
            side_by_side = earlier.log is later.log and earlier.order < later.order
            if earlier.life == later.life and (side_by_side or earlier.ended < later.began):
                yield f"{later.record} was acknowledged, {earlier.record} before it is not stored before it"
            elif earlier.is_promised and earlier.ended < later.began:
                yield f"{earlier.record} was acknowledged before {later.record} began, and is stored after it"


def _prefix(sight: Sight, appends: Sequence[Append], spans: Sequence[_Span]) -> Iterator[str]:
    """Yield what is wrong with a sight, if it is not the beginning of a span, the right one, with all that was told."""
    seen = set(sight.records)
    for append in appends:
        own = append.log is sight.log and append.life == sight.who and append.record not in seen
        if own and append.ended is not None and append.ended < sight.began:
            yield f"{sight.who} does not see its own {append.record}, accepted before"
    complaints: list[str] = []
    for span, after in zip_longest(spans, spans[1:]):
        if tuple(span.records[sight.log][: len(sight.records)]) != sight.records:
            continue
        complaint = ""
        if after is not None and after.since_s < sight.started_s:
            complaint = f"what had been deleted at {after.since_s:.3f}"
        elif span.since_s > sight.ended_s:
            complaint = f"what began at {span.since_s:.3f}"
        for append in _told(appends, sight):
            if append.record not in seen and append.record in span.records[sight.log]:
                complaint = f"nothing of {append.record}, acknowledged before"
        if not complaint:
            return
        complaints.append(f"{sight.who} saw at {sight.started_s:.3f} {complaint}")
    yield from complaints or [f"{sight.who} saw at {sight.started_s:.3f} what is no prefix of {sight.log.value}"]


def _told(appends: Sequence[Append], sight: Sight) -> Iterator[Append]:
    """Yield the appends that were acknowledged before the load began that *sight* looked at."""
    for append in appends:
        told_s = append.acknowledged_s if append.log is sight.log and append.is_promised else None
        if told_s is not None and told_s < sight.started_s:
            yield append


def _ended(deletion: Deletion, appends: Sequence[Append], spans: Sequence[_Span]) -> Iterator[str]:
    """Yield what was acknowledged before *deletion* began, and lives on after it was acknowledged."""
    alive = {
        record
        for span, after in zip_longest(spans, spans[1:])
        if after is None or after.since_s > deletion.ended_s
        for records in span.records.values()
        for record in records
    }
    for append in appends:
        told = append.is_promised and append.ended is not None and append.ended < deletion.began
        if told and append.record in alive:
            yield f"{deletion.who} has deleted the session at {deletion.ended_s:.3f}, and {append.record} lives on"
