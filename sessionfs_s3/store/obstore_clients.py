"""obstore's clients for S3, Google Cloud Storage and Azure Blob, set up so that one call is one request.

``max_retries=0`` turns off object_store's own retries; hyper, below it, sends again only what it has not begun to send.
Redirects are followed by some requests, which no option of obstore 0.12 turns off (:mod:`.obstore_store` says what that
means). ``tests/store/test_obstore_answers.py`` pins all of it.

S3 credentials come from botocore's chain, as those of the other S3 client do: profiles, SSO, assumed roles, web
identity, containers and instances. obstore's own chain knows neither the AWS configuration files nor SSO. Google's and
Azure's come from obstore's own chains (environment variables, application default credentials, instance metadata).

Reaches the network for credentials; reads the configuration files and environment variables of AWS, Google and Azure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

import botocore.session
from botocore.configprovider import ConfiguredEndpointProvider
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import BotoCoreError, CredentialRetrievalError
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from sessionfs_s3.errors import Denied, NoAnswer
from sessionfs_s3.store.s3_settings import ClientSettings

if TYPE_CHECKING:
    from obstore.store import AzureConfig, ClientConfig, GCSConfig, RetryConfig, S3Config, S3Credential

T = TypeVar("T")

_NO_CREDENTIALS: Final = (
    "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this "
    "machine a role; they never go into the URL"
)
_CREDENTIALS_TTL: Final = timedelta(minutes=10)
"""How long obstore keeps credentials that botocore refreshes; it asks again 5 minutes before (``TokenCache``)."""

_RETRIES: Final[RetryConfig] = {"max_retries": 0, "retry_timeout": timedelta(0)}
_DEFAULT_REGION: Final = "us-east-1"


@dataclass(frozen=True, slots=True)
class _AwsSettings:
    """What the AWS chain says beside credentials."""

    credentials: Credentials
    region: str
    endpoint_url: str | None
    ca_bundle: str | None


async def s3_client(
    where: str,
    bucket: str,
    *,
    endpoint_url: str | None,
    region: str | None,
    addressing_style: str | None,
    settings: ClientSettings,
) -> S3Store:
    """Return a client of *bucket* with the credentials that the ordinary AWS chain finds.

    Raises:
        Denied: there are no credentials, or the configuration is not usable.
        NoAnswer: whoever issues the credentials did not answer.
    """
    aws = await asyncio.to_thread(_aws_settings, where)
    endpoint_url = endpoint_url or aws.endpoint_url
    # As botocore: names of buckets stand in the host only where the host is Amazon's, or when asked to.
    virtual = addressing_style == "virtual" or (
        endpoint_url is None and addressing_style != "path" and "." not in bucket
    )
    # Each of these is given, for what is not comes from an environment variable that the other client does not know.
    config: S3Config = {
        "region": region or aws.region,
        "virtual_hosted_style_request": virtual,
        "conditional_put": "etag",
        "checksum_algorithm": "SHA256",
        "unsigned_payload": False,
        "skip_signature": False,
        "disable_bulk_delete": False,
    }
    if endpoint_url is not None:
        config["endpoint"] = _with_bucket(endpoint_url, bucket) if virtual else endpoint_url
    credentials = aws.credentials

    def provide() -> S3Credential:
        """Return what stands in botocore's cache, or refresh it, on one of obstore's threads."""
        frozen = credentials.get_frozen_credentials()
        refreshed = isinstance(credentials, RefreshableCredentials)
        return {
            "access_key_id": str(frozen.access_key),
            "secret_access_key": str(frozen.secret_key),
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_TTL if refreshed else None,
        }

    options = _client_options(endpoint_url, settings)
    if aws.ca_bundle is not None:
        options["root_certificate"] = await asyncio.to_thread(Path(aws.ca_bundle).read_bytes)
    return _made(
        where,
        lambda: S3Store(
            bucket, config=config, client_options=options, retry_config=_RETRIES, credential_provider=provide
        ),
    )


def gcs_client(where: str, bucket: str, *, endpoint_url: str | None, settings: ClientSettings) -> GCSStore:
    """Return a client of *bucket* with the credentials that obstore finds for Google.

    Raises:
        Denied: the configuration is not usable.
    """
    config: GCSConfig = {} if endpoint_url is None else {"base_url": endpoint_url}
    options = _client_options(endpoint_url, settings)
    return _made(
        where,
        lambda: GCSStore(bucket, config=config, client_options=options, retry_config=_RETRIES),
    )


def azure_client(
    where: str, container: str, *, account: str | None, endpoint_url: str | None, settings: ClientSettings
) -> AzureStore:
    """Return a client of *container* with the account and the credentials that obstore finds for Azure.

    Raises:
        Denied: the configuration is not usable, as without an account.
    """
    config: AzureConfig = {}
    if account is not None:
        config["account_name"] = account
    if endpoint_url is not None:
        config["endpoint"] = endpoint_url
    options = _client_options(endpoint_url, settings)
    return _made(
        where,
        lambda: AzureStore(container, config=config, client_options=options, retry_config=_RETRIES),
    )


def _aws_settings(where: str) -> _AwsSettings:
    try:
        # Parts of botocore have no types.
        session = cast("Any", botocore.session.get_session())
        credentials = session.get_credentials()
        if credentials is None:
            raise Denied(where, _NO_CREDENTIALS)
        credentials.get_frozen_credentials()
        endpoint = cast("Any", ConfiguredEndpointProvider)(session.full_config, session.get_scoped_config(), "s3")
        ignored = session.get_config_variable("ignore_configured_endpoint_urls")
        return _AwsSettings(
            credentials,
            region=session.get_config_variable("region") or _DEFAULT_REGION,
            endpoint_url=None if ignored else endpoint.provide(),
            ca_bundle=session.get_config_variable("ca_bundle"),
        )
    except CredentialRetrievalError as error:
        raise NoAnswer(where, str(error)) from error
    except (BotoCoreError, ValueError) as error:
        raise Denied(where, f"{type(error).__name__}: {error}") from error


def _client_options(endpoint_url: str | None, settings: ClientSettings) -> ClientConfig:
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=settings.connect_timeout_s),
        "read_timeout": timedelta(seconds=settings.read_timeout_s),
        "timeout": timedelta(seconds=settings.request_timeout_s),
        "pool_max_idle_per_host": str(settings.connections_max),
    }
    if endpoint_url is not None:
        options["allow_http"] = endpoint_url.startswith("http:")
    return options


def _with_bucket(endpoint_url: str, bucket: str) -> str:
    parts = urlsplit(endpoint_url)
    return urlunsplit(parts._replace(netloc=f"{bucket}.{parts.netloc}"))


def _made(where: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except (BaseError, ValueError, OSError) as error:
        raise Denied(where, f"{type(error).__name__}: {str(error).splitlines()[0]}") from None
