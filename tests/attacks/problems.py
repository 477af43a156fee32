"""Small models whose answers are known, shared by the attack tests."""

import torch
from torch import Tensor, nn


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """Logits `W x + b`; every distance to a boundary is known in closed form."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T + self.bias

    def distance(self, images: Tensor, norm: str) -> Tensor:
        """(N,) exact distance to the nearest other class, where the box does not matter."""
        logits = self(images).detach()
        label = logits.argmax(1)
        gap = logits.gather(1, label.unsqueeze(1)) - logits
        slopes = self.weight.detach()[label].unsqueeze(1) - self.weight.detach().unsqueeze(0)
        dual = {"linf": slopes.abs().sum(2), "l2": slopes.norm(dim=2), "l1": slopes.abs().amax(2)}[norm]
        far = gap / dual
        return far.scatter(1, label.unsqueeze(1), torch.inf).amin(1)


def linear(classes: int, shape: tuple[int, ...] = (3, 4, 5), count: int = 12, seed: int = 0, spread: float = 0.01):
    """A linear model and gray images near its boundaries, far from the box's edges: (model, images, labels)."""
    rng = generator(seed)
    size = torch.Size(shape).numel()
    weight = torch.randn(classes, size, generator=rng)
    images = 0.5 + spread * torch.randn(count, *shape, generator=rng)
    # All logits are equal at gray: every image is near its boundaries.
    model = Linear(weight, -0.5 * weight.sum(1)).eval()
    return model, images, model(images).argmax(1).detach()


class RowByRow(nn.Module):
    """A small convolutional net that is asked one image at a time: its output cannot depend on the batch."""

    def __init__(self, classes: int = 5, seed: int = 0):
        super().__init__()
        rng = generator(seed)
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3, generator=rng))
        self.head = nn.Parameter(torch.randn(classes, 4 * 36, generator=rng) / 4)

    def row(self, image: Tensor) -> Tensor:
        hidden = nn.functional.conv2d(image.unsqueeze(0) - 0.5, self.kernel).tanh()
        return (self.head * hidden.flatten(1)).sum(1)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.row(image) for image in images]) if len(images) else images.new_zeros(0, 5)


def curved(count: int = 24, seed: int = 1):
    """(model, images, labels): the net above, and images (N, 3, 8, 8) some of which are wrong from the start."""
    model = RowByRow().eval()
    images = torch.rand(count, 3, 8, 8, generator=generator(seed))
    labels = model(images).argmax(1).detach()
    labels[::7] = (labels[::7] + 1) % 5
    return model, images, labels
