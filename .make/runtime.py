"""Fetches the real Copilot runtime into .cache before the tests start; run by make, never imported.

A test that came first would spend its own time limit on a download of 190 MB. Where it cannot be had, this only says
so: the tests skip, or fail under SESSIONFS_REQUIRE_RUNTIME=1.
"""

from sessionfs_s3.gateway.process import RuntimeUnavailable
from sessionfs_s3.testing.runtime import find_runtime

try:
    print(f"Copilot runtime: {find_runtime()}", flush=True)
except RuntimeUnavailable as error:
    print(f"no Copilot runtime: {error}", flush=True)
