"""Files of text as they come: compressed or not, in any of the usual encodings.

Promises that what is read is the file's text and nothing was replaced on the way, and a `DataError` that says what the
file is instead when it is no text. UTF-8 (with or without byte order mark), UTF-16 and Windows-1252 are recognised by
looking at the whole file, in bounded memory; gzip by its first bytes. Knows nothing about rows.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from gemma_ft.errors import DataError

CHUNK_BYTES = 1 << 20
LOOK_BYTES = 1 << 16
WINDOWS = "cp1252"
WINDOWS_NOTE = "The text is not UTF-8 and was read as Windows-1252: check the accents below."

GZIP = b"\x1f\x8b"
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
OTHER_KINDS = (
    (b"PK\x03\x04", "an Excel workbook or a zip archive", "Save the table as CSV, or unpack the archive."),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word document", "Save the table as CSV."),
    (b"%PDF", "a PDF document", "Copy its questions and answers into a table and save that as CSV."),
    (b"\x89PNG", "a picture", "Give a file of text."),
    (b"\xff\xd8\xff", "a picture", "Give a file of text."),
    (b"PAR1", "a Parquet file", "Rename it so that it ends in .parquet."),
    (b"ARROW1", "an Arrow file", "Save it as Parquet or JSON Lines."),
    (b"\x93NUMPY", "a NumPy file", "Save it as Parquet or JSON Lines."),
    (b"SQLite format 3", "a database", "Export the table as CSV."),
    (b"BZh", "compressed with bzip2", "Unpack it, or compress it with gzip."),
    (b"\xfd7zXZ", "compressed with xz", "Unpack it, or compress it with gzip."),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it, or compress it with gzip."),
    (b"7z\xbc\xaf", "a 7-Zip archive", "Unpack it."),
    (b"version https://git-lfs", "only a Git LFS pointer; the data itself is not in it", "Run `git lfs pull` first."),
    (b"<!doctype html", "a web page", "Download the data itself, not the page that shows it."),
    (b"<html", "a web page", "Download the data itself, not the page that shows it."),
)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into a `DataError`."""
    try:
        yield
    except FileNotFoundError as exc:
        raise DataError(f"There is no file {path}.", "Check the path, or upload the file again.") from exc
    except IsADirectoryError as exc:
        raise DataError(f"{path} is a folder, not a file.", "Give one of the files in it.") from exc
    except PermissionError as exc:
        raise DataError(f"{path} may not be read.", "Change its permissions, or copy it elsewhere.") from exc
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise DataError(f"{path.name} is a damaged gzip file: its end is missing or wrong.", "Make it again.") from exc
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise DataError(f"{path.name} cannot be read: {why}.", "Copy it elsewhere and try again.") from exc


def open_bytes(path: Path) -> IO[bytes]:
    """Return the file's content, unpacked when it is gzipped."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    return cast(IO[bytes], gzip.open(path)) if packed else path.open("rb")


def open_text(path: Path, encoding: str, *, newline: str | None = None) -> IO[str]:
    """Return the file's text; `encoding` is what `find_encoding` found, `newline` as for `open`."""
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, newline=newline)


def find_encoding(path: Path) -> str:
    """Return the name of the encoding in which the whole file can be read. Raises `DataError` when it is no text."""
    with reading(path), open_bytes(path) as file:
        start = file.read(LOOK_BYTES)
    named = _by_its_start(start)
    if named is None:
        _refuse_other_kinds(start, path.name)
    trouble = _first_trouble(path, named or "utf-8")
    if trouble is None:
        return named or "utf-8"
    if named is not None:
        raise DataError(f"{path.name} begins as {named} text, but {trouble}.", "Save it as UTF-8.")
    trouble = _first_trouble(path, WINDOWS)
    if trouble is not None or _looks_binary(start):
        what = trouble or "it holds control characters"
        raise DataError(
            f"{path.name} is no text: it is neither UTF-8 nor UTF-16, and as Windows-1252 {what}.",
            "Save the data as UTF-8 text.",
        )
    return WINDOWS


def _by_its_start(start: bytes) -> str | None:
    """Return the encoding that a byte order mark names, or UTF-16 when every other byte is zero."""
    for mark, encoding in MARKS:
        if start.startswith(mark):
            return encoding
    even, odd, half = start[0::2].count(0), start[1::2].count(0), len(start) / 2
    if odd > 0.3 * half and even < 0.05 * half:
        return "utf-16-le"
    if even > 0.3 * half and odd < 0.05 * half:
        return "utf-16-be"
    return None


def _refuse_other_kinds(start: bytes, name: str) -> None:
    head = start.lstrip()[:64].lower()
    for mark, kind, fix in OTHER_KINDS:
        if start.startswith(mark) or (mark.startswith(b"<") and head.startswith(mark)):
            raise DataError(f"{name} is {kind}.", fix)
    if b"\0" in start:
        raise DataError(f"{name} holds zero bytes, so it is no text.", "Save the data as UTF-8 text.")


def _first_trouble(path: Path, encoding: str) -> str | None:
    """Return where the file cannot be decoded, in words, or `None` when all of it can; reads it once, in pieces."""
    decoder = codecs.getincrementaldecoder(encoding)()
    at = 0
    with reading(path), open_bytes(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as exc:
                place = at + exc.start - (len(exc.object) - len(chunk))
                return f"byte {place} (0x{exc.object[exc.start]:02x}) is no character"
            at += len(chunk)
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "its last character is cut off"
    return None


def _looks_binary(start: bytes) -> bool:
    controls = sum(start.count(byte) for byte in (*range(1, 9), *range(14, 32)))
    return controls > 0.01 * len(start)
