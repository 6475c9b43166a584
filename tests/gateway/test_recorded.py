"""What a plain runtime on its own disk answers, and that the gateway answers the same of the same sessions."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sessionfs_s3.gateway.catalogue.answers import CatalogueAnswers
from sessionfs_s3.gateway.errors import RpcError, not_open, unhandled
from sessionfs_s3.gateway.rules.methods import required_session
from sessionfs_s3.gateway.rules.sharing import HOST_TOOLS, shared_params
from sessionfs_s3.gateway.rules.to_clients import deleted_notice
from sessionfs_s3.testing.model import Call, Say, ScriptedModel
from sessionfs_s3.testing.runtime import start_runtime

from .catalogs import DiskCatalog, Live
from .plain_runtime import TIMEOUT_S, Peer, connected, located, options

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(TIMEOUT_S), pytest.mark.asyncio(loop_scope="module")]

PLAIN = "8d5c5a52-1111-4444-8888-123456789abc"
WORK = "8d5c5a52-2222-4444-8888-123456789abc"
PROMPT = "One zebra, please"
IDS: list[object] = [
    "",
    "bad/id",
    "../etc",
    "a.b",
    "é",
    "x" * 300,
    "a\n",
    None,
    5,
    True,
    1.5,
    {"a": 1},
    ["x", 5],
    "nope",
]


@dataclass
class Both:
    """A plain runtime with sessions, and the gateway's answers from the same disk."""

    runtime: Peer
    gateway: CatalogueAnswers
    home: Path
    model: ScriptedModel

    @property
    def model_url(self) -> str:
        return self.model.url

    async def agree(self, method: str, params: object = None) -> Any:
        """Ask both and compare; return the answer."""
        theirs = await self.runtime.ask(method, params)
        ours = await answered(self.gateway, method, params)
        assert ours == theirs, f"{method} {json.dumps(params)}"
        return ours


async def answered(gateway: CatalogueAnswers, method: str, params: object) -> object:
    try:
        return await gateway.answer(method, params)
    except RpcError as error:
        return {"error": {"code": error.code, "message": error.message}}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    git = ["git", "-c", "init.defaultBranch=main", "-C", str(folder)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "remote", "add", "origin", "https://github.com/o/r.git"], check=True)
    author = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    subprocess.run([*git, *author, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(repository: Path) -> AsyncIterator[Both]:
    model = ScriptedModel({"One": [Say("First.")]})
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(model.serve())
        runtime = await stack.enter_async_context(start_runtime(located()))
        peer = await stack.enter_async_context(connected(runtime))
        created: dict[str, dict[str, object]] = {
            PLAIN: {},
            WORK: {"workingDirectory": str(repository)},
            "named_1": {"clientName": "mine"},
        }
        for session_id, more in created.items():
            await peer.ask("session.create", options(session_id, model.url, **more))
            await peer.ask("session.send", {"sessionId": session_id, "prompt": PROMPT})
            await peer.until(functools.partial(_is_idle, session_id=session_id))
            if more:
                await peer.ask("session.name.set", {"sessionId": session_id, "name": "Mine"})
        await peer.ask("session.metadata.updateClientMetadata", {"sessionId": PLAIN, "set": {"a/b": "v", "c": "d"}})
        await peer.ask("session.remote.notifySteerableChanged", {"sessionId": WORK, "remoteSteerable": True})
        # Flushed and dropped, so that neither the files nor their times change any more.
        for session_id in created:
            await peer.ask("sessions.close", {"sessionId": session_id})
        state = runtime.home / "copilot" / "session-state"
        gateway = CatalogueAnswers(
            DiskCatalog(state), Live(), new_id=lambda: "unused", now_ms=lambda: 0, state_path=str(state / "any")
        )
        yield Both(peer, gateway, runtime.home, model)


def _is_idle(message: dict[str, Any], session_id: str) -> bool:
    if message["method"] != "session.event" or message["params"]["sessionId"] != session_id:
        return False
    return bool(message["params"]["event"]["type"] == "session.idle")


@pytest.mark.parametrize("method", ["session.list", "sessions.list"])
async def test_lists(both: Both, method: str) -> None:
    listed = await both.agree(method)
    assert [each["sessionId"] for each in listed["sessions"]] == ["named_1", WORK, PLAIN]
    assert listed["sessions"][1]["context"]["repository"] == "o/r"
    where = listed["sessions"][1]["context"]
    filters: list[object] = [*({key: value} for key, value in where.items()), {"cwd": "/nowhere"}]
    filters += [where, {"repository": "o/r", "branch": "other"}, {"cwd": 5}, {"bogus": "x"}, {}, None, 5]
    for each in filters:
        await both.agree(method, {"filter": each})
    for limit in (0, 1, 2, 9, -1, "x", None, True):
        await both.agree(method, {"metadataLimit": limit})
    for source in ("local", "remote", "all", "bogus", 5, ["remote"]):
        await both.agree(method, {"source": source})
    await both.agree(method, {"source": "remote", "throwOnError": True})
    odd: list[object] = [{"includeDetached": True}, {"includeDetached": "x"}, [], "x", 5]
    for params in odd:
        await both.agree(method, params)


async def test_the_last_one(both: Both) -> None:
    assert (await both.agree("session.getLastId"))["sessionId"] == "named_1"
    await both.agree("session.getLastId", {"x": 1})
    where = (await both.agree("session.getMetadata", {"sessionId": WORK}))["session"]["context"]
    assert (await both.agree("sessions.getLastForContext", {"context": where}))["sessionId"] == WORK
    contexts: list[object] = [{"cwd": "/x", key: where[key]} for key in ("gitRoot", "repository", "branch")]
    contexts += [{"cwd": where["cwd"]}, {"cwd": "/x"}, {"cwd": "/x", "repository": "o/r", "branch": "gone"}]
    contexts += [{"cwd": where["cwd"], "repository": "no/body"}, None, 5, {}, {"cwd": 5}]
    for each in contexts:
        await both.agree("sessions.getLastForContext", {"context": each})
    await both.agree("sessions.getLastForContext")


@pytest.mark.parametrize(
    "method",
    [
        "session.delete",
        "session.getMetadata",
        "sessions.close",
        "sessions.delete",
        "sessions.fork",
        "sessions.getBoardEntryCount",
        "sessions.getMetadata",
        "sessions.getPersistedRemoteSteerable",
        "sessions.readPersistedEvents",
        "sessions.releaseLock",
    ],
)
async def test_ids_that_are_none_and_sessions_that_are_not_there(both: Both, method: str) -> None:
    for session_id in IDS:
        # Of an id that is too long for a directory, methods that do not look at the disk say nothing: here, all do.
        if len(str(session_id)) < 256 or method in ("session.delete", "session.getMetadata", "sessions.delete"):
            await both.agree(method, {"sessionId": session_id})
    odd: list[object] = [None, {}, [], ["nope"], "nope"]
    for params in odd:
        await both.agree(method, params)


@pytest.mark.parametrize("method", ["sessions.bulkDelete", "sessions.checkInUse", "sessions.getClientMetadata"])
async def test_lists_of_ids(both: Both, method: str) -> None:
    for session_id in IDS:
        if session_id != "x" * 300:  # the runtime answers each method differently here, and none usefully
            await both.agree(method, {"sessionIds": session_id})
            await both.agree(method, {"sessionIds": ["nope", session_id]})
    odd: list[object] = [None, {}, [], {"sessionIds": []}]
    for params in odd:
        await both.agree(method, params)


async def test_what_is_known_of_a_session(both: Both) -> None:
    for session_id in (PLAIN, WORK, "named_1"):
        assert "session" in await both.agree("session.getMetadata", {"sessionId": session_id, "extra": 1})
        await both.agree("sessions.getMetadata", {"sessionId": session_id})
        await both.agree("sessions.getPersistedRemoteSteerable", {"sessionId": session_id})
    for keys in (["c", "zz"], [], 5, [5], None):
        await both.agree("sessions.getClientMetadata", {"sessionIds": [PLAIN, "nope", WORK, PLAIN], "keys": keys})
    await both.agree("sessions.getClientMetadata", {"sessionIds": [PLAIN, "nope", WORK, PLAIN]})
    listed = (await both.runtime.ask("sessions.list"))["sessions"]
    bare = [{key: each[key] for key in ("sessionId", "startTime", "modifiedTime", "isRemote")} for each in listed]
    other = {"sessionId": "nope", "startTime": "x", "modifiedTime": "y", "isRemote": False}
    odd = {"sessionId": PLAIN, "summary": "kept?", "bogus": 1, "startTime": "x"}
    records: list[object] = [listed, bare, [other], [odd], [], [5], ["x"], [{}], [{"sessionId": "bad/id"}], None, 5]
    for each in records:
        await both.agree("sessions.enrichMetadata", {"sessions": each})
    path = await both.runtime.ask("sessions.getEventFilePath", {"sessionId": PLAIN})
    assert path == {"filePath": str(both.home / "copilot/session-state" / PLAIN / "events.jsonl")}


async def test_sizes_and_which_have_history(both: Both) -> None:
    assert set((await both.agree("sessions.getSizes"))["sizes"]) == {PLAIN, WORK, "named_1"}
    await both.agree("sessions.findByTaskId", {"taskId": "x"})
    for task in (None, 5, "", ["x"]):
        await both.agree("sessions.findByTaskId", {"taskId": task})


async def test_prefixes(both: Both) -> None:
    prefixes: list[object] = [PLAIN[:length] for length in (6, 7, 8, 9, 10, 13, 35, 36)]
    prefixes += [
        PLAIN[:12].upper(),
        "zzzzzzz",
        "named_1",
        "",
        "........",
        "x" * 300,
        None,
        5,
        ["x"],
        "8d5c5a5%",
        "-------",
    ]
    found = [await both.agree("sessions.findByPrefix", {"prefix": prefix}) for prefix in prefixes]
    assert {"sessionId": PLAIN} in found
    await both.agree("sessions.findByPrefix")


async def test_pruning_says_what_it_would_delete(both: Both) -> None:
    state = DiskCatalog(both.home / "copilot" / "session-state")
    both = replace(both, gateway=CatalogueAnswers(state, Live(), new_id=str, now_ms=lambda: 2**42))
    spared = await both.agree("sessions.pruneOld", {"olderThanDays": 0, "dryRun": True})
    assert spared["skipped"], "the runtime spares sessions that a person has named"
    variants: list[dict[str, object]] = [
        {"includeNamed": True},
        {"includeNamed": "x"},
        {"excludeSessionIds": [WORK, "nope"]},
        {"excludeSessionIds": None},
        {"excludeSessionIds": 5},
        {"excludeSessionIds": ["bad/id"]},
        {"olderThanDays": -1},
        {"olderThanDays": None},
        {"olderThanDays": "5"},
    ]
    for more in variants:
        await both.agree("sessions.pruneOld", {"olderThanDays": 0, "dryRun": True, **more})


async def test_pages_of_events(both: Both) -> None:
    """The cursors differ, as the runtime's are its own; the pages do not."""
    for session_id in (PLAIN, WORK):
        sizes: list[dict[str, object]] = [{}, {"max": 2}]
        sizes += [{"max": count, "direction": "backward"} for count in (1, 3)]
        for more in sizes:
            asked: list[dict[str, object]] = [{"sessionId": session_id, **more}] * 2
            pages = 0
            while True:
                theirs = await both.runtime.ask("sessions.readPersistedEvents", asked[0])
                ours: Any = await answered(both.gateway, "sessions.readPersistedEvents", asked[1])
                cursors = theirs.pop("cursor"), ours.pop("cursor")
                assert ours == theirs
                asked = [{**each, "cursor": cursor} for each, cursor in zip(asked, cursors, strict=True)]
                pages += 1
                if theirs["cursorStatus"] == "expired":
                    break
            assert pages > (1 if more else 0)
    odd: list[dict[str, object]] = [{"limit": 2}, {"max": "x"}, {"max": 1.5}, {"max": True}, {"max": []}, {"max": {}}]
    odd += [{"direction": "x"}, {"direction": 5}, {"cursor": 5}, {"cursor": "x"}, {"cursor": ""}]
    for each in odd:
        await both.agree("sessions.readPersistedEvents", {"sessionId": PLAIN, **each})


async def test_names_of_forks(both: Both) -> None:
    for name in ("", " ", " x ", "x" * 101, "a\nb", 'a"b', "a\x7fb", "a\xa0"):
        await both.agree("sessions.fork", {"sessionId": PLAIN, "name": name})
    first = (await both.runtime.ask("sessions.readPersistedEvents", {"sessionId": PLAIN}))["events"][0]["id"]
    for event in ("nope", "", first):
        await both.agree("sessions.fork", {"sessionId": PLAIN, "toEventId": event})


async def test_sessions_that_are_not_open(both: Both) -> None:
    methods = ["abort", "destroy", "detach", "getMessages", "history.compact", "name.get", "resume", "send", "shutdown"]
    asked = [f"session.{each}" for each in methods]
    asked += [f"sessions.{each}" for each in ("loadDeferredRepoHooks", "reloadPluginHooks", "save")]
    for method in asked:
        for session_id in ("nope", "bad/id", "x" * 200, None, 5):
            params = {"sessionId": session_id, "prompt": "x"}
            try:
                ours: object = not_open(method, required_session(method, params))
            except RpcError as error:
                ours = {"error": {"code": error.code, "message": error.message}}
            theirs = await both.runtime.ask(method, params)
            if method.startswith("sessions.") and session_id in (None, 5):
                theirs["error"]["message"] = theirs["error"]["message"].replace(json.dumps(session_id), "undefined")
            assert ours == theirs, method
    for kind in ("resume", "attach"):
        params = {"kind": kind, "sessionId": "nope"}
        assert not_open("sessions.open", "nope") == await both.runtime.ask("sessions.open", params)


async def test_methods_that_nobody_knows(both: Both) -> None:
    for method in ("nope.method", "session.nope", "session.sendAndWait", "sessionFs.readFile", "Session.Name.Get"):
        error = unhandled(method)
        answer = await both.runtime.ask(method, {"sessionId": "nope"})
        assert answer == {"error": {"code": error.code, "message": error.message}}


async def test_no_foreground(both: Both) -> None:
    await both.agree("session.getForeground")
    for session_id in (PLAIN, "nope", None):
        await both.agree("session.setForeground", {"sessionId": session_id})


async def test_what_sessions_of_a_runtime_would_share(both: Both) -> None:
    """By default every prompt goes into one database of the runtime's home, and the gateway's parameters prevent it."""
    outside = _holding(both.home / "copilot", PROMPT)
    assert {path.name for path in outside} >= {"session-store.db-wal"}
    async with start_runtime(located()) as runtime, connected(runtime) as peer:
        params = shared_params("session.create", options("s1", both.model_url, enableSessionStore=True))
        assert (await peer.ask("session.create", params))["sessionId"] == "s1"
        await peer.ask("session.send", {"sessionId": "s1", "prompt": PROMPT})
        await peer.until(functools.partial(_is_idle, session_id="s1"))
        update = shared_params("session.options.update", {"sessionId": "s1", "enableSessionStore": True})
        await peer.ask("session.options.update", update)
        await peer.ask("sessions.close", {"sessionId": "s1"})
        home = runtime.home / "copilot"
        assert _holding(home / "session-state", PROMPT), "the session itself is there"
        assert not [path for path in _holding(home, PROMPT) if home / "session-state" not in path.parents]


INSIDE_TOOLS = {
    *("apply_patch", "create", "edit", "str_replace_editor", "view"),
    *("ask_user", "exit_plan_mode", "manage_schedule", "skill", "sql", "task_complete", "update_todo"),
    *("list_agents", "read_agent", "task", "write_agent"),
    *("fetch_copilot_cli_documentation", "generic_tool_search", "tool_search_tool", "web_fetch"),
}
"""Built-in tools that use the session's own files, the network, or nothing."""


async def test_the_agent_of_a_shared_runtime_has_no_tool_of_the_host(both: Both) -> None:
    both.model.add("Delegate.", Call("task", DELEGATION), Say("Delegated."))
    both.model.add("Do it.", Call("bash", {"command": "echo here", "description": "x"}), Say("Tried."))
    params = shared_params("session.create", options("bound", both.model_url, availableTools=["*"]))
    await both.runtime.ask("session.create", params)
    await both.runtime.ask("session.permissions.setApproveAll", {"sessionId": "bound", "enabled": True})
    for prompt in ("Do it.", "Delegate."):
        before = len(both.model.requests)
        both.runtime.received.clear()
        await both.runtime.ask("session.send", {"sessionId": "bound", "prompt": prompt})
        await both.runtime.until(functools.partial(_is_idle, session_id="bound"))
        results = [each for request in both.model.requests[before:] for each in request.results()]
        assert any(each.startswith("Tool 'bash' does not exist.") for each in results), results
        assert not any(each.startswith("here") for each in results)
    described = await both.runtime.ask("session.tools.getBuiltinDescriptors", {"sessionId": "bound"})
    listed = await both.runtime.ask("tools.list", {})
    names = {each["name"] for each in [*described["tools"], *listed["tools"]]}
    assert {"bash", "grep", "view"} <= names
    undecided = sorted(names - INSIDE_TOOLS - set(HOST_TOOLS))
    assert not undecided, f"decide about these tools, in sessionfs_s3/gateway/rules/sharing.py or here: {undecided}"
    await both.runtime.ask("session.delete", {"sessionId": "bound"})


DELEGATION = {"agent_type": "general-purpose", "name": "sub", "description": "d", "prompt": "Do it.", "mode": "sync"}


def _holding(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


async def test_deleting(both: Both) -> None:
    """Comes last: the sessions are gone afterwards."""
    state = both.home / "copilot" / "session-state"
    for method, session_id in (("session.delete", PLAIN), ("sessions.delete", WORK)):
        kept = both.home / session_id
        shutil.copytree(state / session_id, kept)
        ours = await answered(both.gateway, method, {"sessionId": session_id})
        kept.rename(state / session_id)
        assert ours == await both.runtime.ask(method, {"sessionId": session_id})
        notices = [each["params"] for each in both.runtime.received if each["method"] == "session.lifecycle"]
        assert deleted_notice(session_id) in notices
        await both.agree("session.getMetadata", {"sessionId": session_id})
    freed = await both.runtime.ask("sessions.bulkDelete", {"sessionIds": ["named_1", "nope", "named_1"]})
    assert list(freed["freedBytes"]) == ["named_1", "nope"]
    assert freed["freedBytes"]["nope"] == 0
