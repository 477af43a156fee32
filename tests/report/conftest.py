"""A made-up study with the schema of docs/design.md: random per-sample results whose effects are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

REGULARIZERS = {"hard": {}, "smoothing": {"smoothing": 0.1}, "mixup": {"alpha": 1.0}, "cutmix": {"alpha": 1.0}}
ATTACKS = [
    {"id": "fgsm", "attack": "fgsm", "norm": "linf", "eps": 0.03, "steps": 1, "restarts": 1, "setting": "weak"},
    {"id": "pgd", "attack": "pgd", "norm": "linf", "eps": 0.03, "steps": 20, "restarts": 2, "setting": "strong"},
]
# Per regularizer: RMS, cosine, over-confidence, how easily it falls. Known, so that the verdicts can be checked.
TRUTH = {
    "hard": (0.60, 0.55, 0.20, 0.80),
    "smoothing": (0.40, 0.70, 0.05, 0.80),
    "mixup": (0.45, 0.45, 0.06, 0.50),
    "cutmix": (0.61, 0.56, 0.10, 0.55),
}
METRICS = (
    "accuracy",
    "nll",
    "brier",
    "ece",
    "ece_adaptive",
    "ece_classwise",
    "ece_temperature",
    "temperature",
    "rms",
    "rms_in_span",
    "cosine",
    "cosine_predicted",
    "cosine_in_span",
    "share_in_span",
    "confidence",
    "asr_fgsm",
    "asr_pgd",
    "radius",
)


def write_study(
    folder: Path, seeds: int = 3, samples: int = 300, dataset: str = "noisy-digits", random: int = 0
) -> Path:
    rng = np.random.default_rng(random)
    folder.mkdir(parents=True, exist_ok=True)
    difficulty = rng.normal(size=samples)
    label = rng.integers(0, 10, samples)
    blocks, metrics, sweep, curves = [], {}, [], []
    for name, (rms, cosine, over, fall) in TRUTH.items():
        per_seed: dict[str, list[float]] = {metric: [] for metric in METRICS}
        for seed in range(seeds):
            confidence = np.clip(0.75 - 0.15 * difficulty + 0.08 * rng.normal(size=samples), 0.15, 0.999)
            correct = rng.random(samples) < np.clip(confidence - over, 0, 1)
            cos = np.clip(cosine - 0.12 * difficulty + 0.05 * rng.normal(size=samples), -1, 1)
            block = {
                "regularizer": np.full(samples, name),
                "seed": np.full(samples, seed),
                "sample": np.arange(samples),
                "label": label,
                "prediction": np.where(correct, label, (label + 1) % 10),
                "correct": correct,
                "confidence": confidence,
                "loss": -np.log(confidence),
                "entropy": 1 - confidence,
                "margin": 4 * confidence - 2,
                "rms": rms * np.exp(0.15 * rng.normal(size=samples)),
                "rms_in_span": 0.6 * rms * np.exp(0.15 * rng.normal(size=samples)),
                "cosine": cos,
                "cosine_predicted": np.abs(cos),
                "cosine_in_span": np.clip(cos + 0.2, -1, 1),
                "share_in_span": rng.uniform(0.4, 0.8, samples),
            }
            for attack in ATTACKS:
                chance = np.clip(fall - 0.8 * (cos - cosine) - (0.2 if attack["setting"] == "weak" else 0), 0.02, 0.98)
                block[f"success_{attack['id']}"] = correct & (rng.random(samples) < chance)
                block[f"toward_origin_{attack['id']}"] = np.clip(rng.normal(0.2, 0.3, samples), -1, 1)
                block[f"radial_{attack['id']}"] = rng.normal(-0.1, 0.1, samples)
                block[f"tangential_{attack['id']}"] = np.abs(rng.normal(0.4, 0.1, samples))
            blocks.append(block)
            for metric in METRICS:
                value = (
                    block[metric].mean()
                    if metric in block
                    else correct.mean()
                    if metric == "accuracy"
                    else rng.uniform(0.1, 0.3)
                )
                per_seed[metric].append(float(value))
            for eps in (0.0, 0.01, 0.02, 0.04, 0.08):
                flipped = int(correct.sum() * min(1, fall * 20 * eps))
                sweep.append(
                    {
                        "regularizer": name,
                        "seed": seed,
                        "attack": "pgd",
                        "norm": "linf",
                        "eps": eps,
                        "correct": int(correct.sum()),
                        "success": flipped,
                        "asr": flipped / correct.sum(),
                    }
                )
            for epoch in range(1, 13):
                curves.append(
                    {
                        "regularizer": name,
                        "seed": seed,
                        "epoch": epoch,
                        "loss": 2.3 / epoch,
                        "accuracy": 1 - 0.9 / epoch,
                        "rms": rms * (1 - np.exp(-epoch / 4)) + 0.01 * rng.normal(),
                        "cosine": cosine * (1 - np.exp(-epoch / 3)),
                        "cosine_in_span": 0.9 * (1 - np.exp(-epoch / 3)),
                        "learning_rate": 0.1 * (1 - epoch / 12),
                    }
                )
        metrics[name] = {
            m: {"mean": float(np.mean(v)), "low": min(v), "high": max(v), "per_seed": v} for m, v in per_seed.items()
        }
    config = {
        "version": 1,
        "command": "regfast study --out runs/made-up",
        "dataset": dataset,
        "model": "small-cnn",
        "epochs": 12,
        "seeds": list(range(seeds)),
        "regularizers": REGULARIZERS,
        "attacks": ATTACKS,
        "sweep": {"attack": "pgd", "norm": "linf", "eps": [0.0, 0.01, 0.02, 0.04, 0.08]},
        "environment": {
            "python": "3.11",
            "torch": "2.13",
            "regfast": "0.1.0",
            "machine": "made-up",
            "threads": 2,
            "backend": "reference",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    temperature = {name: metrics[name]["temperature"] for name in metrics}
    (folder / "metrics.json").write_text(json.dumps({"regularizers": metrics, "temperature": temperature}))
    pq.write_table(
        pa.table({key: np.concatenate([b[key] for b in blocks]) for key in blocks[0]}), folder / "samples.parquet"
    )
    pq.write_table(pa.Table.from_pylist(sweep), folder / "sweep.parquet")
    pq.write_table(pa.Table.from_pylist(curves), folder / "curves.parquet")
    return folder


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def make_study() -> Callable[..., Path]:
    return write_study
