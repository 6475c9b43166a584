"""The S3 client: aiobotocore, set up so that one call of it is exactly one request.

Three layers under a call send again on their own, each of which would turn the answer to a conditional put whose
response was lost into "412, somebody else was faster":

* botocore's retries: off by ``total_max_attempts=1``;
* botocore's region redirector, which asks for the bucket's region and repeats the request there: every answer of
  3xx and above is raised before it is heard;
* aiohttp, which repeats an idempotent request once when the connection was lost, and follows redirects: both off by the
  session class below. The first has no public switch, so ``tests/store/test_s3_once.py`` pins what it does.

Nor is anything asked ahead: botocore would have each put wait for the server's leave (``Expect: 100-continue``), which
is another round trip, and one without a timeout.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

import aiobotocore
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError
from botocore.loaders import Loader, create_loader
from botocore.model import OperationModel

from sessionfs_s3.errors import Denied, NoAnswer
from sessionfs_s3.store.s3_settings import ClientSettings

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession
    from types_aiobotocore_s3.client import S3Client

NO_CREDENTIALS: Final = (
    "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this "
    "machine a role; they never go into the URL"
)


class _SingleRequests:
    """The part of aiohttp's client session that aiobotocore uses, without following redirects."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **settings: Any) -> ClientResponse:  # noqa: ANN401  # whatever it passes on
        return await self._session.request(method, allow_redirects=False, **settings)


class SingleRequestSession(AIOHTTPSession):
    """aiobotocore's HTTP session with everything off that would make two requests of one."""

    async def _get_session(self, proxy_url: str | None) -> _SingleRequests:
        # Neither is public: this method, nor the attribute that says whether a lost request is repeated.
        session = cast("ClientSession", await super()._get_session(proxy_url))  # type: ignore[misc]  # not in the stubs
        session._retry_connection = False  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return _SingleRequests(session)


def _raise_answer(response: tuple[Any, Any] | None, operation: OperationModel, **_: object) -> None:
    """Raise what the server refused, as botocore will, before any of its handlers has thought of asking again."""
    if response is not None and response[0].status_code >= 300:
        raise ClientError(response[1], operation.name)


def _ask_no_leave(params: dict[str, Any], **_: object) -> None:
    params["headers"].pop("Expect", None)


def _as_text(timestamp: object) -> object:
    return timestamp


@cache
def _loader(data_path: str | None) -> Loader:
    """Return the loader of botocore's models: one for all stores, since reading those of S3 takes 100 ms."""
    return create_loader(data_path)


def _session() -> AioSession:
    session = get_session()
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    # Parsing dates is most of a listing's cost: they stay text. Credentials that come over other clients of this
    # session bring dates too, which botocore accepts as text (`_serialize_if_needed`, `_parse_if_needed`).
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_as_text)
    return session


@asynccontextmanager
async def open_client(
    where: str,
    *,
    endpoint_url: str | None = None,
    region: str | None = None,
    addressing_style: str | None = None,
    settings: ClientSettings,
) -> AsyncGenerator[S3Client]:
    """Open a client with the credentials that the ordinary AWS chain finds.

    Args:
        where: the store's URL, for messages.
        endpoint_url: the server, where it is not AWS.
        region: the bucket's region; the AWS chain's own without it.
        addressing_style: ``path``, ``virtual`` or ``auto``.
        settings: connections and timeouts.

    Raises:
        Denied: there are no credentials, or the AWS configuration is not usable.
        NoAnswer: whoever issues the credentials did not answer.
    """
    config = AioConfig(
        retries={"total_max_attempts": 1, "mode": "standard"},
        # What is put is covered by its signature and brings its own checksum (s3.py); what is got has the format's.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=settings.connections_max,
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        s3={"addressing_style": addressing_style} if addressing_style else None,
        http_session_cls=SingleRequestSession,
        # Otherwise botocore puts its own together anew for every request: 5 % of the processor time of a PUT.
        user_agent=f"sessionfs-s3 aiobotocore/{aiobotocore.__version__}",
        warm_up_loader_caches=True,  # Has the models read in a thread.
    )
    async with AsyncExitStack() as exits:
        try:
            session = _session()
            if await session.get_credentials() is None:
                raise Denied(where, NO_CREDENTIALS)
            creating: AbstractAsyncContextManager[S3Client] = cast("Any", session).create_client(
                "s3", region_name=region, endpoint_url=endpoint_url, config=config
            )
            client = await exits.enter_async_context(creating)
        except CredentialRetrievalError as error:
            raise NoAnswer(where, str(error)) from error
        except (BotoCoreError, ValueError) as error:
            raise Denied(where, f"{type(error).__name__}: {error}") from error
        client.meta.events.register_first("needs-retry.s3", _raise_answer)
        client.meta.events.register_last("before-call.s3", _ask_no_leave)
        yield client
