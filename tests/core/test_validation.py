"""Checks of arguments that many places share."""

from itertools import count

import numpy as np
import pytest

from mlpug.errors import ConfigurationError, DatasetError
from mlpug.validation import checked_count, checked_dataset, known_length


class Stream:
    """Can be iterated again and again, and doesn't know its length."""

    def __iter__(self):
        return count()


class Untold(Stream):
    def __len__(self):
        raise TypeError("no length")


class Indexed:
    def __getitem__(self, index):
        return [1, 2][index]


@pytest.mark.parametrize("value", [1, 7, np.int32(7)])
def test_a_count_is_a_plain_whole_number(value):
    counted = checked_count("n", value)

    assert counted == value
    assert type(counted) is int


@pytest.mark.parametrize(
    "value", [0, -1, 1.5, 1.0, True, False, "3", None, np.array([1, 2]), np.array(1.5)], ids=lambda value: repr(value)
)
def test_anything_else_is_no_count(value):
    with pytest.raises(ConfigurationError, match="n must be a whole number of at least 1, not "):
        checked_count("n", value)


@pytest.mark.parametrize("dataset", [[1], (1,), range(3), Stream(), Untold(), Indexed(), iter([1]), np.zeros((2, 3))])
def test_whatever_iter_takes_is_a_dataset(dataset):
    assert checked_dataset("dataset", dataset) is dataset


@pytest.mark.parametrize("dataset", [None, 3, object(), len])
def test_what_iter_does_not_take_is_no_dataset(dataset):
    with pytest.raises(ConfigurationError, match=f"an iterable of batches, not a {type(dataset).__name__}. Pass a"):
        checked_dataset("dataset", dataset)


def test_an_iterator_is_refused_where_a_dataset_is_read_again_and_again():
    with pytest.raises(ConfigurationError, match=r"is a generator, which can be read only once.*Pass a data loader"):
        checked_dataset("dataset", (number for number in (1, 2)), more_than_once=True)


def test_a_dataset_that_is_known_to_be_empty_is_refused():
    with pytest.raises(DatasetError, match=r"The dataset is empty: it has no batches\. Check the data"):
        checked_dataset("dataset", [])


def test_a_length_is_known_where_the_dataset_tells_it():
    assert [known_length(dataset) for dataset in ([1, 2], Stream(), Untold(), iter([1]))] == [2, None, None, None]
