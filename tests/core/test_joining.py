"""Batches that are joined: equal to what the dataset would have given with all of their samples."""

import random
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mlpug.callbacks import Callback
from mlpug.joining import joined_batches
from mlpug.testing import GradientDescent, LinearRegression, fake_trainer

Sample = namedtuple("Sample", ["image", "boxes", "text", "number", "nothing"])
SPLITS = {"even": (2, 2, 2), "last is shorter": (3, 3, 1), "one each": (1, 1, 1), "of any length": (1, 4, 2, 3)}


def sample(number):
    draw = np.random.default_rng(number)
    boxes = draw.normal(size=(number % 4, 4))
    return Sample(draw.normal(size=(3, 5)), boxes, f"text {number}", number, None)


@dataclass
class Targets:
    boxes: Any
    mode: str = "train"


def stacked(samples):
    return np.stack([each.image for each in samples])


COLLATE = {
    "arrays": lambda samples: (stacked(samples), np.array([each.number for each in samples])),
    "a list of texts": lambda samples: (stacked(samples), [each.text for each in samples]),
    "a tuple of texts": lambda samples: (stacked(samples), tuple(each.text for each in samples)),
    "an array of texts": lambda samples: (stacked(samples), np.array([each.text for each in samples])),
    "an array of objects": lambda samples: (stacked(samples), np.array([{"n": e.number} for e in samples], object)),
    "arrays of any length": lambda samples: (stacked(samples), [each.boxes for each in samples]),
    "a tuple of them": lambda samples: (stacked(samples), tuple(each.boxes for each in samples)),
    "targets": lambda samples: (stacked(samples), [{"boxes": e.boxes, "text": e.text} for e in samples]),
    "targets in tuples": lambda samples: (stacked(samples), [(each.boxes, each.text) for each in samples]),
    "numbers": lambda samples: {"x": stacked(samples), "of": [each.number for each in samples]},
    "a tuple of numbers": lambda samples: {"x": stacked(samples), "of": tuple(each.number for each in samples)},
    "None": lambda samples: (stacked(samples), None, [each.nothing for each in samples]),
    "a tuple of None": lambda samples: (stacked(samples), None, tuple(each.nothing for each in samples)),
    "some are None": lambda samples: (stacked(samples), [each.boxes if len(each.boxes) else None for each in samples]),
    "within": lambda samples: {
        "x": (stacked(samples), stacked(samples)),
        "y": {"texts": tuple(e.text for e in samples)},
    },
    "a dataclass": lambda samples: (stacked(samples), Targets([each.boxes for each in samples])),
    "a namedtuple": lambda samples: Sample(stacked(samples), [e.boxes for e in samples], "same", 3, None),
    "lists alone": lambda samples: ([each.boxes for each in samples], [each.text for each in samples]),
    "samples as they are": lambda samples: [{"boxes": each.boxes, "text": each.text} for each in samples],
    "two arrays in a list": lambda samples: [stacked(samples), stacked(samples) + 1],
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("collate", COLLATE.values(), ids=COLLATE)
def test_they_are_as_the_dataset_would_have_given_them(collate, split):
    samples = [sample(number) for number in range(1, sum(split) + 1)]
    rest = iter(samples)
    batches = [collate([next(rest) for _ in range(size)]) for size in split]
    np.testing.assert_equal(joined_batches(batches, np.concatenate), collate(samples))


def test_numbers_that_are_no_samples_stay_where_they_are_the_same():
    batches = [{"x": np.ones((size, 2)), "mode": ("fast", 3), "rate": 0.5} for size in (3, 3)]
    expected = {"x": np.ones((6, 2)), "mode": ("fast", 3), "rate": 0.5}
    np.testing.assert_equal(joined_batches(batches, np.concatenate), expected)


def test_callbacks_get_them_so(make_manager):
    class Seen(Callback):
        def __init__(self):
            self.texts = []

        def on_batch_training_completed(self, batch, logs):
            self.texts.append(batch[1])

    class Model:
        def __init__(self):
            self.gradients = {"weight": np.zeros(2), "bias": np.zeros(())}

        def __call__(self, batch, evaluate_settings, inference_mode):
            return 0.0

    data = [(np.ones((2, 2)), ("a", "b")), (np.ones((2, 2)), ("c", "d")), (np.ones((1, 2)), ("e",))]
    trainer = fake_trainer(GradientDescent(LinearRegression(2).parameters), gradient_accumulation_steps=3)
    trainer.set_training_model(Model())
    seen = Seen()
    make_manager(data, [seen], trainer=trainer, num_epochs=1).start_training()
    assert seen.texts == [("a", "b", "c", "d", "e")]


def test_random_batches_of_targets():
    draw = random.Random(0)
    for _ in range(100):
        split = [draw.randint(1, 4) for _ in range(draw.randint(2, 4))]
        samples = [sample(draw.randint(0, 50)) for _ in range(sum(split))]
        rest = iter(samples)
        batches = [COLLATE["targets"]([next(rest) for _ in range(size)]) for size in split]
        np.testing.assert_equal(joined_batches(batches, np.concatenate), COLLATE["targets"](samples))
