"""The Python in the README runs as it stands; only the store's URL is another one."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sessionfs_s3.testing.model import MODEL_NAME, Say, ScriptedModel

README = Path(__file__).parents[2] / "README.md"


def _snippets() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def pipes_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the pipes of the runtimes that the SDK starts: it leaves them to the garbage collector."""
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    yield
    for process in started:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    assert started, "the SDK has started no runtime"


@pytest.mark.usefixtures("pipes_closed")
async def test_the_snippets_put_it_in_front_of_an_application(
    executable: Path,
    model: ScriptedModel,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COPILOT_CLI_PATH", str(executable))
    application, look = (re.sub(r'SessionFs\.open\("[^"]*"', f'SessionFs.open("{url}"', each) for each in _snippets())
    names: dict[str, Any] = {}
    exec(compile(application, str(README), "exec"), names)  # the README's own code
    model.add("Remember the number seven.", Say("Seven it is."))
    model.add("Which number?", Say("Seven."))
    options = {"model": MODEL_NAME, "provider": model.provider}
    assert (await names["answer"]("user-1-task-7", "Remember the number seven.", False, **options)).data.content
    reply = await names["answer"]("user-1-task-7", "Which number?", True, **options)
    assert reply.data.content == "Seven."
    sent = model.requests_in("Which number?")[0]
    assert any("Remember the number seven." in message.text for message in sent.messages)

    body = "\n".join(f"    {line}" for line in look.splitlines())
    exec(compile(f"async def look():\n{body}", str(README), "exec"), names)  # likewise
    await names["look"]()
    assert "Seven it is." in capsys.readouterr().out
