"""`python -m benchmarks`: measure the losses against their peers on this machine; a table, a JSON file and a plot."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import plot, table
from benchmarks.loss.run import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look: less time per case, no torch.compile")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile (compiling takes minutes)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the cases whose name contains TEXT")
    parser.add_argument("--out", type=Path, help="JSON file; benchmarks/results/cpu-loss.json by default")
    options = parser.parse_args()
    path = run(quick=options.quick, compiled=not options.no_compile, only=options.only, out=options.out)
    table.show(json.loads(path.read_text()))
    print("wrote", path, *plot.draw(path))


if __name__ == "__main__":
    main()
