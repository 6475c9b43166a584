"""A backend in a process of its own, to be killed: the provider of a runtime, caught in the middle of a commit.

``python -m tests.runtime.backend ORDER`` resumes the session on the runtime that the test has started, begins a turn
whose every call of a tool writes a row, and prints ``held`` once the commit that the order names is under way. It
never ends by itself. ORDER is a JSON object, see :class:`Order`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Literal
from unittest import mock

from copilot import CopilotClient, PermissionHandler, RuntimeConnection, ToolSet
from pydantic import BaseModel

from sessionfs_s3 import SessionFs
from sessionfs_s3.store import Store, open_store
from sessionfs_s3.testing.faults import Fault
from sessionfs_s3.testing.model import MODEL_NAME, provider_at
from sessionfs_s3.testing.replica import ask

from .commits import FaultyCommits


class Order(BaseModel):
    """What the test asks for.

    Attributes:
        url: the store.
        runtime: where the runtime listens, "HOST:PORT".
        token: what it demands of a client.
        model: the base URL of the model.
        prompt: the turn's first words.
        commits: how many commits with rows pass before one is held.
        moment: held before it is sent, or stored and the answer held back.
    """

    url: str
    runtime: str
    token: str
    model: str
    prompt: str
    commits: int
    moment: Literal["before its PUT", "after its PUT"]


async def _serve(order: Order) -> None:
    stores: list[FaultyCommits] = []

    async def opened(url: str) -> Store:
        stores.append(FaultyCommits(await open_store(url)))
        return stores[-1]

    connection = RuntimeConnection.for_uri(order.runtime, connection_token=order.token)
    with mock.patch("sessionfs_s3.copilot.session_fs.open_store", opened):
        async with SessionFs.open(order.url, tenant="acme") as fs:
            client = CopilotClient(mode="empty", session_fs=fs.config, connection=connection)
            session = await client.resume_session(
                "s1",
                model=MODEL_NAME,
                provider=provider_at(order.model),
                available_tools=ToolSet().add_builtin("sql"),
                on_permission_request=PermissionHandler.approve_all,
                create_session_fs_handler=fs.handler,
            )
            held = stores[0].hold(order.moment, after=order.commits)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_tell(held))
                while True:  # a turn that the runtime begins without its tools ends, see turns.tell
                    await ask(session, order.prompt)


async def _tell(held: Fault) -> None:
    await held.reached.wait()
    print("held", flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(Order.model_validate_json(sys.argv[1])))
