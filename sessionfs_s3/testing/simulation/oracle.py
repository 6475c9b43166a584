"""What has to hold after every run, whatever happened in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format import CHAIN_START, Commit, Kind, decode_commit, next_chain, parse_log_name
from sessionfs_s3.fs import AppendFile, MakeDirectory, Remove, Rename, WriteDatabase, WriteFile, joined
from sessionfs_s3.testing.simulation.store import Bucket
from sessionfs_s3.testing.simulation.world import KEYS, Append, Fence, History, Sight
from sessionfs_s3.volume import Durability


def violations(history: History, bucket: Bucket, final: Sequence[str], files: dict[str, bytes]) -> Iterator[str]:
    """Yield every rule that is broken.

    Args:
        history: what the replicas and readers saw.
        bucket: what is stored.
        final: the records of the log as a fresh reader finds them.
        files: the files as a fresh reader finds them, by path.
    """
    yield from history.broken
    commits, complaints = _commits(bucket)
    yield from complaints
    yield from _fences(history.fences, commits)
    if not complaints and _model(commits) != files:
        yield "the files are not what the operations of the commits, applied one by one, give"
    yield from _once(history.appends, final)
    yield from _ordered(history.appends, final)
    for sight in history.sights:
        yield from _prefix(sight, history.appends, final)


def _commits(bucket: Bucket) -> tuple[list[Commit], list[str]]:
    """Return the commits of the log, from the first, and what is wrong with the chain; nothing collects them yet."""
    stored: dict[int, tuple[str, bytes]] = {}
    for key, found in bucket.objects.items():
        name = parse_log_name(key.removeprefix(KEYS.log))
        if name is not None and name.kind is Kind.COMMIT:
            stored[name.sequence] = (key, found.data)
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


def _fences(fences: Sequence[Fence], commits: Sequence[Commit]) -> Iterator[str]:
    for fence in fences:
        if not any(each.claim and each.epoch > fence.epoch and each.writer != fence.writer for each in commits):
            yield f"{fence.life} was told that it is fenced, and nobody has claimed the session after it"


def _model(commits: Sequence[Commit]) -> dict[str, bytes]:
    """Return the files after *commits*: a dictionary from paths to bytes, with none of the engine's code."""
    files: dict[str, bytes] = {}
    for commit in commits:
        for operation in commit.operations:
            match operation:
                case WriteFile(path=path, data=data):
                    files[joined(path)] = data
                case AppendFile(path=path, data=data):
                    files[joined(path)] += data
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
