"""Databases in processes of their own: the same answers as in this one, and none of the trouble."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from sessionfs_s3.errors import InvalidInput
from sessionfs_s3.sqlite import DatabaseChange, DatabaseFull, Limits, ScratchError, SqlError, Statement, WorkerHost
from sessionfs_s3.sqlite import connection as connection_module
from sessionfs_s3.sqlite.connection import _FORK_SERVER, WorkerDatabase
from sessionfs_s3.sqlite.forkserver import ForkServer
from sessionfs_s3.sqlite.wire import PART_BYTES, Done, Frame, FrameKind, change_frames, result_frames
from sessionfs_s3.sqlite.worker import _Wire
from tests.sqlite.replica import Replica

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
NUMBERS = ENDLESS.replace("FROM n)", "FROM n WHERE i < :n)")
# Takes minutes in one step of SQLite's virtual machine, that is, between two looks at the clock.
QUADRATIC = "SELECT instr(hex(zeroblob(1900000)), hex(zeroblob(900000)) || '1')"

Open = Callable[..., Awaitable[WorkerDatabase]]


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    directory = tmp_path / "workers"
    directory.mkdir()
    return directory


@pytest.fixture
async def open_database(scratch: Path) -> AsyncIterator[Open]:
    """Open databases with the image and the limits that are given; nothing of them stays."""
    host = WorkerHost(directory=scratch)
    opened: list[WorkerDatabase] = []

    async def open_one(*image: bytes, **limits: float) -> WorkerDatabase:
        opened.append(await host.open(chunks(*image), Limits(**limits)))  # type: ignore[arg-type]
        return opened[-1]

    yield open_one
    for database in opened:
        await database.aclose()
    assert left(scratch) == []


def left(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def process_of(database: WorkerDatabase) -> int:
    """Return the process that has the database's files open."""
    for process in Path("/proc").iterdir():
        try:
            links = [str(link.readlink()) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        if any(link.startswith(str(database._directory)) for link in links):
            return int(process.name)
    raise AssertionError("no process has the database open")


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # another process has no event to announce its end
        await asyncio.sleep(0.01)


# The same answers


@pytest.mark.parametrize(
    ("kind", "sql", "params"),
    [
        ("exec", "CREATE TABLE u(a); INSERT INTO u VALUES (1), (2)", None),
        ("run", "INSERT INTO t(v) VALUES (:v)", {"v": b"\x00\xff"}),
        ("run", "INSERT INTO t(v) VALUES (:v)", {"v": float("inf")}),
        ("run", "INSERT INTO t(v) VALUES (:v)", {"v": 2**62}),
        ("run", "INSERT INTO t(v) VALUES ($v) RETURNING id, v", {"$v": "ü🙂\ud800"}),
        ("run", "UPDATE t SET v = 1", None),
        ("query", "SELECT NULL AS a, 1.0 AS b, 9223372036854775807 AS c, x'00' AS d, 'x' AS a", None),
        ("query", "SELECT * FROM t WHERE 0", None),
        ("query", "", None),
        ("query", "SELECT nope", None),
        ("query", "ATTACH 'x' AS x", None),
        ("query", "SELECT :a", {"a": float("nan")}),
        ("query", "SELECT :a", {}),
        ("nonsense", "SELECT 1", None),
        ("run", "SELECT 1; SELECT 2", None),
        ("query", NUMBERS + "SELECT i, hex(zeroblob(100)) AS text FROM n", {"n": 5000.0}),
        ("run", NUMBERS + "INSERT INTO t(v) SELECT hex(zeroblob(1000)) FROM n", {"n": 1000.0}),
    ],
)
async def test_the_answer_is_the_engines_own(
    open_database: Open, tmp_path: Path, kind: str, sql: str, params: dict[str, float | str | bytes | None] | None
) -> None:
    near = Replica(tmp_path)
    far = await open_database()

    async def call(make: Callable[[], object]) -> object:
        try:
            made = make()
            return await made if isinstance(made, Awaitable) else made
        except (SqlError, InvalidInput) as failure:
            return type(failure), str(failure)

    for each in ("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES ('kept')", "SELECT 1"):
        assert near.live.query("exec", each) == await far.query("exec", each, None)
    here = await call(lambda: near.live.query(kind, sql, params))  # type: ignore[arg-type]
    there = await call(lambda: far.query(kind, sql, params))  # type: ignore[arg-type]
    assert there == here
    assert not far.lost
    near.live.close()


async def test_a_transaction_of_many_statements(open_database: Open) -> None:
    database = await open_database()
    await database.query("exec", "CREATE TABLE t(id INTEGER PRIMARY KEY, v)", None)
    statements = [Statement("run", "INSERT INTO t(v) VALUES (:v)", {"v": "x" * 500}) for _ in range(3000)]
    results, change = await database.transaction(statements)
    assert [result.last_insert_rowid for result in results] == list(range(1, 3001))
    assert change is not None
    assert sum(len(contents) for _, contents in change.extents) > 2 * PART_BYTES
    assert await database.transaction([]) == ((), None)


async def test_an_image_comes_back(open_database: Open) -> None:
    first = await open_database()
    _, change = await first.query(
        "exec", f"CREATE TABLE t AS {NUMBERS} SELECT i, randomblob(1000) AS b FROM n", {"n": 3000.0}
    )
    assert isinstance(change, DatabaseChange)
    ((offset, image),) = change.extents
    assert (offset, len(image)) == (0, change.size)
    second = await open_database(image[:1000], image[1000:])
    sums = "SELECT count(*) AS n, sum(length(b)) AS b, hex(max(b)) AS top FROM t"
    assert (await second.query("query", sums, None))[0] == (await first.query("query", sums, None))[0]


async def test_an_image_that_is_no_database(open_database: Open, scratch: Path) -> None:
    with pytest.raises(InvalidInput, match="does not begin as a database does"):
        await open_database(b"x" * (3 * PART_BYTES))
    assert left(scratch) == []


async def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    host = WorkerHost(directory=tmp_path / "missing")
    with pytest.raises(ScratchError, match=r"^this machine cannot hold the session's database: No such file or dir"):
        await host.open(chunks(), Limits())
    (tmp_path / "missing").mkdir()
    await (await host.open(chunks(), Limits())).aclose()


async def test_a_program_without_an_interpreter_is_told_so(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_FORK_SERVER", ForkServer())
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ScratchError, match=r"no process for .*: the Python interpreter .* cannot be started"):
        await WorkerHost(directory=scratch).open(chunks(), Limits())


async def test_an_image_that_cannot_be_read_leaves_nothing(scratch: Path) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * 4096
        raise KeyError("no such blob")

    with pytest.raises(KeyError, match="no such blob"):
        await WorkerHost(directory=scratch).open(failing(), Limits())
    assert left(scratch) == []


# Bounds


async def test_a_step_that_takes_minutes_is_ended_with_its_process(open_database: Open) -> None:
    database = await open_database(call_s=0.5)
    pid = process_of(database)
    with pytest.raises(SqlError, match=r"ran for more than 0.5 s and was rolled back") as caught:
        await database.query("query", QUADRATIC, None)
    assert caught.value.reason == "timeout"
    assert database.lost
    await eventually(lambda: not is_running(pid))
    with pytest.raises(ScratchError, match="gone"):
        await database.query("query", "SELECT 1", None)


@pytest.mark.parametrize(
    "sql",
    [
        f"{NUMBERS} SELECT i, hex(randomblob(20)) AS r FROM n ORDER BY r",
        f"{NUMBERS} SELECT count(*) FROM (SELECT DISTINCT hex(randomblob(20)) FROM n)",
        f"{NUMBERS} SELECT count(*) FROM (SELECT hex(randomblob(20)) AS r, count(*) FROM n GROUP BY r)",
        f"{NUMBERS} SELECT row_number() OVER (ORDER BY i DESC) FROM n",
    ],
)
async def test_ten_million_rows_do_not_fit(open_database: Open, sql: str) -> None:
    database = await open_database(memory_bytes_max=16_000_000)
    await database.query("exec", "CREATE TABLE t(v); INSERT INTO t VALUES ('kept')", None)
    with pytest.raises(SqlError, match="needs more memory than the 16,000,000 bytes that it may use") as caught:
        await database.query("query", sql, {"n": 1e7})
    assert caught.value.reason == "limit"
    assert database.lost, "what it has allocated is given back with the process"


async def test_a_call_that_stays_small_keeps_its_process(open_database: Open) -> None:
    database = await open_database()
    for _ in range(3):
        await database.query("query", f"{NUMBERS} SELECT i FROM n", {"n": 20_000.0})
    assert not database.lost


async def test_the_database_is_full(open_database: Open) -> None:
    database = await open_database(database_bytes_max=400_000)
    with pytest.raises(DatabaseFull, match="400,000 bytes"):
        await database.query("exec", f"CREATE TABLE t AS {NUMBERS} SELECT randomblob(1000) FROM n", {"n": 1000.0})
    assert not database.lost


async def test_what_is_too_much_is_refused_before_it_travels(open_database: Open) -> None:
    database = await open_database(sql_bytes_max=1000, statements_max=5, request_bytes_max=2000, value_bytes_max=1500)
    one = Statement("query", "SELECT 1")
    for statements, rule in (
        ([one] * 6, "6 statements; 5 may be"),
        ([Statement("query", "SELECT " + "1" * 1000)], "longer than 1,000 bytes"),
        ([Statement("query", "SELECT :a", {"a": "ü" * 700})] * 2, "more than 2,000 bytes"),
        ([Statement("query", "SELECT :a", {"a": b"x" * 1501})], "parameter 'a' is longer than 1,500 bytes"),
        ([one, Statement("query", "SELECT :a", {"a": object()})], "parameter of statement 2 is neither null"),  # type: ignore[dict-item]
    ):
        with pytest.raises(SqlError, match=rule):
            await database.transaction(statements)
    assert len((await database.transaction([one] * 5))[0]) == 5


# Ends


async def test_a_call_that_is_cancelled(open_database: Open) -> None:
    database = await open_database()
    await database.query("exec", "CREATE TABLE t(v)", None)
    call = asyncio.create_task(database.query("run", f"INSERT INTO t {ENDLESS} SELECT i FROM n WHERE i < 0", None))
    await asyncio.sleep(0.1)
    database.cancel()
    with pytest.raises(SqlError, match="cancelled and rolled back"):
        await call
    assert not database.lost
    database.cancel()
    assert (await database.query("query", "SELECT count(*) AS n FROM t", None))[0] is not None


async def test_a_call_that_cannot_be_cancelled_is_killed(open_database: Open, scratch: Path) -> None:
    database = await open_database()
    pid = process_of(database)
    call = asyncio.create_task(database.query("query", QUADRATIC, None))
    await asyncio.sleep(0.1)
    database.cancel()
    with pytest.raises(SqlError, match="cancelled and rolled back"):
        await call
    await eventually(lambda: not is_running(pid))
    await database.aclose()
    assert left(scratch) == []


async def test_a_caller_that_gives_up_takes_the_process_with_it(open_database: Open) -> None:
    database = await open_database()
    pid = process_of(database)
    call = asyncio.create_task(database.query("query", f"{ENDLESS} SELECT count(*) FROM n", None))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await eventually(lambda: not is_running(pid))


async def test_a_worker_that_is_killed_says_nothing_was_kept(open_database: Open) -> None:
    database = await open_database()
    call = asyncio.create_task(database.query("query", f"{ENDLESS} SELECT count(*) FROM n", None))
    await asyncio.sleep(0.1)
    os.kill(process_of(database), signal.SIGKILL)
    with pytest.raises(ScratchError, match="has ended"):
        await call


async def test_a_fork_server_that_died_is_replaced(open_database: Open) -> None:
    first = await open_database()
    assert _FORK_SERVER._process is not None
    os.kill(_FORK_SERVER._process.pid, signal.SIGKILL)
    await eventually(lambda: not is_running(_FORK_SERVER._process.pid))  # type: ignore[union-attr]
    second = await open_database()
    for database in (first, second):
        assert (await database.query("query", "SELECT 1 AS v", None))[0] is not None


async def test_nothing_survives_a_host_that_is_killed(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from sessionfs_s3.sqlite import Limits, WorkerHost

        async def nothing():
            return
            yield b""

        async def main():
            host = WorkerHost(directory=Path(sys.argv[1]))
            idle, busy = await host.open(nothing(), Limits()), await host.open(nothing(), Limits())
            endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
            call = asyncio.create_task(busy.query("query", endless, None))
            await asyncio.sleep(0.1)
            print("ready", flush=True)
            await call

        asyncio.run(main())
    """)
    command = [sys.executable, "-c", script, str(tmp_path)]
    with await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
        family = [pid for pid in processes() if str(tmp_path) in descriptors(pid)]
        assert len(family) == 2
        process.kill()
    await eventually(lambda: not any(map(is_running, family)))
    assert left(tmp_path) == []


async def test_a_host_that_forks_gets_a_server_of_its_own(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import asyncio, os, sys
        from pathlib import Path
        from sessionfs_s3.sqlite import Limits, WorkerHost

        async def nothing():
            return
            yield b""

        async def main():
            database = await WorkerHost(directory=Path(sys.argv[1])).open(nothing(), Limits())
            result, _ = await database.query("query", "SELECT 41 + 1 AS v", None)
            await database.aclose()
            return result.rows[0]["v"]

        assert asyncio.run(main()) == 42
        if child := os.fork():
            assert os.waitpid(child, 0) == (child, 0)
        assert asyncio.run(main()) == 42
    """)
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert left(tmp_path) == []


def processes() -> list[int]:
    return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]


def descriptors(pid: int) -> str:
    """Return what the process has open, one a line; nothing where it is gone."""
    try:
        return "\n".join(str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return ""


async def test_nothing_survives_a_host_that_is_killed_in_the_middle_of_a_long_step(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import asyncio, sys
        from pathlib import Path
        from sessionfs_s3.sqlite import Limits, WorkerHost

        async def nothing():
            return
            yield b""

        async def main():
            host = WorkerHost(directory=Path(sys.argv[1]))
            ended, busy = await host.open(nothing(), Limits(call_s=0.1)), await host.open(nothing(), Limits())
            try:
                await ended.query("query", {QUADRATIC!r}, None)
            except Exception as failure:
                print(failure, flush=True)
            call = asyncio.create_task(busy.query("query", {QUADRATIC!r}, None))
            await asyncio.sleep(0.1)
            print("ready", flush=True)
            await call

        asyncio.run(main())
    """)
    command = [sys.executable, "-c", script, str(tmp_path)]
    with await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"ran for more than 0.1 s" in await asyncio.to_thread(process.stdout.readline)
        assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
        assert len(left(tmp_path)) == 1, "what the first left behind is gone already"
        process.kill()
    await eventually(lambda: left(tmp_path) == [])


async def test_workers_that_end_by_the_dozen_do_not_end_the_fork_server(scratch: Path) -> None:
    host = WorkerHost(directory=scratch)
    await (await host.open(chunks(), Limits())).aclose()
    assert _FORK_SERVER._process is not None
    server = _FORK_SERVER._process.pid
    for _ in range(20):
        databases = await asyncio.gather(*(host.open(chunks(), Limits()) for _ in range(6)))
        pids = [process_of(database) for database in databases]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await asyncio.gather(*(database.aclose() for database in databases))
    assert is_running(server)


async def test_a_fork_server_that_is_stopped_stops_nobody_for_ever(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_ANSWER_S_MAX", 0.3)
    host = WorkerHost(directory=scratch)
    await (await host.open(chunks(), Limits())).aclose()
    assert _FORK_SERVER._process is not None
    pid = _FORK_SERVER._process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ScratchError, match="could not be opened: TimeoutError"):
            await host.open(chunks(bytes(4096) * 1000), Limits())
    finally:
        os.kill(pid, signal.SIGKILL)


# Walls


async def test_a_worker_has_nothing_of_its_host(open_database: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with socket.create_server(("127.0.0.1", 0)):
        database = await open_database()
        pid = process_of(database)
        environment = await asyncio.to_thread(Path(f"/proc/{pid}/environ").read_bytes)
        assert environment == b""
        opened = sorted(descriptors(pid).replace(str(database._directory), "").splitlines())
    sockets = [link for link in opened if link.startswith("socket:")]
    files = [link for link in opened if link.startswith("/session.db")]
    others = set(opened) - set(sockets) - set(files)
    assert len(sockets) == 1, "its own, to its host"
    assert set(files) == {"/session.db", "/session.db-shm", "/session.db-wal"}
    assert others == {"/dev/null"}
    limits = await asyncio.to_thread(Path(f"/proc/{pid}/limits").read_text)
    assert "unlimited" not in "".join(line for line in limits.splitlines() if "address space" in line)


# More databases than processes


async def test_the_database_that_idled_longest_makes_room(scratch: Path) -> None:
    host = WorkerHost(2, scratch)
    first, second = await host.open(chunks(), Limits()), await host.open(chunks(), Limits())
    await first.query("query", "SELECT 1", None)
    third = await host.open(chunks(), Limits())
    assert (first.lost, second.lost, third.lost) == (False, True, False)
    assert len(left(scratch)) == 2
    for database in (first, second, third):
        await database.aclose()


async def test_whoever_finds_every_process_busy_waits(scratch: Path) -> None:
    host = WorkerHost(1, scratch)
    first = await host.open(chunks(), Limits())
    call = asyncio.create_task(first.query("query", f"{ENDLESS} SELECT count(*) FROM n", None))
    await asyncio.sleep(0.05)
    waiting = [asyncio.create_task(host.open(chunks(), Limits())) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert not any(each.done() for each in waiting)
    assert len(left(scratch)) == 1
    first.cancel()
    with pytest.raises(SqlError, match="cancelled"):
        await call
    databases = await asyncio.gather(*waiting)
    assert sorted(database.lost for database in (first, *databases)) == [False, True, True, True]
    for database in databases:
        await database.aclose()


async def test_a_call_that_begins_is_not_evicted(scratch: Path) -> None:
    host = WorkerHost(1, scratch)
    first = await host.open(chunks(), Limits())
    many = [Statement("query", "SELECT :a AS a", {"a": "x" * 300_000})] * 20
    call = asyncio.create_task(first.transaction(many))
    await asyncio.sleep(0)
    second = asyncio.create_task(host.open(chunks(), Limits()))
    assert len((await call)[0]) == 20
    await (await second).aclose()
    await first.aclose()


async def test_closing_ends_a_call_that_is_not_even_sent(scratch: Path) -> None:
    database = await WorkerHost(directory=scratch).open(chunks(), Limits())
    many = [Statement("query", "SELECT :a AS a", {"a": "x" * 300_000})] * 20
    call = asyncio.create_task(database.transaction(many))
    await asyncio.sleep(0)
    database.cancel()
    with pytest.raises(SqlError, match="cancelled and rolled back"):
        await call
    await database.aclose()


async def test_closing_that_is_given_up_goes_on(scratch: Path) -> None:
    database = await WorkerHost(directory=scratch).open(chunks(), Limits())
    closing = asyncio.create_task(database.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await database.aclose()
    assert left(scratch) == []


async def test_a_worker_that_is_spent_counts_until_it_is_gone(scratch: Path) -> None:
    host = WorkerHost(1, scratch)
    databases = []
    for _ in range(3):
        databases.append(await host.open(chunks(), Limits()))
        databases[-1].lost = True  # as after a call that took much memory
        assert len(left(scratch)) == 1
    for database in databases:
        await database.aclose()


async def test_foreign_keys_are_told_and_taken(open_database: Open, scratch: Path) -> None:
    database = await open_database()
    assert [database.foreign_keys] == [True]
    await database.query("run", "PRAGMA foreign_keys = OFF", None)
    assert [database.foreign_keys] == [False]
    other = await WorkerHost(directory=scratch).open(chunks(), Limits(), foreign_keys=False)
    result, _ = await other.query("query", "PRAGMA foreign_keys", None)
    assert result is not None
    assert (result.rows, other.foreign_keys) == (({"foreign_keys": 0},), False)
    await other.aclose()


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        (Statement("query", b"SELECT 1"), "SQL text .*must be a string"),  # type: ignore[arg-type]
        (Statement("query", "SELECT 1", [1]), "SQL parameters .*must be a mapping"),  # type: ignore[arg-type]
        (Statement("query", "SELECT 1", {1: 1}), "SQL parameter name 1: must be a string"),  # type: ignore[dict-item]
    ],
)
async def test_what_is_of_the_wrong_type(open_database: Open, statement: Statement, rule: str) -> None:
    database = await open_database()
    with pytest.raises(InvalidInput, match=rule):
        await database.transaction([statement])
    assert not database.lost


async def test_text_that_takes_much_room_as_json(open_database: Open) -> None:
    database = await open_database()
    # The SDK escapes what is not ASCII: six bytes for a character of two.
    names = [f"c{number}" for number in range(5)]
    columns = ", ".join(f":{name} AS {name}" for name in names)
    with pytest.raises(SqlError, match="result is larger than 33,554,432 bytes"):
        await database.query("query", f"SELECT {columns}", dict.fromkeys(names, "é" * 2_000_000))
    database = await open_database()
    many = dict.fromkeys([f"c{number}" for number in range(15)], "\x01" * 4_000_000)
    with pytest.raises(SqlError, match=r"statement 1 is longer than [0-9,]+ bytes as JSON"):
        await database.query("query", "SELECT 1", many)


def test_no_process_at_all_is_no_number() -> None:
    with pytest.raises(InvalidInput, match="number of SQLite processes 0: must be at least 1"):
        WorkerHost(0)


# A worker that has been taken over by what it ran


@pytest.fixture
def impostor(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Have the next worker open its database, and answer its first call by what is given."""

    def install(answer: bytes) -> None:
        def fork(_: Path) -> tuple[int, socket.socket]:
            mine, theirs = socket.socketpair()

            def play() -> None:
                with theirs:
                    wire = _Wire(theirs)
                    while wire.receive().kind is not FrameKind.IMAGE_END:
                        pass
                    wire.send(Frame(FrameKind.READY))
                    while wire.receive().kind is not FrameKind.CALL:
                        pass
                    with suppress(OSError):  # the host may have heard enough
                        theirs.sendall(answer)

            threading.Thread(target=play, daemon=True).start()
            return 0, mine

        monkeypatch.setattr(connection_module, "_FORK_SERVER", _Forker(fork))

    return install


class _Forker:
    def __init__(self, fork: Callable[[Path], tuple[int, socket.socket]]) -> None:
        self.fork = fork

    def kill(self, number: int) -> None:
        pass


DONE = Done(None, is_spent=False, foreign_keys=True).frame().encoded()
RESULT = b"".join(frame.encoded() for frame in result_frames(None))


def extents(size: int, *pages: tuple[int, bytes]) -> bytes:
    change = DatabaseChange(size, pages)
    return RESULT + b"".join(
        frame.encoded()
        for frame in [*change_frames(change), Done(change.size, is_spent=False, foreign_keys=True).frame()]
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff" * 100,
        Frame(FrameKind.OPEN).encoded(),
        Frame(FrameKind.READY).encoded(),
        Frame(FrameKind.RESULT, b"{").encoded(),
        Frame(FrameKind.RESULT, b"[1]").encoded() + DONE,
        Frame(FrameKind.ROWS, b"[1]").encoded() + RESULT + DONE,
        Frame(FrameKind.ROWS, b"[" * 100_000).encoded() + RESULT + DONE,
        Frame(FrameKind.FAILED, b'["sql", "x", "nonsense"]').encoded() + DONE,
        DONE,
        RESULT + RESULT + DONE,
        RESULT + Frame(FrameKind.DONE, b"[1]").encoded(),
        RESULT + Frame(FrameKind.EXTENT, b"short").encoded() + DONE,
        extents(4096, (0, b"x" * 4095)),
        extents(4096, (0, b"x" * 8192)),
        extents(8192, (4096, b"x" * 4096), (0, b"x" * 4096)),
        extents(8192, (1, b"x" * 4096)),
        extents(1 << 40, (0, b"x" * 4096)),
        extents(4096),
        Frame(FrameKind.ROWS, b"[]" + b" " * (10 << 20)).encoded() * 30,
    ],
    ids=lambda answer: f"{len(answer)}-{answer[:20]!r}",
)
async def test_what_no_worker_would_say_is_believed_by_nobody(
    impostor: Callable[[bytes], None], scratch: Path, answer: bytes
) -> None:
    impostor(answer)
    database = await WorkerHost(directory=scratch).open(chunks(), Limits())
    with pytest.raises(ScratchError, match="has ended"):
        await database.query("run", "INSERT INTO t VALUES (1)", None)
    assert database.lost
    await database.aclose()
