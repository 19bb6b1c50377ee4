"""What an error of reading means: whether another attempt may succeed, and what is to be told.

File systems raise errors of their own libraries, which are rarely those of the operating system and
are mostly not installed. So they are told by the names of their classes and by the numbers that
they carry, theirs and those of the errors that led to them; no library is imported for it.
"""

from __future__ import annotations

import enum
import errno
import io
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from gzip import BadGzipFile
from typing import Any

from streamlr.errors import StreamlrError

_LONGEST_CHAIN = 10
_LONGEST_REASON = 300


class Failure(enum.Enum):
    """What an error means."""

    PASSING = enum.auto()
    """Another attempt may meet with success."""
    NOBODY = enum.auto()
    """The same; but nobody was there to answer, which may also be a wrong address."""
    REFUSED = enum.auto()
    """Whoever asked may not read it, or did not prove who he is."""
    ABSENT = enum.auto()
    """There is no such thing."""
    MEMORY = enum.auto()
    """This process has no more memory, which says nothing of what was read."""
    OTHER = enum.auto()
    """Anything else: what is read is not as it should be."""

    @property
    def passes(self) -> bool:
        """Whether another attempt may meet with success."""
        return self in (Failure.PASSING, Failure.NOBODY)


class RequestError(Exception):
    """A request for one key of a store failed; what led to it says why."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


_ERRNOS = {
    Failure.PASSING: (
        "EAGAIN EBUSY ECOMM ECONNABORTED ECONNRESET EINTR EIO EMFILE ENETRESET ENFILE ENOBUFS "
        "ENOLINK ENOTCONN EPIPE EPROTO EREMOTEIO "
        "ESHUTDOWN ESTALE ETIME ETIMEDOUT"
    ),
    Failure.NOBODY: "ECONNREFUSED EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ENONET EADDRNOTAVAIL",
    Failure.REFUSED: "EACCES EPERM EKEYEXPIRED EKEYREJECTED EKEYREVOKED ENOKEY",
    Failure.ABSENT: "ENOENT ENOTDIR EISDIR",
    Failure.MEMORY: "ENOMEM",
}
_OF_ERRNO = {
    getattr(errno, name): meaning
    for meaning, names in _ERRNOS.items()
    for name in names.split()
    if hasattr(errno, name)
}

# by library and class, the most special first; those that are not here are told by what they derive
# from
_CLASSES = {
    Failure.OTHER: """
        aiohttp.ClientSSLError aiohttp.ClientConnectorCertificateError aiohttp.InvalidURL
        aiohttp.NonHttpUrlClientError aiohttp.TooManyRedirects botocore.SSLError
        botocore.EndpointProviderError botocore.ParamValidationError httpx.UnsupportedProtocol
        httpx.InvalidURL requests.SSLError requests.InvalidURL requests.MissingSchema
        requests.InvalidSchema requests.TooManyRedirects urllib3.SSLError""",
    Failure.REFUSED: """
        botocore.NoCredentialsError botocore.PartialCredentialsError botocore.NoAuthTokenError
        botocore.TokenRetrievalError botocore.SSOError botocore.ProfileNotFound
        obstore.PermissionDeniedError obstore.UnauthenticatedError
        google.DefaultCredentialsError azure.ClientAuthenticationError
        paramiko.AuthenticationException""",
    Failure.ABSENT: "obstore.NotFoundError azure.ResourceNotFoundError",
    Failure.NOBODY: "aiohttp.ClientConnectorError httpx.ConnectError httpcore.ConnectError "
    "urllib3.NewConnectionError",
    Failure.PASSING: """
        aiohttp.ClientConnectionError aiohttp.ClientPayloadError aiohttp.HttpProcessingError
        aiohttp.ServerDisconnectedError aiobotocore.AioReadTimeoutError
        botocore.ConnectionError botocore.HTTPClientError botocore.IncompleteReadError
        botocore.ResponseStreamingError botocore.ChecksumError botocore.FlexibleChecksumError
        botocore.ResponseParserError botocore.MetadataRetrievalError
        botocore.CredentialRetrievalError azure.ServiceRequestError azure.ServiceResponseError
        azure.IncompleteReadError gcsfs.ChecksumError google.TransportError google.RetryError
        http.HTTPException httpx.TransportError httpcore.NetworkError httpcore.TimeoutException
        httpcore.RemoteProtocolError paramiko.SSHException urllib3.ProtocolError
        urllib3.TimeoutError urllib3.MaxRetryError""",
}
_OF_CLASS = {name: meaning for meaning, names in _CLASSES.items() for name in names.split()}

_REFUSED_CODES = (
    "AccessDenied",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
)
_PASSING_CODES = (
    "InternalError",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
)
_ABSENT_CODES = ("NoSuchBucket", "NoSuchKey", "NotFound")
_OF_CODE = {
    code: meaning
    for codes, meaning in (
        (_REFUSED_CODES, Failure.REFUSED),
        (_PASSING_CODES, Failure.PASSING),
        (_ABSENT_CODES, Failure.ABSENT),
    )
    for code in codes
}
"""What stores of Amazon's kind name in their answers."""

# obstore has one class for most of what goes wrong, and all of it in the text
_STATUS_IN_TEXT = re.compile(
    r"(?:status code:?|HTTP status \w+ error \(|non-2xx status code:?)\s*(\d{3})", re.IGNORECASE
)
_STATUS_AT_FRONT = re.compile(r"(?:HTTP(?:/[\d.]+)?\s+)?(\d{3})\b(?!\.)")
_PASSING_TEXT = re.compile(
    r"HTTP error|error sending request|body error|timed? ?out|connection|retries", re.IGNORECASE
)
_HOST_TEXT = re.compile(
    r"dns error|failed to lookup|name or service not known|name resolution|nodename nor servname",
    re.IGNORECASE,
)
_NOBODY_TEXT = re.compile(
    r"dns error|connection refused|ConnectionRefused|failed to lookup|tcp connect error",
    re.IGNORECASE,
)


def failure_of(error: BaseException) -> Failure:
    """What an error means, by itself and those that led to it."""
    if isinstance(error, StreamlrError):
        return Failure.OTHER  # it says all that is known
    links = list(_chain(error))
    if any(_lacks_memory(link) for link in links):
        return Failure.MEMORY
    # an answer tells more than what a library makes of it: s3fs has EIO for 401, too
    answers = (_of_answer(link) for link in links)
    found = next((meaning for meaning in answers if meaning is not None), None)
    if found is None:
        requested = any(isinstance(link, RequestError) for link in links)
        types = (_of_type(link, requested) for link in links)
        found = next((meaning for meaning in types if meaning is not None), Failure.OTHER)
    nobody = found is Failure.PASSING and any(_tells_of_nobody(link) for link in links)
    return Failure.NOBODY if nobody else found


def lacks_memory(error: BaseException) -> bool:
    """Whether an error, or one that led to it, is that of a system without memory."""
    return failure_of(error) is Failure.MEMORY


def was_answered(error: BaseException) -> bool:
    """Whether a server said that it fails, so that nothing was read that could be unsound."""
    return any(_of_answer(link) is not None for link in _chain(error))


def is_unknown_host(error: BaseException) -> bool:
    """Whether nobody answered because the host's name leads nowhere."""
    return any(
        isinstance(link, socket.gaierror) or _HOST_TEXT.search(str(link)) for link in _chain(error)
    )


def requested_key(error: BaseException) -> str | None:
    """The key of a store of which a request failed; None where that is not told."""
    return next((link.key for link in _chain(error) if isinstance(link, RequestError)), None)


def reason(error: BaseException) -> str:
    """What an error says, in a line, with what the last of those that led to it says, where that is
    something else."""
    links = [
        link
        for link in _chain(error)
        if not isinstance(link, RequestError) and not type(link).__module__.startswith("zarr.")
    ] or [error]
    first, last = _line(links[0]), _line(links[-1])
    reported = (last in first or first in last or not isinstance(links[-1], OSError)) or len(
        last
    ) > _LONGEST_REASON
    return first if reported else f"{first} ({last})"


def _line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0].strip()
    status = getattr(error, "status", None)
    if not text:
        return (
            type(error).__name__ if status is None else f"{type(error).__name__}, status {status}"
        )
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    link: BaseException | None = error
    while (
        link is not None and len(seen) < _LONGEST_CHAIN and not any(link is known for known in seen)
    ):
        yield link
        seen.append(link)
        link = _cause(link)


def _cause(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "can't start new thread" in str(error)
    )


def _names(error: BaseException) -> Iterator[str]:
    """``library.Class`` of the error and of all that it derives from."""
    for kind in type(error).__mro__:
        yield f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def _of_answer(error: BaseException) -> Failure | None:
    """By the code, or the status of HTTP, with which a server answered."""
    if "aiohttp.HttpProcessingError" in _names(error):
        return None  # its code tells of what the client made of the answer
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore's
        code = str(_part(response, "Error", "Code"))
        return (
            _OF_CODE.get(code)
            or _of_status(_part(response, "ResponseMetadata", "HTTPStatusCode"))
            or _of_status(code)
        )
    numbers = [getattr(error, name, None) for name in ("status", "status_code", "code")]
    numbers.append(getattr(response, "status_code", None))  # of requests and httpx
    if any(name.startswith("obstore.") for name in _names(error)):
        text = str(error)
        named = next(
            (meaning for code, meaning in _OF_CODE.items() if f"<Code>{code}</Code>" in text), None
        )
        if named is not None:
            return named
        numbers += _STATUS_IN_TEXT.findall(text)[:1]
    return next((meaning for meaning in map(_of_status, numbers) if meaning is not None), None)


def _part(mapping: Mapping[str, Any], *keys: str) -> Any:
    value: Any = mapping
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _of_status(status: Any) -> Failure | None:
    """What a status of HTTP means; None for what is none, or no error."""
    if isinstance(status, bool) or not str(status).isdecimal() or not 400 <= int(status) < 600:
        return None
    number = int(status)
    if number in (401, 403, 407):
        return Failure.REFUSED
    if number in (404, 410):
        return Failure.ABSENT
    passing = number in (408, 421, 425, 429) or (number >= 500 and number not in (501, 505))
    return Failure.PASSING if passing else Failure.OTHER


def _of_type(error: BaseException, requested: bool) -> Failure | None:
    """By what kind of error it is; None where that says nothing. One of the operating system
    without a number is a file system's word for anything, if it comes from a request, and else a
    codec's."""
    if isinstance(
        error,
        ssl.SSLCertVerificationError | BadGzipFile | io.UnsupportedOperation | FileExistsError,
    ):
        return Failure.OTHER
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return Failure.ABSENT
    if isinstance(error, PermissionError):
        return Failure.REFUSED
    names = list(_names(error))
    for name in names:
        if name in _OF_CLASS:
            return _OF_CLASS[name]
    if "obstore.GenericError" in names:
        return Failure.PASSING if _PASSING_TEXT.search(str(error)) else Failure.OTHER
    if not isinstance(error, OSError):
        return None
    if isinstance(error, socket.gaierror):
        return Failure.NOBODY
    if isinstance(error, TimeoutError | ConnectionError | ssl.SSLError):
        return Failure.PASSING
    if error.errno is None:
        status = _STATUS_AT_FRONT.match(
            str(error)
        )  # as some file systems hand on what was answered
        answered = None if status is None else _of_status(status[1])
        return (answered or Failure.PASSING) if requested else Failure.OTHER
    return _OF_ERRNO.get(error.errno, Failure.OTHER)


def _tells_of_nobody(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return (
            isinstance(error, socket.gaierror) or _OF_ERRNO.get(error.errno or 0) is Failure.NOBODY
        )
    return "obstore.GenericError" in _names(error) and _NOBODY_TEXT.search(str(error)) is not None
