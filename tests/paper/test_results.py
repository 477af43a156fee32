import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from regfast.paper.parts import SCHEMAS
from regfast.paper.results import Paper, planes, where


@pytest.fixture(scope="module")
def paper(paper_dir):
    return Paper.read(paper_dir, SCHEMAS)


def test_planes_join_clean_and_perturbed_features_by_sample(paper):
    found = planes(paper)
    assert set(found) == {False, True}
    assert [p.regularizer for p in found[True]] == ["hard", "smoothing", "mixup", "cutmix"]
    for p in found[True]:
        np.testing.assert_allclose(p.perturbed, 0.3 * p.features)
        assert p.offset.any()
    assert not any(p.offset.any() for p in found[False])


def test_samples_that_were_not_attacked_stay_nan_whatever_the_row_order(paper):
    table = paper.tables["planes"]
    rng = np.random.default_rng(2)
    keep = (table["kind"] != "perturbed") | (table["sample"] % 3 == 0)
    order = rng.permutation(np.flatnonzero(keep))
    fewer = dataclasses.replace(paper, tables={"planes": {k: v[order] for k, v in table.items()}})
    p, whole = planes(fewer)[True][0], planes(paper)[True][0]
    np.testing.assert_array_equal(p.features, whole.features)
    attacked = np.isfinite(p.perturbed).all(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(attacked) % 3, 0)
    np.testing.assert_allclose(p.perturbed[attacked], whole.perturbed[attacked])


def test_a_perturbed_sample_without_a_clean_one_is_an_error(paper):
    table = paper.tables["planes"]
    keep = (table["kind"] != "feature") | (table["sample"] != 7)
    broken = dataclasses.replace(paper, tables={"planes": {k: v[keep] for k, v in table.items()}})
    with pytest.raises(ValueError, match="without a clean feature"):
        planes(broken)


def test_a_plane_without_centers_is_an_error(paper):
    rows = where(paper.tables["planes"], regularizer="hard")
    keep = rows["kind"] != "center"
    broken = dataclasses.replace(paper, tables={"planes": {k: v[keep] for k, v in rows.items()}})
    with pytest.raises(ValueError, match="needs a weight, mean and center"):
        planes(broken)


def test_parts_are_optional_but_studies_are_not(make_paper, tmp_path):
    folder = make_paper(tmp_path / "run")
    (folder / "scaling.parquet").unlink()
    assert "scaling" not in Paper.read(folder, SCHEMAS).tables
    table = pq.read_table(folder / "radius.parquet")
    pq.write_table(table.drop_columns(["angle"]), folder / "radius.parquet")
    with pytest.raises(ValueError, match=r"radius\.parquet lacks the columns angle"):
        Paper.read(folder, SCHEMAS)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"studies": []}))
    with pytest.raises(ValueError, match="at least one study"):
        Paper.read(folder, SCHEMAS)
