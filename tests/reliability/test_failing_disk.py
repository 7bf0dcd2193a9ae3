"""A file-system call that fails makes one error of ours, never a false success, and costs no older checkpoint."""

import errno
import itertools
import os

import pytest
from reliability.calls import read_record
from reliability.order import disorder
from reliability.scenarios import LARGE_SAVE, SCENARIOS, Scenario, problems_of_going_on, problems_of_restoring

ERRORS = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES]


def fail_at_every_call(processes, tmp_path, scenario, mode, error):
    """Lets call 1, 2, ... fail until there is no more; gives each folder, how it ended, and its record."""
    looked = 0
    for number in range(1, 200):
        folder, record = tmp_path / f"{number}", tmp_path / f"{number}.record"
        scenario.prepare(folder)
        outcome = scenario.start(processes, folder, mode=mode, at=number, error=error, record=record)
        if outcome.calls >= number:
            yield number, folder, outcome, read_record(record)
            continue
        assert outcome.raised is None, outcome.raised.text
        looked += 1
        if looked == scenario.looks:
            return
    raise AssertionError("more than 200 calls")


def problems_of_the_error(raised, error, reading=False):
    """One error of ours, with the operating system's number, from the operating system's error."""
    if reading and (raised.type, raised.cause_error_number) == ("CheckpointError", error):
        return []
    if raised.type != "CheckpointWriteError":
        return [f"raised {raised.type}, not CheckpointWriteError:\n{raised.text}"]
    numbers = (raised.error_number, raised.cause_error_number)
    return [] if numbers == (error, error) else [f"the errno {numbers} is not {error}:\n{raised.text}"]


def took_effect(scenario, folder, calls):
    """Whether a name of a checkpoint was changed before the operation failed: then the change may stay."""
    names = {str(folder / name) for name in {*scenario.before, *scenario.after}}
    changes = [call for call in calls if call.name in ("rename", "link", "unlink") and call.result == 0]
    return any((call.target or call.path) in names for call in changes)


def problems(scenario, folder, outcome, calls, error):
    """What is wrong after an operation of which a call failed."""
    if outcome.raised is None:
        found = problems_of_restoring(scenario, folder, scenario.after) + disorder(calls)
    else:
        allowed = (scenario.before, scenario.after) if took_effect(scenario, folder, calls) else (scenario.before,)
        failed = next(call for call in calls if call.error == error)
        reading = scenario.operation == "copy" and failed.path == str(folder / scenario.arguments[0])
        found = problems_of_the_error(outcome.raised, error, reading) + problems_of_restoring(
            scenario, folder, *allowed
        )
    if not any(call.name == "unlink" and call.result < 0 for call in calls):
        left = set(os.listdir(folder)) - {*scenario.before, *scenario.after}
        found += [f"left over: {left}"] * bool(left)
    found += ["files are left open"] * bool(outcome.left_open)
    return found + problems_of_going_on(scenario, folder)


CASES = [
    *itertools.product(SCENARIOS, ("fail", "broken"), ERRORS),
    (LARGE_SAVE, "fail", errno.ENOSPC),
    (LARGE_SAVE, "broken", errno.EIO),
]


@pytest.mark.parametrize(("scenario", "mode", "error"), CASES, ids=lambda value: errno.errorcode.get(value, str(value)))
def test_a_call_that_fails_is_one_error_and_costs_nothing(processes, tmp_path, counts, scenario, mode, error):
    number, found = 0, []
    for number, folder, outcome, calls in fail_at_every_call(processes, tmp_path, scenario, mode, error):
        where = f"{scenario}, call {number} ({calls[number - 1].name} of {calls[number - 1].path})"
        found += [f"{where}: {problem}" for problem in problems(scenario, folder, outcome, calls, error)]
    counts["failing calls"] += number
    counts["failing calls: wrong outcomes"] += len(found)

    assert number >= 2
    assert found == [], "\n".join(found)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_after_a_failure_the_same_once_more_is_done_and_flushed(processes, tmp_path, counts, scenario):
    """Also where the first time was done but not yet flushed: then nothing is left to do but that."""
    number, found = 0, []
    for number, folder, _, calls in fail_at_every_call(processes, tmp_path, scenario, "fail", errno.EIO):
        record = tmp_path / f"{number}.again"
        again = scenario.start(processes, folder, record=record)
        assert again.raised is None, again.raised.text
        wrong = problems_of_restoring(scenario, folder, scenario.after) + disorder(calls + read_record(record))
        found += [f"{scenario}, call {number} ({calls[number - 1].name}), then again: {problem}" for problem in wrong]
    counts["failing calls, then the same again"] += number
    counts["failing calls, then the same again: wrong outcomes"] += len(found)

    assert found == [], "\n".join(found)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_a_write_that_does_half_is_finished(processes, tmp_path, counts, scenario):
    """As the kernel may do at any time, without an error."""
    found = []
    for _, folder, outcome, calls in fail_at_every_call(processes, tmp_path, scenario, "short", 0):
        assert outcome.raised is None, outcome.raised.text
        found += problems_of_restoring(scenario, folder, scenario.after) + disorder(calls)
        counts["short writes"] += any(call.result < call.other for call in calls if call.name == "write")

    assert found == []


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize("operation", ["load", "verify"])
def test_a_checkpoint_that_cannot_be_read_is_one_error(processes, tmp_path, counts, operation, error):
    scenario = Scenario(operation, operation, ("run",), {"run": "old"}, {"run": "old"})
    found = []
    for number, _, outcome, calls in fail_at_every_call(processes, tmp_path, scenario, "fail", error):
        raised = outcome.raised
        counts["failing calls while a checkpoint is read"] += 1
        if raised and ("CheckpointError" not in raised.bases or raised.cause_error_number != error):
            found.append(f"{operation}, call {number} ({calls[number - 1].name}): {raised.text}")
        if raised is None and calls[number - 1].name != "close":
            found.append(f"{operation}, call {number} ({calls[number - 1].name}) is not missed")
        found += ["files are left open"] * bool(outcome.left_open)

    assert found == [], "\n".join(found)


def test_a_save_that_says_nothing_is_found_out(processes, tmp_path, counts):
    scenario = Scenario("ignore_errors", "ignore_errors", ("run", "new"), {"run": "old"}, {"run": "new"})
    found = []
    for _, folder, outcome, calls in fail_at_every_call(processes, tmp_path, scenario, "fail", errno.ENOSPC):
        found += problems(scenario, folder, outcome, calls, errno.ENOSPC)
    counts["a save that ignores errors, for comparison: wrong outcomes"] += len(found)

    assert len(found) >= 3
