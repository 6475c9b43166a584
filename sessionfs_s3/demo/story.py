"""The demo's story: A converses, its runtime is killed in a turn, B resumes the session, and A's ghost is fenced."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from pathlib import Path
from typing import Final

from copilot import CopilotSession

from sessionfs_s3 import Head, SessionFs
from sessionfs_s3.demo import script
from sessionfs_s3.demo.narrator import Narrator, Requests
from sessionfs_s3.demo.remote import RemoteA, start_a
from sessionfs_s3.demo.replica_a import Start
from sessionfs_s3.store import RequestCounts
from sessionfs_s3.testing.model import ScriptedModel, Stall
from sessionfs_s3.testing.replica import Replica, appended, ask, failed_tools, said, start_replica

TENANT: Final = "demo"
EVENTS_PATH: Final = "/session-state/events.jsonl"


async def tell(narrator: Narrator, url: str, executable: Path) -> str:
    """Tell the story with the store at *url* and return the last line's summary.

    Raises:
        DemoFailed: something was not as it has to be.
    """
    story = _Story(narrator, url, executable)
    async with story.model.serve():
        async with start_a(story.start()) as a:
            await story.conversation(a)
            await story.kill(a)
            await story.takeover(a)
            narrator.step("A", "as a ghost", await a.requests())
        await story.aftermath()
    narrator.table()
    turns = len(story.turns) + len(story.later)
    return (
        f"{turns} turns and one cut short, {len(story.acknowledged.splitlines())} events, "
        f"3 files, {len(script.STOCK)} rows; {narrator.checks} checks in {narrator.elapsed_s:.1f} s"
    )


class _Story:
    """What the chapters share."""

    def __init__(self, narrator: Narrator, url: str, executable: Path) -> None:
        self.narrator = narrator
        self.url = url
        self.executable = executable
        self.session_id = f"demo-{secrets.token_hex(6)}"
        self.turns = script.first_turns()
        self.unfinished = script.unfinished_turn()
        self.later = script.later_turns()
        self.model: ScriptedModel = script.model_of([*self.turns, self.unfinished, *self.later])
        self.acknowledged = ""
        """Every event whose append was acknowledged to A's runtime or B's, in order."""

    def start(self) -> Start:
        return Start(
            store=self.url,
            tenant=TENANT,
            session=self.session_id,
            executable=self.executable,
            model_url=self.model.url,
        )

    async def conversation(self, a: RemoteA) -> None:
        """A creates the session and holds its turns."""
        say, check = self.narrator.say, self.narrator.check
        say(f"replica A is up: application pid {a.pid}, runtime pid {a.runtime_pid}; session {self.session_id}")
        await a.create()
        self.narrator.step("A", "create", await a.requests())
        for turn in self.turns:
            answer = await a.ask(turn.prompt)
            say(f'A  "{turn.prompt}"  ->  "{answer}"')
            if answer != turn.answer:
                check(False, f"the assistant says {turn.answer!r}")
            self.narrator.step("A", f"turn: {turn.title}", await a.requests())

    async def kill(self, a: RemoteA) -> None:
        """A's runtime is killed in the middle of a turn, and A opens the session a second time."""
        say, check = self.narrator.say, self.narrator.check
        stall = self.unfinished.replies[-1]
        assert isinstance(stall, Stall)
        before = len(a.served)
        await a.begin(self.unfinished.prompt)
        say(f'A  "{self.unfinished.prompt}"  ->  a file is written, then the model falls silent')
        await stall.reached.wait()
        await a.until(lambda served: '"tool.execution_complete"' in appended(served[before:], EVENTS_PATH))
        status = await a.kill_runtime()
        say(f"kill -9 {a.runtime_pid}: runtime A is gone in the middle of the turn")
        check(status == -9, "runtime A ended by SIGKILL, after part of the turn was acknowledged")
        say("A's application lives on as a ghost; it has opened the session a second time and waits")
        self.narrator.step("A", "cut-off turn, second volume", await a.requests())
        self.acknowledged = appended(a.served, EVENTS_PATH)
        await self._compare("what is stored is what A was told is stored")

    async def takeover(self, a: RemoteA) -> None:
        """B resumes the session with nothing but the store, and the ghost tries to write."""
        say, check = self.narrator.say, self.narrator.check
        async with (
            SessionFs.open(self.url, tenant=TENANT) as fs,
            start_replica(self.executable, fs, self.model.provider) as b,
        ):
            costs = _Costs(self.narrator, fs)
            await fs.probe()
            costs.step("probe the store")
            check(not list((b.runtime.home / "copilot").glob("session-state/*")), "runtime B's home is empty")
            session = await b.resume(self.session_id)
            costs.step("resume")
            say(f"replica B (runtime pid {b.runtime.pid}) has resumed the session")
            check(said(await session.get_events()) == self._so_far(), "B's runtime has every message, in order")
            await self._look_everything_up(b, session)
            costs.step(f"turn: {self.later[0].title}")
            before = await self._head()
            outcomes = await a.haunt()
            say(f"A's ghost appends to the conversation and writes a file: {' and '.join(outcomes)}")
            check(outcomes == ["Fenced", "Fenced"], "both of the ghost's writes raise Fenced")
            # The runtime itself appends now and then: what counts is whose the commits since are, and what they hold.
            after = await self._head()
            same = (after.writer, after.epoch) == (before.writer, before.epoch)
            check(same and not await self._holds_a_ghost(), "nothing of the ghost's was stored")
            answer = await ask(session, self.later[1].prompt)
            say(f'B  "{self.later[1].prompt}"  ->  "{answer}"')
            costs.step(f"turn: {self.later[1].title}")
            failed = failed_tools(await session.get_events())
            check(not failed, f"no tool call has failed, neither A's nor B's {failed or ''}".rstrip())
            await b.disconnect()
            costs.step("disconnect")
            self.acknowledged += appended(b.served, EVENTS_PATH)

    async def aftermath(self) -> None:
        """Nobody has the session open; everything is in the store."""
        check = self.narrator.check
        self.narrator.say("nobody has the session open any more; a third reader looks at the store")
        await self._compare("every acknowledged event is stored once, in order, and nothing else")
        async with (
            SessionFs.open(self.url, tenant=TENANT) as fs,
            fs.volume(self.session_id, read_only=True) as volume,
        ):
            expected = {
                script.LIST_PATH: script.LIST_TEXT,
                script.REPORT_PATH: script.REPORT_TEXT,
                script.LATE_PATH: script.LATE_TEXT,
            }
            for path, text in expected.items():
                check(await volume.read_file_bytes(path) == text.encode(), f"{path} is there, byte for byte")
            names = [path.rpartition("/")[2] for path in sorted(expected)]
            check(await volume.readdir("/workspace") == names, "there is no other file in /workspace")
            result = await volume.sqlite_query("query", script.STOCK_SQL)
            rows = tuple(tuple(row.values()) for row in result.rows) if result is not None else ()
            check(rows == script.STOCK, f"the table holds {rows}")
            counts = fs.requests.snapshot()
        self.narrator.step("", "read back", Requests.of(counts))

    async def _look_everything_up(self, b: Replica, session: CopilotSession) -> None:
        """B's turn on A's files and rows; what the model was sent shows that the conversation is back."""
        say, check = self.narrator.say, self.narrator.check
        turn = self.later[0]
        answer = await ask(session, turn.prompt)
        say(f'B  "{turn.prompt}"  ->  "{answer}"')
        requests = self.model.requests_in(turn.prompt)
        missing = [text for text in self._so_far() if text not in requests[0].text]
        check(not missing, f"B's model was sent the whole conversation with A {missing or ''}".rstrip())
        listed, report, rows = requests[-1].results()[-3:]
        check(_same_lines(listed, script.LIST_TEXT), f"B's view tool reads {script.LIST_PATH}")
        check(_same_lines(report, script.REPORT_TEXT), f"and {script.REPORT_PATH} of the turn that was cut short")
        found = all(name in rows and str(amount) in rows for name, amount in script.STOCK)
        check(found and b.runtime.alive, "B's sql tool finds both rows")

    def _so_far(self) -> list[str]:
        """Return everything that was said with A, in order: of the turn that was cut short only the user's part."""
        said = [text for turn in self.turns for text in (turn.prompt, turn.answer)]
        return [*said, self.unfinished.prompt]

    async def _head(self) -> Head:
        async with (
            SessionFs.open(self.url, tenant=TENANT) as fs,
            fs.volume(self.session_id, read_only=True) as volume,
        ):
            return volume.head

    async def _holds_a_ghost(self) -> bool:
        async with (
            SessionFs.open(self.url, tenant=TENANT) as fs,
            fs.volume(self.session_id, read_only=True) as volume,
        ):
            return await volume.exists(script.GHOST_PATH) or script.GHOST_LINE in await volume.read_file(EVENTS_PATH)

    async def _compare(self, what: str) -> None:
        """Check that the stored conversation is exactly what was acknowledged."""
        async with (
            SessionFs.open(self.url, tenant=TENANT) as fs,
            fs.volume(self.session_id, read_only=True) as volume,
        ):
            stored = await volume.read_file(EVENTS_PATH)
        lines = stored.splitlines()
        ids = Counter(json.loads(line)["id"] for line in lines)
        self.narrator.check(max(ids.values()) == 1 and script.GHOST_LINE not in stored, "no event is there twice")
        self.narrator.check(stored == self.acknowledged, f"{what} ({len(lines)} events)")


class _Costs:
    """What B's steps cost, read from its own request log."""

    def __init__(self, narrator: Narrator, fs: SessionFs) -> None:
        self._narrator = narrator
        self._fs = fs
        self._counts = RequestCounts()

    def step(self, what: str) -> None:
        """Book everything since the last step to this one."""
        counts = self._fs.requests.snapshot()
        self._narrator.step("B", what, Requests.of(counts - self._counts))
        self._counts = counts


def _same_lines(shown: str, text: str) -> bool:
    return shown.strip() == text.strip()
