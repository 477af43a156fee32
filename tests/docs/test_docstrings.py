"""The `>>>` examples of docstrings run, and show what they print."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import regfast
from regfast.attacks import FAB, PGD

LEAST = 30  # the functions and classes that people meet first all have one


def examples():
    """(name, DocTest) of every docstring with an example."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in pkgutil.walk_packages(regfast.__path__, "regfast."):
        if module.name.endswith("__main__") or ".triton" in module.name:
            continue
        for found in finder.find(importlib.import_module(module.name)):
            if found.examples:
                yield pytest.param(found, id=found.name)


EXAMPLES = list(examples())


def names():
    """What an example may use beside its own module's names."""
    images = torch.rand(8, 3, 32, 32)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)).eval()
    return {"torch": torch, "regfast": regfast, "model": model, "images": images, "labels": torch.arange(8)} | {
        "PGD": PGD,
        "FAB": FAB,
    }


def test_the_most_used_have_one():
    assert len({example.values[0].name for example in EXAMPLES}) >= LEAST


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_shows_what_it_prints(example, tmp_path):
    example.globs = names() | example.globs | {"tmp_path": tmp_path}
    printed = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=printed.append)
    assert not failed, "".join(printed)
