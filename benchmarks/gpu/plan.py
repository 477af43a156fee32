"""How the CUDA kernels share out the rows of a loss on every card, and whether enough bytes are on their way.

By arithmetic, without a GPU. A processor keeps its share of the memory busy while bandwidth times latency of bytes are
on their way to it. `python -m benchmarks.gpu.plan --write` renews the table in docs/kernels-gpu.md.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch  # noqa: F401  # its libraries are those of the extension

from regfast import _native

PAGE = Path(__file__).parents[2] / "docs" / "kernels-gpu.md"
MARKED = re.compile(r"(<!-- plan -->\n).*?(<!-- end -->)", re.DOTALL)
LATENCY = 700e-9  # of DRAM under load, seconds
SHORT_COLUMNS, SHORT_ROWS, SHORT_BLOCKS = 32, 128, 13  # a thread a row; blocks by shared memory


class Card(NamedTuple):
    name: str
    arch: str
    processors: int
    group: int  # processors of a GPC at most, within which a cluster lies
    shared_memory: int  # a block may ask for
    clusters: bool
    bandwidth: float  # bytes a second


CARDS = (
    Card("A100", "sm_80", 108, 16, 163 << 10, False, 2.04e12),
    Card("A10", "sm_86", 72, 12, 99 << 10, False, 0.60e12),
    Card("RTX 4090", "sm_89", 128, 12, 99 << 10, False, 1.01e12),
    Card("H100", "sm_90", 132, 18, 227 << 10, True, 3.35e12),
    Card("B200", "sm_100", 148, 20, 227 << 10, True, 8.0e12),
    Card("RTX 5090", "sm_120", 170, 16, 99 << 10, True, 1.79e12),
)
# (rows, classes, bytes a logit, bytes an entry of a dense target)
SHAPES: tuple[tuple[int, int, int, int], ...] = (
    (65536, 10, 4, 0),
    (65536, 100, 4, 0),
    (65536, 150, 2, 0),
    (4096, 1000, 4, 0),
    (4096, 1000, 4, 4),
)
SHAPES += ((4096, 8192, 2, 0), (4096, 21841, 4, 0), (4096, 50257, 2, 0), (4096, 128256, 2, 0), (4096, 128256, 4, 0))


def active_clusters(card: Card, fit: int, size: int) -> int:
    """Clusters that run at once: processors come in pairs, and as evenly in GPCs as that allows."""
    groups = -(-card.processors // card.group)
    pairs = [card.processors // 2 // groups + (g < card.processors // 2 % groups) for g in range(groups)]
    return sum(2 * p * fit // size for p in pairs)


def share(card: Card, rows: int, classes: int, logit: int, dense: int) -> dict[str, Any]:
    """Blocks, blocks of a row, bytes of shared memory a block, bytes that a processor's blocks fetch at a time."""
    row = classes * (logit + dense)
    if classes <= SHORT_COLUMNS:
        blocks = -(-rows // SHORT_ROWS)
        held = min(SHORT_BLOCKS, -(-blocks // card.processors)) * SHORT_ROWS * row
        return {"a row": "a thread", "blocks": blocks, "shared": 0, "in flight": held}
    plan = _native.loss_plan(card.processors, card.shared_memory, card.clusters, rows, classes, logit, dense)
    group, team, fit = plan["group"], plan["team_size"], plan["fit"]
    blocks = plan["blocks"] or team * min(rows, active_clusters(card, fit, team))
    fetched = plan["threads"] // group * row if group else plan["slice_columns"] * (logit + dense)
    if not plan["resident"]:
        fetched = plan["threads"] * 16 * (2 if dense else 1)
    where = f"{group} threads" if group else "a block" if team == 1 else f"{team} blocks"
    return {
        "a row": where if plan["resident"] else f"{where}, read twice",
        "blocks": blocks,
        "shared": plan["shared_bytes"],
        "in flight": min(fit, -(-blocks // card.processors)) * fetched,
    }


def table() -> str:
    """All cards, as Markdown: who has a row; blocks × shared memory; bytes in flight over those needed."""
    heads = ["B × K", *(f"{card.name} ({card.arch})" for card in CARDS)]
    found = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    needed = [card.bandwidth * LATENCY / card.processors for card in CARDS]
    found.append("| needed | " + " | ".join(f"{bytes_ / 1024:.1f} KB" for bytes_ in needed) + " |")
    for rows, classes, logit, dense in SHAPES:
        cells = [f"{rows} × {classes}, {8 * logit} bits" + (", dense" if dense else "")]
        for card, least in zip(CARDS, needed, strict=True):
            how = share(card, rows, classes, logit, dense)
            memory = f" × {how['shared'] / 1024:.0f} KB" if how["shared"] else ""
            cells.append(f"{how['a row']}; {how['blocks']}{memory}; {how['in flight'] / least:.1f}")
        found.append("| " + " | ".join(cells) + " |")
    return "\n".join(found)


def main() -> None:
    """Print the table; with --write, put it into the page."""
    print(table())
    if "--write" in sys.argv[1:]:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(MARKED.sub(lambda marks: f"{marks[1]}{table()}\n{marks[2]}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
