"""A regularizer of your own in one class, in a study beside hard labels.

python examples/own_regularizer.py
On the command line: regfast study --regularizer hard --regularizer own_regularizer:ConfidencePenalty
"""

import json
import tempfile
from pathlib import Path

from regfast.study import named_regularizers, run_study, sized
from regfast.training import Regularizer


class ConfidencePenalty(Regularizer):
    """Cross-entropy minus `strength` times the entropy (Pereyra et al. 2017, arXiv 1701.06548)."""

    def __init__(self, strength: float = 0.3):
        self.strength = strength

    def loss(self, logits, target, features, context):
        loss, _ = context.cross_entropy(logits, target, features)
        entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
        return loss - self.strength * entropy.mean()


if __name__ == "__main__":
    chosen = named_regularizers(["hard", "own_regularizer:ConfidencePenalty"])
    with tempfile.TemporaryDirectory() as folder:
        run_study(sized("smoke", regularizers=chosen, limit=64), folder)
        found = json.loads((Path(folder) / "metrics.json").read_text())["regularizers"]
    for name, figures in found.items():
        print(f"{name}: ECE {figures['ece']['mean']:.3f}, feature RMS {figures['rms']['mean']:.3f}")
