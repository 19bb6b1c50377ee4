"""How a file of text encodes its letters, and where it does not."""

from __future__ import annotations

import codecs
from pathlib import Path

import pyarrow as pa

from streamlr.errors import ConfigError, IngestError, either, option

_BLOCK_BYTES = 2**20


def python_encoding(name: str) -> str:
    """Python's own name of an encoding of text.

    Raises
    ------
    ConfigError
        When there is none.
    """
    try:
        "a".encode(name)
        return codecs.lookup(name).name
    except (LookupError, UnicodeError, ValueError) as error:
        raise ConfigError(
            f"{either('--encoding', 'encoding')} {name!r} is no encoding of text ({error}); give "
            "one such as utf-8, latin-1, cp1252 or utf-16"
        ) from error


def find_undecodable(path: Path, encoding: str) -> IngestError | None:
    """The error that says where a file, plain or compressed, is no text in an encoding, if any."""
    decoder = codecs.getincrementaldecoder(encoding)()
    read_bytes = lines = 0
    mark = b""
    with pa.input_stream(str(path), compression="detect") as stream:
        while True:
            block = stream.read(_BLOCK_BYTES)
            mark = mark or block[:4]
            read_bytes += len(block)
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                at = read_bytes - len(error.object) + error.start
                line = lines + error.object[: error.start].count(b"\n") + 1
                what = f"byte {at} (0x{error.object[error.start]:02x}), in line {line}, is"
                return _in_another(path, what, encoding, mark)
            except UnicodeError:  # text of two bytes a letter that has no mark of their order
                return _in_another(path, f"what begins with {mark!r} is", encoding, mark)
            if not block:
                wide = 0 in mark and not encoding.startswith(("utf-16", "utf-32"))
                return _in_another(path, "a zero byte is", encoding, mark) if wide else None
            lines += block.count(b"\n")


def _in_another(path: Path, what: str, encoding: str, mark: bytes) -> IngestError:
    """The error for a file that begins with the bytes ``mark``."""
    likely = [name for name in _likely(mark) if name != encoding]
    return IngestError(
        f"{path}: {what} no {encoding} text; name the encoding of the file, such as "
        f"{' or '.join(option('encoding', name) for name in likely)}"
    )


def _likely(mark: bytes) -> list[str]:
    if mark[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return ["utf-16"]
    if 0 in mark:
        return ["utf-16-be"] if mark[0] == 0 else ["utf-16-le"]
    return ["utf-8", "latin-1", "cp1252"]
