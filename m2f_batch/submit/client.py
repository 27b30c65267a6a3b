"""Speaks Ray's Jobs API over HTTP (docs.ray.io: Ray Jobs REST API) and sends packages as Ray's own client does.

Ray's own client is not used, because it waits for ever for an answer that does not come, takes its token from what a
Ray in this process has set up, sends it to whoever is asked, and imports all of Ray.
"""

import os
import re
import socket
import ssl
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import aiohttp

from m2f_batch.errors import RunError, UsageError
from m2f_batch.submit.address import FLAG, TOKEN_ADVICE, Address

CONNECT_SECONDS = 10
ANSWER_SECONDS = 60  # a head that has just started took 10 and more to take its first job
MAX_REASON = 300  # characters
HEARTBEAT_SECONDS = 20  # a log without lines is alive as long as its server answers these


class Unanswered(RunError):
    """The cluster could not be reached, or did not answer. It may answer later."""


class NoSuchJob(RunError):
    """The cluster does not know the job."""


class NoLiveLog(RunError):
    """A proxy lets no WebSocket pass, so that the log can be had as a whole only."""


class JobsApi:
    """One cluster's Jobs API, open for the length of an ``async with``, which may be entered again."""

    def __init__(self, address: Address, token: str | None) -> None:
        self.address, self._token = address, token
        self._headers: dict[str, str] = {}
        self._has_let_us_in = False  # from then on whoever refuses us may be a proxy, and the job runs

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def authenticate(self) -> bool:
        """Find out whether the cluster asks for a token, now or before, and send it from now on to one that does.

        Raises UsageError where it asks for one that we do not have.
        """
        status, answer = await self._request("GET", "/api/authentication_mode")
        is_old = status == 404  # Ray before 2.52, or a proxy's answer
        if not is_old:
            self._check(status, answer.get("text", ""))
        asks = not is_old and answer.get("authentication_mode") not in (None, "disabled")
        if asks and self._token is None:
            raise UsageError(f"{self.address.url} asks for a token, and there is none: {TOKEN_ADVICE}", field=FLAG)
        if asks:
            self._headers = {"Authorization": f"Bearer {self._token}"}
        status, version = await self._request("GET", "/api/version")
        if is_old and status in (401, 403) and not self._headers:
            raise self._strange()
        self._check(status, version.get("text", ""))
        if "ray_version" not in version:
            if self._has_let_us_in:
                raise self._strange()
            raise UsageError(f"{self.address.url} is no Jobs API of Ray; wanted: http://HOST:8265", field=FLAG)
        self._has_let_us_in = True
        return bool(self._headers)

    async def job(self, job_id: str) -> dict[str, Any]:
        """Return Ray's JobDetails. Raises NoSuchJob."""
        status, answer = await self._answer("GET", f"/api/jobs/{job_id}", missing=True)
        if status == 404 and "does not exist" in answer.get("text", ""):  # Ray's own 404, not that of a proxy
            raise NoSuchJob(f"the cluster at {self.address.url} knows no job {job_id}")
        self._check(status, answer.get("text", ""))
        if "status" not in answer:
            raise self._strange()
        return answer

    async def submit(self, job_id: str, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str]) -> None:
        """Begin a job. Raises RunError where Ray refuses it, and where it has one of this id."""
        body = {"submission_id": job_id, "entrypoint": entrypoint, "runtime_env": runtime_env, "metadata": metadata}
        await self._answer("POST", "/api/jobs/", json=body)

    async def stop(self, job_id: str) -> None:
        """Ask for a job's end, for which the job may take its time."""
        await self._answer("POST", f"/api/jobs/{job_id}/stop")

    async def send_package(self, name: str, data: bytes) -> str:
        """Send an archive unless the cluster has it. Returns its URI there."""
        status, _ = await self._answer("GET", f"/api/packages/gcs/{name}", missing=True)
        if status == 404:
            await self._answer("PUT", f"/api/packages/gcs/{name}", data=data)
        return f"gcs://{name}"

    async def log(self, job_id: str) -> str:
        """Return everything that the job has printed until now."""
        _, answer = await self._answer("GET", f"/api/jobs/{job_id}/logs")
        return str(answer.get("logs") or "")

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        """Yield the job's log from its beginning and as it grows, until the job ends or the connection is lost.

        Raises NoLiveLog.
        """
        url = f"{self.address.url}/api/jobs/{job_id}/logs/tail"
        try:
            async with self._session.ws_connect(
                url, headers=self._headers, heartbeat=HEARTBEAT_SECONDS, max_msg_size=0
            ) as socket:
                async for message in socket:
                    if message.type == aiohttp.WSMsgType.TEXT:
                        yield message.data
        except aiohttp.WSServerHandshakeError as error:
            raise NoLiveLog(f"{self.address.url} answers {error.status} to WebSockets (a proxy?)") from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._unanswered(error) from None

    async def _answer(self, method: str, path: str, *, missing: bool = False, **body: Any) -> tuple[int, Any]:
        """Return a successful answer, with ``missing`` also one that says that there is no such thing (404)."""
        status, answer = await self._request(method, path, **body)
        if not (missing and status == 404):
            self._check(status, answer.get("text", ""))
        return status, answer

    async def _request(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        """Return status and JSON. The text of an answer that is no JSON stands under ``text``."""
        try:
            async with self._session.request(
                method, self.address.url + path, headers=self._headers, allow_redirects=False, **body
            ) as response:
                text = (await response.read()).decode(errors="replace")
                try:
                    answer = await response.json(content_type=None)
                except ValueError:
                    answer = None
                return response.status, answer if isinstance(answer, dict) else {"text": text}
        except (aiohttp.ClientError, OSError) as error:  # time-outs are OSErrors
            if isinstance(error, aiohttp.ClientConnectorCertificateError) and not self._has_let_us_in:
                raise UsageError(
                    f"{self.address.url} shows a certificate that is not trusted here ({_reason(_cause(error))})",
                    field=FLAG,
                    hint="name its authority's in SSL_CERT_FILE",
                ) from None
            raise self._unanswered(error) from None

    def _check(self, status: int, text: str) -> None:
        """Raise the error that an answer's status means, where it is no success."""
        if status == 200:
            return
        url, said = self.address.url, f"{status} {_reason(text)}".rstrip()
        if status in (401, 403) and self._has_let_us_in:
            raise Unanswered(f"{url} answers {said}, but has let us in before (a proxy, or a head with another token)")
        if status in (401, 403):
            raise UsageError(
                f"{url} refuses the token ({said})", field=FLAG, hint=f"take the cluster's: {TOKEN_ADVICE}"
            )
        if 300 <= status < 400 and not self._has_let_us_in:
            raise UsageError(
                f"{url} answers {said}, which leads elsewhere", field=FLAG, hint="give the Jobs API's own address"
            )
        if status >= 500 or status in (404, 429) or status < 400:  # of a proxy, while the head is away
            raise Unanswered(f"{url} answers {said}", hint="" if self._has_let_us_in else _next_step(status))
        raise RunError(f"{url} answers {said}")

    def _strange(self) -> Unanswered:
        return Unanswered(f"{self.address.url} answers what is none of Ray's answers (a proxy?)")

    def _unanswered(self, error: Exception) -> Unanswered:
        if isinstance(error, aiohttp.ClientResponseError):
            return Unanswered(f"{self.address.url} does not answer as a web server does; is it the Jobs API's port?")
        reason = _reason(_cause(error)) or ("no answer in time" if isinstance(error, TimeoutError) else repr(error))
        hint = "" if self._has_let_us_in else _next_step(error)
        return Unanswered(f"{self.address.url} cannot be reached ({reason})", hint=hint)


def _next_step(fault: Exception | int) -> str:
    """Say what to look at where a cluster has not answered yet, by an error or by the status of an answer."""
    cause = fault.os_error if isinstance(fault, aiohttp.ClientConnectorError) else fault
    match cause:
        case 404:
            return (
                "is its path right? The Jobs API's is http://HOST:8265, or what a proxy or an ingress puts before /api"
            )
        case int() if cause >= 500:
            return "that is what a proxy says where no head is behind it: is the head up?"
        case ConnectionRefusedError():
            return "is the head up, and its dashboard's port (8265) forwarded to there (kubectl port-forward, ssh -L)?"
        case ssl.SSLError():
            return "where that port speaks no TLS, its address begins with http://"
        case aiohttp.ServerDisconnectedError():
            return "where that port speaks TLS, its address begins with https://"
        case socket.gaierror():
            return "is the host's name right, and known on this machine?"
        case TimeoutError():
            return "does a firewall or a network policy stand between?"
    return ""


def _cause(error: Exception) -> str:
    """Say why a request was not answered, without the host and TLS settings that aiohttp's text repeats."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _of_openssl(str(error.certificate_error))
    if not isinstance(error, aiohttp.ClientConnectorError):
        return str(error)
    if isinstance(error.os_error, ssl.SSLError):
        return f"TLS: {_of_openssl(str(error.strerror))}"
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error.os_error)


def _of_openssl(text: str) -> str:
    """Strip a text of OpenSSL of its code and its place in Python.

    >>> _of_openssl("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)")
    'wrong version number'
    """
    return re.sub(r"^\[\w+(: \w+)?\] | \(_ssl\.c:\d+\)$", "", text)


def one_line(text: str) -> str:
    """Make a text of somebody else fit to print: on one line, with nothing that moves a cursor.

    >>> one_line("not\\n  there\\x1b[2J")
    'not there[2J'
    """
    return "".join(char for char in " ".join(text.split()) if char.isprintable())


def _reason(text: str) -> str:
    """Return the last line of an answer that is no success, because a traceback says there what was wrong."""
    lines = [line for line in text.splitlines() if line.strip()]
    return one_line(lines[-1])[:MAX_REASON] if lines else ""
