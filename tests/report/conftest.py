"""A made-up study with the schema of docs/reference/files.md: random per-sample results whose effects are known."""

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


def write_paper(folder: Path, random: int = 0) -> Path:
    """A made-up paper run: two small studies and every optional file."""
    rng = np.random.default_rng(random)
    names, classes = list(REGULARIZERS), 4
    studies = [("noisy-digits", "small-cnn"), ("digits", "small-cnn")]
    for place, (dataset, model) in enumerate(studies):
        write_study(folder / "studies" / f"{dataset}-{model}", 2 - place, 60, dataset, random + place)
    config = {
        "kind": "paper",
        "version": 1,
        "command": "regfast paper --out runs/made-up",
        "environment": {"python": "3.11"},
        "studies": [{"folder": f"studies/{d}-{m}", "dataset": d, "model": m} for d, m in studies],
        "planes": {"label": 1, "epochs": 10, "eps": 0.06},
        "theorem1": {"ridge": 0.001},
    }
    (folder / "config.json").write_text(json.dumps(config))

    def table(name: str, rows: list[dict[str, object]]) -> None:
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")

    turn = 2 * np.pi * np.arange(classes) / classes
    directions = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    points: list[dict[str, object]] = []
    for bias in (False, True):
        for name in names:
            size = 10 * TRUTH[name][0]
            offset = rng.normal(size=classes) * bias
            label = rng.integers(0, classes, 80)
            feature = directions[label] * size + rng.normal(size=(80, 2))
            center = directions * size * np.array([1, 1, 1, 8])[:, None]  # the last one lies outside the window
            for kind, place, extra in (
                ("weight", directions, offset),
                ("mean", directions * size, None),
                ("center", center, None),
                ("feature", feature, None),
                ("perturbed", 0.3 * feature, None),
            ):
                per_sample = kind in ("feature", "perturbed")
                for k, (x, y) in enumerate(place):
                    points.append(
                        {
                            "regularizer": name,
                            "seed": 0,
                            "bias": bias,
                            "kind": kind,
                            "label": int(label[k]) if per_sample else k,
                            "sample": k if per_sample else -1,
                            "x": x,
                            "y": y,
                            "offset": 0.0 if extra is None else float(extra[k]),
                        }
                    )
    table("planes", points)
    smoothing = np.linspace(0.02, 0.5, 8)
    heads = {"etf-4": False, "random": True, "hard-seed0": True, "smoothing-seed0": False}
    table(
        "theorem1",
        [
            {
                "head": head,
                "label": c,
                "smoothing": a,
                "ridge": 0.001,
                "norm": (norm := np.log(1 + 4 * (1 - a) / a)) * (1 + c) if not (rises and c == 0) else 1 + a,
                "projection": norm,
                "closed_form": norm * (1 + c) if head == "etf-4" and c == 0 else norm if head == "etf-4" else np.nan,
            }
            for head, rises in heads.items()
            for c in range(1 if head == "etf-4" else classes)
            for a in smoothing
        ],
    )
    scales = np.geomspace(0.1, 10, 9)
    table(
        "scaling",
        [
            {
                "regularizer": n,
                "seed": s,
                "kind": kind,
                "scale": float(x),
                "ece": 0.02 + 0.1 * abs(float(np.log(x)) + 0.3 * k),
                "nll": 1.0,
                "changed": 0.0 if kind == "temperature" else 0.02 * abs(float(np.log(x))),
            }
            for k, n in enumerate(names)
            for s in (0, 1)
            for kind in ("temperature", "feature")
            for x in scales
        ],
    )
    table(
        "smooth",
        [
            {
                "regularizer": n,
                "seed": s,
                "confidence": float(c),
                "accuracy": float(c) - 0.1 if c > 0.3 else np.nan,
                "low": float(c) - 0.2 if c > 0.3 else np.nan,
                "high": float(c) if c > 0.3 else np.nan,
                "density": 1.0,
                "error": 0.1 + s,
                "error_low": 0.08,
                "error_high": 0.13,
            }
            for n in names
            for s in (0, 1)
            for c in np.linspace(0.05, 0.95, 20)
        ],
    )
    table(
        "radius",
        [
            {
                "regularizer": n,
                "seed": 0,
                "label": c,
                "radius": float(r),
                "angle": 0.1 * (c + 1) * float(np.log1p(r)),
                "angle_limit": 0.5,
                "cosine": 0.6 - 0.02 * float(np.log(r)),
            }
            for n in names
            for c in range(classes)
            for r in np.geomspace(0.1, 10, 7)
        ],
    )
    table(
        "predictors",
        [
            {
                "regularizer": n,
                "attack": "pgd",
                "predictor": p,
                "measure": m,
                "value": (v := base + 0.1 * rng.normal()),
                "low": v - 0.1,
                "high": v + 0.1,
            }
            for n in names
            for m, base in (("auc", 0.7), ("lead", 0.3), ("partial", 0.1))
            for p in ("v_opt", "class_mean", "weight", "norm", "margin", "confidence")
        ],
    )
    table(
        "boundary",
        [
            {
                "regularizer": n,
                "seed": 0,
                "sample": k,
                "label": 0,
                "correct": bool(k % 5),
                "norm": 1.0,
                "distance": float(d),
                "gradient_distance": float(d) * 1.4 if k % 11 else np.inf,
            }
            for n in names
            for k, d in enumerate(rng.gamma(4, 0.2, 60))
        ],
    )
    table(
        "feature_attack",
        [
            {
                "regularizer": n,
                "seed": s,
                "sample": k,
                "label": 0,
                "correct": bool(k % 5),
                "norm": norm,
                # Exact radii 0.1, 0.2, … of the norm; PGD needs twice that with hard labels, four times with soft ones.
                "exact": (exact := norm * (1 + k // 5) / 10) if k % 5 else 0.0,
                "straight": 5 * exact if k % 5 else 0.0,
                "cross_entropy": (2 if n == "hard" else 4) * exact if k % 5 else 0.0,
                "margin": exact if k % 5 else 0.0,
            }
            for n, norm in (("hard", 4.0), ("smoothing", 4.0), ("mixup", 2.0), ("cutmix", 4.0))
            for s in (0, 1)
            for k in range(60)
        ],
    )
    table(
        "counterfactual",
        [
            {
                "norms": a,
                "directions": b,
                "seed": s,
                "accuracy": 0.6,
                "ece": float(rng.uniform(0, 0.2)),
                "distance": float(rng.uniform(0, 2)),
                "gradient_distance": 1.0,
                "asr": float(rng.uniform()),
                "asr_exact": 0.5,
            }
            for a in names
            for b in names
            for s in (0, 1)
        ],
    )
    table(
        "transfer",
        [
            {"source": a, "target": b, "attack": "pgd", "seed": 0, "asr": float(rng.uniform())}
            for a in names
            for b in names
        ],
    )
    table(
        "objectives",
        [
            {"regularizer": n, "seed": s, "objective": o, "asr": float(rng.uniform())}
            for n in names
            for s in (0, 1)
            for o in ("cross-entropy", "dlr", "targeted")
        ],
    )
    table(
        "collapse",
        [
            {
                "regularizer": n,
                "seed": s,
                "epoch": e,
                "nc1": 1 / e,
                "nc2_norm": 0.5 / e,
                "nc2_angle": 0.3 / e,
                "nc3": 1.2 / e,
                "nc4": 0.1 / e,
                "within_in_span": 0.3,
                "rms_in_span": 0.4,
                "rms_out_of_span": 0.2 + 0.1 * s,
                "cosine_in_span": 0.9,
            }
            for n in names
            for s in (0, 1)
            for e in range(1, 7)
        ],
    )
    return folder


@pytest.fixture(scope="session")
def paper_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_paper(tmp_path_factory.mktemp("paper"))


@pytest.fixture(scope="session")
def make_paper() -> Callable[..., Path]:
    return write_paper
