"""What the struck processes do. Arguments are texts, since they travel between processes."""

import logging
import os
import pathlib
import resource
import signal
import tempfile

from reliability.runs import fake_run, parts
from reliability.states import STATES

from mlpug import checkpoints


def save(path, name):
    checkpoints.save(path, STATES[name])


def content(name):
    """The bytes of the checkpoint of a state."""
    with tempfile.TemporaryDirectory() as elsewhere:
        path = pathlib.Path(elsewhere) / "checkpoint"
        save(path, name)
        return path.read_bytes()


def write_in_place(path, name):
    """What a save must not be; the tests of the tests have to find that it loses checkpoints."""
    with open(path, "wb") as target:
        target.write(content(name))
        os.fsync(target.fileno())


def move_unsynced(path, name):
    """Survives a kill but no power cut: nothing says that the content is on the disk before its name is."""
    with open(f"{path}.moved", "wb") as target:
        target.write(content(name))
    os.replace(f"{path}.moved", path)


def move_without_the_folder(path, name):
    """Keeps the old checkpoint through anything, but a power cut may take the new one back."""
    with open(f"{path}.moved", "wb") as target:
        target.write(content(name))
        target.flush()
        os.fsync(target.fileno())
    os.replace(f"{path}.moved", path)


def ignore_errors(path, name):
    """Says nothing when the disk is full."""
    try:
        save(path, name)
    except OSError:
        return


def as_user(user, operation, *arguments):
    """Does it with the rights of another user, where this one is root, who may do anything."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setegid(int(user))
        os.seteuid(int(user))
    try:
        OPERATIONS[operation](*arguments)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)


def with_file_limit(size, operation, *arguments):
    """Does it where no file may grow beyond that many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the process is killed
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    OPERATIONS[operation](*arguments)


def run_of(folder, seed):
    """A short run that makes, replaces, archives and deletes checkpoints, and first cleans up behind another one."""
    checkpoints = {"create_checkpoint_every": 2, "archive_last_model_checkpoint_every": 2, "keep_archived": 1}
    settings = parts.Settings("shuffled", int(seed), str(folder), num_epochs=2, checkpoints=checkpoints)
    return fake_run.make(settings, parts.Places())


def train(folder, seed):
    logging.disable()  # what it says would be taken for an answer
    run_of(folder, seed).train("auto")


OPERATIONS = {
    "load": lambda path: checkpoints.load(path),
    "verify": lambda path: checkpoints.verify(path),
    "save": save,
    "copy": lambda source, target: checkpoints.copy(source, target),
    "delete": lambda path: checkpoints.delete(path),
    "remove_leftovers": lambda folder, path: checkpoints.remove_leftovers(folder, os.path.basename(path)),
    "write_in_place": write_in_place,
    "move_unsynced": move_unsynced,
    "move_without_the_folder": move_without_the_folder,
    "ignore_errors": ignore_errors,
    "as_user": as_user,
    "with_file_limit": with_file_limit,
    "train": train,
}
