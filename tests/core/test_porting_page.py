"""The code on docs/porting.md is that of the examples, which the tests of the backends run."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "porting.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def code(path):
    return (ROOT / "examples" / path).read_text(encoding="utf-8")


def test_python_is_in_an_example():
    files = [code(f"portable/{name}.py") for name in ("train", "digits_on_pytorch", "digits_on_keras")]
    found = blocks("python")
    assert len(found) == 4
    assert [block for block in found if not any(block in file for file in files)] == []


@pytest.mark.parametrize(("number", "project"), [(0, "port_lightning"), (1, "port_keras")])
def test_a_diff_is_that_of_the_project(number, project):
    lines = blocks("diff")[number].splitlines()
    for script, sign in (("before", "-"), ("after", "+")):
        shown = [line[1:] for line in lines if line[0] in (sign, " ") and line[1:].strip()]
        there = [line for line in code(f"{project}/{script}.py").splitlines() if line.strip()]
        assert is_part_of(shown, there), script
        # What isn't shown is the same in both, but for names and texts.
        other = code(f"{project}/{'after' if script == 'before' else 'before'}.py").splitlines()
        own = [line for line in there if line not in shown and line not in other]
        assert [line for line in own if not re.match(r'"""|.*python examples/|.*"--output"|from .* import', line)] == []


def is_part_of(lines, there):
    """Whether they are there, in this order."""
    rest = iter(there)
    return all(line in rest for line in lines)
