"""A session whose conversation log has grown to 200 MB."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from tests.volume import grown


async def _grown(what: str, directory: Path) -> dict[str, object]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.volume.grown", what, str(directory),
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2], env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0
    told = json.loads(out)
    assert isinstance(told, dict)
    return told


async def test_a_session_of_200_mb_opens_in_little_memory_and_appends_in_one_put(tmp_path: Path) -> None:
    await _grown("build", tmp_path)
    told = await _grown("open", tmp_path)
    nothing = await _grown("nothing", tmp_path)
    size = grown.PIECES * grown.PIECE_BYTES
    assert told["size"] == size
    assert told["append"] == {"PUT": 1}
    assert int(str(told["append_bytes"])) < 1000
    assert told["tail"] == grown.piece(grown.PIECES - 1)[-10:] + "one more line\n"
    opening = told["opening"]
    assert isinstance(opening, dict)
    assert opening.pop("LIST") == 1
    assert opening.pop("PUT") == 1
    assert opening.pop("GET") <= grown.PIECES
    assert not opening
    beyond = int(str(told["rss_bytes"])) - int(str(nothing["rss_bytes"]))
    assert beyond < 40_000_000, f"{beyond} bytes"
    assert await asyncio.to_thread(_size, tmp_path) < 1.1 * size


def _size(directory: Path) -> int:
    return sum(each.stat().st_size for each in directory.rglob("*") if each.is_file())
