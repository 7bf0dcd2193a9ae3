"""Metrics: what they take, how batches are joined, what comes out."""

import numpy as np
import pytest

from mlpug.adapter import StepOutput
from mlpug.errors import ConfigurationError
from mlpug.evaluation import Metric, StreamingMetric, WeightedMean
from mlpug.evaluation.metric import as_plain, join


class Largest:
    """The largest number of all batches, as a streaming metric."""

    def __init__(self):
        self.reset()

    def update(self, values):
        self.largest = max(self.largest, float(np.max(values)))

    def compute(self):
        return np.float64(self.largest)

    def reset(self):
        self.largest = -np.inf


class OnDevice(Largest):
    """A metric that lives on a device, as its inputs do."""

    device = "cpu"

    def to(self, device):
        self.device = device

    def update(self, values):
        assert self.device == values.device
        super().update(values.array)


class DeviceArray:
    def __init__(self, array, device):
        self.array = array
        self.device = device


def as_it_is(tree):
    return tree


def test_inputs_must_be_a_function():
    with pytest.raises(ConfigurationError, match=r"Metric\(inputs=...\) must be a function of .*, not 'predictions'"):
        Metric(inputs="predictions", compute=len)


@pytest.mark.parametrize("compute", [None, 3, object()])
def test_compute_must_be_a_function_or_a_streaming_metric(compute):
    with pytest.raises(
        ConfigurationError, match=r"must be a function of the inputs, or have update, compute and reset"
    ):
        Metric(inputs=lambda batch, output: output.loss, compute=compute)


def test_a_streaming_metric_is_given_as_an_instance():
    with pytest.raises(ConfigurationError, match="compute"):
        Metric(inputs=lambda batch, output: batch, compute=Largest)


def test_only_what_has_update_compute_and_reset_streams():
    metrics = [Metric(inputs=as_it_is, compute=compute) for compute in (Largest(), WeightedMean(), max)]

    assert [metric.streams for metric in metrics] == [True, True, False]
    assert isinstance(Largest(), StreamingMetric)


def test_a_function_gets_the_inputs_of_all_batches_joined():
    seen = []
    metric = Metric(inputs=as_it_is, compute=lambda inputs: seen.append(inputs) or len(inputs["label"]))
    batches = [{"label": np.array([1, 2]), "loss": 0.5}, {"label": np.array([3]), "loss": 0.25}]

    assert metric.value(batches, as_it_is) == 3
    assert seen[0]["label"].tolist() == [1, 2, 3]
    assert seen[0]["loss"].tolist() == [0.5, 0.25]


def test_a_function_gets_the_same_nesting_for_one_batch():
    metric = Metric(inputs=as_it_is, compute=lambda inputs: inputs[0].sum() + inputs[1]["scale"].item())

    assert metric.value([(np.array([1.0, 2.0]), {"scale": 10})], as_it_is) == 13.0


def test_each_input_of_a_function_is_copied_to_the_host_once():
    copied = []
    metric = Metric(inputs=as_it_is, compute=lambda inputs: float(inputs.sum()))
    value = metric.value([np.array([number]) for number in (1.0, 2.0, 4.0)], lambda tree: copied.append(tree) or tree)

    assert value == 7.0
    assert [tree.tolist() for tree in copied] == [[1.0], [2.0], [4.0]]


def test_the_mean_of_a_metric_reads_each_input_once():
    copied = []
    metric = Metric(inputs=as_it_is, compute=WeightedMean())
    value = metric.value([(1.0, 3), (2.0, 1)], lambda tree: copied.append(tree) or tree)

    assert value == 1.25
    assert copied == [(1.0, 3), (2.0, 1)]


@pytest.mark.parametrize(
    ("picked", "expected"),
    [
        ([1.0, 4.0], 2.5),
        ([(1.0, 1), (4.0, 2)], 3.0),
        ([{"value": 1.0, "weight": 1}, {"value": 4.0, "weight": 2}], 3.0),
    ],
    ids=["value", "positional arguments", "named arguments"],
)
def test_a_mean_takes_inputs_as_every_streaming_metric_does(picked, expected):
    assert Metric(inputs=as_it_is, compute=WeightedMean()).value(picked, as_it_is) == expected


def test_inputs_stream_as_they_were_picked():
    class Heard:
        def __init__(self):
            self.reset()

        def update(self, *inputs, **named_inputs):
            self.heard.append((inputs, named_inputs))

        def compute(self):
            return self.heard

        def reset(self):
            self.heard = []

    picked = [3, (1, 2), {"label": 4}, [5, 6]]
    heard = Metric(inputs=as_it_is, compute=Heard()).value(picked, lambda tree: pytest.fail("nothing is copied"))

    assert heard == [((3,), {}), ((1, 2), {}), ((), {"label": 4}), (([5, 6],), {})]


def test_the_users_streaming_metric_is_left_as_it_is():
    mine = Largest()
    mine.update([7.0])
    metric = Metric(inputs=as_it_is, compute=mine)

    assert metric.value([np.array([1.0, 3.0]), np.array([2.0])], as_it_is) == 3.0
    assert mine.largest == 7.0


def test_collectors_of_one_metric_do_not_disturb_each_other():
    metric = Metric(inputs=as_it_is, compute=Largest())
    first, second = metric.collector(as_it_is), metric.collector(as_it_is)
    first.add(np.array([5.0]))
    second.add(np.array([2.0]))

    assert (first.value(), second.value()) == (5.0, 2.0)


def test_a_metric_that_lives_on_a_device_follows_its_inputs():
    metric = Metric(inputs=as_it_is, compute=OnDevice())

    assert metric.value([DeviceArray([1.0, 2.0], "gpu:1")], as_it_is) == 2.0


def test_results_are_plain_numbers_also_inside_tuples_and_dicts():
    results = [np.float32(0.5), (np.float64(0.5), {"n": np.int64(3)}), {"f1": {"cat": np.array(0.25)}}, "text", None]
    plain = [Metric(inputs=as_it_is, compute=lambda _, r=result: r).value([1], as_it_is) for result in results]

    assert plain == [0.5, (0.5, {"n": 3}), {"f1": {"cat": 0.25}}, "text", None]
    assert [type(plain[0]), type(plain[1][0]), type(plain[1][1]["n"]), type(plain[2]["f1"]["cat"])] == [
        float,
        float,
        int,
        float,
    ]


def test_arrays_in_results_stay_arrays():
    counts = np.array([1, 2])

    assert as_plain([counts])[0] is counts


def test_joining_goes_through_every_nesting():
    joined = join([(np.ones((2, 3)), ["a"], None, {"n": 1}), (np.zeros((1, 3)), ["b", "c"], None, {"n": 2})])

    assert joined[0].tolist() == [[1.0] * 3, [1.0] * 3, [0.0] * 3]
    assert joined[1:3] == (["a", "b", "c"], None)
    assert joined[3]["n"].tolist() == [1, 2]


def test_arrays_without_axes_join_to_one_entry_a_batch():
    assert join([np.array(1.5), np.array(2.5)]).tolist() == [1.5, 2.5]


def test_a_metric_sees_the_batch_and_the_whole_output():
    metric = Metric(inputs=lambda batch, output: (batch, output.auxiliary_results), compute=lambda inputs: 0)
    batch, predictions = np.zeros(2), np.ones(2)
    picked = metric.inputs(batch, StepOutput(0.5, 2, predictions))

    assert picked[0] is batch
    assert picked[1] is predictions
