"""The measurement itself: a watch that sees nothing would let everything pass. Each harm is done once, and noticed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.hostile_sql import watch as watching
from tests.hostile_sql.sessions import World, open_world
from tests.hostile_sql.watch import CUT, Watch, watched

_MIB = 1 << 20

Harm = Callable[[Watch], Awaitable[object]]


async def _blocks_the_loop(watch: Watch) -> None:
    time.sleep(0.4)  # noqa: ASYNC251  # the harm


async def _takes_memory(watch: Watch) -> None:
    taken = bytearray(b"x") * (200 * _MIB)
    await asyncio.sleep(0.1)
    del taken


async def _takes_memory_in_a_child(watch: Watch) -> None:
    child = await _child(f"taken = bytearray(b'x') * {100 * _MIB}; print(flush=True); input()")
    assert child.stdout is not None
    await child.stdout.readline()
    await asyncio.sleep(0.1)
    await child.communicate(b"\n")


async def _child(script: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdin=pipe, stdout=pipe)


async def _changes_its_database(watch: Watch) -> None:
    await watch.world.attacker.exec("UPDATE kept SET v = 'other' WHERE id = 1")


async def _changes_a_victims_rows(watch: Watch) -> None:
    await watch.world.victims[0].exec("INSERT INTO work VALUES (1000000)")
    await asyncio.sleep(0.2)


async def _changes_what_a_victim_keeps(watch: Watch) -> None:
    await watch.world.victims[1].exec("DELETE FROM kept")


async def _tells_a_path(watch: Watch) -> None:
    watch.world.look(["/var/scratch/of-a-session/session.db"])
    watch.answers.append("unable to open /var/scratch/of-a-session/session.db")


async def _is_answered(watch: Watch) -> None:
    await watch.fails(watch.world.attacker.rows("SELECT 1"), CUT, ".")


async def _fails_for_another_reason(watch: Watch) -> None:
    await watch.fails(watch.world.attacker.rows("SELECT * FROM no_such_table"), CUT, ".")


async def _fails_in_other_words(watch: Watch) -> None:
    await watch.fails(watch.world.attacker.rows("SELECT * FROM no_such_table"), ("sql",), "attach")


async def _fails_as_something_else(watch: Watch) -> None:
    await watch.ends(watch.world.attacker.provider.read_file("/workspace/nothing"))


async def _hangs(watch: Watch) -> None:
    watch.world.call_s = 0.1 - watching.GRACE_S
    await watch.ends(asyncio.sleep(60))


HARMS: list[tuple[Harm, str]] = [
    (_blocks_the_loop, "loop [0-9]{3} ms late"),
    (_takes_memory, "this process (1[5-9]|2)[0-9]+ MiB larger"),
    (_takes_memory_in_a_child, "with its descendants [0-9]{2,3} MiB"),
    (_changes_its_database, "the attacker's own database has changed"),
    (_changes_a_victims_rows, "neighbour has lost or gained rows"),
    (_changes_what_a_victim_keeps, r"stranger keeps other rows: \[\]"),
    (_tells_a_path, "tells where the scratch files are"),
    (_is_answered, "was let through"),
    (_fails_for_another_reason, "sql: no such table"),
    (_fails_in_other_words, "does not name 'attach'"),
    (_fails_as_something_else, "no SqlError: FileNotFoundError"),
    (_hangs, "no answer after"),
]


@pytest.mark.parametrize(("harm", "seen"), HARMS, ids=[harm.__name__.strip("_") for harm, _ in HARMS])
async def test_a_harm_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch, harm: Harm, seen: str) -> None:
    if harm is _takes_memory_in_a_child:
        monkeypatch.setattr(watching, "TOTAL_BYTES_MAX", 50 * _MIB)
    with pytest.raises(AssertionError, match=seen):
        async with watched(world) as watch:
            await harm(watch)


async def test_no_harm_is_none(world: World) -> None:
    async with watched(world) as watch:
        await watch.ends(world.attacker.rows("SELECT 1"))


@pytest.mark.parametrize("what", ["processes", "descriptors", "files"])
async def test_what_is_left_is_noticed(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr("tests.hostile_sql.sessions._LEAK_S", 0.1)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    file = tmp_path / "session" / "left.db"
    file.parent.mkdir()
    file.touch()
    async with AsyncExitStack() as left:
        with pytest.raises(AssertionError, match=f"left after closing: .*'{what}'"):
            await _leaves(what, url, file, left)


async def _leaves(what: str, url: str, file: Path, left: AsyncExitStack) -> None:
    async with open_world(url) as world:
        if what == "processes":
            child = await _child("input()")
            left.push_async_callback(child.communicate, b"\n")
            world.look()
        elif what == "descriptors":
            left.enter_context(file.open("rb"))
        else:
            world.scratch.add(str(file))
