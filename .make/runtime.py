"""Fetches the real Copilot runtime and the Node SDK into .cache before the tests start; run by make, never imported.

A test that came first would spend its own time limit on a download of 190 MB. Where one cannot be had, this only says
so: the tests skip, or fail under SESSIONFS_REQUIRE_RUNTIME=1.
"""

from sessionfs_s3.testing.fetched import ServerUnavailable
from sessionfs_s3.testing.runtime import RuntimeUnavailable, find_runtime
from sessionfs_s3.testing.sdk_clients import fetch_node_sdk

try:
    print(f"Copilot runtime: {find_runtime()}", flush=True)
except RuntimeUnavailable as error:
    print(f"no Copilot runtime: {error}", flush=True)
try:
    print(f"Copilot SDK for Node: {fetch_node_sdk()[-1]}", flush=True)
except ServerUnavailable as error:
    print(f"no Copilot SDK for Node: {error}", flush=True)
