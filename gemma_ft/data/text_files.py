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
from typing import IO, NamedTuple, cast

from gemma_ft.errors import DataError

CHUNK_BYTES = 1 << 20
LOOK_BYTES = 1 << 16
WINDOWS = "cp1252"
WINDOWS_NOTE = "The text is not UTF-8 and was read as Windows-1252: check the accents below."

BYTEWISE = ("utf-8", "utf-8-sig", WINDOWS)
SAVE_AS_UTF8 = "Save the data as UTF-8 text, from the program that wrote it."
LOAD_AGAIN = "Download or upload it again, or compress the data once more."
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
    (b"{\\rtf", "a document in Rich Text Format", "Open it in a word processor and save it as plain text."),
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
    except EOFError as exc:
        raise DataError(f"{path.name} is a gzip file that was cut off: its end is missing.", LOAD_AGAIN) from exc
    except (zlib.error, gzip.BadGzipFile) as exc:
        raise DataError(f"{path.name} is a damaged gzip file: it cannot be unpacked.", LOAD_AGAIN) from exc
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise DataError(f"{path.name} cannot be read: {why}.", "Copy it elsewhere and try again.") from exc


def open_bytes(path: Path) -> IO[bytes]:
    """Return the file's content, unpacked when it is gzipped."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    return cast(IO[bytes], gzip.open(path)) if packed else path.open("rb")


@contextmanager
def open_text(path: Path, encoding: str, *, newline: str | None = None) -> Iterator[IO[str]]:
    """Give the file's text; `encoding` is what `find_encoding` found, `newline` as for `open`. Raises `DataError`."""
    with reading(path), io.TextIOWrapper(open_bytes(path), encoding=encoding, newline=newline) as file:
        yield file


def first_bytes(path: Path) -> bytes:
    """Return the beginning of the file, unpacked. Raises `DataError`, also when there is nothing in it."""
    with reading(path), open_bytes(path) as file:
        start = file.read(LOOK_BYTES)
    if not start:
        raise DataError(
            f"There is nothing in {path.name}: it is compressed and unpacks to 0 bytes.",
            "Compress the file that holds the data.",
        )
    return start


def find_encoding(path: Path) -> str:
    """Return the name of the encoding in which the whole file can be read. Raises `DataError` when it is no text."""
    start = first_bytes(path)
    named = _by_its_start(start)
    if named is None:
        refuse_other_kinds(start, path.name)
        _refuse_binary(start, path.name)
    encoding = named or "utf-8"
    trouble = _first_trouble(path, encoding)
    if trouble is None:
        return encoding
    if named is None and not trouble.in_any_encoding and not _is_mostly_utf8(path):
        encoding, trouble = WINDOWS, _first_trouble(path, WINDOWS)
        if trouble is None:
            return WINDOWS
    meant = {"utf-8-sig": "UTF-8", WINDOWS: "UTF-8 and not Windows-1252 either"}.get(encoding, encoding.upper())
    what = "is not" if encoding == WINDOWS else "is not entirely"
    raise DataError(f"{path.name} {what} {meant}: {_place(path, encoding, trouble)} {trouble.what}.", SAVE_AS_UTF8)


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


def refuse_other_kinds(start: bytes, name: str) -> None:
    """Raise `DataError` when the file's beginning shows that it is a document, an archive, a picture and the like."""
    head = start.lstrip()[:64].lower()
    for mark, kind, fix in OTHER_KINDS:
        if start.startswith(mark) or (mark.startswith(b"<") and head.startswith(mark)):
            raise DataError(f"{name} is {kind}.", fix)


def _refuse_binary(start: bytes, name: str) -> None:
    controls = sum(start.count(byte) for byte in (*range(9), *range(14, 32)))
    if controls > 0.01 * len(start):
        zero = start.find(0)
        which = f"a zero byte in line {start.count(10, 0, zero) + 1} and other" if zero >= 0 else "many"
        raise DataError(
            f"{name} looks like binary data, not like text: it holds {which} control characters "
            f"({controls:,} of the first {len(start):,} bytes).",
            SAVE_AS_UTF8,
        )


class _Trouble(NamedTuple):
    """The first place that cannot be decoded."""

    byte: int
    what: str
    in_any_encoding: bool = False


def _first_trouble(path: Path, encoding: str) -> _Trouble | None:
    """Return where the file is no text in this encoding, or `None` when all of it is; reads it once, in pieces."""
    decoder = codecs.getincrementaldecoder(encoding)()
    at = 0
    with reading(path), open_bytes(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            if b"\0" in chunk and encoding in BYTEWISE:
                return _Trouble(at + chunk.index(0), "holds a zero byte, which no text has", in_any_encoding=True)
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as exc:
                place = at + exc.start - (len(exc.object) - len(chunk))
                return _Trouble(place, f"holds the byte {exc.object[exc.start]:02X}, which is no character there")
            at += len(chunk)
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return _Trouble(at, "is cut off within a character")
    return None


def _is_mostly_utf8(path: Path) -> bool:
    """Tell whether more places beyond ASCII are UTF-8 than are not."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    letters = spoilt = 0
    with reading(path), open_bytes(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            text = decoder.decode(chunk)
            letters += len(text) - len(text.encode("ascii", "ignore"))
            spoilt += text.count("\ufffd")
    return letters > 2 * spoilt


def _place(path: Path, encoding: str, trouble: _Trouble) -> str:
    """Say where the trouble is: the line, where lines can be counted without decoding."""
    if encoding not in BYTEWISE:
        return f"byte {trouble.byte:,}"
    lines, left = 1, trouble.byte
    with reading(path), open_bytes(path) as file:
        while chunk := file.read(min(CHUNK_BYTES, left)):
            lines += chunk.count(b"\n")
            left -= len(chunk)
    return f"line {lines:,}"
