"""How a file of text encodes its letters, and where it does not."""

from __future__ import annotations

import codecs
from pathlib import Path

import pyarrow as pa

from streamlr.errors import ConfigError, IngestError

_BLOCK_BYTES = 2**20
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


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
            f"--encoding {name!r} is no encoding of text ({error}); give one such as utf-8, "
            "latin-1, cp1252 or utf-16"
        ) from error


def find_undecodable(path: Path, encoding: str) -> IngestError | None:
    """The error that says where a file, plain or compressed, is no text in an encoding, if any."""
    decoder = codecs.getincrementaldecoder(encoding)()
    read_bytes = lines = 0
    wide = False
    with pa.input_stream(str(path), compression="detect") as stream:
        while True:
            block = stream.read(_BLOCK_BYTES)
            wide |= read_bytes == 0 and block[:2] in _WIDE_MARKS
            read_bytes += len(block)
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                at = read_bytes - len(error.object) + error.start
                line = lines + error.object[: error.start].count(b"\n") + 1
                likely = (
                    ["utf-16"]
                    if wide
                    else [name for name in ("utf-8", "latin-1", "cp1252") if name != encoding]
                )
                return IngestError(
                    f"{path}: byte {at} (0x{error.object[error.start]:02x}), in line {line}, is no "
                    f"{encoding} text; name the encoding of the file, such as "
                    f"{' or '.join(f'--encoding {name}' for name in likely)}"
                )
            if not block:
                return None
            lines += block.count(b"\n")
