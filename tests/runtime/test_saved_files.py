"""Files that the runtime itself saves: large tool output, pastes, checkpoints of a compaction; and exact bytes."""

from __future__ import annotations

import base64
import random
import re
import struct
import zlib

from copilot import ModelCapabilitiesOverride, ModelSupportsOverride
from copilot.rpc import WorkspacesReadCheckpointRequest, WorkspacesSaveLargePasteRequest
from copilot.tools import Tool, ToolInvocation, ToolResult

from sessionfs_s3 import SessionFs
from sessionfs_s3.testing.model import Call, Say, ScriptedModel
from sessionfs_s3.testing.replica import ask, said

from .conftest import EVENTS, Start, conversation, stored

SUMMARY = "They counted bolts, and found twelve."
SUMMARY_PROMPT = "Please create a detailed summary of the conversation"
"""How the runtime asks the model for a compaction's summary."""


async def test_large_tool_output_is_saved_and_read_elsewhere(start: Start, model: ScriptedModel, fs: SessionFs) -> None:
    output = "".join(f"line {n}: naïve ☕\n" for n in range(6000))

    async def speak(invocation: ToolInvocation) -> ToolResult:
        return ToolResult(text_result_for_llm=output)

    tool = Tool("speak", "says much", speak, {"type": "object", "properties": {}}, skip_permission=True)
    model.add("Speak.", Call("speak"), Say("Spoken."))
    a = await start()
    await ask(await a.create("s1", tools=[tool]), "Speak.")
    found = re.search(r"/session-state/temp/\S+\.txt", model.requests_in("Speak.")[-1].results()[-1])
    assert found, model.requests_in("Speak.")[-1].results()[-1]
    await a.runtime.kill()

    assert (await stored(fs, found[0])).decode() == output
    model.add("Look it up.", Call("view", {"path": found[0], "view_range": [5990, 5992]}), Say("Looked up."))
    b = await start()
    assert await ask(await b.resume("s1", tools=[tool]), "Look it up.") == "Looked up."
    assert "line 5990: naïve ☕" in model.requests_in("Look it up.")[-1].results()[-1]


async def test_a_large_paste_is_saved(start: Start, fs: SessionFs) -> None:
    session = await (await start()).create("s1")
    pasted = "pasted 𝄞\n" * 5000

    result = await session.rpc.workspaces.save_large_paste(WorkspacesSaveLargePasteRequest(pasted))

    assert result.saved is not None
    await ask(session, "Thanks.")  # the session is born; what came before it is stored with it
    assert (await stored(fs, result.saved.file_path)).decode() == pasted
    assert (await session.rpc.workspaces.list_files()).files == [result.saved.filename]


async def test_a_compacted_session_goes_on_elsewhere(start: Start, model: ScriptedModel, fs: SessionFs) -> None:
    model.add("How many bolts?", Say("Twelve bolts."))
    model.add(SUMMARY_PROMPT, Say(f"<summary>{SUMMARY}</summary>"))
    a = await start()
    session = await a.create("s1")
    await ask(session, "How many bolts?")

    result = await session.rpc.history.compact()

    assert result.success
    assert result.messages_removed > 0
    assert len(model.requests_in(SUMMARY_PROMPT)) == 1
    failed = [each for each in a.served if each.operation.startswith("sqlite") and each.error]
    assert not failed, "the runtime makes its own tables then"
    model.add("And nuts?", Say("No nuts."))
    assert await ask(session, "And nuts?") == "No nuts."
    assert SUMMARY in model.requests_in("And nuts?")[0].text
    assert "Twelve bolts." not in model.requests_in("And nuts?")[0].text
    await a.runtime.kill()

    b = await start()
    session = await b.resume("s1")
    listed = await session.rpc.workspaces.list_checkpoints()
    assert len(listed.checkpoints) == 1
    number = listed.checkpoints[0].number
    checkpoint = await session.rpc.workspaces.read_checkpoint(WorkspacesReadCheckpointRequest(number))
    assert SUMMARY in (checkpoint.content or "")
    async with fs.volume("s1", read_only=True) as volume:
        names = await volume.readdir("/session-state/checkpoints")
    assert [name for name in names if name != "index.md"] == [listed.checkpoints[0].filename]
    model.add("Where were we?", Say("At the nuts."))
    assert await ask(session, "Where were we?") == "At the nuts."
    assert SUMMARY in model.requests_in("Where were we?")[0].text
    assert {"How many bolts?", "No nuts.", "At the nuts."} <= set(said(await session.get_events()))
    await b.disconnect()
    assert (await stored(fs, EVENTS)).decode() == conversation(a.served) + conversation(b.served)


async def test_an_image_is_read_exactly_as_it_was_written(start: Start, model: ScriptedModel, fs: SessionFs) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    image = _png(random.Random(seed), 64, 48)
    model.add("Hello.", Say("Good day."))
    a = await start()
    await ask(await a.create("s1"), "Hello.")
    assert a.provider is not None
    # No call of this runtime writes bytes, so the provider is called as the runtime would.
    await a.provider.write_file_bytes("/workspace/image.png", image)
    await a.runtime.kill()
    assert await stored(fs, "/workspace/image.png") == image

    b = await start()
    sees = ModelCapabilitiesOverride(supports=ModelSupportsOverride(vision=True))
    session = await b.resume("s1", model_capabilities=sees)
    model.add("Look.", Call("view", {"path": "/workspace/image.png"}), Say("A picture."))
    assert await ask(session, "Look.") == "A picture."

    assert [each.path for each in b.served if each.operation == "read_file_bytes"] == ["/workspace/image.png"]
    sent = [url for message in model.requests_in("Look.")[-1].messages for url in message.images]
    assert [base64.b64decode(url.partition(",")[2]) for url in sent] == [image]


async def test_one_event_of_several_megabytes(start: Start, model: ScriptedModel, fs: SessionFs) -> None:
    """An attachment travels inside one append."""
    data = base64.b64encode(_png(random.Random(0), 1200, 1000)).decode()
    model.add("What is this?", Say("Noise."))
    a = await start()
    session = await a.create("s1")

    await session.send_and_wait(
        "What is this?",
        attachments=[{"type": "blob", "data": data, "mimeType": "image/png", "displayName": "noise.png"}],
    )

    assert max(len(each.text) for each in a.served if each.operation == "append_file") > 3_000_000
    assert (await stored(fs, EVENTS)).decode() == conversation(a.served)
    await a.runtime.kill()
    session = await (await start()).resume("s1")
    assert said(await session.get_events()) == ["What is this?", "Noise."]


def _png(noise: random.Random, width: int, height: int) -> bytes:
    """Return a picture of noise, which nothing can make smaller."""
    rows = b"".join(b"\0" + noise.randbytes(width * 3) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    body = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)
