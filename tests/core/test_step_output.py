"""What a training model may return."""

import numpy as np
import pytest

from mlpug.adapter import StepOutput
from mlpug.errors import MlpugWarning, TrainingModelError
from mlpug.step_output import as_step_output

BATCH = {"x": np.zeros((4, 3)), "y": np.zeros(4)}


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (0.5, StepOutput(0.5, 4)),
        (2, StepOutput(2, 4)),
        ((0.5,), StepOutput(0.5, 4)),
        ((0.5, None), StepOutput(0.5, 4)),
        ((0.5, 9), StepOutput(0.5, 9)),
        ((0.5, 9, "aux"), StepOutput(0.5, 9, "aux")),
        ((0.5, 9, "aux", "more"), StepOutput(0.5, 9, ("aux", "more"))),
        ((0.5, None, "aux"), StepOutput(0.5, 4, "aux")),
        ({"loss": 0.5}, StepOutput(0.5, 4)),
        ({"loss": 0.5, "num_samples": 9}, StepOutput(0.5, 9)),
        ({"loss": 0.5, "auxiliary_results": "aux"}, StepOutput(0.5, 4, "aux")),
        ({"auxiliary_results": "aux", "num_samples": 9, "loss": 0.5}, StepOutput(0.5, 9, "aux")),
    ],
)
def test_every_form_of_returning_a_loss_is_read(returned, expected):
    assert as_step_output(returned, BATCH) == expected


def test_nothing_is_copied_or_converted():
    loss, num_samples, auxiliary = np.float32(0.5), np.array(9), {"predictions": np.zeros(4)}
    output = as_step_output((loss, num_samples, auxiliary), BATCH)

    assert output.loss is loss
    assert output.num_samples is num_samples
    assert output.auxiliary_results is auxiliary


def test_a_loss_may_be_an_array_without_axes():
    loss = np.array(0.5)

    assert as_step_output(loss, BATCH).loss is loss


def test_one_tuple_as_auxiliary_results_stays_that_tuple():
    assert as_step_output((0.5, 9, ("a", "b")), BATCH).auxiliary_results == ("a", "b")


@pytest.mark.parametrize(
    ("returned", "what_came"),
    [
        (None, "returned None"),
        ((None, 4), "a tuple whose loss is None"),
        ((), "a tuple whose loss is None"),
        ({"loss": None}, "a dict whose loss is None"),
        ({"los": 0.5, "aux": 1}, r"a dict without \"loss\": its keys are \['aux', 'los'\]"),
        ({"loss": 0.5, "accuracy": 1}, r"unknown keys \['accuracy'\]: put them in \"auxiliary_results\""),
        (np.zeros(4), r"must be a scalar, not an array of shape \(4,\)"),
        ((np.zeros((1, 1)), 4), r"must be a scalar, not an array of shape \(1, 1\)"),
        ("0.5", "loss is a str, not a scalar"),
        ([0.5, 4], "loss is a list, not a scalar"),
    ],
)
def test_what_holds_no_scalar_loss_is_refused_with_what_came_and_the_cure(returned, what_came):
    with pytest.raises(TrainingModelError, match=what_came) as raised:
        as_step_output(returned, BATCH)

    assert "Return the loss of the batch, or (loss, num_samples, auxiliary_results...)" in str(raised.value)


def test_a_batch_without_an_array_counts_as_one_sample_and_says_so():
    with pytest.warns(MlpugWarning, match=r"counts as one sample.*Return \(loss, num_samples\)"):
        output = as_step_output(0.5, ["two", "texts"])

    assert output.num_samples == 1


def test_a_count_from_the_model_needs_no_array():
    assert as_step_output((0.5, 2), ["two", "texts"]).num_samples == 2
