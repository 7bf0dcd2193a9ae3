"""Saves in the background: one at a time, of copies, and never lost silently."""

import threading
import time

import numpy as np
import pytest

from mlpug.checkpoints import RawTensor
from mlpug.checkpoints.background import BackgroundSaver, copied


def fails():
    raise OSError("no room")


def checked_again_and_again(saver):
    until = time.monotonic() + 10
    while time.monotonic() < until:
        saver.check()


def test_a_save_runs_while_training_goes_on():
    saver, may_end, threads = BackgroundSaver(), threading.Event(), []

    def save():
        assert may_end.wait(10)
        threads.append(threading.current_thread())

    saver.start(save)
    saver.check()  # returns though the save is under way

    assert threads == []
    may_end.set()
    saver.wait()
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


def test_a_save_waits_for_the_one_before():
    saver, order = BackgroundSaver(), []
    may_end = threading.Timer(0.1, order.append, ["let go"])

    def first():
        may_end.start()
        may_end.join()
        order.append("first")

    saver.start(first)
    saver.start(lambda: order.append("second"))
    assert order[:2] == ["let go", "first"]
    saver.wait()

    assert order == ["let go", "first", "second"]


def test_a_failure_is_raised_once_by_the_check_after_it():
    saver = BackgroundSaver()
    saver.start(fails)
    with pytest.raises(OSError, match="no room"):
        checked_again_and_again(saver)

    saver.check()
    saver.wait()


def test_a_failure_is_raised_by_waiting():
    saver = BackgroundSaver()
    saver.start(fails)
    with pytest.raises(OSError, match="no room"):
        saver.wait()
    saver.wait()


def test_after_a_failure_the_next_save_runs_nevertheless():
    saver, saved = BackgroundSaver(), []
    saver.start(fails)
    with pytest.raises(OSError, match="no room"):
        saver.start(lambda: saved.append("second"))
    saver.wait()

    assert saved == ["second"]


BEFORE_EXIT = """
import sys, time
from mlpug.checkpoints.background import BackgroundSaver

def save():
    time.sleep(0.3)
    {what}

BackgroundSaver().start(save)
{how}
"""


@pytest.mark.parametrize("how", ["", "sys.exit(3)", "raise RuntimeError('of the program')"])
def test_the_interpreter_exits_after_the_save(run_python, tmp_path, how):
    file = tmp_path / "saved"
    run_python(BEFORE_EXIT.format(what=f"open({str(file)!r}, 'w').write('all')", how=how))

    assert file.read_text() == "all"


@pytest.mark.parametrize("how", ["", "sys.exit(3)", "raise RuntimeError('of the program')"])
def test_a_failure_that_nobody_asked_for_is_told_at_exit(run_python, how):
    done = run_python(BEFORE_EXIT.format(what="raise OSError('no room')", how=how))

    told = (done.stdout + done.stderr).decode()
    assert "The last checkpoint was not saved." in told
    assert "OSError: no room" in told


def test_a_copy_has_all_that_a_checkpoint_can_hold_and_no_memory_of_the_source():
    raw = RawTensor("BF16", (2,), np.array([0x80, 0x3F, 0, 0x40], np.uint8))
    transposed = np.arange(6.0).reshape(2, 3).T
    strided = np.arange(10)[::3]
    state = {"a": [transposed, strided, {"b": raw}], "c": 1, "d": 0.5, "e": "text", "f": None, "g": True}
    (copy,) = copied(state)
    expected = {"transposed": transposed.copy(), "strided": strided.copy(), "raw": raw.data.copy()}
    transposed[:], strided[:], raw.data[:] = 0, 0, 0

    assert np.array_equal(copy["a"][0], expected["transposed"])
    assert np.array_equal(copy["a"][1], expected["strided"])
    assert np.array_equal(copy["a"][2]["b"].data, expected["raw"])
    assert (copy["a"][2]["b"].dtype, copy["a"][2]["b"].shape) == ("BF16", (2,))
    assert {name: copy[name] for name in "cdefg"} == {"c": 1, "d": 0.5, "e": "text", "f": None, "g": True}
    assert copy["a"] is not state["a"]


def test_memory_that_is_shared_is_copied_once_and_views_of_it_are_not_mixed_up():
    memory = np.arange(8, dtype=np.int32)
    views = [memory, memory[:], memory[:4], memory[::2], memory.view(np.float32), memory.reshape(2, 4)]
    first, again = copied({"views": views}, memory[:])
    copies = first["views"]

    assert copies[0] is copies[1] is again
    for copy, view in zip(copies, views, strict=True):
        assert copy.dtype == view.dtype
        assert np.array_equal(copy, view, equal_nan=True)
        assert not np.shares_memory(copy, memory)


@pytest.mark.parametrize("length", [1, 20_000])
def test_each_array_gets_its_own_numbers(length):
    arrays = [np.full(length, number, np.int32) for number in range(50)]
    (copies,) = copied(arrays)
    for array in arrays:
        array[:] = -1

    assert [set(copy.tolist()) for copy in copies] == [{number} for number in range(50)]


def test_what_a_checkpoint_cant_hold_is_left_for_saving_to_refuse():
    odd = {"betas": (0.9, 0.999)}

    assert copied(odd) == [odd]
