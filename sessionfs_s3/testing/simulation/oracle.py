"""What has to hold after every run, whatever happened in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

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
    Content,
    File,
    MakeDirectory,
    Node,
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
from sessionfs_s3.testing.simulation.store import Bucket
from sessionfs_s3.testing.simulation.world import KEYS, Append, Fence, History, Sight
from sessionfs_s3.volume import Durability
from sessionfs_s3.volume.collection import SNAPSHOTS_KEPT
from sessionfs_s3.volume.state import State, replay


def violations(history: History, bucket: Bucket, final: Sequence[str], files: dict[str, bytes]) -> Iterator[str]:
    """Yield every rule that is broken.

    Args:
        history: what the replicas and readers saw.
        bucket: what is stored, and what ever was.
        final: the records of the log as a fresh reader finds them.
        files: the files as a fresh reader finds them, by path.
    """
    yield from history.broken
    commits, complaints = _commits(bucket)
    yield from complaints
    yield from _fences(history.fences, commits)
    if not complaints and _model(commits, bucket) != files:
        yield "the files are not what the operations of the commits, applied one by one, give"
    if not complaints:
        yield from _kept(bucket, len(commits), files)
    yield from _once(history.appends, final)
    yield from _ordered(history.appends, final)
    for sight in history.sights:
        yield from _prefix(sight, history.appends, final)


def _commits(bucket: Bucket) -> tuple[list[Commit], list[str]]:
    """Return the commits of the log, from the first, collected or not, and what is wrong with the chain.

    Of two that came to one slot the first counts: the other came late, after that had been collected.
    """
    stored: dict[int, tuple[str, bytes]] = {}
    for each in bucket.history:
        name = parse_log_name(each.key.removeprefix(KEYS.log))
        if name is not None and name.kind is Kind.COMMIT:
            stored.setdefault(name.sequence, (each.key, each.data))
    commits: list[Commit] = []
    chain, epoch, writer = CHAIN_START, 0, b""
    for sequence in range(1, len(stored) + 1):
        if sequence not in stored:
            return commits, [f"commit {sequence} is missing below the newest, {max(stored)}"]
        key, data = stored[sequence]
        try:
            commit, digest = decode_commit(key, data, sequence=sequence)
        except Corrupt as error:
            return commits, [str(error)]
        if commit.claim:
            epoch, writer = commit.epoch, commit.writer
        elif (commit.chain, commit.epoch, commit.writer) != (chain, epoch, writer):
            return commits, [f"commit {sequence} does not follow the one before it"]
        chain = next_chain(chain, digest)
        commits.append(commit)
    return commits, []


def _kept(bucket: Bucket, head: int, files: dict[str, bytes]) -> Iterator[str]:
    """Yield what collection has removed and should not have: once it has begun, two snapshots lead to the end."""
    collected = [at_s for at_s, key in bucket.deleted if key.endswith(f".{Kind.COMMIT.value}")]
    if not collected:
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
    """Return the files of *tree* by path, contents from the blobs among *objects*; KeyError when one is missing."""
    found: dict[str, bytes] = {}
    waiting: list[tuple[Path, Node]] = [((), tree.root)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, File):
            found[joined(path)] = _bytes(node.content, objects)
        else:
            waiting.extend(((*path, name), child) for name, child in node.entries.items())
    return found


def _bytes(content: Content, objects: Mapping[str, bytes]) -> bytes:
    out = b""
    for chunk in content.chunks:
        place = source_of(chunk.body)
        source = b""
        if place is not None:
            key = KEYS.blob(place.blob)
            source = unpack_chunk(key, place, objects[key][place.offset : place.offset + place.length])
        out += bytes_of(chunk.body, source)
    return out


def _fences(fences: Sequence[Fence], commits: Sequence[Commit]) -> Iterator[str]:
    for fence in fences:
        if not any(each.claim and each.epoch > fence.epoch and each.writer != fence.writer for each in commits):
            yield f"{fence.life} was told that it is fenced, and nobody has claimed the session after it"


def _model(commits: Sequence[Commit], bucket: Bucket) -> dict[str, bytes]:
    """Return the files after *commits*: a dictionary from paths to bytes, with none of the engine's code."""
    ever = {each.key: each.data for each in bucket.history}
    files: dict[str, bytes] = {}
    for commit in commits:
        for operation in commit.operations:
            match operation:
                case WriteFile(path=path, content=content):
                    files[joined(path)] = _bytes(content, ever)
                case AppendFile(path=path, content=content):
                    files[joined(path)] += _bytes(content, ever)
                case Remove(path=path):
                    gone = joined(path)
                    files = {name: data for name, data in files.items() if not _within(name, gone)}
                case Rename(source=source, target=target):
                    old, new = joined(source), joined(target)
                    files.pop(new, None)
                    files = {
                        new + name[len(old) :] if _within(name, old) else name: data for name, data in files.items()
                    }
                case MakeDirectory() | WriteDatabase():
                    pass
    return files


def _within(name: str, top: str) -> bool:
    return name == top or name.startswith(f"{top}/")


def _once(appends: Sequence[Append], final: Sequence[str]) -> Iterator[str]:
    stored = Counter(final)
    for record, times in stored.items():
        if times > 1:
            yield f"{record} is stored {times} times"
    for record in stored.keys() - {append.record for append in appends}:
        yield f"{record} is stored, and nobody wrote it"
    for append in appends:
        if _is_promised(append) and not stored[append.record]:
            yield f"{append.record} was acknowledged at {append.acknowledged_s:.3f} and is lost"


def _ordered(appends: Sequence[Append], final: Sequence[str]) -> Iterator[str]:
    place = {record: index for index, record in enumerate(final)}
    stored = [append for append in appends if _is_promised(append) and append.record in place]
    for later in stored:
        for earlier in appends:
            # Whatever was accepted before it in the same process, waited for or not, is stored before it.
            before = earlier.life == later.life and earlier.order < later.order and earlier.acknowledged_s is not None
            if before and place.get(earlier.record, len(final)) > place[later.record]:
                yield f"{later.record} was acknowledged, {earlier.record} before it is not stored before it"
        for earlier in stored:
            ended_s = earlier.acknowledged_s
            if ended_s is not None and ended_s < later.started_s and place[earlier.record] > place[later.record]:
                yield f"{earlier.record} was acknowledged before {later.record} began, and is stored after it"


def _is_promised(append: Append) -> bool:
    """Return whether somebody was told that *append* is stored."""
    return append.durability is Durability.STORED and append.acknowledged_s is not None


def _prefix(sight: Sight, appends: Sequence[Append], final: Sequence[str]) -> Iterator[str]:
    if tuple(final[: len(sight.records)]) != sight.records:
        yield f"{sight.who} saw at {sight.started_s:.3f} what is no prefix of the log"
        return
    seen = set(sight.records)
    for append in filter(_is_promised, appends):
        ended_s = append.acknowledged_s
        if ended_s is not None and ended_s < sight.started_s and append.record not in seen:
            yield f"{sight.who} did not see at {sight.started_s:.3f} {append.record}, acknowledged before"
