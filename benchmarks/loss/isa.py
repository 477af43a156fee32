"""`python -m benchmarks.loss.isa`: the row kernels compiled for AVX-512 against AVX2, on a processor that has both.

A build for one machine holds one instruction set (REGFAST_ISA=native), so each is built in a copy of the sources and
measured by processes of its own, which take turns. Eager PyTorch runs beside ours in every process and says how much
the machine moved. Logits in float32 and bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import timing
from benchmarks.loss.cases import losses
from benchmarks.loss.run import RESULTS

ROOT = Path(__file__).parents[2]
CAPABILITY = {"AVX-512": "avx512", "AVX2": "avx2"}  # how torch calls what setup.py asks it for
SHAPES = ((128, 10), (65536, 10), (1024, 1000), (4096, 1000), (256, 21841))
DTYPES = (torch.float32, torch.bfloat16)
SECONDS = 0.5  # a case and process


def build(name: str, folder: Path) -> None:
    """regfast's sources in `folder`, with kernels for one instruction set alone."""
    for part in ("regfast", "csrc", "benchmarks"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("*.so", "__pycache__", "results"))
    for part in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, folder)
    chosen = {"ATEN_CPU_CAPABILITY": CAPABILITY[name], "REGFAST_ISA": "native", "REGFAST_NATIVE": "cpu"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, check=True, env=os.environ | chosen, stdout=subprocess.DEVNULL)


def measure() -> dict[str, list[float]]:
    """Microseconds of [ours, eager], forward and backward, of every case in this process."""
    found = {}
    for case in (case for shape in SHAPES for dtype in DTYPES for case in losses(*shape, dtype)):
        ours, eager = list(case.contenders.values())[:2]
        spread = timing.interleaved({"ours": ours, "eager": eager}, SECONDS)
        found[case.name] = [spread["ours"].median, spread["eager"].median]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss.isa", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each instruction set")
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu-isa.json")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure()))
        return
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        raise SystemExit("this processor has no AVX-512: there is nothing to compare")
    taken: dict[str, list[dict[str, list[float]]]] = {name: [] for name in CAPABILITY}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: Path(temporary) / name for name in CAPABILITY}
        for name, folder in folders.items():
            build(name, folder)
        for turn in range(options.rounds):
            for name, folder in folders.items():
                print(f"round {turn + 1} of {options.rounds}: {name}", file=sys.stderr)
                command = [sys.executable, "-m", "benchmarks.loss.isa", "--measure"]
                environment = os.environ | {"PYTHONPATH": str(folder)}
                done = subprocess.run(command, cwd=folder, check=True, env=environment, stdout=subprocess.PIPE)
                taken[name].append(json.loads(done.stdout))
    rows = summary(taken)
    report = {"machine": timing.machine(), "rounds": options.rounds, "rows": rows}
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    for row in rows:
        print(" | ".join(str(value) for value in row.values()))
    print("wrote", options.out)


def summary(taken: dict[str, list[dict[str, list[float]]]]) -> list[dict[str, object]]:
    """A row a case: medians over the processes, and AVX2's time over AVX-512's, round by round."""
    rows = []
    for case in taken["AVX2"][0]:
        wide, narrow = ([run[case][0] for run in taken[name]] for name in ("AVX-512", "AVX2"))
        eager = [run[case][1] for runs in taken.values() for run in runs]
        ratios = sorted(n / w for w, n in zip(wide, narrow, strict=True))
        rows.append(
            {
                "case": case,
                "avx512_us": round(statistics.median(wide), 1),
                "avx2_us": round(statistics.median(narrow), 1),
                "eager_us": round(statistics.median(eager), 1),
                "avx2_over_avx512": round(statistics.median(ratios), 3),
                "least": round(ratios[0], 3),
                "most": round(ratios[-1], 3),
            }
        )
    return rows


if __name__ == "__main__":
    main()
