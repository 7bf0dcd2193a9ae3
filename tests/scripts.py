"""Runs scripts as somebody would, each in a process of its own, which may be told to end itself on the way."""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"

ENDING_ITSELF = """
import operator, os, runpy, sys
path, place, calls, signal, *arguments = sys.argv[1:]
sys.argv = [path, *arguments]
sys.path.insert(0, os.path.dirname(path))
script = runpy.run_path(path)
module, *owners, name = place.split(".")
owner = operator.attrgetter(".".join(owners))(sys.modules[module]) if owners else sys.modules[module]
original, calls = getattr(owner, name), int(calls)

def counting(*arguments, **more):
    global calls
    calls -= 1
    if calls == 0:
        os.kill(os.getpid(), int(signal))
    return original(*arguments, **more)

setattr(owner, name, counting)
script["main"]()
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Signal:
    """Sent by a script to itself, where it calls a function or a method for the n-th time."""

    place: str  # module.function, or module.Class.method
    calls: int
    number: int


def copy_example(name, folder, script, replaced):
    """A copy of the example of this name, in whose script some texts, which are there once, are replaced.

    Returns:
        The path of the script.
    """
    shutil.copy(EXAMPLES / "data.py", folder)
    shutil.copytree(EXAMPLES / name, folder / name)
    path = folder / name / script
    code = path.read_text(encoding="utf-8")
    for old, new in replaced.items():
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    path.write_text(code, encoding="utf-8")
    return path


def added_on_the_page():
    """The lines that docs/porting.md adds to a native script, in its last diff."""
    page = (EXAMPLES.parent / "docs" / "porting.md").read_text(encoding="utf-8")
    *_, diff = re.findall(r"^```diff\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    return "".join(line[1:] + "\n" for line in diff.splitlines() if line.startswith("+"))


def run_script(path, *arguments, sent=None, variables=None):
    """The script in ``path``, to its end. Where it is sent a signal, it has a ``main()``."""
    command = [sys.executable, path]
    if sent is not None:
        command = [sys.executable, "-c", ENDING_ITSELF, path, sent.place, sent.calls, int(sent.number)]
    # Not what the developer's shell says: what somebody sees who set nothing.
    unset = ("TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND", "PYTHONWARNINGS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [str(part) for part in (*command, *arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**environment, "OMP_NUM_THREADS": "1", **(variables or {})},
    )
