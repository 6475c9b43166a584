"""What was once stored is read for ever: each golden file decodes to its value; the newest are what is encoded."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from sessionfs_s3.errors import Corrupt
from sessionfs_s3.format import (
    FORMAT_VERSION,
    VERSIONS_READ,
    Commit,
    Snapshot,
    decode_blob,
    decode_commit,
    decode_snapshot,
    encode_commit,
    encode_snapshot,
    unpack_chunk,
)
from sessionfs_s3.format.commit import _DECODERS
from tests.format import golden
from tests.format.golden import GOLDEN, Chunks

ROOT = Path(__file__).parent.parent.parent


WRITTEN = [name for name, each in GOLDEN.items() if each.version == FORMAT_VERSION]
FRAMES = [name for name in WRITTEN if not isinstance(GOLDEN[name].value, Chunks)]


def decode(data: bytes, value: Commit | Snapshot | Chunks) -> Commit | Snapshot | Chunks:
    match value:
        case Commit():
            return decode_commit("golden", data, sequence=value.sequence)[0]
        case Snapshot():
            return decode_snapshot("golden", data, sequence=value.sequence)
        case Chunks(places=places):
            stored = [data[place.offset : place.offset + place.length] for place in places]
            chunks = [unpack_chunk("golden", place, each) for place, each in zip(places, stored, strict=True)]
            return Chunks(decode_blob("golden", data), places, tuple(chunks))


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_file_says_what_it_always_said(name: str) -> None:
    data = golden.path(name).read_bytes()
    assert decode(data, GOLDEN[name].value) == GOLDEN[name].value
    assert data[4] == GOLDEN[name].version
    if not isinstance(GOLDEN[name].value, Chunks):
        assert bool(data[7] & 1) == GOLDEN[name].compressed


@pytest.mark.parametrize("name", GOLDEN)
def test_what_an_old_file_says_is_written_in_the_newest_version(name: str) -> None:
    value = GOLDEN[name].value
    if isinstance(value, Chunks):
        assert GOLDEN[name].version == FORMAT_VERSION, "version 1 has no blobs"
        return
    again = encode_commit(value)[0] if isinstance(value, Commit) else encode_snapshot(value)
    assert again[4] == FORMAT_VERSION
    assert decode(again, value) == value


@pytest.mark.parametrize("name", [name for name in WRITTEN if not GOLDEN[name].compressed])
def test_the_encoder_still_makes_the_same_bytes(name: str) -> None:
    assert golden.encode(GOLDEN[name].value) == golden.path(name).read_bytes()


@pytest.mark.parametrize("name", [name for name in FRAMES if GOLDEN[name].compressed])
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


@pytest.mark.parametrize("version", VERSIONS_READ)
def test_every_kind_of_operation_is_in_a_golden_file(version: int) -> None:
    kinds = {
        type(operation)
        for each in GOLDEN.values()
        if isinstance(each.value, Commit) and each.version == version
        for operation in each.value.operations
    }
    assert len(kinds) == len(_DECODERS) - (version == 1), "version 1 cannot clear"


def test_the_newest_version_has_each_kind_of_object_with_all_its_parts() -> None:
    values = [GOLDEN[name].value for name in WRITTEN]
    assert any(isinstance(value, Chunks) for value in values)
    assert any(isinstance(value, Commit) and value.blobs for value in values)
    snapshots = [value for value in values if isinstance(value, Snapshot)]
    assert any(each.blobs and each.died and each.fences and each.fenced_from for each in snapshots)


# Computed when format version 2 came: what is in use must never be written again, not even by accident.
VERSION_1_SHA256 = "b12d0f99c28a8c9c9c88e094c2134d4b8675b07c14fa3bc2f3caf9b2cd0e2c2c"


def test_the_files_of_version_1_are_those_that_version_1_wrote() -> None:
    names = sorted(name for name, each in GOLDEN.items() if each.version == 1)
    digest = hashlib.sha256(b"".join(golden.path(name).read_bytes() for name in names))
    assert digest.hexdigest() == VERSION_1_SHA256


def test_every_golden_file_has_its_value() -> None:
    assert set(golden.FOLDER.rglob("*.bin")) == {golden.path(name) for name in GOLDEN}


def test_writing_the_files_again_changes_nothing() -> None:
    before = {name: golden.path(name).read_bytes() for name in GOLDEN}
    done = subprocess.run(
        [sys.executable, "-m", "tests.format.golden"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {name: golden.path(name).read_bytes() for name in GOLDEN} == before
