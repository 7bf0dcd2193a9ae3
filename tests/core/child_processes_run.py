"""What a process under `Signals` does with children, in a process of its own: `test_child_processes` looks at it.

python child_processes_run.py CASE
"""

import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from mlpug.trainers.signals import Signals

CONTEXT = multiprocessing.get_context("fork")


def wait():
    while True:
        time.sleep(0.05)


def wait_with_a_handler(told):
    def end(number, frame):
        told.put(number)
        raise SystemExit(7)

    signal.signal(signal.SIGTERM, end)
    told.put("ready")
    time.sleep(60)


def start_another(told):
    child = CONTEXT.Process(target=wait)
    child.start()
    told.put(child.pid)
    wait()


def group(signals):
    """READY with children of each kind; they are there until this process ends."""
    told = CONTEXT.Queue()
    children = [CONTEXT.Process(target=wait, daemon=daemon) for daemon in (True, False)]
    children.append(CONTEXT.Process(target=start_another, args=[told]))
    for child in children:
        child.start()
    grandchild = told.get()
    with ProcessPoolExecutor(2, mp_context=CONTEXT) as pool:
        print("READY", flush=True)
        while signals.received is None:
            time.sleep(0.01)
        time.sleep(1.0)  # the batch under way
        assert all(child.is_alive() for child in children)
        os.kill(grandchild, 0)
        assert list(pool.map(abs, [-1, 2])) == [1, 2]
    print("DONE", flush=True)


def terminate(signals):
    """A child ends by `terminate` as ever, right after it was started, and with a handler of its own."""
    for seconds in (0.0, 0.0, 0.0, 0.2):
        child = CONTEXT.Process(target=wait)
        child.start()
        time.sleep(seconds)
        child.terminate()
        child.join(20)
        assert child.exitcode == -signal.SIGTERM, child.exitcode
    told = CONTEXT.Queue()
    for _ in range(15):  # the signal may come while the child is about to wait for something
        child = CONTEXT.Process(target=wait_with_a_handler, args=[told], daemon=True)
        child.start()
        assert told.get() == "ready"
        child.terminate()
        child.join(20)
        assert child.exitcode == 7, child.exitcode
        assert told.get() == signal.SIGTERM


def fork(signals):
    """A child that multiprocessing knows nothing of does what the system does."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    assert signals.received is None


def afterwards(signals):
    """Nothing of it is left."""
    signals.__exit__(None, None, None)
    child = CONTEXT.Process(target=wait)
    child.start()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    time.sleep(0.2)
    os.system(f"kill -TERM {child.pid}")  # by somebody else
    child.join(20)
    assert child.exitcode == -signal.SIGTERM, child.exitcode


if __name__ == "__main__":
    found = Signals(lambda received: None)
    with found:
        globals()[sys.argv[1]](found)
    if found.exit_status is not None:
        sys.exit(found.exit_status)
