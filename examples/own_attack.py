"""An attack of your own in one class. On the command line it is `--attack own_attack:Blur`.

python examples/own_attack.py
"""

import torch
from torch.nn.functional import avg_pool2d

from regfast.attacks import Attack
from regfast.attacks.norms import norm_of
from regfast.data import load_splits
from regfast.models import load_model


class Blur(Attack):
    """Moves each image toward its own blur, a little further at every step."""

    name = "blur"
    needs = "forward"

    def __init__(self, eps: float = 0.5, steps: int = 10):
        self.norm, self.eps, self.steps = norm_of("linf"), eps, steps

    def start(self, lanes, state, fresh):
        lanes.point[fresh] = lanes.image[fresh]

    def advance(self, lanes, state, answer):
        blurred = avg_pool2d(lanes.image, 3, stride=1, padding=1, count_include_pad=False)
        moved = (blurred - lanes.image).clamp(-self.eps, self.eps)
        share = ((lanes.step + 1) / self.steps).view(-1, 1, 1, 1)
        lanes.point = lanes.image + share * moved


if __name__ == "__main__":
    data = load_splits("digits").test
    model = load_model("small-cnn", num_classes=10, seed=0)
    images = data.batch(torch.arange(32))
    result = Blur().run(model, images, model(images).argmax(1))
    print(f"robust accuracy {result.robust_accuracy:.3f}, largest change {result.distance.max():.3f}")
