"""Measure a network that regfast did not train: features, class centers, cosine, calibration, robustness.

python examples/own_networks.py
"""

import torch
from torch import nn

from regfast.attacks import PGD
from regfast.calibration import expected_calibration_error
from regfast.data import load_splits
from regfast.models import split_classifier
from regfast.representation import class_centers, default_radius, feature_geometry

splits = load_splits("digits")
images, labels = splits.test.batch(torch.arange(len(splits.test))), splits.test.labels


def network(width: int) -> nn.Module:
    """Any module whose last layer is linear."""
    torch.manual_seed(width)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


for width in (32, 128):
    net = network(width)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    train = splits.train.batch(torch.arange(len(splits.train)))
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(train), splits.train.labels).backward()
        optimizer.step()
    model = split_classifier(net.eval(), example=images[:1])
    with torch.no_grad():
        features = model.features(images)
        logits = model.head(features)
    right = logits.argmax(1) == labels
    centers = class_centers(model.head.weight, model.head.bias, radius=default_radius(features, right))
    geometry = feature_geometry(features, model.head.weight.detach(), centers, labels, logits.argmax(1))
    ece = expected_calibration_error(logits.softmax(1).max(1).values, right)
    robust = PGD("linf", eps=0.05, steps=10).run(model, images[:64], labels[:64]).robust_accuracy
    print(
        f"width {width}: accuracy {right.float().mean():.3f}, RMS {geometry.rms.mean():.3f}, "
        f"cosine {geometry.cosine.nanmean():.3f}, ECE {ece:.3f}, robust accuracy {robust:.3f}"
    )
