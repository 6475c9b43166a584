"""What a plain conversation costs in requests to the store: counts, on a local directory and on S3."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from sessionfs_s3.store import RequestCounts, Tally, Verb
from sessionfs_s3.testing.model import Say, ScriptedModel
from sessionfs_s3.testing.replica import Replica, Served, ask, said
from sessionfs_s3.testing.servers import S3Server

from .conftest import EVENTS, WORKSPACE, Start, created, settled


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.servers)])
def counted_url(request: pytest.FixtureRequest, url: str) -> str:
    if request.param == "file":
        return url
    enter: Callable[[S3Server], str] = request.getfixturevalue("enter")
    return enter(request.getfixturevalue("moto"))


async def test_a_plain_conversation_costs_what_is_promised(
    start: Start, model: ScriptedModel, counted_url: str
) -> None:
    model.add("One.", Say("First."))
    model.add("Two.", Say("Second."))
    model.add("Three.", Say("Third."))
    a = await start(url=counted_url)
    cost = Meter(a).cost
    session = await a.create("s1")
    await ask(session, "One.")
    # Create goes on after its answer, and the first turn gives the session a title. All that is stored by now:
    await a.until(settled)
    begun = await cost()
    print("create and first turn:", begun.rows())
    assert begun.requests(Verb.LIST) == 1
    assert begun.requests(Verb.PUT) <= 3
    assert begun.requests() == 1 + begun.requests(Verb.PUT)

    for prompt in ("Two.", "Three."):
        await ask(session, prompt)
        assert (await cost()).by_verb() == {"PUT": 1}, "a turn without tools"

    assert a.provider is not None
    assert (await a.provider.stat(EVENTS)).size == len((await a.provider.read_file(EVENTS)).encode())
    assert await a.provider.exists(WORKSPACE)
    assert not await a.provider.exists("/workspace/missing")
    assert "events.jsonl" in await a.provider.readdir("/session-state")
    assert said(await session.get_events())[-1] == "Third."
    await session.rpc.workspaces.list_files()
    assert (await cost()).by_verb() == {}, "warm reads"

    await a.runtime.kill()
    b = await start(url=counted_url)
    cost = Meter(b).cost
    session = await b.resume("s1")
    resumed = await cost()
    print("resume:", resumed.rows())
    assert resumed.requests(Verb.LIST) == 1
    assert resumed.requests(Verb.PUT) == 1, "the claim"
    # Each commit since the newest snapshot once, and that snapshot; here there is none yet.
    assert resumed.requests(Verb.GET) == begun.requests(Verb.PUT) + 2
    assert resumed.requests() == resumed.requests(outcome="ok")
    await ask(session, "One.")
    await cost()
    await ask(session, "Two.")
    assert (await cost()).by_verb() == {"PUT": 1}, "a turn without tools, after a resume"
    await b.disconnect()
    assert (await cost()).by_verb() == {"PUT": 1}, "the disconnect"


async def test_create_alone_costs_at_most_two_puts(start: Start, counted_url: str) -> None:
    replica = await start(url=counted_url)
    cost = Meter(replica).cost
    await replica.create("s1")
    await replica.until(created)
    await replica.fs.aclose()  # stores what has waited for the first message, which never came
    cost_of_create = await cost()
    print("create:", cost_of_create.rows())
    assert cost_of_create.requests(Verb.LIST) == 1
    assert 1 <= cost_of_create.requests(Verb.PUT) <= 2
    assert cost_of_create.requests() == 1 + cost_of_create.requests(Verb.PUT)


class Meter:
    """Counts what a replica's steps cost, without what the runtime adds of its own accord.

    That is a warning about plugins, which comes seconds after some resumes and is an append, hence a PUT, by itself.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._counts = replica.fs.requests.snapshot()
        self._served = 0

    async def cost(self) -> RequestCounts:
        """Return what has been asked of the store since the last time."""
        await self._replica.settle()
        counts, served = self._replica.fs.requests.snapshot(), self._replica.served
        since = counts - self._counts
        warnings = sum(_is_warning(each) for each in served[self._served :])
        self._counts, self._served = counts, len(served)
        commits = (Verb.PUT, "commit", "ok")
        without = since.tallies.get(commits, Tally()) - Tally(warnings)
        return RequestCounts(
            {slot: tally for slot, tally in {**since.tallies, commits: without}.items() if tally.requests}
        )


def _is_warning(served: Served) -> bool:
    """Whether this was an append of warnings only."""
    events = [json.loads(line) for line in served.text.splitlines()] if served.operation == "append_file" else []
    return bool(events) and all(event["type"] == "session.warning" for event in events)
