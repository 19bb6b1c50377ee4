"""What errors of reading mean, whichever library they come from, and what becomes of reads that
never end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from streamlr.data.chunks.failures import (
    Failure,
    RequestError,
    failure_of,
    is_unknown_host,
    reason,
    requested_key,
)
from streamlr.data.chunks.retries import (
    Retries,
    StoppedError,
    UnreadableError,
    retried,
    stop_with,
    take_read_retries,
)

TESTS = Path(__file__).parent


def of_library(
    name: str, text: str = "what it says", base: type[Exception] = Exception, **attributes: Any
) -> Exception:
    """An error of a library that need not be here."""
    module, _, kind = name.partition(".")
    error = type(kind, (base,), {"__module__": module})(text)
    for key, value in attributes.items():
        setattr(error, key, value)
    return error


def of_amazon(code: str, status: int) -> Exception:
    return of_library(
        "botocore.ClientError",
        response={"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}},
    )


def led_to(cause: BaseException, error: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def of_status(status: int) -> Exception:
    return of_library("aiohttp.ClientResponseError", status=status)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *(
            (of_status(status), Failure.PASSING)
            for status in (408, 425, 429, 500, 502, 503, 504, 507, 522, 599)
        ),
        *((of_status(status), Failure.REFUSED) for status in (401, 403)),
        *((of_status(status), Failure.ABSENT) for status in (404, 410)),
        *((of_status(status), Failure.OTHER) for status in (400, 405, 416, 501)),
        (of_amazon("SlowDown", 503), Failure.PASSING),
        (of_amazon("InternalError", 500), Failure.PASSING),
        (of_amazon("RequestTimeout", 400), Failure.PASSING),
        (of_amazon("ExpiredToken", 400), Failure.REFUSED),
        (of_amazon("InvalidAccessKeyId", 403), Failure.REFUSED),
        (of_amazon("RequestTimeTooSkewed", 403), Failure.REFUSED),
        (of_amazon("NoSuchBucket", 404), Failure.ABSENT),
        (of_library("aiohttp.ClientPayloadError"), Failure.PASSING),
        (of_library("aiohttp.ServerDisconnectedError"), Failure.PASSING),
        (
            of_library(
                "botocore.ReadTimeoutError",
                base=type("HTTPClientError", (Exception,), {"__module__": "botocore.exceptions"}),
            ),
            Failure.PASSING,
        ),
        (
            led_to(
                ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
                of_library("aiohttp.ClientConnectorError"),
            ),
            Failure.NOBODY,
        ),
        (
            led_to(of_amazon("AccessDenied", 403), OSError(errno.EIO, "what s3fs makes of it")),
            Failure.REFUSED,
        ),
        (
            of_library(
                "obstore.GenericError",
                "Server returned non-2xx status code: 503 Service Unavailable",
            ),
            Failure.PASSING,
        ),
        (
            of_library("obstore.GenericError", "Generic HTTP error: error sending request"),
            Failure.PASSING,
        ),
        (
            of_library(
                "obstore.GenericError", "tcp connect error: Connection refused (os error 111)"
            ),
            Failure.NOBODY,
        ),
        (of_library("obstore.GenericError", "what nobody knows"), Failure.OTHER),
        (of_library("obstore.PermissionDeniedError"), Failure.REFUSED),
        (of_library("gcsfs.HttpError", code=503), Failure.PASSING),
        (of_library("azure.HttpResponseError", status_code=503), Failure.PASSING),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Failure.PASSING),
        (TimeoutError(), Failure.PASSING),
        (OSError(errno.EIO, "of a disk"), Failure.PASSING),
        (OSError(errno.ESTALE, "of NFS"), Failure.PASSING),
        (socket.gaierror(-2, "Name or service not known"), Failure.NOBODY),
        (OSError(errno.EHOSTUNREACH, "no route"), Failure.NOBODY),
        (FileNotFoundError(errno.ENOENT, "gone"), Failure.ABSENT),
        (PermissionError(errno.EACCES, "no"), Failure.REFUSED),
        (ssl.SSLCertVerificationError("self-signed"), Failure.OTHER),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Failure.MEMORY),
        (MemoryError(), Failure.MEMORY),
        (RuntimeError("can't start new thread"), Failure.MEMORY),
        (led_to(MemoryError(), ValueError("of a codec")), Failure.MEMORY),
        (ValueError("of a codec"), Failure.OTHER),
        (ExceptionGroup("of several", [of_status(503)]), Failure.PASSING),
    ],
    ids=lambda value: (
        value.name if isinstance(value, Failure) else f"{type(value).__name__} {value}"
    ),
)
def test_what_passes_is_told_from_what_does_not(error: BaseException, expected: Failure) -> None:
    assert failure_of(error) is expected
    assert failure_of(led_to(error, RequestError("X/c/0"))) is expected


def test_an_error_without_a_number_is_a_codecs_unless_it_comes_from_a_request() -> None:
    error = OSError("Invalid data stream")
    assert failure_of(error) is Failure.OTHER
    assert failure_of(led_to(error, RequestError("X/c/0"))) is Failure.PASSING


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("403 Forbidden for s.zarr", Failure.REFUSED),
        ("HTTP/1.1 404 Not Found", Failure.ABSENT),
        ("503 Slow Down", Failure.PASSING),
        ("400 Bad Request", Failure.OTHER),
        ("403.5 bytes", Failure.PASSING),
        ("1 of 403 files", Failure.PASSING),
    ],
)
def test_a_status_in_front_of_a_text_without_a_number_is_what_was_answered(
    text: str, expected: Failure
) -> None:
    assert failure_of(OSError(text)) is Failure.OTHER
    assert failure_of(led_to(OSError(text), RequestError("X/c/0"))) is expected


def test_a_reason_is_one_line_that_names_the_last_cause() -> None:
    error = led_to(
        OSError(errno.ECONNREFUSED, "Connect call failed"),
        of_library("botocore.EndpointConnectionError", "Could not connect\nand more"),
    )
    assert (
        reason(led_to(error, RequestError("X/c/0")))
        == "Could not connect ([Errno 111] Connect call failed)"
    )
    assert (
        requested_key(
            led_to(RequestError("X/c/0"), UnreadableError(1, 0.0, Failure.PASSING, "why"))
        )
        == "X/c/0"
    )
    assert is_unknown_host(
        led_to(socket.gaierror(-2, "Name or service not known"), OSError("of a client"))
    )


# how long -----------------------------------------------------------------------------------------


def failing(times: int, error: BaseException) -> Any:
    left = [times]

    def read() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "read"

    return read


def test_every_attempt_but_the_first_is_counted() -> None:
    take_read_retries()
    assert retried(failing(3, ConnectionResetError()), lambda: "it", Retries(60.0)) == "read"
    assert take_read_retries() == 3


def test_what_is_new_to_an_outage_is_not_tried_as_long_again() -> None:
    how = Retries(1.0)
    with pytest.raises(UnreadableError, match=r"in [3-9] attempts within 1 s"):
        retried(failing(10**9, ConnectionResetError("reset")), lambda: "it", how)
    take_read_retries()
    with pytest.raises(UnreadableError, match=r"attempts within \d s: reset"):
        retried(failing(10**9, ConnectionResetError("reset")), lambda: "another", how)
    assert take_read_retries() == 0, "one attempt was enough"
    assert retried(failing(0, ConnectionResetError()), lambda: "it", how) == "read"
    assert retried(failing(2, ConnectionResetError()), lambda: "it", how) == "read", (
        "the outage is over"
    )


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "gone"),
        PermissionError(errno.EACCES, "no"),
        ValueError("of a codec"),
    ],
)
def test_what_does_not_pass_is_read_once(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        retried(failing(1, error), lambda: "it", Retries(60.0))
    assert raised.value is error


def test_what_came_from_afar_and_cannot_be_decoded_is_fetched_anew() -> None:
    far = Retries(60.0, far=True)
    assert (
        retried(failing(2, ValueError("of a codec")), lambda: "it", far, fetch_again=True) == "read"
    )
    with pytest.raises(ValueError, match="of a codec"):
        retried(failing(3, ValueError("of a codec")), lambda: "it", far, fetch_again=True)
    with pytest.raises(ValueError, match="of a codec"):
        retried(failing(1, ValueError("of a codec")), lambda: "it", Retries(60.0), fetch_again=True)


def test_reads_end_when_nobody_waits_for_them() -> None:
    stop, met = threading.Event(), []

    def work() -> None:
        stop_with(stop)
        try:
            retried(failing(10**9, ConnectionResetError()), lambda: "it", Retries(10**6))
        except StoppedError as error:
            met.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.2)
    stop.set()
    thread.join()
    assert met


SILENT = """
    import os, sys, time
    import fsspec
    from stores import Remote, two_class_data, write_store
    from pathlib import Path

    class Silent(Remote):
        protocol, cachable = "silent", False

        @classmethod
        def _strip_protocol(cls, path):
            return str(super()._strip_protocol(path.replace("silent://", "remote://", 1)))

        def cat_file(self, path, start=None, end=None, **options):
            if "/X/c/" in path:
                os.write(1, b"asked\\n")
                time.sleep(10**6)
            return super().cat_file(path, start, end, **options)

    fsspec.register_implementation("silent", Silent, clobber=True)
    folder, kind, seconds = sys.argv[1:]
    write_store(Path(folder, "a.zarr"), *two_class_data(2000, 4), (250, 4))
    Silent().put(folder + "/a.zarr", "/s.zarr", recursive=True)
    Path(folder, "c.yaml").write_text(f"data: {{store: 'silent:///s.zarr', retry_seconds: {seconds}}}\\ncluster: {{kind: {kind}, workers: 2}}\\n")
    sys.argv = ["streamlr", "train", "--config", folder + "/c.yaml", "--run-dir", folder + "/run"]
    from streamlr.cli.main import program
    program()
"""


def silent(tmp_path: Path, kind: str, seconds: float) -> subprocess.Popen[str]:
    """A run on a file system that never answers, and whose threads cannot be stopped."""
    command = [sys.executable, "-c", textwrap.dedent(SILENT), str(tmp_path), kind, str(seconds)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.parametrize("kind", ["serial", "threads"])
def test_a_file_system_that_never_answers_is_an_error_after_the_time_for_it(
    tmp_path: Path, kind: str
) -> None:
    process = silent(tmp_path, kind, 1.0)
    _, told = process.communicate()
    assert process.returncode == 3, told
    assert "cannot be read, in 1 attempt within 1 s: no answer within 1 s" in told
    assert "--resume" in told


@pytest.mark.parametrize("kind", ["serial", "threads"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_whose_file_system_never_answers(
    tmp_path: Path, kind: str, number: int
) -> None:
    process = silent(tmp_path, kind, 10**6)
    assert process.stdout is not None
    assert process.stdout.readline() == "asked\n"
    process.send_signal(number)
    _, told = process.communicate()
    assert process.returncode == 130, told
    assert "stopped before the first pass was finished" in told
    assert "Traceback" not in told
