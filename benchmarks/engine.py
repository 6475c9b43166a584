"""The engine's benchmarks: ``python -m benchmarks.engine [names] --server ministack|seaweedfs --json FILE``.

Prints a Markdown table of aims and what was measured. Exit status 0, with ``--check`` 1 when an aim was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import platform
import sys
import time
import traceback
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.harness.lab import Sizes, lab, say
from benchmarks.harness.report import Row, as_json, markdown
from benchmarks.questions import append, cpu, gateway, idle, large, opening, restore, sessions, sql, stored_bytes
from sessionfs_s3.testing.servers import SERVERS

QUESTIONS: Final = {
    module.NAME: module.run
    for module in (append, sessions, opening, stored_bytes, sql, restore, idle, cpu, gateway, large)
}
_ON_REQUEST: Final = frozenset({large.NAME})
"""Left out unless named: takes minutes alone."""

_SIZES: Final = (
    "appends",
    "sessions",
    "appends_each",
    "commits",
    "opens",
    "turns",
    "idle_sessions",
    "cpu_appends",
    "large_mb",
    "database_kb",
    "sql_commits",
    "sql_rival_commits",
    "restores",
    "gateway_turns",
    "gateway_sessions",
    "gateway_turns_each",
    "gateway_rounds",
    "gateway_idle_clients",
    "gateway_idle_sessions",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit status."""
    options = _parser().parse_args(arguments)
    names: list[str] = options.names or [name for name in QUESTIONS if name not in _ON_REQUEST]
    if unknown := sorted(set(names) - set(QUESTIONS)):
        sys.stderr.write(f"unknown question {', '.join(unknown)}: choose from {', '.join(QUESTIONS)}\n")
        return 2
    sizes = replace(
        Sizes(),
        idle_wait_s=options.idle_wait,
        settings=dict(options.setting),
        **{name: getattr(options, name) for name in _SIZES},
    )
    rows: list[Row] = []
    with lab(options.server, seed=options.seed, client=options.client) as place:
        about: dict[str, object] = {
            "server": options.server,
            "seed": place.proxy.seed,
            "client": options.client or "the adapter's default",
            "event_loop": "uvloop" if options.uvloop else "asyncio",
            "proxy_event_loop": place.proxy.event_loop,
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load_before": os.getloadavg()[0],
        }
        say(", ".join(f"{name} {value}" for name, value in about.items()))
        for name in names:
            started_s = time.perf_counter()
            try:
                rows += _run(QUESTIONS[name](place, sizes), uvloop=options.uvloop)
            except Exception as error:  # noqa: BLE001  # the other questions are still worth their answers
                traceback.print_exc()
                rows.append(Row(name, "answered at all", None, "", 1, "==", f"{type(error).__name__}: {error}"[:200]))
            say(f"{name}: done in {time.perf_counter() - started_s:.0f} s")
        about["load_after"] = os.getloadavg()[0]
    sys.stdout.write(f"{_heading(about)}\n\n{markdown(rows)}\n")
    if options.json is not None:
        options.json.write_text(as_json(rows, about) + "\n", "utf-8")
    return int(options.check and any(row.met is False for row in rows))


def _run(work: Coroutine[None, None, list[Row]], *, uvloop: bool) -> list[Row]:
    if not uvloop:
        return asyncio.run(work)
    rows: list[Row] = importlib.import_module("uvloop").run(work)
    return rows


def _heading(about: Mapping[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in about.items())


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r}: must be NAME=VALUE")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description="Benchmarks of the engine.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(QUESTIONS)}; all but large if none")
    parser.add_argument("--server", choices=[*SERVERS], default="ministack", help="default: ministack")
    parser.add_argument("--seed", type=int, default=None, help="of the delays; printed")
    parser.add_argument("--client", default="", help="S3 client that the store URLs ask for; the default's if none")
    parser.add_argument("--uvloop", action="store_true", help="run the client on uvloop, which has to be installed")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the rows there too")
    parser.add_argument("--check", action="store_true", help="exit status 1 when an aim was missed")
    parser.add_argument("--idle-wait", type=float, default=Sizes().idle_wait_s, metavar="SECONDS")
    parser.add_argument("--setting", type=_setting, action="append", default=[], metavar="NAME=VALUE")
    for name in _SIZES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Sizes(), name), metavar="N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
