"""The coverage-guided fuzzer: ``python -m tests.format.fuzz --seconds 60 --seed 1``, or ``make fuzz``.

It starts from the golden files and changes them where that reaches code that was not reached before (atheris, which is
libFuzzer for Python). What it calls, and what it holds against the answers, is in ``fuzz_targets.py``. A process of its
own does the work, bounded in memory and in time for each input; the input that ends it is kept in ``.cache/fuzz`` and
tried again with ``--input``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
FOUND: Final = ROOT / ".cache" / "fuzz"

INPUT_BYTES_MAX: Final = 2048
MEMORY_MIB_MAX: Final = 1024
"""Of the whole process, as address space. The interpreter and the fuzzer take about 300; a payload may announce 256."""

INPUT_S_MAX: Final = 10


def is_available() -> bool:
    """Return whether the fuzzer is installed."""
    return importlib.util.find_spec("atheris") is not None


def run(
    *, seconds: int, runs: int, seed: int, before: str = "", found: Path = FOUND
) -> subprocess.CompletedProcess[str]:
    """Fuzz in a process of its own, until *seconds* or *runs* inputs are over (0: no limit); return how it ended.

    The input that ends it is kept in *found*. *before* is code that is executed first: a test breaks a decoder with it.
    """
    found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        options = [
            f"-max_total_time={seconds}",
            f"-runs={runs or -1}",
            f"-seed={seed}",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-rss_limit_mb={MEMORY_MIB_MAX}",
            f"-timeout={INPUT_S_MAX}",
            f"-artifact_prefix={found}/",
            "-print_final_stats=1",
        ]
        code = f"from tests.format import fuzz\nfuzz.prepare()\n{before}\nfuzz.work({options!r}, {corpus!r})"
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            # Another order of sets would lead the same seed elsewhere.
            env={**os.environ, "PYTHONHASHSEED": "0"},
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


def prepare() -> None:
    """Import the decoders, for the first time, so that the fuzzer sees which of their branches are taken."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["sessionfs_s3.format", "sessionfs_s3.fs"]):
        from tests.format import fuzz_targets

    fuzz_targets.shorten_chunks()


def work(options: list[str], corpus: str) -> None:
    """Fuzz in this process, which ends with it; *options* are libFuzzer's, *corpus* a folder for the first inputs."""
    import resource

    from tests.format import fuzz_targets

    atheris = importlib.import_module("atheris")
    # What takes more is a MemoryError, and so a finding.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MIB_MAX << 20, MEMORY_MIB_MAX << 20))
    accepted = 0
    files: list[str] = []
    for index, seed in enumerate(fuzz_targets.seeds()):
        if len(seed) <= INPUT_BYTES_MAX:
            files.append(str(Path(corpus, f"{index:03}")))
            Path(files[-1]).write_bytes(seed)
            accepted += fuzz_targets.check(seed)
    sys.stdout.write(f"{accepted} of {len(files)} seeds are accepted\n")
    sys.stdout.flush()
    # One by one: a folder is read in an order of its own.
    atheris.Setup([sys.argv[0], *options, f"-seed_inputs={','.join(files)}"], fuzz_targets.check)
    atheris.Fuzz()


def main(arguments: list[str] | None = None) -> int:
    """Run from a command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.format.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="how long; 0: until --runs are over")
    parser.add_argument("--runs", type=int, default=0, help="how many inputs; 0: until --seconds are over")
    parser.add_argument(
        "--seed", type=int, default=1, help="of its choices; how libFuzzer goes on also depends on addresses"
    )
    parser.add_argument("--input", type=Path, help="try this one input, and nothing else")
    given = parser.parse_args(arguments)
    if given.input is not None:
        from tests.format import fuzz_targets

        fuzz_targets.shorten_chunks()
        sys.stdout.write(f"{'accepted' if fuzz_targets.check(given.input.read_bytes()) else 'refused'}\n")
        return 0
    if not is_available():
        sys.stderr.write("atheris is not installed: it belongs to the dependency group 'test'\n")
        return 2
    done = run(seconds=given.seconds, runs=given.runs, seed=given.seed)
    sys.stdout.write(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
