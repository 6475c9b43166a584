"""Builds MinIO into .cache, where Go and its module proxy can be reached; run by make, never imported.

Where they cannot, this says so and ends in peace: the tests on MinIO skip. A build that fails ends with status 1, and
makes those tests fail under SESSIONFS_REQUIRE_SERVERS=1 until one succeeds.
"""

import sys
import time

from sessionfs_s3.testing.fetched import MINIO_VERSION, ServerNotHere, ServerUnavailable, build_minio

started_s = time.monotonic()
print(f"MinIO {MINIO_VERSION}: building it, unless it is there; a first build takes some minutes", flush=True)
try:
    print(f"MinIO: {build_minio()} ({time.monotonic() - started_s:.0f} s)", flush=True)
except ServerNotHere as error:
    print(f"no MinIO, its tests will skip: {error}", flush=True)
except ServerUnavailable as error:
    sys.exit(f"no MinIO: {error}")
