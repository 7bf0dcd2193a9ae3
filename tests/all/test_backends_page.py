"""The losses that docs/backends.md shows are those that each backend gives."""

import itertools
import pathlib
import re

import numpy as np
from all.test_one_experiment import BACKENDS, losses  # noqa: F401 - a fixture

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "backends.md"
SHOWN = [1, 2, 5, 10, 20, 50, 100, 150, 200]  # batches, counted from 1
RELATIVE = 1e-5  # the last digits differ between processors, and between versions of the libraries


def table_of(measured):
    """The table as the page has it."""
    rows = [
        f"| {batch} | " + " | ".join(f"{measured[name][batch - 1]:#.7g}" for name in BACKENDS) + " |" for batch in SHOWN
    ]
    return "\n".join(["| batch | PyTorch | TensorFlow | JAX |", "| ---: | ---: | ---: | ---: |", *rows])


def largest_difference(measured):
    """The largest relative difference between any two backends at any batch."""
    pairs = itertools.combinations((np.array(measured[name]) for name in BACKENDS), 2)
    return max(float((abs(one - other) / np.minimum(abs(one), abs(other))).max()) for one, other in pairs)


def page_table():
    """Batch -> losses, as the page says."""
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {int(batch): [float(loss) for loss in cells.split(" | ")] for batch, cells in rows}


def test_the_page_shows_the_losses_of_each_backend(losses):  # noqa: F811 - the fixture
    print(f"\n{table_of(losses)}\n\nlargest relative difference: {largest_difference(losses):.1e}")
    shown = page_table()
    assert list(shown) == SHOWN
    measured = [[losses[name][batch - 1] for name in BACKENDS] for batch in SHOWN]
    np.testing.assert_allclose(list(shown.values()), measured, rtol=RELATIVE)


def test_the_page_says_how_far_apart_the_backends_are(losses):  # noqa: F811 - the fixture
    said = re.search(
        r"largest relative difference .*? is (\S+e-\d+)", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    assert said is not None
    assert largest_difference(losses) < 10 * float(said[1])
