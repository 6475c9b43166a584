"""What was once stored is read for ever: each golden file decodes to its value, and is still what is encoded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format import Commit, Snapshot, decode_commit, decode_snapshot
from sessionfs_s3.format.commit import _DECODERS
from tests.format import golden
from tests.format.golden import GOLDEN

ROOT = Path(__file__).parent.parent.parent


def decode(data: bytes, value: Commit | Snapshot) -> Commit | Snapshot:
    if isinstance(value, Commit):
        return decode_commit("golden", data, sequence=value.sequence)[0]
    return decode_snapshot("golden", data, sequence=value.sequence)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_file_says_what_it_always_said(name: str) -> None:
    data = golden.path(name).read_bytes()
    assert decode(data, GOLDEN[name].value) == GOLDEN[name].value
    assert bool(data[7] & 1) == GOLDEN[name].compressed


@pytest.mark.parametrize("name", [name for name, each in GOLDEN.items() if not each.compressed])
def test_the_encoder_still_makes_the_same_bytes(name: str) -> None:
    assert golden.encode(GOLDEN[name].value) == golden.path(name).read_bytes()


@pytest.mark.parametrize("name", [name for name, each in GOLDEN.items() if each.compressed])
def test_compressed_frames_differ_in_nothing_but_their_compression(name: str) -> None:
    # Another release of Zstandard may find other matches: only the header and the decompressed length are fixed.
    ours, theirs = golden.encode(GOLDEN[name].value), golden.path(name).read_bytes()
    header_end = 64 + int.from_bytes(ours[8:12])
    assert ours[:12] == theirs[:12]
    assert ours[20:32] == theirs[20:32]
    assert ours[64:header_end] == theirs[64:header_end]
    assert decode(ours, GOLDEN[name].value) == decode(theirs, GOLDEN[name].value)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_damage_to_a_golden_file_is_noticed(name: str) -> None:
    good = golden.path(name).read_bytes()
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt):
            decode(bytes(bad), GOLDEN[name].value)
    for size in range(len(good)):
        with pytest.raises(Corrupt):
            decode(good[:size], GOLDEN[name].value)


def test_every_kind_of_operation_is_in_a_golden_file() -> None:
    kinds = {
        type(operation)
        for each in GOLDEN.values()
        if isinstance(each.value, Commit)
        for operation in each.value.operations
    }
    assert len(kinds) == len(_DECODERS)


def test_every_golden_file_has_its_value() -> None:
    assert {path.name for path in golden.FOLDER.glob("*.bin")} == {golden.path(name).name for name in GOLDEN}


def test_writing_the_files_again_changes_nothing() -> None:
    before = {name: golden.path(name).read_bytes() for name in GOLDEN}
    done = subprocess.run(
        [sys.executable, "-m", "tests.format.golden"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {name: golden.path(name).read_bytes() for name in GOLDEN} == before
