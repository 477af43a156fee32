import numpy as np

from regfast.report.figures.bins import bin_index, joined_rates, rates, shared_edges, thin


def test_rates_against_a_loop():
    rng = np.random.default_rng(7)
    values, hit, edges = rng.uniform(-0.2, 1.2, 500), rng.random(500) < 0.3, np.linspace(0, 1, 9)
    count, rate = rates(values, hit, edges)
    for k in range(8):
        inside = (values >= edges[k]) & (values < edges[k + 1])
        assert count[k] == inside.sum()
        np.testing.assert_allclose(rate[k], hit[inside].mean())


def test_the_last_bin_is_closed_and_the_rest_is_left_out():
    edges = np.array([0.0, 0.5, 1.0])
    assert bin_index(np.array([0, 0.5, 1.0, 1.1, -0.1, np.nan]), edges).tolist() == [0, 1, 1, -1, -1, -1]


def test_an_empty_bin_has_no_rate():
    count, rate = rates(np.array([0.1]), np.array([True]), np.array([0.0, 0.5, 1.0]))
    assert count.tolist() == [1, 0]
    assert rate[0] == 1 and np.isnan(rate[1])


def test_bins_are_joined_until_each_holds_enough():
    edges = np.array([0.0, 1, 2, 3, 4])
    values = np.array([0.5, 1.25, 1.75, 2.5, 3.5, np.nan])
    hit = np.array([True, False, False, True, False, True])
    middle, rate = joined_rates(values, hit, edges, 2)
    np.testing.assert_allclose(middle, [3.5 / 3, 3.0])
    np.testing.assert_allclose(rate, [1 / 3, 1 / 2])
    middle, rate = joined_rates(values, hit, edges, 3)  # what is left of two joins the first three
    np.testing.assert_allclose([middle, rate], [[1.9], [0.4]])
    assert not any(map(len, joined_rates(values, hit, edges, 6)))


def test_edges_cover_everything_finite_and_are_shared():
    one, other = np.array([0.12, np.nan]), np.array([-0.31, 0.88])
    edges = shared_edges([one, other], 10)
    np.testing.assert_allclose([edges[0], edges[-1]], [-0.35, 0.9])
    assert len(edges) == 11
    assert shared_edges([np.array([np.nan])], 4).tolist() == [-1, -0.5, 0, 0.5, 1]


def test_thin_keeps_the_ends_and_is_the_same_every_time():
    kept = thin(1000, 7)
    assert len(kept) == 7 and kept[0] == 0 and kept[-1] == 999
    assert thin(5, 7).tolist() == [0, 1, 2, 3, 4]
