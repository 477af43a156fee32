import dataclasses

import numpy as np
import pytest

from regfast.paper.parts import (
    SCHEMAS,
    boundary,
    collapse,
    counterfactual,
    feature_attack,
    plane_figures,
    predictors,
    radius,
    scaling,
    smooth,
    theorem1,
    transfer,
)
from regfast.paper.results import Paper


@pytest.fixture(scope="module")
def paper(paper_dir):
    return Paper.read(paper_dir, SCHEMAS)


def test_the_plane_says_how_many_centers_lie_outside(paper):
    (drawing,) = plane_figures.draw_planes(paper)
    assert "8 centers lie outside the window" in drawing.found  # one class in each of eight panels
    assert "hard labels" in drawing.found


def test_theorem_1_says_where_the_norm_rises(paper):
    (drawing,) = theorem1.draw(paper)
    assert "Random, with bias: 1 of 4" in drawing.found and "Label smoothing, seed 0: 0 of 4" in drawing.found
    assert "Projections that rise: 0." in drawing.found
    assert "0.001, ours" in drawing.settings


def test_an_incomplete_theorem_table_is_an_error(paper):
    rows = {k: v[1:] for k, v in paper.tables["theorem1"].items()}
    with pytest.raises(ValueError, match="lacks a row"):
        theorem1.draw(dataclasses.replace(paper, tables={"theorem1": rows}))


def test_scaling_reads_the_optimum_off_the_curve(paper):
    (drawing,) = scaling.draw(paper)
    assert "hard labels 0.020 at s = 1 by temperature" in drawing.found


def test_smooth_calibration_is_of_the_first_seed_with_its_interval(paper):
    (drawing,) = smooth.draw(paper)
    assert "first seed: hard labels 0.100 [0.080, 0.130]" in drawing.found
    panels = [axes for axes in drawing.figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["smECE 0.100"] * 4
    assert np.isnan(panels[0].get_lines()[1].get_ydata()).sum() > 0


def test_heads_are_named_for_readers():
    assert theorem1.head_title("etf-10") == "Simplex ETF, K = 10"
    assert theorem1.head_title("mixup-seed2") == "Mixup, seed 2"
    assert theorem1.head_title("random, no bias") == "Random, no bias"


def test_boundary_gives_the_ratio_of_the_two_ways_out(paper):
    (drawing,) = boundary.draw(paper)
    assert "longer by a median factor of hard labels 1.40" in drawing.found
    assert "meets no boundary at all" in drawing.found


def test_transfer_names_the_models_that_fall_more_to_others(paper):
    table = {k: v.copy() for k, v in paper.tables["transfer"].items()}
    table["asr"] = np.where(table["source"] == table["target"], 0.9, 0.2)
    (drawing,) = transfer.draw(dataclasses.replace(paper, tables={"transfer": table}))
    assert drawing.found == "No model falls more to another model's examples than to its own."
    table["asr"][(table["source"] == "hard") & (table["target"] == "mixup")] = 0.95
    (drawing,) = transfer.draw(dataclasses.replace(paper, tables={"transfer": table}))
    assert drawing.found == "Mixup (pgd) falls more to another model's examples than to its own."


def test_swaps_are_told_from_the_hard_model(paper):
    (drawing,) = counterfactual.draw(paper)
    assert drawing.found.startswith("ECE: hard labels ")
    assert len(drawing.data["swaps"]["ece"]) == 32


def test_uneven_planes_are_shown_once_more_at_their_own_scale(paper):
    assert [d.name for d in plane_figures.draw_planes(paper)] == ["plane"]
    table = {k: v.copy() for k, v in paper.tables["planes"].items()}
    for axis in ("x", "y"):
        table[axis][table["regularizer"] == "hard"] *= 20
    grown = dataclasses.replace(paper, tables={"planes": table})
    assert [d.name for d in plane_figures.draw_planes(grown)] == ["plane", "plane-own-scale"]
    names = [d.name for d in plane_figures.draw_fields(grown)]
    fig2 = [f"confidence-{n}" for n in ("hard", "smoothing", "mixup", "cutmix")]
    assert names == [*fig2, "gradient-field", "gradient-field-own-scale"]


def test_only_the_first_seed_of_each_head_is_drawn_but_all_are_counted(paper):
    table = paper.tables["theorem1"]
    rows = np.flatnonzero(table["head"] == "hard-seed0")
    more = {k: np.concatenate([v, v[rows]]) for k, v in table.items()}
    more["head"] = np.concatenate([table["head"], np.full(len(rows), "hard-seed1", dtype=object)])
    (drawing,) = theorem1.draw(dataclasses.replace(paper, tables={"theorem1": more}))
    assert "Hard labels, seed 1: 1 of 4" in drawing.found
    titles = [axes.get_title() for axes in drawing.figure.axes[:4]]
    assert titles == ["Simplex ETF, K = 4", "Random, with bias", "Hard labels, seed 0", "Label smoothing, seed 0"]


def test_attacks_on_features_against_the_exact_bound(paper):
    # Exact radii 0.1 … 1.2 of the norm, so 0.65 is where half fall; PGD needs twice that, or four times (conftest).
    (drawing,) = feature_attack.draw(paper)
    assert "At ε = 0.650 of the feature's norm PGD flips hard labels 0.250, label smoothing 0.083" in drawing.found
    assert "an exact attack hard labels 0.500, label smoothing 0.500, Mixup 0.500" in drawing.found
    assert "(median): hard labels 2.00, label smoothing 4.00" in drawing.found
    assert "margin in place of the cross-entropy hard labels 1.00" in drawing.found
    left, right = drawing.figure.axes
    lines = [line for line in left.get_lines() if len(line.get_xdata()) > 2]
    for bound, reached in zip(lines[::2], lines[1::2], strict=True):
        assert (reached.get_ydata() <= bound.get_ydata() + 1e-12).all()
    assert len(lines) == 8 and left.get_xlabel() != right.get_xlabel()


def test_verdicts_on_features_tell_a_misdirected_gradient_from_a_boundary_further_away(paper):
    found = {(v.measure, v.regularizer): v for v in feature_attack.verdicts(paper, resamples=300)}
    assert len(found) == 12
    for name in ("smoothing", "mixup", "cutmix"):
        pgd, exact = (found[f"ASR, {who} (ε = 0.650 of the norm)", name] for who in ("PGD", "exact attack"))
        assert (pgd.before, pgd.after) == (pytest.approx(0.25), pytest.approx(1 / 12))
        assert (pgd.answer, exact.answer, exact.effect) == ("holds", "undecided", 0)
    shorter = found["ASR, exact attack (ε = 2.60)", "mixup"]  # half the norm: all boundaries are within reach
    assert (shorter.after, shorter.answer) == (1, "does not hold")


def test_measured_networks_are_compared_with_their_reference(paper):
    main = dataclasses.replace(paper.main, config={**paper.main.config, "reference": "mixup"})
    measured = dataclasses.replace(paper, studies=[main])
    found = {(v.measure, v.regularizer): v for v in feature_attack.verdicts(measured, resamples=300)}
    assert {name for _, name in found} == {"hard", "smoothing", "cutmix"}
    hard = found["ASR, PGD (ε = 0.650 of the norm)", "hard"]
    assert (hard.before, hard.after) == (pytest.approx(1 / 12), pytest.approx(0.25))
    (drawing,) = counterfactual.draw(measured)
    assert drawing.found.startswith("ECE: Mixup ")


def test_a_direction_that_was_not_computed_is_not_told(paper):
    (drawing,) = radius.draw(paper)
    assert "From r → 0 to r → ∞" in drawing.found and "hollow" in drawing.look
    table = paper.tables["radius"]
    without = {**table, "angle_limit": np.full(len(table["angle_limit"]), np.nan)}
    (drawing,) = radius.draw(dataclasses.replace(paper, tables={"radius": without}))
    assert drawing.found.startswith("The median cosine moves") and "hollow" not in drawing.look


def test_without_hard_labels_there_is_nothing_to_compare_attacks_on_features_with(paper):
    table = paper.tables["feature_attack"]
    soft = {k: v[table["regularizer"] != "hard"] for k, v in table.items()}
    assert feature_attack.verdicts(dataclasses.replace(paper, tables={"feature_attack": soft})) == []
    assert feature_attack.verdicts(dataclasses.replace(paper, tables={})) == []


def test_trajectories_are_means_over_all_seeds_with_a_band(paper):
    (drawing,) = collapse.draw(paper)
    panel = next(axes for axes in drawing.figure.axes if axes.get_ylabel() == "RMS out of span")
    np.testing.assert_allclose(panel.get_lines()[0].get_ydata(), 0.25)  # seeds at 0.2 and 0.3
    band = panel.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (pytest.approx(0.2), pytest.approx(0.3))
    assert "over 2 seeds" in drawing.look


def test_the_other_directions_are_compared_with_v_opt(paper):
    auc, partial = predictors.draw(paper)
    assert "cosine to class mean minus that of v_opt's: hard labels +" in auc.found
    assert "cosine to weight vector minus" in auc.found and "minus that of" not in partial.found
    rows = {k: v[paper.tables["predictors"]["measure"] != "lead"] for k, v in paper.tables["predictors"].items()}
    auc, _ = predictors.draw(dataclasses.replace(paper, tables={"predictors": rows}))
    assert "minus that of" not in auc.found
