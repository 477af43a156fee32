"""Train with soft labels in a loop of your own: Mixup, label smoothing, and the statistics of the same pass.

python examples/train.py
"""

import torch

import regfast
from regfast.data import load_splits
from regfast.models import load_model

splits = load_splits("digits")
model = load_model("small-cnn", num_classes=10, seed=0).train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
mix = regfast.MixUp(num_classes=10, generator=torch.Generator().manual_seed(0))

for epoch in range(3):
    for indices in torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(epoch)).split(64):
        images, target = mix(splits.train.batch(indices), splits.train.labels[indices])
        features = model.features(images)
        loss, stats = regfast.soft_cross_entropy_stats(model.head(features), target, features, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}, feature RMS {stats.rms.mean():.3f}")

model.eval()
logits = model(splits.test.batch(torch.arange(len(splits.test))))
print(f"test accuracy {(logits.argmax(1) == splits.test.labels).float().mean():.3f}")
