"""Attack a model: PGD, and the AutoAttack ensemble. Decided samples leave at once, so most of the work is saved.

python examples/attack.py
"""

import torch

from regfast.attacks import PGD, AutoAttack
from regfast.data import load_splits
from regfast.models import load_model
from regfast.training import REGULARIZERS, Recipe, train

splits = load_splits("digits")
model = load_model("small-cnn", num_classes=10, seed=0)
train(model, splits.train, splits.holdout, REGULARIZERS.build("hard"), Recipe(epochs=2), seed=0)

images, labels = splits.test.batch(torch.arange(64)), splits.test.labels[:64]
for attack in (PGD("linf", eps=0.06, steps=20), AutoAttack("linf", eps=0.06, version="fast")):
    result = attack.run(model, images, labels, seed=0)
    print(f"{attack.name}: robust accuracy {result.robust_accuracy:.3f}, {int(result.gradients.sum())} gradients")
