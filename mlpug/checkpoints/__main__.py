"""Look at checkpoint files from a shell: `python -m mlpug.checkpoints describe|verify FILE...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mlpug.checkpoints.reading import Description, describe, verify
from mlpug.errors import CheckpointError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command on each file. The exit status: 0 where all is well, 1 where a file isn't, 2 for a wrong command."""
    parser = argparse.ArgumentParser(prog="python -m mlpug.checkpoints", description="Look at checkpoint files.")
    parser.add_argument("command", choices=["describe", "verify"], help="say what is in it, or check each byte of it")
    parser.add_argument("files", nargs="+", metavar="FILE")
    chosen = parser.parse_args(arguments)
    status = 0
    for path in chosen.files:
        try:
            print(_described(path) if chosen.command == "describe" else _verified(path))  # noqa: T201
        except CheckpointError as error:
            print(_printable(str(error)), file=sys.stderr)  # noqa: T201
            status = 1
    return status


def _verified(path: str) -> str:
    verify(path)
    return f"{path}: whole"


def _described(path: str) -> str:
    found = describe(path)
    lines = [f"{path}: {_readable(found.size)}, format {found.format_version}, {len(found.tensors)} tensors"]
    lines += [f"  {key}: {value}" for key, value in found.description.items()]
    return "\n".join(_printable(line) for line in lines + _tensor_lines(found))


def _tensor_lines(found: Description) -> list[str]:
    width = max(map(len, found.tensors), default=0)
    return [f"  {name:<{width}}  {dtype:<5} {list(shape)}" for name, (dtype, shape) in found.tensors.items()]


def _printable(line: str) -> str:
    """A line in which whatever could control a terminal is written as an escape: files may be from anybody.

    >>> _printable("loss \\x1b[2J 0.5")
    'loss \\\\x1b[2J 0.5'
    """
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)


def _readable(size: int) -> str:
    """A size in bytes for people.

    >>> _readable(999), _readable(44_700_000)
    ('999 bytes', '44.7 MB')
    """
    for unit, bytes_in_it in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= bytes_in_it:
            return f"{size / bytes_in_it:.1f} {unit}"
    return f"{size} bytes"


if __name__ == "__main__":
    sys.exit(main())
