"""ResNets for 32×32 images: He et al. 2016, section 4.2, with option-A shortcuts (no parameters)."""

from torch import Tensor, nn
from torch.nn import functional

DEPTHS = (20, 32, 44, 56, 110)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class CifarResNet(nn.Module):
    """`depth` = 6n + 2 layers, three stages of n blocks with 16, 32 and 64 channels; features (B, 64)."""

    def __init__(self, depth: int = 20, num_classes: int = 10, in_channels: int = 3):
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2 (20, 32, 44, 56, 110 …), got {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalized images (B, C, H, W)."""
        out = functional.relu(self.bn1(self.conv1(images)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(out.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.added = width - width_in

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """Option A: every second pixel, and channels of zeros on both sides."""
        if self.stride == 1 and self.added == 0:
            return x
        half = self.added // 2
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.added - half))


def _stage(width_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Block(width_in, width, stride)
    return nn.Sequential(first, *(_Block(width, width, 1) for _ in range(blocks - 1)))


def cifar_resnet(name: str, num_classes: int, in_channels: int) -> CifarResNet:
    """The network called `name`: resnet20, resnet32, resnet44, resnet56 or resnet110."""
    return CifarResNet(int(name.removeprefix("resnet")), num_classes, in_channels)
