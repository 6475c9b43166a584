"""Processes that race or are killed, forked from one that has imported everything: 0.1 s of processor time each."""

from __future__ import annotations

import multiprocessing
from typing import Final

FORKED: Final = multiprocessing.get_context("forkserver")
# The test modules too: a process that unpickles what it is to run imports the module that it stands in.
FORKED.set_forkserver_preload(
    ["sessionfs_s3.volume", "tests.volume.warm", "tests.volume.test_kill", "tests.volume.test_processes"]
)
