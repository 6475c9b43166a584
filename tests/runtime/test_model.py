"""The scripted model, asked as the runtime asks it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest

from sessionfs_s3.testing.model import Call, Calls, Say, ScriptedModel, Stall

USER = {"role": "user", "content": "<now>12:00</now>\n\nDo it."}
SCRIPT = {
    "Do it.": (Call("view", {"path": "/a"}), Calls((Call("edit"), Call("sql"))), Say("Done, naïve ☕.")),
    "Do it. Really.": (Say("Really done."),),
}


def _assistant(*names: str) -> list[dict[str, Any]]:
    calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in names]
    return [
        {"role": "assistant", "content": None, "tool_calls": calls},
        *({"role": "tool", "tool_call_id": name, "content": f"result of {name}"} for name in names),
    ]


async def _ask(model: ScriptedModel, messages: Sequence[object], *, stream: bool) -> dict[str, Any]:
    """Return the message that the model answers with, put together when it streams."""
    body = {"model": "scripted", "messages": messages, "stream": stream}
    async with aiohttp.ClientSession() as client, client.post(f"{model.url}/chat/completions", json=body) as response:
        text = await response.text()
    if not stream:
        choice = json.loads(text)["choices"][0]
        message: dict[str, Any] = choice["message"]
        return message | {"finish": choice["finish_reason"]}
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", [])]
    words = "".join(choice["delta"].get("content") or "" for choice in choices)
    return {"content": words or None, "tool_calls": calls, "finish": choices[-1]["finish_reason"]}


@pytest.mark.parametrize("stream", [False, True])
async def test_it_follows_the_script_through_a_turn(stream: bool) -> None:
    async with ScriptedModel(SCRIPT).serve() as model:
        first = await _ask(model, [USER], stream=stream)
        second = await _ask(model, [USER, *_assistant("view")], stream=stream)
        third = await _ask(model, [USER, *_assistant("view"), *_assistant("edit", "sql")], stream=stream)
        again = await _ask(model, [USER], stream=stream)

    assert [call["function"]["name"] for call in first["tool_calls"]] == ["view"]
    assert json.loads(first["tool_calls"][0]["function"]["arguments"]) == {"path": "/a"}
    assert [call["function"]["name"] for call in second["tool_calls"]] == ["edit", "sql"]
    assert (third["content"], third["finish"]) == ("Done, naïve ☕.", "stop")
    assert again["tool_calls"][0]["function"] == first["tool_calls"][0]["function"]
    assert again["tool_calls"][0]["id"] != first["tool_calls"][0]["id"]
    assert [request.results() for request in model.requests_in("Do it.")] == [
        [],
        ["result of view"],
        ["result of view", "result of edit", "result of sql"],
        [],
    ]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "user", "content": "Do it. Really."}], "Really done."),
        ([USER, {"role": "assistant", "content": "x"}, {"role": "user", "content": "Do it. Really."}], "Really done."),
        ([{"role": "user", "content": [{"type": "text", "text": "Do it. Really."}]}], "Really done."),
        ([{"role": "user", "content": "Something else."}], "Nothing."),
        ([USER, *(_assistant("view") * 5)], "Nothing."),
        ([USER, *_assistant("view"), *_assistant("a"), {"role": "user", "content": "an image"}], "Done, naïve ☕."),
    ],
)
async def test_it_takes_its_place_from_the_request_alone(messages: list[Any], words: str) -> None:
    async with ScriptedModel(SCRIPT, otherwise="Nothing.").serve() as model:
        assert (await _ask(model, messages, stream=False))["content"] == words


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stalled_reply_waits_in_the_middle(stream: bool) -> None:
    stall = Stall(Say("At last."))
    async with ScriptedModel({"Do it.": (stall,)}).serve() as model:
        asking = asyncio.create_task(_ask(model, [USER], stream=stream))
        await stall.reached.wait()
        assert not asking.done()
        stall.released.set()
        assert (await asking)["content"] == "At last."


async def test_a_client_that_goes_away_while_it_stalls_disturbs_nobody() -> None:
    stall = Stall(Say("Never heard."))
    async with ScriptedModel({"Do it.": (stall,)}, otherwise="Nothing.").serve() as model:
        asking = asyncio.create_task(_ask(model, [USER], stream=False))
        await stall.reached.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        stall.released.set()
        assert (await _ask(model, [{"role": "user", "content": "?"}], stream=False))["content"] == "Nothing."
