"""What a plain conversation costs in requests to the store: counts, on a local directory and on S3."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sessionfs_s3.store import RequestCounts, Verb
from sessionfs_s3.testing.model import Say, ScriptedModel
from sessionfs_s3.testing.replica import Replica, Served, ask, said
from sessionfs_s3.testing.servers import S3Server

from .conftest import EVENTS, Start

WORKSPACE = "/session-state/workspace.yaml"


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
    cost = _meter(a)
    session = await a.create("s1")
    await ask(session, "One.")
    # Create goes on after its answer, and the first turn gives the session a title. All that is stored by now:
    await a.until(_settled)
    created = cost()
    print("create and first turn:", created.rows())
    assert created.requests(Verb.LIST) == 1
    assert created.requests(Verb.PUT) <= 3
    assert created.requests() == 1 + created.requests(Verb.PUT)

    for prompt in ("Two.", "Three."):
        await ask(session, prompt)
        assert cost().by_verb() == {"PUT": 1}, "a turn without tools"

    assert a.provider is not None
    assert (await a.provider.stat(EVENTS)).size == len((await a.provider.read_file(EVENTS)).encode())
    assert await a.provider.exists(WORKSPACE)
    assert not await a.provider.exists("/workspace/missing")
    assert "events.jsonl" in await a.provider.readdir("/session-state")
    assert said(await session.get_events())[-1] == "Third."
    await session.rpc.workspaces.list_files()
    assert cost().by_verb() == {}, "warm reads"

    await a.runtime.kill()
    b = await start(url=counted_url)
    cost = _meter(b)
    session = await b.resume("s1")
    resumed = cost()
    print("resume:", resumed.rows())
    assert resumed.requests(Verb.LIST) == 1
    assert resumed.requests(Verb.PUT) == 1, "the claim"
    # Each commit since the newest snapshot once, and that snapshot; here there is none yet.
    assert resumed.requests(Verb.GET) == created.requests(Verb.PUT) + 2
    assert resumed.requests() == resumed.requests(outcome="ok")
    await ask(session, "One.")
    cost()
    await ask(session, "Two.")
    assert cost().by_verb() == {"PUT": 1}, "a turn without tools, after a resume"
    await b.disconnect()
    assert cost().by_verb() == {"PUT": 1}, "the disconnect"


async def test_create_alone_costs_at_most_two_puts(start: Start, counted_url: str) -> None:
    replica = await start(url=counted_url)
    cost = _meter(replica)
    await replica.create("s1")
    await replica.until(_created)
    await replica.fs.aclose()  # stores what has waited for the first message, which never came
    created = cost()
    print("create:", created.rows())
    assert created.requests(Verb.LIST) == 1
    assert 1 <= created.requests(Verb.PUT) <= 2
    assert created.requests() == 1 + created.requests(Verb.PUT)


def _meter(replica: Replica) -> Callable[[], RequestCounts]:
    """Return a function that counts the requests since its last call."""
    last = RequestCounts()

    def since() -> RequestCounts:
        nonlocal last
        counts = replica.fs.requests.snapshot()
        difference, last = counts - last, counts
        return difference

    return since


def _created(served: list[Served]) -> bool:
    """Whether all of create has been served: the runtime does it again under its own home and ends with the plan."""
    home = [each.path for each in served if not each.path.startswith("/session-state")]
    return any(path.endswith("/plan.md") for path in home)


def _settled(served: list[Served]) -> bool:
    """Whether create and the first turn have been served: the title is read back after it has been renamed in place."""
    renamed = [index for index, each in enumerate(served) if (each.operation, each.path) == ("rename", WORKSPACE)]
    read = [index for index, each in enumerate(served) if (each.operation, each.path) == ("read_file", WORKSPACE)]
    return len(renamed) == 2 and read[-1] > renamed[-1] and _created(served)
