"""How CUDA C++ shares out rows on every card: by the code that launches use, without a GPU."""

from __future__ import annotations

import pytest

from regfast.ops import dispatch

if dispatch.unavailable("cpu") is not None:
    pytest.skip("the native extension is not built", allow_module_level=True)

from benchmarks.gpu import plan
from regfast import _native


def test_the_page_has_the_plans_of_today():
    assert plan.table() in plan.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("card", plan.CARDS, ids=lambda card: card.arch)
@pytest.mark.parametrize("sizes", [(4, 0), (2, 0), (4, 4), (2, 2), (2, 4)], ids=str)
def test_every_launch_fits_and_no_block_waits(card, sizes):
    for classes in (33, 100, 511, 1003, 2500, 8192, 21841, 50257, 151936):
        for rows in (1, 7, 128, 100_000):
            own = card.processors, card.shared_memory, card.clusters
            found = _native.loss_plan(*own, rows, classes, *sizes)
            team, slice_columns = found["team_size"], found["slice_columns"]
            assert team * slice_columns >= classes > (team - 1) * slice_columns
            assert found["shared_bytes"] * found["fit"] <= card.shared_memory
            assert found["threads"] * found["fit"] <= 1536  # of the smallest of these processors
            if found["group"]:
                assert classes * sum(sizes) <= 4096
            if team == 1:
                per_block = found["threads"] // found["group"] if found["group"] else 1
                assert found["blocks"] == min(-(-rows // per_block), card.processors * found["fit"])
            assert found["resident"] == (found["shared_bytes"] > 0)


def test_an_h100_runs_48_clusters_of_eight():
    (card,) = (card for card in plan.CARDS if card.name == "H100")
    assert plan.active_clusters(card, 3, 8) == 48
