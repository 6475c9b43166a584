"""Two runtimes on one session: the later one has it, the earlier one is told, and nothing of it is stored any more."""

from __future__ import annotations

import pytest

from sessionfs_s3 import SessionFs
from sessionfs_s3.testing.model import Say, ScriptedModel
from sessionfs_s3.testing.replica import ask, said

from .conftest import EVENTS, Start, conversation, stored


@pytest.mark.parametrize("shared", [False, True], ids=["two processes' file systems", "one file system"])
async def test_the_second_runtime_fences_the_first(
    start: Start, model: ScriptedModel, fs: SessionFs, url: str, shared: bool
) -> None:
    for prompt, answer in (("One.", "First."), ("Two.", "Second."), ("Three.", "Third.")):
        model.add(prompt, Say(answer))
    async with SessionFs.open(url, tenant="acme") as common:
        a = await start(fs=common if shared else None)
        first = await a.create("s1")
        assert await ask(first, "One.") == "First."
        b = await start(fs=common if shared else None)
        second = await b.resume("s1")
        before = conversation(a.served)

        for _ in range(2):  # it does not recover, either
            with pytest.raises(
                Exception, match=r"Failed to persist session events.*(taken over|resumed|supersed|epoch)"
            ):
                await ask(first, "Two.")
        assert await ask(second, "Three.") == "Third."
        await b.disconnect()

        assert {each.error for each in a.served if each.operation == "append_file" and each.error} == {"Fenced"}
        assert conversation(a.served) == before
        log = (await stored(fs, EVENTS)).decode()
        assert log == before + conversation(b.served)
        assert "Two." not in log
        assert "Two." not in model.requests_in("Three.")[0].text


async def test_the_fenced_runtime_may_resume_and_go_on(start: Start, model: ScriptedModel, fs: SessionFs) -> None:
    for prompt, answer in (("One.", "First."), ("Two.", "Second."), ("Three.", "Third.")):
        model.add(prompt, Say(answer))
    a, b = await start(), await start()
    await ask(await a.create("s1"), "One.")
    await ask(await b.resume("s1"), "Two.")
    await b.disconnect()
    a_again = await start()

    session = await a_again.resume("s1")

    assert said(await session.get_events()) == ["One.", "First.", "Two.", "Second."]
    assert await ask(session, "Three.") == "Third."
    await a_again.disconnect()
    log = conversation(a.served) + conversation(b.served) + conversation(a_again.served)
    assert (await stored(fs, EVENTS)).decode() == log
