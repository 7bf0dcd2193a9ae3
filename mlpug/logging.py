"""mlpug's own messages: standard library loggers under ``mlpug``, shown on standard output.

A program that configures logging itself gets the same messages its own way: mlpug prints only while the root
logger has no handler.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, TextIO

from tqdm import tqdm

_ROOT = "mlpug"
_FORMAT = "%(levelname)-8s: %(name)s : %(message)s"
_COLORS = {
    logging.DEBUG: "\033[38;5;244m",
    logging.INFO: "\033[32m",
    logging.WARNING: "\033[33m",
    logging.ERROR: "\033[31m",
    logging.CRITICAL: "\033[1;31m",
}
_RESET = "\033[0m"


class _ConsoleFormatter(logging.Formatter):
    """``INFO    : TrainingManager::start_training : message``, on a terminal in colours where they were asked for."""

    def __init__(self, colored: bool) -> None:
        super().__init__(_FORMAT)
        self._colored = colored

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record).replace(f"{_ROOT}.", "", 1)
        if self._colored and _is_terminal(sys.stdout):
            return f"{_COLORS.get(record.levelno, '')}{line}{_RESET}"
        return line


class _ConsoleHandler(logging.Handler):
    """Prints on whatever standard output is at that moment, also when it was redirected later."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger().handlers:
            return
        try:
            write(self.format(record))
        except OSError:  # what can't be said mustn't end training; told on standard error, as logging does
            self.handleError(record)


def write(text: str) -> None:
    """Print one block of text at once; what the terminal can't show becomes a question mark.

    >>> write("Epoch 0/9")
    Epoch 0/9
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    # Not by print, which would write into a progress bar that stands there.
    tqdm.write(text.encode(encoding, errors="replace").decode(encoding), file=sys.stdout)
    sys.stdout.flush()


def get_logger(name: str) -> logging.Logger:
    """The logger for a part of mlpug, or of a user's callback that wants to look the same.

    >>> get_logger("MyCallback").name
    'mlpug.MyCallback'
    """
    return logging.getLogger(f"{_ROOT}.{name}")


def use_fancy_colors(enabled: bool = True) -> None:
    """Colour mlpug's messages by their level, where standard output is a terminal (and NO_COLOR isn't set).

    >>> use_fancy_colors()
    """
    _console_handler().setFormatter(_ConsoleFormatter(enabled and not os.environ.get("NO_COLOR")))


def _is_terminal(stream: TextIO | Any) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)())


def _console_handler() -> logging.Handler:
    root = logging.getLogger(_ROOT)
    for handler in root.handlers:
        if isinstance(handler, _ConsoleHandler):
            return handler
    handler = _ConsoleHandler()
    handler.setFormatter(_ConsoleFormatter(colored=False))
    root.addHandler(handler)
    if root.level == logging.NOTSET:
        root.setLevel(logging.INFO)
    return handler


_console_handler()
