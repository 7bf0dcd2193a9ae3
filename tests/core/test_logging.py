"""mlpug's own messages, in processes of their own: nothing there has configured logging."""

import contextlib
import logging
import os
import pty
import re

import pytest

from mlpug.logging import get_logger

TRAINING = """
import numpy as np
from mlpug.callbacks import LogProgress, TestMetricsLogger
from mlpug.evaluation import Metric, MetricEvaluator
from mlpug.testing import GradientDescent, LinearRegression, fake_trainer
from mlpug.trainers import TrainingManager

model = LinearRegression(1)
trainer = fake_trainer(GradientDescent(model.parameters), model)
trainer.set_training_model(model)
batches = [(np.ones((2, 1)), np.ones(2))]
metrics = {"f1": Metric(inputs=lambda batch, output: batch[1], compute=lambda y: {"cat": 0.5, "dog": 0.25})}
evaluator = MetricEvaluator(trainer=trainer, metrics=metrics)
callbacks = [TestMetricsLogger(batches, "validation", evaluator), LogProgress()]
TrainingManager(trainer, batches, callbacks=callbacks).start_training()
"""
SAY = "from mlpug.logging import get_logger, use_fancy_colors\n"
CLOSING = "INFO    : TrainingManager::start_training : Training completed. All good! "


def on_a_terminal(run_python, program, **environment):
    """What the program prints when its standard output is a terminal."""
    ours, theirs = pty.openpty()
    finished = run_python(program, stdout=theirs, **environment)
    os.close(theirs)
    printed = b""
    with contextlib.suppress(OSError):  # what reading a terminal raises at the end
        while part := os.read(ours, 65536):
            printed += part
    os.close(ours)
    assert finished.returncode == 0, finished.stderr.decode()
    return printed.decode()


def printed_by(run_python, program, **environment):
    finished = run_python(program, **environment)
    assert finished.returncode == 0, finished.stderr.decode()
    assert finished.stderr == b""
    return finished.stdout


def test_messages_go_to_standard_output_with_level_and_place(run_python):
    printed = printed_by(run_python, TRAINING, PYTHONIOENCODING="utf-8").decode()

    assert printed.strip().split("\n")[-1] == f"{CLOSING}❤️"
    assert "├── cat           0.500" in printed
    assert "\033" not in printed


def test_an_output_that_knows_no_such_characters_gets_question_marks(run_python):
    printed = printed_by(run_python, TRAINING, PYTHONIOENCODING="ascii").decode("ascii")

    assert re.fullmatch(re.escape(CLOSING) + r"\?+", printed.strip().split("\n")[-1])
    assert "??? cat           0.500" in printed


@pytest.mark.parametrize(("level", "begins"), [("warning", "WARNING : "), ("error", "ERROR   : ")])
def test_levels_stand_in_a_column(run_python, level, begins):
    printed = printed_by(run_python, f"{SAY}get_logger('Mine').{level}('text')")

    assert printed.decode() == f"{begins}Mine : text\n"


def test_only_the_first_of_our_names_is_left_out(run_python):
    printed = printed_by(run_python, f"{SAY}get_logger('Mine').info('see mlpug.errors')")

    assert printed.decode() == "INFO    : Mine : see mlpug.errors\n"


def test_debug_messages_are_shown_when_they_are_asked_for(run_python):
    program = f"{SAY}import logging\nget_logger('A').debug('no')\nlogging.getLogger('mlpug').setLevel('DEBUG')\n"

    assert printed_by(run_python, f"{program}get_logger('A').debug('yes')").decode() == "DEBUG   : A : yes\n"


def test_a_redirected_output_gets_the_messages(run_python):
    program = f"""{SAY}
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()) as caught:
    get_logger('Mine').info('inside')
assert caught.getvalue() == 'INFO    : Mine : inside\\n'
"""

    assert printed_by(run_python, program) == b""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_program_that_configured_logging_gets_each_message_once_in_its_own_way(run_python, when):
    configure = "import logging, sys; logging.basicConfig(stream=sys.stdout, level='INFO', format='MY OWN %(message)s')"
    first, second = (configure, SAY) if when == "before" else (SAY, configure)
    printed = printed_by(run_python, f"{first}\n{second}\nget_logger('Mine').info('text')")

    assert printed.decode() == "MY OWN text\n"


def test_colours_are_shown_on_a_terminal(run_python):
    printed = on_a_terminal(run_python, f"{SAY}use_fancy_colors()\nget_logger('Mine').info('text')")

    assert re.search("\033\\[[0-9;]+mINFO    : Mine : text\033\\[0m", printed)


def test_colours_differ_by_level(run_python):
    program = f"{SAY}use_fancy_colors()\nfor level in (20, 30, 40): get_logger('Mine').log(level, 'text')"
    colors = re.findall("(\033\\[[0-9;]+m)[A-Z]", on_a_terminal(run_python, program))

    assert len(set(colors)) == 3


@pytest.mark.parametrize(
    ("program", "environment"),
    [
        (f"{SAY}", {}),
        (f"{SAY}use_fancy_colors(False)\n", {}),
        (f"{SAY}use_fancy_colors()\n", {"NO_COLOR": "1"}),
        (f"{SAY}use_fancy_colors()\nuse_fancy_colors(False)\n", {}),
    ],
    ids=["not asked for", "refused", "NO_COLOR", "taken back"],
)
def test_colours_are_not_shown_on_a_terminal_where_nobody_wants_them(run_python, program, environment):
    printed = on_a_terminal(run_python, f"{program}get_logger('Mine').info('text')", **environment)

    assert printed == "INFO    : Mine : text\r\n"


def test_colours_are_not_shown_in_a_file(run_python):
    printed = printed_by(run_python, f"{SAY}use_fancy_colors()\nget_logger('Mine').info('text')")

    assert printed.decode() == "INFO    : Mine : text\n"


def test_colours_are_not_shown_in_what_a_terminal_was_redirected_to_later(run_python):
    program = f"""{SAY}
import contextlib, io
use_fancy_colors()
with contextlib.redirect_stdout(io.StringIO()) as caught:
    get_logger('Mine').info('inside')
print(caught.getvalue().encode())
"""

    assert on_a_terminal(run_python, program).strip() == repr(b"INFO    : Mine : inside\n")


def test_an_error_is_shown_with_its_traceback(run_python):
    program = f"""{SAY}
try:
    1 / 0
except ZeroDivisionError as error:
    get_logger('Mine').error('failed', exc_info=error)
"""
    lines = printed_by(run_python, program).decode().strip().split("\n")

    assert lines[0] == "ERROR   : Mine : failed"
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_loggers_are_standard_ones_below_mlpug():
    assert get_logger("Mine") is logging.getLogger("mlpug.Mine")
