"""The network of the embedded study: three convolutions and one linear layer, fast enough to train in seconds."""

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Three 3×3 convolutions (32, 64, `width` channels), a global mean and a linear layer; features (B, `width`)."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1, width: int = 128):
        super().__init__()
        self.body = nn.Sequential(_layer(in_channels, 32), _layer(32, 64), nn.MaxPool2d(2), _layer(64, width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        return self.head(self.body(images).mean((2, 3)))


def _layer(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )
