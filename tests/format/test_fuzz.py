"""A short run of the fuzzer, always the same; and that it finds what is wrong, in a decoder that was broken for it."""

from __future__ import annotations

import platform
import random
import sys
from pathlib import Path

import pytest

from sessionfs_s3.format.wire import Reader
from tests.format import fuzz, fuzz_targets

SEEDS = list(fuzz_targets.seeds())


def check_available() -> None:
    """Skip where the fuzzer cannot be installed; fail where it can and is not."""
    if fuzz.is_available():
        return
    if (sys.platform, platform.machine(), sys.version_info[:2]) == ("linux", "x86_64", (3, 11)):
        pytest.fail("atheris is not installed: it belongs to the dependency group 'test'")
    pytest.skip("atheris is not installed: it has no wheel for this Python or machine")


def test_every_target_accepts_a_seed() -> None:
    assert all(map(fuzz_targets.check, SEEDS))
    assert {seed[0] for seed in SEEDS} == set(range(len(fuzz_targets.TARGETS)))


@pytest.mark.parametrize("target", range(len(fuzz_targets.TARGETS)))
def test_every_target_refuses_what_is_cut_or_foreign(target: int) -> None:
    for data in (b"", b"\0", b"foreign"):
        assert not fuzz_targets.check(bytes([target]) + data)
    assert not fuzz_targets.check(b"")


@pytest.mark.parametrize("error", [IndexError, MemoryError, RecursionError, UnicodeDecodeError, ValueError])
def test_no_error_but_corrupt_counts_as_a_refusal(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Reader) -> None:
        raise UnicodeDecodeError("utf-8", b"", 0, 0, "") if error is UnicodeDecodeError else error

    monkeypatch.setattr(Reader, "end", broken)
    with pytest.raises(error):
        all(map(fuzz_targets.check, SEEDS))


@pytest.mark.parametrize("number", range(4))
def test_changed_seeds_are_accepted_or_refused(number: int) -> None:
    # Always the same inputs, on every Python: what the fuzzer does beyond them depends a little on the process.
    print(f"random seed {number}")
    rng = random.Random(number)
    short = [seed for seed in SEEDS if len(seed) <= fuzz.INPUT_BYTES_MAX]
    outcomes = [fuzz_targets.check(changed(rng, short)) for _ in range(4000)]
    assert min(outcomes.count(True), outcomes.count(False)) > 200, "changes that are too large, or too small"


def changed(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Return a seed of which a few bytes are others, missing, more, or those of another seed."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(1, len(data))
        match rng.randrange(4):
            case 0:
                data[at : at + 1] = bytes([rng.choice([0, 1, 2, 127, 128, 255, rng.randrange(256)])])
            case 1:
                del data[at : at + rng.randint(1, 8)]
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case _:
                other = rng.choice(seeds)
                start = rng.randrange(len(other))
                data[at : at + 16] = other[start : start + 16]
    return bytes(data)


def test_the_fuzzer_finds_nothing() -> None:
    check_available()
    done = fuzz.run(seconds=0, runs=50_000, seed=1)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "Done 50000 runs" in done.stdout


BROKEN = {
    "bytes behind the payload are ignored": (
        "from sessionfs_s3.format import wire; wire.Reader.end = lambda self: None",
        "what decodes has another form",
    ),
    "what is announced is allocated": (
        "from sessionfs_s3.format import wire; wire.Reader.records = lambda self, count: bytearray(count) and None",
        "MemoryError",
    ),
    "text need not be UTF-8": (
        "from sessionfs_s3.format import wire; wire.Reader.text = lambda self: self.blob().decode()",
        "UnicodeDecodeError",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_fuzzer_finds_what_is_wrong(name: str, tmp_path: Path) -> None:
    check_available()
    before, expected = BROKEN[name]
    done = fuzz.run(seconds=0, runs=200_000, seed=1, before=before, found=tmp_path)
    assert done.returncode != 0, "the broken decoder was not found out"
    assert expected in done.stdout, done.stdout[-5000:]
    assert list(tmp_path.iterdir()), "the input is kept"
