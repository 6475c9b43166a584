"""The store in a directory: processes that die or race, file systems that refuse, and what lies on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sessionfs_s3.errors import Denied, InvalidInput, KeyNotFound, NoAnswer, PreconditionFailed
from sessionfs_s3.store import IF_ABSENT, UNCONDITIONAL, LocalStore, directory
from sessionfs_s3.store.directory import LEFTOVER_AGE_S_MIN, PRIVATE_NAME

# For N = 1, 2, … a process that puts objects until it is about to make its N-th call of the operating system, and dies
# there by SIGKILL; of a write it does half first. Says what was acknowledged, and ends when N was never reached.
DIES_AT_EVERY_CALL = """
    import asyncio, os, signal, sys
    from pathlib import Path
    from sessionfs_s3.store import IF_ABSENT, UNCONDITIONAL, LocalStore

    CALLS = ("open", "write", "utime", "fsync", "fstat", "close", "link", "rename", "unlink", "mkdir", "fchmod")
    calls = 0

    def count(name, last_call):
        real = getattr(os, name)

        def call(*arguments, **named):
            global calls
            calls += 1
            if calls == last_call:
                if name == "write":
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        setattr(os, name, call)

    async def main(last_call):
        store = await LocalStore.open(Path(sys.argv[1]) / str(last_call))
        await store.put("log/0", b"0" * 1000, condition=IF_ABSENT)
        for name in CALLS:
            count(name, last_call)
        for key, data, condition in (
            ("log/1", b"1" * 1000, IF_ABSENT),
            ("log/0", b"new" * 1000, UNCONDITIONAL),
            ("another/folder/1", b"2" * 1000, IF_ABSENT),
        ):
            await store.put(key, data, condition=condition)
            print(last_call, key, flush=True)

    for last_call in range(1, 1000):
        child = os.fork()
        if not child:
            asyncio.run(main(last_call))
            os._exit(0)
        if os.waitpid(child, 0)[1] != signal.SIGKILL:
            break
        print(last_call, "died", flush=True)
"""

RACER = """
    import asyncio, sys
    from pathlib import Path
    from sessionfs_s3.errors import PreconditionFailed
    from sessionfs_s3.store import IF_ABSENT, LocalStore

    async def main():
        store = await LocalStore.open(Path(sys.argv[1]))
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(40):
            try:
                await store.put(f"new/{number}/slot", f"{sys.argv[2]}/{number}".encode(), condition=IF_ABSENT)
                print(f"new/{number}/slot", flush=True)
            except PreconditionFailed:
                pass
        await store.aclose()

    asyncio.run(main())
"""

COUNTER = """
    import asyncio, sys
    from pathlib import Path
    from sessionfs_s3.errors import PreconditionFailed
    from sessionfs_s3.store import IfMatches, LocalStore

    async def main():
        store = await LocalStore.open(Path(sys.argv[1]))
        done = 0
        while done < 25:
            found = await store.get("counter")
            try:
                await store.put("counter", b"%d" % (int(found.data) + 1), condition=IfMatches(found.etag))
                done += 1
            except PreconditionFailed:
                pass
        await store.aclose()

    asyncio.run(main())
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[LocalStore]:
    async with contextlib.aclosing(await LocalStore.open(root)) as store:
        yield store


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def reach(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=60)
    return out


async def test_wherever_a_put_is_killed_it_is_whole_or_not_there(root: Path) -> None:
    process = start(DIES_AT_EVERY_CALL, str(root))
    said = [line.split() for line in (await asyncio.to_thread(finish, process)).splitlines()]
    assert process.returncode == 0
    deaths = [call for call, what in said if what == "died"]
    assert len(deaths) > 30, "the puts make more calls than that"
    whole = {
        "log/0": {b"0" * 1000, b"new" * 1000},
        "log/1": {b"1" * 1000},
        "another/folder/1": {b"2" * 1000},
    }
    for call in deaths:
        acknowledged = {what for number, what in said if number == call and what != "died"}
        async with contextlib.aclosing(await LocalStore.open(root / call)) as store:
            found = {entry.key for entry in (await store.list("")).entries}
            assert found >= {"log/0", *acknowledged}, f"killed at call {call}: an acknowledged put is gone"
            for key in found:
                assert (await store.get(key)).data in whole[key], f"killed at call {call}: {key} is not whole"
            if "log/0" in acknowledged:
                assert (await store.get("log/0")).data == b"new" * 1000
            # The next writer takes the slot that was under way, or finds it taken; never something half done.
            for key in whole.keys() - found:
                await store.put(key, b"next", condition=IF_ABSENT)
            for key in found:
                with pytest.raises(PreconditionFailed):
                    await store.put(key, b"next", condition=IF_ABSENT)


async def test_leftovers_are_swept_when_they_are_old(root: Path) -> None:
    (root / PRIVATE_NAME).mkdir(parents=True)
    old, young = root / PRIVATE_NAME / "put-1-old", root / PRIVATE_NAME / "put-2-young"
    for path in (old, young):
        path.write_bytes(b"half")
    long_ago = time.time() - LEFTOVER_AGE_S_MIN - 60
    os.utime(old, (long_ago, long_ago))
    async with contextlib.aclosing(await LocalStore.open(root)) as store:
        assert not old.exists()
        assert young.exists(), "it may be another process's, under way"
        assert (await store.list("")).entries == (), "temporary files are no objects"
        await store.put("key", b"x", condition=IF_ABSENT)
    assert sorted(path.name for path in (root / PRIVATE_NAME).iterdir()) == [young.name], "a put leaves nothing behind"


async def test_processes_that_race_create_each_key_once(root: Path) -> None:
    racers = [start(RACER, str(root), str(number)) for number in range(8)]
    try:
        assert {reach(process) for process in racers} == {"ready\n"}
        for process in racers:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        won = {number: finish(process).split() for number, process in enumerate(racers)}
    finally:
        for process in racers:
            process.kill()
            process.wait()
    assert [process.returncode for process in racers] == [0] * 8
    winner_of = {key: number for number, keys in won.items() for key in keys}
    assert sum(len(keys) for keys in won.values()) == 40, "a key was created twice, or not at all"
    async with contextlib.aclosing(await LocalStore.open(root)) as store:
        for key, number in winner_of.items():
            assert (await store.get(key)).data == f"{number}/{key.split('/')[1]}".encode()


async def test_processes_that_race_lose_no_update(root: Path) -> None:
    async with contextlib.aclosing(await LocalStore.open(root)) as store:
        await store.put("counter", b"0", condition=IF_ABSENT)
        processes = [start(COUNTER, str(root)) for _ in range(4)]
        for process in processes:
            await asyncio.to_thread(finish, process)
        assert [process.returncode for process in processes] == [0] * 4
        assert (await store.get("counter")).data == b"100"


async def test_directories_come_and_go_under_concurrent_writers(store: LocalStore, root: Path) -> None:
    """A delete removes directories that are empty; a put that is on its way into one makes it anew."""

    async def churn(number: int) -> None:
        for _ in range(30):
            await store.put(f"a/b/c/{number}", b"x", condition=IF_ABSENT)
            await store.delete([f"a/b/c/{number}"])

    await asyncio.gather(*(churn(number) for number in range(8)))
    assert await asyncio.to_thread(lambda: [path.name for path in root.iterdir()]) == [PRIVATE_NAME]


async def test_what_lies_on_the_disk_is_private_and_plain(store: LocalStore, root: Path) -> None:
    await store.put("tenants/acme/log/1.c", b"contents", condition=IF_ABSENT)
    path = root / "tenants/acme/log/1.c"
    assert path.read_bytes() == b"contents"
    assert path.stat().st_mode & 0o777 == 0o600
    for folder in (root, root / PRIVATE_NAME, *list(path.parents)[:3]):
        assert folder.stat().st_mode & 0o777 == 0o700


async def test_foreign_files_are_passed_over(store: LocalStore, root: Path) -> None:
    await store.put("log/1", b"x", condition=IF_ABSENT)
    (root / "log" / "white space").write_bytes(b"x")
    (root / "log" / "link").symlink_to("/etc/hostname")
    (root / "linked").symlink_to("/etc")
    (root / "empty").mkdir()
    os.mkfifo(root / "log" / "pipe")
    assert [entry.key for entry in (await store.list("")).entries] == ["log/1"]
    assert (await store.list("linked/")).entries == ()
    for key in ("empty", "log/pipe"):
        with pytest.raises(KeyNotFound):
            await store.get(key)
    with pytest.raises(Denied):
        await store.get("log/link")


async def test_an_entity_tag_is_of_one_put(store: LocalStore) -> None:
    """The same contents put again are another object: what was read before may have been something else between."""
    etags: list[str] = []
    for _ in range(200):
        etags.append(await store.put("key", b"same", condition=UNCONDITIONAL))
        assert (await store.get("key")).etag == etags[-1]
    assert len(set(etags)) == len(etags)


async def test_listing_reads_no_contents_and_little_else(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of a large log costs one look at its directory and one at each of its files."""
    (root / "log").mkdir()
    (root / "other").mkdir()
    for number in range(3_000):
        (root / "log" / f"{number:016x}.c").write_bytes(b"x")
    looks: list[str] = []
    real_stat, real_open = os.stat, os.open

    def stat(path: str, **where: object) -> os.stat_result:
        looks.append(str(path))
        return real_stat(path, **where)  # type: ignore[arg-type]

    def open_(path: str, *arguments: int, **where: int) -> int:
        looks.append(str(path))
        return real_open(path, *arguments, **where)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "open", open_)
    page = await store.list("log/", limit=10)
    monkeypatch.undo()
    assert [entry.key for entry in page.entries] == [f"log/{number:016x}.c" for number in range(10)]
    assert looks == ["log", *(entry.key for entry in page.entries)]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, Denied),
        (errno.EDQUOT, Denied),
        (errno.EROFS, Denied),
        (errno.EIO, NoAnswer),
        (errno.EMFILE, NoAnswer),
    ],
)
async def test_a_disk_that_refuses_is_named_and_nothing_is_lost(
    store: LocalStore,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    expected: type[Exception],
) -> None:
    await store.put("key", b"first", condition=IF_ABSENT)

    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", fail)
    for condition in (UNCONDITIONAL, IF_ABSENT):
        with pytest.raises(expected, match=errno.errorcode[code]) as caught:
            await store.put("key", b"second", condition=condition)
        assert type(caught.value) is expected
    monkeypatch.undo()
    assert (await store.get("key")).data == b"first"
    assert sorted(path.name for path in (root / PRIVATE_NAME).iterdir()) in ([], ["lock"]), "temporary files stayed"


async def test_a_directory_that_does_not_sync_leaves_the_outcome_open(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put("log/1", b"first", condition=IF_ABSENT)
    real_fsync = os.fsync
    calls: list[int] = []

    def fail_on_directories(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:  # The file's own contents come first.
            raise OSError(errno.EACCES, "no permission, of all things")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_on_directories)
    with pytest.raises(NoAnswer, match="perhaps not durably"):
        await store.put("log/2", b"second", condition=IF_ABSENT)


@pytest.mark.parametrize(("code", "expected"), [(errno.EACCES, Denied), (errno.EROFS, Denied), (errno.EIO, NoAnswer)])
async def test_a_directory_that_cannot_be_made_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "mkdir", fail)
    with pytest.raises(expected, match=errno.errorcode[code]) as caught:
        await LocalStore.open(root)
    assert str(root) in str(caught.value)


async def test_a_file_in_the_way_is_denied(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((Denied, NoAnswer), match="file"):
        await LocalStore.open(tmp_path / "file")
    await store.put("a", b"x", condition=IF_ABSENT)
    await store.put("b/c", b"x", condition=IF_ABSENT)
    for key in ("a/b", "b"):
        with pytest.raises((Denied, PreconditionFailed)):
            await store.put(key, b"x", condition=IF_ABSENT)
        with pytest.raises(Denied):
            await store.put(key, b"x", condition=UNCONDITIONAL)
    assert [entry.key for entry in (await store.list("")).entries] == ["a", "b/c"]


async def test_a_directory_that_vanishes_is_not_an_empty_store(store: LocalStore, root: Path, tmp_path: Path) -> None:
    await store.put("log/1", b"x", condition=IF_ABSENT)
    await asyncio.to_thread(root.rename, tmp_path / "moved")
    await asyncio.to_thread(root.mkdir)
    assert len((await store.list("log/")).entries) == 1, "the store is the directory, not whatever has its name"
    await asyncio.to_thread(subprocess.run, ["rm", "-r", str(tmp_path / "moved")], check=True)
    for call in (store.list("log/"), store.get("log/1"), store.put("log/2", b"x", condition=IF_ABSENT)):
        with pytest.raises(Denied):
            await call


async def test_a_directory_that_folds_case_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "_exists", lambda _name, _directory: True)
    with pytest.raises(InvalidInput, match="upper case from lower") as caught:
        await LocalStore.open(root)
    assert str(root) in str(caught.value)
    assert list((root / PRIVATE_NAME).iterdir()) == []


async def test_a_directory_without_hard_links_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(InvalidInput, match="hard links"):
        await LocalStore.open(root)


async def test_a_root_that_is_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    async with contextlib.aclosing(await LocalStore.open(tmp_path / "link")) as store:
        await store.put("a/b", b"x", condition=IF_ABSENT)
    assert (tmp_path / "real/a/b").read_bytes() == b"x"


async def test_closing_waits_for_what_is_under_way(root: Path) -> None:
    store = await LocalStore.open(root)
    puts = [asyncio.create_task(store.put(f"log/{number}", b"x", condition=IF_ABSENT)) for number in range(40)]
    await asyncio.sleep(0)
    await store.aclose()
    await asyncio.gather(*puts)
    assert len(list((root / "log").iterdir())) == 40
