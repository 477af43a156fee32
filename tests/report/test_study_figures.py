import numpy as np
import pytest

from regfast.calibration.bins import expected_calibration_error
from regfast.report.figures.representation import Model
from regfast.report.results import Study
from regfast.report.study_figures import (
    asr_along_cosine,
    displacement_figure,
    drawings,
    models,
    radial_share,
    sweep_figures,
)


@pytest.fixture(scope="module")
def study(run_dir):
    return Study.read(run_dir)


def test_every_figure_comes_with_words_and_numbers(study):
    found = drawings(study)
    assert [d.name for d in found] == [
        "representation",
        "representation-in-span",
        "asr-over-eps-pgd-linf",
        "training-curves",
        "toward-origin",
    ]
    for drawing in found:
        assert len(drawing.look) > 80 and "hard labels" in drawing.found
        for columns in drawing.data.values():
            assert len({len(values) for values in columns.values()}) == 1


def test_the_columns_pool_the_seeds_and_average_their_ece(study):
    hard = models(study, "rms", "cosine")[0]
    assert hard.rms.shape == (900,)
    per_seed = [
        expected_calibration_error(study.column("confidence", "hard")[k], study.column("correct", "hard")[k])
        for k in range(3)
    ]
    assert hard.ece == pytest.approx(np.mean(per_seed))


def test_the_sweep_says_where_half_of_the_samples_fall(study):
    (drawing,) = sweep_figures(study)
    # The made-up rates rise as 20 * 0.8 * eps for hard labels: one half at 1 / 32.
    assert "hard labels at 0.031" in drawing.found and drawing.found.endswith("Mixup lasts longest.")


def test_radial_share_against_the_plain_computation(study):
    correct = study.column("correct", "mixup")
    radial, across = study.column("radial_pgd", "mixup")[correct], study.column("tangential_pgd", "mixup")[correct]
    assert radial_share(study, "pgd", "mixup") == pytest.approx((radial**2).sum() / (radial**2 + across**2).sum())
    assert "radial share of the squared displacement hard labels" in displacement_figure(study).found


def test_the_caption_follows_the_asr_along_the_cosine(study):
    rng = np.random.default_rng(0)
    cosine = np.repeat([0.1, 0.9], 50)
    flipped = np.r_[np.arange(50) < 40, np.arange(50) < 5]
    one = Model(
        "hard", rng.random(100), cosine, rng.random(100), np.ones(100, bool), np.ones(100, bool), {"pgd": flipped}, 0.1
    )
    attack = {"id": "pgd", "attack": "pgd", "norm": "linf", "eps": 0.03}
    assert asr_along_cosine([one], attack).endswith("hard labels 0.800 to 0.100.")
