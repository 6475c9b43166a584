"""Fetches the servers that come from npm into .cache before the tests start; run by make, never imported.

Where one cannot be had, this only says so: its tests skip, or fail under SESSIONFS_REQUIRE_SERVERS=1.
"""

from sessionfs_s3.testing.cloud_servers import AZURITE
from sessionfs_s3.testing.fetched import ServerUnavailable, npm_program
from sessionfs_s3.testing.unfit_servers import S3RVER

for package in (S3RVER, AZURITE):
    try:
        print(f"{package[0]}: {npm_program(*package)[-1]}", flush=True)
    except ServerUnavailable as error:
        print(f"no {package[0]}: {error}", flush=True)
