"""Two tenants with the same session ids, on the same runtimes: nothing of the one reaches the other, by any method."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa

from sessionfs_s3 import SessionFs
from sessionfs_s3.gateway.auth.authenticator import Authenticator
from sessionfs_s3.gateway.auth.tokens import new_token
from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.gateway.rules.methods import OPENING
from sessionfs_s3.gateway.runtimes import Launched
from sessionfs_s3.gateway.server import Gateway
from sessionfs_s3.testing.gateway import gateway_here
from sessionfs_s3.testing.model import Call, Say, ScriptedModel
from sessionfs_s3.testing.raw_client import Json, RawClient, RpcError, raw_client
from sessionfs_s3.testing.sdk_client import SdkClient
from sessionfs_s3.testing.sdk_clients import python_client
from sessionfs_s3.volume import Volume
from tests.gateway import intruder
from tests.gateway.issuer import claims, pem, settings, sign
from tests.gateway.tenants_files import write
from tests.gateway.wire import HOST, PATIENT_S, begin_turn, config, connected, history, idle, said, turn

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("gateway-tenants")]

MARK = "acmesecret"
"""Stands in everything that is A's alone."""

ONLY_A = f"zulu-{MARK}-only"
ASKING = f"zulu-{MARK}-asking"
QUIET = f"{MARK}-that-nobody-else-names"
NOBODYS = "zulu-nobodysess-only"
SAME = "main"
VOLATILE = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z|[0-9a-f]{8}-[0-9a-f-]{27}")
PROMPT = f"{MARK} prompt"
ANSWER = f"{MARK} answer"
TOOLS = ("create", "view", "sql", "ask_user")
SQL = f"CREATE TABLE kept (v TEXT); INSERT INTO kept VALUES ('{MARK} row')"
REST_S = 1.0


@dataclass
class Two:
    """A gateway with two tenants, of which A is at work.

    Attributes:
        a: a client of A's.
        asking: a bare client of A's that has been asked something under the id *question*, and has not answered yet.
        tokens: by label.
    """

    gateway: Gateway
    launched: Launched
    store: str
    tokens: dict[str, str]
    key: rsa.RSAPrivateKey
    script: ScriptedModel
    a: SdkClient
    asking: RawClient
    question: Json
    turns: int = 0

    async def work(self, until: asyncio.Event) -> None:
        """Hold A's turns in both of its sessions until told to stop."""
        while not until.is_set():
            for session_id in (SAME, ONLY_A):
                assert await self.a.send(session_id, PROMPT) == ANSWER
            self.turns += 1


@asynccontextmanager
async def two_tenants(
    executable: Path, folder: Path, script: ScriptedModel, isolation: Literal["shared", "tenant"]
) -> AsyncIterator[Two]:
    tokens: dict[str, str] = {}
    key = rsa.generate_private_key(65537, 2048)
    rows: dict[str, list[dict[str, object]]] = {"acme": [], "bravo": []}
    more: dict[str, dict[str, object]] = {
        "limited": {"sessions": ["work", "own-*"]},
        "old": {"expires": datetime.now(UTC) - timedelta(hours=1)},
    }
    for label, tenant in (("a", "acme"), ("b", "bravo"), ("limited", "bravo"), ("old", "acme")):
        tokens[label], hashed = new_token()
        rows[tenant].append({"label": label, "hash": hashed, **more.get(label, {})})
    (folder / "keys.pem").write_text(pem(key))
    table = {
        "limits": {"requests_per_s": 1e6, "burst": 1_000_000},
        "tenants": [{"id": tenant, "tokens": some} for tenant, some in rows.items()],
        "jwt": settings(keys_file="keys.pem", leeway_s=0),
    }
    authenticator = Authenticator.load(write(folder / "tenants.toml", table))
    store = (folder / "store").as_uri()
    gateway, launched = gateway_here(
        executable,
        GatewayOptions(store, isolation=isolation, handshake_s=PATIENT_S),
        authenticator,
        runtimes=2 if isolation == "shared" else 1,
    )
    path = f"/workspace/{MARK}.txt"
    script.add(
        f"{PROMPT} begins",
        Call("create", {"path": path, "file_text": f"{MARK} contents\n"}),
        Call("sql", {"description": f"{MARK} rows", "query": SQL}),
        Call("lookup", {"key": f"{MARK} key"}),
        Say(ANSWER),
    )
    script.add(PROMPT, Say(ANSWER))
    script.add("Ask.", Call("ask_user", {"question": f"{MARK} question?"}), Say(ANSWER))
    script.add("Bravo turn.", Say("Bravo answer."))
    async with (
        gateway,
        python_client(HOST, gateway.port, tokens["a"], script.provider) as a,
        connected(gateway.port, token=tokens["a"]) as asking,
    ):
        for session_id in (SAME, ONLY_A):
            await a.create(session_id, tools=TOOLS)
            assert await a.send(session_id, f"{PROMPT} begins") == ANSWER
        await asking.request("session.create", config(script, ASKING))
        await asking.request("session.create", config(script, QUIET))
        assert said(await turn(asking, QUIET, PROMPT)) == [PROMPT, ANSWER]
        await asking.request("session.name.set", {"sessionId": ASKING, "name": f"{MARK} name"})
        seen = await begin_turn(asking, ASKING, "Ask.")
        question = await asking.until(lambda message: message.get("method") == "userInput.request", after=seen)
        yield Two(gateway, launched, store, tokens, key, script, a, asking, question)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(
    executable: Path, tmp_path_factory: pytest.TempPathFactory, script: ScriptedModel
) -> AsyncIterator[Two]:
    async with two_tenants(executable, tmp_path_factory.mktemp("shared"), script, "shared") as two:
        yield two


async def test_every_method_while_the_other_is_at_work(shared: Two) -> None:
    await intrude(shared, own_runtime=False)
    home_files = [path for process in shared.launched.processes for path in process.home.rglob("*") if path.is_file()]
    leaked = [str(path) for path in home_files if MARK.encode() in path.read_bytes()]
    assert home_files
    assert leaked == []


async def test_every_method_with_runtimes_of_ones_own(executable: Path, tmp_path: Path, script: ScriptedModel) -> None:
    async with two_tenants(executable, tmp_path, script, "tenant") as two:
        await intrude(two, own_runtime=True)


async def intrude(two: Two, *, own_runtime: bool) -> None:
    """Be B, while A works: try everything, look at everything that comes back, and see that A is undisturbed."""
    stop = asyncio.Event()
    working = asyncio.create_task(two.work(stop))
    port, token = two.gateway.port, two.tokens["b"]
    try:
        received: list[Json] = []
        async with connected(port, token=token) as listener:
            await listener.request("session.create", config(two.script, SAME))
            own = await turn(listener, SAME, "Bravo turn.")
            assert said(own) == ["Bravo turn.", "Bravo answer."]
            # Ids are a tenant's own: who creates a session under an id of A's has one of that name.
            every = [each for each in intruder.methods(own_runtime=own_runtime) if each != "session.create"]
            # With a runtime of its own there is less in reach: parameters that break rules are tried on a shared one.
            for shape in itertools.islice(intruder.shapes(ONLY_A), 2 if own_runtime else None):
                some = await intruder.ask_all(port, token, [(each, shape) for each in every], rest_s=REST_S)
                # Whatever it is, it is answered.
                connections = -(-len(every) // intruder.ONE_CONNECTION)
                assert len(intruder.answers_of(some)) == len(every) + connections, shape
                received += some
            await same_as_nobodys(port, token, every)
            received += await besiege(two, listener)
            about_own = [(each, intruder.params_about(SAME)) for each in every]
            received += await intruder.ask_all(port, token, about_own, rest_s=REST_S)
            received += listener.received
        assert len(received) > 1000
        check(received)
        async with connected(port, token=token) as after:
            await after.request("session.create", config(two.script, "after"))
            assert said(await turn(after, "after", "Bravo turn.")) == ["Bravo turn.", "Bravo answer."]
        assert two.turns >= 1
    finally:
        stop.set()
        await working
    await undisturbed(two)
    await nothing_of_the_others_is_stored(two)


async def same_as_nobodys(port: int, token: str, every: Sequence[str]) -> None:
    """See that no method tells a session of A's from one that nobody has."""
    told: list[dict[str, str]] = []
    for session_id in (ONLY_A, NOBODYS):
        answers: dict[str, str] = {}
        # One after the other what opens a session: meanwhile, and for nobody but B itself, it is being opened.
        plain = [each for each in every if each not in OPENING]
        chunks = [
            plain[start : start + intruder.ONE_CONNECTION] for start in range(0, len(plain), intruder.ONE_CONNECTION)
        ]
        for some in [*chunks, *([each] for each in every if each in OPENING)]:
            calls = [(each, intruder.params_about(session_id)) for each in some]
            received = await intruder.ask_all(port, token, calls, rest_s=REST_S)
            for answer in intruder.answers_of(received):
                if str(answer["id"]).startswith("b"):
                    text = json.dumps(answer, sort_keys=True).replace(session_id, "*").replace(session_id[:7], "*")
                    answers[some[int(answer["id"][1:])]] = VOLATILE.sub("…", text)
        told.append(answers)
    assert len(told[0]) == len(every)
    assert told[0] == told[1]


async def besiege(two: Two, client: RawClient) -> list[Json]:
    """Send what is no plain request: odd texts, answers that nobody asked for, cancellations, notifications."""
    async with connected(two.gateway.port, token=two.tokens["b"]) as raw:
        odd = list(intruder.odd_requests(SAME, ONLY_A))
        for body in odd:
            await intruder.send_raw(raw, body)
        await intruder.settled(raw, len(odd) + 1, REST_S)
        for number in (two.question["id"], *range(1, 20), "request", f"{MARK}-request", None):
            await raw.respond(number, {"answer": "from bravo", "wasFreeform": True})
            await raw.notify("$/cancelRequest", {"id": number})
        for method in set(intruder.methods()) - {"session.create"}:
            await raw.notify(method, intruder.params_about(ONLY_A))
        pending = {"sessionId": ASKING, "requestId": "1", "result": "from bravo"}
        for method in (
            "session.tools.handlePendingToolCall",
            "session.permissions.handlePendingPermissionRequest",
            "session.ui.handlePendingUserInput",
        ):
            for session_id in (ASKING, SAME, ONLY_A):
                with contextlib.suppress(RpcError):
                    answer = await raw.request(method, {**pending, "sessionId": session_id})
                    assert answer == {"success": False}, (method, session_id)
        rows = (await raw.request("session.list"))["sessions"]
        assert {row["sessionId"] for row in rows} <= {SAME}
        assert await raw.request("sessions.checkInUse", {"sessionIds": [ASKING]}) == {"inUse": []}
        assert ONLY_A not in (await raw.request("sessions.getSizes"))["sizes"]
        return [*raw.received, *client.received]


def check(received: Sequence[Json]) -> None:
    """Walk all that B was sent: nothing of A's is in it, and no session of A's is told of."""
    for message in received:
        # Nothing was refused for its number alone: each was looked at.
        assert message.get("error", {}).get("code") != -32000, message
        text = json.dumps(message, ensure_ascii=False).casefold()
        # What B sent itself, it may be told again: the ids that it tried, whole or in part.
        for own in echoes():
            text = text.replace(own.casefold(), "")
        assert MARK not in text, message
        assert "acme" not in text, message
        if message.get("method") == "session.lifecycle":
            assert message["params"]["sessionId"] not in (ONLY_A, ASKING, QUIET)


@pytest.mark.parametrize("planted", [ANSWER, f"Session {QUIET} exists", "/tenants/acme/", f"{ONLY_A} {MARK}"])
async def test_the_walk_finds_what_is_planted(planted: str) -> None:
    with pytest.raises(AssertionError):
        check([{"jsonrpc": "2.0", "id": 1, "result": {"rows": [{"text": planted}]}}])
    check([{"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": f"Session not found: {ONLY_A}"}}])


def echoes() -> Iterator[str]:
    """Yield what stands in B's own requests, and so in the errors that they are answered with."""
    yield from (f"../acme/{ONLY_A}", ONLY_A, ASKING, ONLY_A[:10], ONLY_A[:7])


async def undisturbed(two: Two) -> None:
    """See that A's conversations are what A made of them, and that A's question waits for A."""
    for session_id in (SAME, ONLY_A):
        told = await two.a.history(session_id)
        assert said(told) == [f"{PROMPT} begins", ANSWER, *[PROMPT, ANSWER] * two.turns]
        assert "session.error" not in [each["type"] for each in await two.a.events(session_id)]
    seen = len(two.asking.received)
    await two.asking.respond(two.question["id"], {"answer": "from acme", "wasFreeform": True})
    await idle(two.asking, ASKING, seen)
    assert said(await history(two.asking, ASKING)) == ["Ask.", ANSWER]
    (result,) = two.script.requests_in("Ask.")[-1].results()
    assert "from acme" in result
    rows = await two.a.list_sessions()
    assert {row["sessionId"] for row in rows} == {SAME, ONLY_A, ASKING, QUIET}
    assert "bravo" not in json.dumps([rows, await two.a.lifecycle(), two.asking.received]).casefold()


async def nothing_of_the_others_is_stored(two: Two) -> None:
    for tenant, foreign in (("acme", "bravo"), ("bravo", MARK)):
        async with SessionFs.open(two.store, tenant=tenant) as files:
            own = False
            for session_id in await files.catalog.ids():
                async with files.volume(session_id, read_only=True) as volume:
                    async for path in walk(volume, "/"):
                        told = (path.encode() + await volume.read_file_bytes(path)).lower()
                        assert foreign.encode() not in told, (tenant, session_id, path)
                        own = own or {"acme": MARK, "bravo": "bravo turn."}[tenant].encode() in told
            assert own


async def walk(volume: Volume, folder: str) -> AsyncIterator[str]:
    for name, kind in await volume.readdir_with_types(folder):
        path = f"{folder.rstrip('/')}/{name}"
        if kind == "directory":
            async for each in walk(volume, path):
                yield each
        else:
            yield path


async def test_tokens_that_do_not_hold(shared: Two) -> None:
    """Whoever brings one is told nothing but that, and hears nothing of what goes on."""
    good = sign(shared.key, claims(tenant="acme"))
    head, body, signature = good.split(".")
    foreign_key = rsa.generate_private_key(65537, 2048)
    other_body = sign(shared.key, claims(tenant="bravo")).split(".")[1]
    wrong = {
        "forged": sign(foreign_key, claims(tenant="acme")),
        "expired": sign(shared.key, claims(tenant="acme", exp=1)),
        "truncated": good[:-8],
        "swapped body": f"{head}.{other_body}.{signature}",
        "no signature": f"{head}.{body}.",
        "expired, hashed": shared.tokens["old"],
        "truncated, hashed": shared.tokens["a"][:-1],
        "changed, hashed": shared.tokens["a"][:-1] + ("A" if shared.tokens["a"][-1] != "A" else "B"),
    }
    for label, token in wrong.items():
        async with raw_client(HOST, shared.gateway.port) as client:
            with pytest.raises(RpcError) as caught:
                await client.request("connect", {"token": token})
            assert caught.value.code == -32002, label
            with pytest.raises(RpcError) as caught:
                await client.request("session.getMessages", {"sessionId": ONLY_A})
            assert caught.value.code == -32001, label
            assert await shared.a.send(ONLY_A, PROMPT) == ANSWER
            assert len(client.received) == 2, label
            assert MARK not in json.dumps(client.received), label
    # And one that holds is its tenant's, whatever else it is used for.
    async with connected(shared.gateway.port, token=sign(shared.key, claims(tenant="bravo"))) as client:
        with pytest.raises(RpcError, match="Session not found"):
            await client.request("session.resume", config(shared.script, ONLY_A))
    async with connected(shared.gateway.port, token=good) as client:
        assert ONLY_A in [row["sessionId"] for row in (await client.request("session.list"))["sessions"]]


async def test_a_credential_for_some_sessions(shared: Two) -> None:
    """To it the others of its own tenant do not exist, by whatever method."""
    port, script = shared.gateway.port, shared.script
    script.add("Bravosecret turn.", Say("Bravosecret answer."))
    secret = "yank-bravosecret-main"
    async with (
        connected(port, token=shared.tokens["b"]) as owner,
        connected(port, token=shared.tokens["limited"]) as listener,
    ):
        await owner.request("session.create", config(script, secret))
        await turn(owner, secret, "Bravosecret turn.")
        await listener.request("session.create", config(script, "work"))
        calls = [(each, intruder.params_about(secret)) for each in intruder.methods()]
        received = await intruder.ask_all(port, shared.tokens["limited"], calls, rest_s=REST_S)
        assert said(await turn(owner, secret, "Bravosecret turn.")) == ["Bravosecret turn.", "Bravosecret answer."]
        assert said(await turn(listener, "work", "Bravo turn.")) == ["Bravo turn.", "Bravo answer."]
        for message in [*received, *listener.received]:
            told = json.dumps(message).casefold().replace(secret, "").replace(secret[:7], "")
            assert "bravosecret" not in told, message
            assert message.get("method") is None or secret not in json.dumps(message), message
        rows = (await listener.request("session.list"))["sessions"]
        assert {row["sessionId"] for row in rows} == {"work"}
        with pytest.raises(RpcError, match="limited to certain sessions"):
            await listener.request("sessions.fork", {"sessionId": "work"})
        assert said(await history(owner, secret)) == ["Bravosecret turn.", "Bravosecret answer."] * 2
