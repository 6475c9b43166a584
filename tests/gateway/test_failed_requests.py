"""What fails in a runtime's request to the gateway: the runtime hears of it, and the log nothing of its contents."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sessionfs_s3.gateway.errors import FAILED, RpcError
from sessionfs_s3.gateway.options import GatewayOptions
from sessionfs_s3.testing.gateway import gateway_here
from sessionfs_s3.testing.model import Call, Say, ScriptedModel

from .wire import config, connected, turn


def test_an_error_reads_as_its_message() -> None:
    assert str(RpcError(FAILED, "no runtime is free")) == "no runtime is free"


async def test_sql_that_is_refused_is_answered_and_not_logged(
    executable: Path, model: ScriptedModel, session_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model.add("Select.", Call("sql", {"description": "looks", "query": "SELECT * FROM secret_plans"}), Say("Selected."))
    gateway, _ = gateway_here(executable, GatewayOptions(f"file://{tmp_path}"))
    with caplog.at_level(logging.DEBUG, "sessionfs_s3"):
        async with gateway, connected(gateway.port) as client:
            await client.request("session.create", config(model, session_id, builtin=("sql",)))
            told = await turn(client, session_id, "Select.")
    done = next(each["data"] for each in told if each["type"] == "tool.execution_complete")
    assert "no such table: secret_plans" in str(done)
    assert "secret_plans" not in caplog.text
