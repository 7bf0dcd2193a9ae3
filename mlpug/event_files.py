"""TensorBoard's event files: scalars, written without any library.

A file is a sequence of records: the length of the data as 8 bytes, its checksum as 4, the data, and its checksum as 4,
all little-endian. The data is an ``Event`` message of protocol buffers (tensorflow/core/util/event.proto), and the
checksum is CRC-32C, rotated and shifted as TensorFlow does (tensorflow/core/lib/hash/crc32c.h).
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from typing import BinaryIO

_FLUSH_SECONDS = 5.0  # so much later than it was written at most, a value is to be seen


class EventFile:
    """A new file in a directory, which is made where it isn't there; what other files in it hold stays.

    Args:
        directory: of the run, by whose path TensorBoard calls it.
        first_step: what older files in the directory have from this step on isn't shown any more.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     file = EventFile(Path(directory, "training"))
    ...     file.add("loss", 0.5, step=0)
    ...     file.close()
    ...     [path.name.startswith("events.out.tfevents.") for path in Path(directory, "training").iterdir()]
    [True]
    """

    def __init__(self, directory: Path, first_step: int = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = _new_file(directory)
        self._flushed_at = time.monotonic()
        self._write(_text(3, b"brain.Event:2"))
        # A SessionLog with the status START: readers take the first one in a directory for the start of the run, and
        # each later one for a restart at its step.
        self._write(_number(2, first_step) + _text(7, _number(1, 1)))
        self.flush()

    def add(self, tag: str, value: float, step: int) -> None:
        """Write a value; it is in the file at the next flush, of which there is one every few seconds."""
        of_value = _text(1, tag.encode()) + _field(2, 5) + struct.pack("<f", _as_float32(value))
        self._write(_number(2, step) + _text(5, _text(1, of_value)))
        if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system: it is there though this process may be killed."""
        self._file.flush()
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Flush, and let go of the file."""
        self._file.close()

    def _write(self, of_event: bytes) -> None:
        data = _field(1, 1) + struct.pack("<d", time.time()) + of_event
        length = struct.pack("<Q", len(data))
        self._file.write(length + _checksum(length) + data + _checksum(data))


def _new_file(directory: Path) -> BinaryIO:
    """Readers go by the names, so that a later file has a greater one; never one that is there."""
    while True:
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010}.{nanoseconds:09}.{socket.gethostname()}.{os.getpid()}"
        try:
            return (directory / name).open("xb")
        except FileExistsError:
            continue


def _as_float32(value: float) -> float:
    """Too large a number is infinite in single precision, and not an error."""
    try:
        struct.pack("<f", value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return value


def _field(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _number(number: int, value: int) -> bytes:
    return _field(number, 0) + _varint(value)


def _text(number: int, value: bytes) -> bytes:
    return _field(number, 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first.

    >>> _varint(300)
    b'\\xac\\x02'
    """
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _table()


def _crc32c(data: bytes) -> int:
    """CRC-32C, of Castagnoli et al. (1993), bit-reflected.

    >>> hex(_crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _checksum(data: bytes) -> bytes:
    crc = _crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
