"""Operations on checkpoints in processes that are killed, or refused, at one file-system call.

Starting Python and numpy for each of a thousand calls would take minutes. One server starts them once, with the library
``faults.c`` preloaded, and forks a child for each operation.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import traceback

from reliability.operations import OPERATIONS


@dataclasses.dataclass(frozen=True, slots=True)
class Raised:
    """The exception that an operation ended with."""

    type: str
    bases: list[str]
    error_number: int | None
    cause: str | None  # the type that it was raised from
    cause_error_number: int | None
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation ended."""

    killed: bool
    raised: Raised | None = None
    calls: int = 0
    left_open: int = 0  # files that the operation opened and did not close


class StruckProcesses:
    """The client's side of the server."""

    def __init__(self, library: pathlib.Path):
        paths = os.pathsep.join(path for path in sys.path if path)
        # a child of fork has only one thread: numpy should not have started others
        variables = {"LD_PRELOAD": str(library), "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}
        self.environment = {**os.environ, **variables}

    def __enter__(self) -> StruckProcesses:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "reliability.struck"],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *error) -> None:
        self._server.communicate(timeout=30)

    def run(self, operation, *arguments, folder, mode="record", at=0, error=0, refused="", record="") -> Outcome:
        """Runs an operation in a child; of its calls under ``folder``, number ``at`` is struck.

        :param mode: "record" strikes nothing; "kill" kills before the call; "half" kills after half of a write;
            "fail" lets the call fail with the errno ``error``, "broken" it and all that follow; "short" lets a write
            do half of its work.
        :param refused: A call that always fails here, such as "link" on a file system without links.
        :param record: A file to which all calls are written.
        """
        arm = [str(folder), mode, at, error, refused, str(record)]
        request = {"operation": operation, "arguments": [str(argument) for argument in arguments], "arm": arm}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        return Outcome(**{**answer, "raised": Raised(**answer["raised"]) if answer.get("raised") else None})


def _open_files(folder: str) -> int:
    targets = []
    for file in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{file}"))
        except FileNotFoundError:  # the one that listed the folder
            continue
    return sum(target.startswith(folder) for target in targets)


def _described(error: BaseException) -> dict:
    cause = error.__cause__
    return dataclasses.asdict(
        Raised(
            type(error).__name__,
            [base.__name__ for base in type(error).__mro__],
            getattr(error, "errno", None),
            None if cause is None else type(cause).__name__,
            getattr(cause, "errno", None),
            "".join(traceback.format_exception(error)),
        )
    )


def _perform(request: dict) -> dict | None:
    try:
        OPERATIONS[request["operation"]](*request["arguments"])
    except BaseException as error:  # noqa: BLE001 - whatever it was, the test reads it
        return _described(error)
    return None


def _child(faults: ctypes.CDLL, request: dict, answer_to: int) -> None:
    folder, mode, at, error, refused, record = request["arm"]
    texts = [os.fsencode(text) for text in (folder, mode, refused, record)]
    faults.faults_arm(texts[0], texts[1], ctypes.c_long(at), error, texts[2], texts[3])
    raised = _perform(request)
    calls = faults.faults_disarm()
    answer = {"killed": False, "raised": raised, "calls": calls, "left_open": _open_files(folder)}
    os.write(answer_to, json.dumps(answer).encode())


def _read_all(file: int) -> bytes:
    with os.fdopen(file, "rb") as stream:
        return stream.read()


def _in_a_child(faults: ctypes.CDLL, request: dict) -> dict:
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _child(faults, request, writes)
        finally:
            os._exit(0)
    os.close(writes)
    answer = _read_all(reads)
    _, status = os.waitpid(child, 0)
    return json.loads(answer) if answer else {"killed": os.WIFSIGNALED(status)}


def serve() -> None:
    """Answers requests, one a line, until there are no more."""
    faults = ctypes.CDLL(os.environ["LD_PRELOAD"])
    faults.faults_disarm.restype = ctypes.c_long
    for line in sys.stdin:
        print(json.dumps(_in_a_child(faults, json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
