"""AWS's side of a session: the API calls that start, resume and end it, credentials, signatures.

What others import; ``aws_api`` behind it is botocore, and only imported when a call or the
credentials need it. With credentials in the environment a session that was started elsewhere is
opened without.
"""

import asyncio
import contextlib
import logging
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from . import upgrade
from .aws_credentials import Credentials, environment_credentials, files_mention
from .aws_errors import Call, error_code, explain, explain_credentials, explained, login_command
from .errors import CredentialsError, Error, RemoteProtocolError, ServiceError, UsageError
from .message_socket import Handler
from .sigv4 import sign
from .stream_url import (
    check_endpoint,
    check_region,
    check_stream_url,
    is_presigned,
    move_stream_url,
)
from .websocket import WebSocket

if TYPE_CHECKING:
    from .aws_api import Botocore

logger = logging.getLogger("ssmnet")

# A page of DescribeInstanceInformation holds 50 at most, and a pick list of more is no help.
_PAGE = 50
_MAX_PAGES = 200
# Seconds. Covers the signature that follows a call, and a burst of starts, which would otherwise
# run a credential process each; too short to miss a new login.
_FRESH = 5.0
# What the agent expects, in bytes: a key of 32 for each direction.
_DATA_KEY_SIZE = 64


class StartedSession(msgspec.Struct, frozen=True):
    """What StartSession and ResumeSession answer.

    ``token_value`` opens the data channel and is a secret: it, and the URL, which may be presigned,
    are left out of the representation. ``stream_url`` is empty when ResumeSession named no new one:
    keep the old.
    """

    session_id: str
    token_value: str
    stream_url: str

    def __repr__(self) -> str:
        return f"StartedSession(session_id={self.session_id!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("session_id", self.session_id)]


class DataKey(msgspec.Struct, frozen=True):
    """A data key of KMS, in plain and encrypted. The key itself is not shown."""

    plaintext: bytes
    encrypted: bytes

    def __repr__(self) -> str:
        return "DataKey()"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class OnlineTarget(msgspec.Struct, frozen=True):
    """A target whose agent is connected; ``name`` and ``platform`` may be empty."""

    instance_id: str
    name: str
    platform: str


class Client:
    """The calls of one profile, region and endpoint.

    Nothing is held open between calls. Credentials are looked up anew for every resume, and
    otherwise when they are older than 5 seconds or were refused: what another terminal has
    refreshed meanwhile is used. Arguments that are None follow the usual settings (environment,
    ``~/.aws/config``).

    ``messages_endpoint_url``, or ``AWS_ENDPOINT_URL_SSMMESSAGES``, replaces scheme, host and port
    of every StreamUrl. ``mfa_code`` is called with a prompt when a role needs an MFA code, and
    blocks the event loop while it asks; never called on a resume or for a signature. Times are in
    seconds: ``credentials_timeout`` for one look-up, ``request_timeout`` for one API call with its
    retries. ``credentials`` gives those to use, instead of what the settings name; it is asked as
    often as they would be. ``local`` is for a far end on this machine: neither the settings nor
    proxies have anything to do with it.
    """

    def __init__(
        self,
        *,
        profile: str | None = None,
        region: str | None = None,
        endpoint_url: str | None = None,
        messages_endpoint_url: str | None = None,
        mfa_code: Callable[[str], str] | None = None,
        credentials: Callable[[], Awaitable[Credentials]] | None = None,
        credentials_timeout: float = 20.0,
        request_timeout: float = 30.0,
        local: bool = False,
    ) -> None:
        self._profile = profile or None
        self._region = region
        self._endpoint_url = endpoint_url or None
        self._messages_endpoint_url = messages_endpoint_url or os.environ.get(
            "AWS_ENDPOINT_URL_SSMMESSAGES"
        )
        for endpoint in filter(None, (self._endpoint_url, self._messages_endpoint_url)):
            check_endpoint(endpoint)
        self._mfa_code = mfa_code
        self._given = credentials
        self._credentials_timeout = credentials_timeout
        self._request_timeout = request_timeout
        self._local = local
        # One look-up at a time: the second finds what the first has cached, and asks no MFA code.
        self._look_up = asyncio.Lock()
        self._found: Credentials | None = None
        self._found_at = 0.0
        self._api_endpoint: str | None = None

    @cached_property
    def region(self) -> str:
        """The region in use; raises UsageError when there is none."""
        region = self._region or os.environ.get("AWS_REGION") or self._setting("region")
        if not region:
            raise UsageError("no region: pass --region or set AWS_REGION")
        check_region(region)
        return str(region)

    @cached_property
    def ssl_context(self) -> ssl.SSLContext:
        """What the WebSocket verifies its peer with: AWS_CA_BUNDLE, or else the system's CAs.

        Where the system has none, those that API calls trust.
        """
        if not self._ca_bundle:
            context = ssl.create_default_context()
            if not context.cert_store_stats()["x509_ca"] and not upgrade.has_store():
                from .aws_api import certificates

                context.load_verify_locations(certificates())
            return context
        try:
            return ssl.create_default_context(cafile=self._ca_bundle)
        except OSError as error:
            raise UsageError(f"cannot use AWS_CA_BUNDLE {self._ca_bundle}: {error}") from error

    async def check(self) -> None:
        """Look up region and credentials now. Raises UsageError or CredentialsError."""
        await _load_botocore()
        _ = self.region
        await self._credentials(may_ask=True)

    async def start_session(
        self,
        target: str,
        document_name: str | None = None,
        parameters: Mapping[str, Sequence[str]] | None = None,
        reason: str | None = None,
    ) -> StartedSession:
        """Call StartSession; a document of None means a shell.

        Raises TargetNotConnected, AccessDenied, CredentialsError, ServiceError or UsageError, and
        RemoteProtocolError for a StreamUrl that must not be trusted.
        """
        if os.environ.get("AWS_CA_BUNDLE") and not self._local:
            _ = self.ssl_context  # one that can't be read is told best from here
        request: dict[str, Any] = {"Target": target}
        if document_name:
            request["DocumentName"] = document_name
        if parameters:
            request["Parameters"] = {name: list(values) for name, values in parameters.items()}
        if reason:
            request["Reason"] = reason
        async with self._api("ssm", may_ask=True) as api:
            answer = await self._request(api, "start_session", request, target)
        session_id, token = answer.get("SessionId"), answer.get("TokenValue")
        if not session_id or not token:
            raise ServiceError("AWS answered StartSession without a session")
        try:
            url = self.stream_url(answer.get("StreamUrl") or "")
        except RemoteProtocolError:
            with contextlib.suppress(Error):
                await self.terminate_session(session_id)
            raise
        return StartedSession(session_id, token, url)

    async def resume_session(self, session_id: str) -> StartedSession | None:
        """Call ResumeSession; None means that the session is over. Raises as start_session does."""
        self._found = None
        answer = await self._call_for_session("resume_session", session_id)
        token, url = answer.get("TokenValue"), answer.get("StreamUrl")
        if not token:
            return None
        return StartedSession(session_id, token, self.stream_url(url) if url else "")

    async def terminate_session(self, session_id: str) -> None:
        """Call TerminateSession; a session that is already over is no error."""
        await self._call_for_session("terminate_session", session_id)

    async def generate_data_key(self, key_id: str, context: Mapping[str, str]) -> DataKey:
        """Call KMS for a data key of 64 bytes, bound to the encryption ``context``.

        Raises as start_session does.
        """
        request = {
            "KeyId": key_id,
            "NumberOfBytes": _DATA_KEY_SIZE,
            "EncryptionContext": dict(context),
        }
        async with self._api("kms", may_ask=False) as api:
            answer = await self._request(api, "generate_data_key", request, key_id)
        return DataKey(answer.get("Plaintext", b""), answer.get("CiphertextBlob", b""))

    async def online_targets(self) -> list[OnlineTarget]:
        """Return the targets that are connected now, at most 10,000."""
        request: dict[str, Any] = {
            "Filters": [{"Key": "PingStatus", "Values": ["Online"]}],
            "MaxResults": _PAGE,
        }
        found: list[OnlineTarget] = []
        async with self._api("ssm", may_ask=True) as api:
            for _ in range(_MAX_PAGES):
                answer = await self._request(api, "describe_instance_information", request)
                found += map(_online_target, answer.get("InstanceInformationList", ()))
                if not (more := answer.get("NextToken")):
                    break
                request["NextToken"] = more
        return found

    def stop_asking(self) -> None:
        """Ask for no MFA code any more: whoever could type it has left, and all else would wait."""
        self._mfa_code = None

    def stream_url(self, url: str) -> str:
        """Return the URL to open for a StreamUrl, moved to the configured endpoint if there is one.

        Raises RemoteProtocolError for one that must not be trusted.
        """
        if self._messages_endpoint_url:
            url = move_stream_url(url, self._messages_endpoint_url)
        self._check(url)
        return url

    async def upgrade_headers(self, stream_url: str) -> dict[str, str]:
        """Return the SigV4 headers of the WebSocket upgrade to ``stream_url``.

        Send the URL to the byte as given here. No headers where the URL is presigned, where there
        are no credentials to be had, or with SSM_PLUGIN_SKIP_CLIENT_CONFIGURE=true: programs that
        start sessions for others often keep the credentials to themselves.
        """
        self._check(stream_url)
        if is_presigned(stream_url):
            return {}
        skip = os.environ.get("SSM_PLUGIN_SKIP_CLIENT_CONFIGURE", "").lower() == "true"
        if skip and not self._local:
            logger.info("data channel not signed: SSM_PLUGIN_SKIP_CLIENT_CONFIGURE is set")
            return {}
        try:
            credentials = await self._credentials(may_ask=False)
        except Error as error:
            logger.info("data channel not signed: %s", error)
            return {}
        return sign(stream_url, credentials, self.region, "ssmmessages")

    async def connect(self, stream_url: str, handler: Handler) -> WebSocket:
        """Open the signed WebSocket of a data channel. Raises ConnectError."""
        headers = await self.upgrade_headers(stream_url)
        context = None
        if stream_url.startswith("wss:") and (self._ca_bundle or not upgrade.trusts_system()):
            context = self.ssl_context
        return await upgrade.connect(
            stream_url, handler, headers=headers, ssl_context=context, use_proxy=not self._local
        )

    def _check(self, url: str) -> None:
        endpoints = (self._endpoint_url, self._api_endpoint, self._messages_endpoint_url)
        check_stream_url(url, self.region, endpoints=filter(None, endpoints))

    async def _call_for_session(self, operation: str, session_id: str) -> dict[str, Any]:
        """Return the answer, empty when there is no such session any more."""
        try:
            async with self._api("ssm", may_ask=False) as api:
                return await self._request(api, operation, {"SessionId": session_id})
        except ServiceError as error:
            if error_code(error.__cause__) == "DoesNotExistException":
                return {}
            raise

    @contextlib.asynccontextmanager
    async def _api(self, service: str, *, may_ask: bool) -> AsyncIterator[Any]:
        """Yield a botocore client with fresh credentials."""
        await _load_botocore()
        credentials = await self._credentials(may_ask=may_ask)
        call = Call(region=self.region, profile=self._profile_name)
        async with contextlib.AsyncExitStack() as stack:
            with explained(lambda error: explain(error, call)):
                # The endpoint that the user has named is the sessions'.
                endpoint = self._endpoint_url if service == "ssm" else None
                opening = self._botocore.client(
                    service, self.region, endpoint, credentials, self._request_timeout
                )
                api = await stack.enter_async_context(opening)
            if service == "ssm":
                self._api_endpoint = api.meta.endpoint_url
            try:
                yield api
            except CredentialsError:
                self._found = None
                raise

    async def _request(
        self, api: Any, operation: str, request: dict[str, Any], target: str = ""
    ) -> dict[str, Any]:
        from .aws_api import call

        service = api.meta.service_model.service_name
        action = f"{service}:{operation.title().replace('_', '')}"
        about = Call(action, target, self.region, api.meta.endpoint_url, self._profile_name)
        return await call(api, operation, request, about, self._request_timeout)

    async def _credentials(self, *, may_ask: bool) -> Credentials:
        # A profile that was asked for comes before what is in the environment.
        if self._given is not None:
            return await self._given_credentials(self._given)
        if not self._profile_name and (found := environment_credentials(os.environ)):
            return found
        loop = asyncio.get_running_loop()

        def mfa_code(prompt: str) -> str:
            code = self._ask_mfa_code(prompt, may_ask)
            # Typing blocked the loop, and is not the network's time.
            limit.reschedule(loop.time() + self._credentials_timeout)
            return code

        with explained(lambda error: explain_credentials(error, self._profile_name)):
            async with asyncio.timeout(self._credentials_timeout) as limit, self._look_up:
                if self._found is None or loop.time() - self._found_at > _FRESH:
                    self._found = await self._botocore.credentials(self.region, mfa_code)
                    self._found_at = loop.time()
                if self._found is not None:
                    return self._found
        hint = login_command(self._profile_name)
        raise CredentialsError(f"no AWS credentials: run `{hint}`, or pass --profile")

    async def _given_credentials(
        self, look_up: Callable[[], Awaitable[Credentials]]
    ) -> Credentials:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._credentials_timeout), self._look_up:
                if self._found is None or loop.time() - self._found_at > _FRESH:
                    self._found = await look_up()
                    self._found_at = loop.time()
                return self._found
        except TimeoutError as error:
            waited = f"within {self._credentials_timeout:g} s"
            raise CredentialsError(f"the application gave no AWS credentials {waited}") from error
        except Error:
            raise
        except Exception as error:
            # Its text is the application's, and may hold anything.
            what = type(error).__name__
            raise CredentialsError(f"the application gave no AWS credentials: {what}") from error

    def _ask_mfa_code(self, prompt: str, may_ask: bool) -> str:
        if self._mfa_code is None or not may_ask:
            command = login_command(self._profile_name, "sts get-caller-identity")
            raise CredentialsError(f"the role needs an MFA code: run `{command}`, then try again")
        return self._mfa_code(prompt)

    @property
    def _profile_name(self) -> str | None:
        environ = os.environ
        return self._profile or environ.get("AWS_DEFAULT_PROFILE") or environ.get("AWS_PROFILE")

    @cached_property
    def _ca_bundle(self) -> str | None:
        if self._local:
            return None
        if bundle := os.environ.get("AWS_CA_BUNDLE"):
            return bundle
        named = self._profile_name or files_mention("ca_bundle")
        return self._setting("ca_bundle") if named else None

    def _setting(self, name: str) -> Any:
        call = Call(profile=self._profile_name)
        with explained(lambda error: explain(error, call)):
            return self._botocore.setting(name)

    @cached_property
    def _botocore(self) -> "Botocore":
        from .aws_api import Botocore

        return Botocore(self._profile, local=self._local)


async def _load_botocore() -> None:
    """Import it in a thread: it takes a good part of a second, in which a service has others."""
    if f"{__package__}.aws_api" not in sys.modules:
        await asyncio.to_thread(import_module, ".aws_api", __package__)


def _online_target(info: Mapping[str, str]) -> OnlineTarget:
    return OnlineTarget(
        instance_id=info.get("InstanceId", ""),
        name=info.get("Name") or info.get("ComputerName", ""),
        platform=info.get("PlatformName") or info.get("PlatformType", ""),
    )
