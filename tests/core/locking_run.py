"""A run in a process of its own, which says READY in its second batch and goes on when it is told to.

python locking_run.py DIRECTORY BASE CHILDREN
"""

import multiprocessing
import os
import subprocess
import sys
import time

from core.checkpoint_runs import manager_of

from mlpug.callbacks import Callback, CheckpointManager


class Wait(Callback):
    """Starts children that outlive this process, and waits."""

    def __init__(self, children):
        self.children = children

    def on_batch_training_start(self, batch, logs):
        if self.manager.global_iter != 1:
            return
        pids = [START[kind]() for kind in self.children.split(",") if kind]
        print("READY", *pids, flush=True)
        sys.stdin.readline()


def start_by_fork():
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid


def start_by_fork_that_unwinds():
    pid = os.fork()
    if pid == 0:
        sys.exit(0)  # through all that the parent has entered
    os.waitpid(pid, 0)
    return pid


def start_by_multiprocessing():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60])
    child.start()
    return child.pid


def start_program():
    return subprocess.Popen(["sleep", "60"], close_fds=False).pid


START = {
    "fork": start_by_fork,
    "unwinds": start_by_fork_that_unwinds,
    "multiprocessing": start_by_multiprocessing,
    "program": start_program,
}


if __name__ == "__main__":
    directory, base, children = sys.argv[1:]
    saves = CheckpointManager(directory, base or None, metric_to_monitor=None, create_checkpoint_every=1)
    manager_of([saves, Wait(children)]).start_training()
    print("DONE", flush=True)
