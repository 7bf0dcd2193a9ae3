"""Runs scripts as somebody would, each in a process of its own, which may be told to end itself on the way."""

import dataclasses
import os
import subprocess
import sys

ENDING_ITSELF = """
import os, runpy, sys
path, module, class_name, method, calls, signal, *arguments = sys.argv[1:]
sys.argv = [path, *arguments]
sys.path.insert(0, os.path.dirname(path))
script = runpy.run_path(path)
owner = getattr(sys.modules[module], class_name)
original, calls = getattr(owner, method), int(calls)

def counting(*arguments):
    global calls
    calls -= 1
    if calls == 0:
        os.kill(os.getpid(), int(signal))
    return original(*arguments)

setattr(owner, method, counting)
script["main"]()
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Signal:
    """Sent by a script to itself, where it calls a method for the n-th time."""

    method: str  # module.Class.method
    calls: int
    number: int


def run_script(path, *arguments, sent=None, seconds=100):
    """The script in ``path``, which has a ``main()``, to its end."""
    command = [sys.executable, path]
    if sent is not None:
        command = [sys.executable, "-c", ENDING_ITSELF, path, *sent.method.split("."), sent.calls, int(sent.number)]
    # Not what the developer's shell says: what somebody sees who set nothing.
    unset = ("TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND", "PYTHONWARNINGS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [str(part) for part in (*command, *arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )
