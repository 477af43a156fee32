"""A data set of the user's, by `module:Name`."""

import pytest

from regfast.data import DATASETS, ImageArray, Splits, load_images, load_splits
from regfast.study import default_workers, run_study, sized

OWN = """
import torch
from regfast.data import DataSet, ImageArray, Splits


class Stripes(DataSet):
    '''Three classes of stripes.'''

    def __init__(self, count: int = 60):
        self.count = count

    def splits(self, root, *, download, transform):
        labels = torch.arange(self.count) % 3
        columns = (torch.arange(8) % 3 == labels[:, None]).float()
        images = (columns[:, None, None] * 0.8 + 0.1).expand(-1, 1, 8, 8).clone()
        images += 0.02 * torch.rand(images.shape, generator=torch.Generator().manual_seed(len(str(root))))
        part = lambda rows: ImageArray(images[rows].clamp(0, 1), labels[rows], "abc", "stripes")
        third = self.count // 3
        return Splits("stripes", part(slice(third)), part(slice(third, 2 * third)), part(slice(2 * third, None)))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return "own_data:Stripes:count=90"


def test_it_loads_with_its_options(own):
    splits = load_splits(own, "anywhere")
    assert isinstance(splits, Splits) and len(splits.test) == 30 and splits.num_classes == 3
    assert isinstance(load_images(own, "anywhere"), ImageArray)
    with pytest.raises(ValueError, match="needs a data root"):
        load_splits(own)
    assert default_workers(own) == 1 and "own_data:Stripes" not in DATASETS.names()


def test_a_study_runs_on_it(own, tmp_path):
    config = sized("smoke", own, data_root="anywhere", model="small-cnn", regularizers={"hard": {}}, limit=12)
    assert run_study(config, tmp_path / "run")
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [("mnist", "no data set is called 'mnist'; there are cifar10"), ("digits:noise=1", "digits takes no noise")],
)
def test_errors(name, message):
    with pytest.raises(ValueError, match=message):
        load_splits(name)
