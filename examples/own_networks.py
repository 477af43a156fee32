"""Measure networks that regfast did not train: geometry, calibration and robustness, compared on the same images.

python examples/own_networks.py
"""

import tempfile

import torch
from torch import nn

import regfast

splits = regfast.data.load_splits("digits")


def network(width: int, label_smoothing: float) -> nn.Module:
    """Any module whose last layer is linear."""
    torch.manual_seed(width)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    images, labels = splits.train.batch(torch.arange(len(splits.train))), splits.train.labels
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels, label_smoothing=label_smoothing).backward()
        optimizer.step()
    return net.eval()


networks = {"hard": network(32, 0.0), "smooth": network(32, 0.1), "wide": network(128, 0.1)}
with tempfile.TemporaryDirectory() as folder:  # keep it, and regfast.report.write_report(folder) makes the page
    result = regfast.measure(networks, splits.test, train=splits.train, out=folder, size="smoke")
for name, figures in result.metrics.items():
    shown = {key: figures[key] for key in ("accuracy", "ece", "rms", "cosine", "asr_pgd_linf_strong")}
    print(name, ", ".join(f"{key} {f['mean']:.3f} [{f['low']:.3f}, {f['high']:.3f}]" for key, f in shown.items()))
