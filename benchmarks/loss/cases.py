"""What is compared: one task per name, its contenders as functions that run forward and backward once.

Every contender computes the same number (`check` holds them to it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from regfast import SoftTargets
from regfast.functional import soft_cross_entropy, soft_cross_entropy_stats

SHAPES = ((128, 10), (65536, 10), (256, 1000), (1024, 1000), (4096, 1000), (256, 21841))
HALF_SHAPES = ((128, 10), (4096, 1000), (256, 21841))  # of bfloat16 logits
WIDTHS = (512, 2048)
STATS_SHAPES = ((1024, 10), (1024, 1000))
SMOOTHING, MIX = 0.1, 0.3

Step = Callable[[], Tensor]


@dataclass
class Case:
    """A task at a shape. A contender runs one step and returns the loss; the first is ours, the second PyTorch's."""

    task: str
    rows: int
    classes: int
    bytes: int  # each input read once, each output written once
    contenders: dict[str, Step]
    width: int | None = None
    compiled: dict[str, Callable[[], Step]] = field(default_factory=dict)  # made when asked for

    @property
    def name(self) -> str:
        return f"{self.task} {self.rows}×{self.classes}" + (f", d={self.width}" if self.width else "")


def two_terms(logits: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Mixup as most training loops write it."""
    a = functional.cross_entropy(logits, first, label_smoothing=SMOOTHING)
    b = functional.cross_entropy(logits, second, label_smoothing=SMOOTHING)
    return MIX * a + (1 - MIX) * b


def one_hot(logits: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Mixup as torchvision's v2 transforms and the loss in its references do it."""
    classes = logits.shape[1]
    target = functional.one_hot(first, classes).to(logits.dtype).mul(MIX)
    target = target.add_(functional.one_hot(second, classes).to(logits.dtype).mul_(1 - MIX))
    return functional.cross_entropy(logits, target, label_smoothing=SMOOTHING)


def timm_loss(logits: Tensor, dense: Tensor) -> Tensor:
    """timm.loss.SoftTargetCrossEntropy."""
    return torch.sum(-dense * functional.log_softmax(logits, dim=-1), dim=-1).mean()


def with_stats(logits: Tensor, first: Tensor, second: Tensor, features: Tensor, centers: Tensor) -> tuple[Tensor, ...]:
    """Loss and statistics composed of PyTorch's own operations."""
    loss = two_terms(logits, first, second)
    with torch.no_grad():
        true = first if MIX >= 0.5 else second
        log_p = logits.log_softmax(1)
        p = log_p.exp()
        confidence, prediction = p.max(1)
        own = logits.gather(1, true.unsqueeze(1)).squeeze(1)
        margin = own - logits.scatter(1, true.unsqueeze(1), -torch.inf).amax(1)
        partition = logits.logsumexp(1)
        entropy = -(p * log_p).sum(1)
        rms = features.norm(dim=1) / features.shape[1] ** 0.5
        cosine = functional.cosine_similarity(features, centers[true])
        predicted = functional.cosine_similarity(features, centers[prediction])
    return loss, partition, confidence, prediction, entropy, margin, rms, cosine, predicted


def step(logits: Tensor, loss: Callable[..., Tensor], *arguments: object) -> Step:
    """Forward and backward of `loss(logits, *arguments)`."""

    def run() -> Tensor:
        logits.grad = None
        value = loss(logits, *arguments)
        value.backward()
        return value.detach()

    return run


def compiled(logits: Tensor, loss: Callable[..., Tensor], *arguments: object) -> Callable[[], Step]:
    return lambda: step(logits, torch.compile(loss, dynamic=False, fullgraph=True), *arguments)


def loss_cases() -> list[Case]:
    """Mixup with smoothing, dense targets and hard labels at every shape; then in bfloat16."""
    return [case for shape in SHAPES for case in losses(*shape)] + [
        case for shape in HALF_SHAPES for case in losses(*shape, torch.bfloat16)
    ]


def _inputs(rows: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + classes)
    logits = (2 * torch.randn(rows, classes, generator=generator)).requires_grad_()
    first = torch.randint(classes, (rows,), generator=generator)
    return logits, first, first.roll(1)


def losses(rows: int, classes: int, dtype: torch.dtype = torch.float32) -> list[Case]:
    """The three losses at one shape, on logits and dense targets of one type."""
    logits, first, second = _inputs(rows, classes)
    logits = logits.detach().to(dtype).requires_grad_()
    dense = torch.rand(rows, classes).softmax(1).to(dtype)
    kind = "" if dtype == torch.float32 else ", bf16"
    mixed = SoftTargets(first=first, second=second, lam=MIX, smoothing=SMOOTHING, num_classes=classes)
    unit = rows * classes * logits.element_size()
    mixup = Case(
        "mixup" + kind, rows, classes, 2 * unit,
        {
            "regfast": step(logits, soft_cross_entropy, mixed),
            "eager, two terms": step(logits, two_terms, first, second),
            "eager, one-hot": step(logits, one_hot, first, second),
        },
        compiled={
            "compile, two terms": compiled(logits, two_terms, first, second),
            "compile, one-hot": compiled(logits, one_hot, first, second),
        },
    )  # fmt: skip
    soft = Case(
        "dense" + kind, rows, classes, 2 * unit + rows * classes * dense.element_size(),
        {
            "regfast": step(logits, soft_cross_entropy, dense),
            "eager": step(logits, functional.cross_entropy, dense),
            "timm": step(logits, timm_loss, dense),
        },
        compiled={
            "compile": compiled(logits, functional.cross_entropy, dense),
            "compile, timm": compiled(logits, timm_loss, dense),
        },
    )  # fmt: skip
    hard = Case(
        "hard" + kind, rows, classes, 2 * unit,
        {
            "regfast": step(logits, soft_cross_entropy, first),
            "eager": step(logits, functional.cross_entropy, first),
        },
        compiled={"compile": compiled(logits, functional.cross_entropy, first)},
    )  # fmt: skip
    return [mixup, soft, hard]


def stats_cases() -> list[Case]:
    """Mixup loss with its gradient, and every statistic."""
    return [_stats(rows, classes, width) for rows, classes in STATS_SHAPES for width in WIDTHS]


def _stats(rows: int, classes: int, width: int) -> Case:
    logits, first, second = _inputs(rows, classes)
    features = torch.randn(rows, width)
    centers = torch.randn(classes, width)
    mixed = SoftTargets(first=first, second=second, lam=MIX, smoothing=SMOOTHING, num_classes=classes)
    size = logits.element_size()
    moved = 2 * rows * classes * size + rows * width * size + min(2 * rows, classes) * width * 4

    def ours(z: Tensor) -> Tensor:
        return soft_cross_entropy_stats(z, mixed, features, centers)[0]

    def composed(z: Tensor) -> Tensor:
        return with_stats(z, first, second, features, centers)[0]

    composition = compiled_composition(logits, first, second, features, centers)
    return Case(
        "loss + stats", rows, classes, moved,
        {"regfast": step(logits, ours), "eager": step(logits, composed)},
        width, {"compile": composition},
    )  # fmt: skip


def compiled_composition(logits: Tensor, *arguments: Tensor) -> Callable[[], Step]:
    def make() -> Step:
        run = torch.compile(with_stats, dynamic=False, fullgraph=True)
        return step(logits, lambda z: run(z, *arguments)[0])

    return make


def check(case: Case) -> None:
    """Every contender's loss is the first one's; in bfloat16 eager rounds it to three digits.

    Raises:
        AssertionError: where one computes something else.
    """
    expected = next(iter(case.contenders.values()))()
    for name, contender in case.contenders.items():
        rounding = 2e-2 if "bf16" in case.task else 1e-4
        torch.testing.assert_close(
            contender(), expected, rtol=rounding, atol=1e-5, check_dtype=False, msg=f"{case.name}: {name} differs"
        )
