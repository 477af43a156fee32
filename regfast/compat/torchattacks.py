"""`torchattacks` (github.com/Harry24k/adversarial-attacks-pytorch): change the import and keep the rest of the script.

The steps are those of regfast's attacks, every one on every sample (`regfast.attacks.Adversary`), and the last point is
handed back, as there. Draws come from `seed`, not from PyTorch's generators.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regfast import attacks
from regfast.attacks.base import Attack, Runnable
from regfast.attacks.classifier import Model
from regfast.attacks.prepare import frozen

__all__ = ["APGD", "APGDT", "BIM", "FFGSM", "FGSM", "MIFGSM", "PGD", "PGDL2", "AutoAttack"]


class _Compat(ABC):
    """What all of them share: the model, normalized images, and targets."""

    def __init__(self, model: Model, eps: float, seed: int | None):
        self.model, self.eps, self.seed = model, eps, seed or 0
        tensors = (*model.parameters(), *model.buffers()) if isinstance(model, nn.Module) else ()
        self.device: torch.device | None = tensors[0].device if tensors else None
        self.attack_mode = "default"
        self._targets: Callable[[Tensor, Tensor], Tensor] | None = None
        self._normal: _Normalized | None = None

    def set_device(self, device: torch.device | str) -> None:
        """Where images and labels are sent: by default where the model's parameters are."""
        self.device = torch.device(device)

    def set_normalization_used(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Images come and go normalized, and so the model takes them; the attack works in [0, 1] in between."""
        self._normal = _Normalized(self.model, mean, std)

    def get_mode(self) -> str:
        """The present mode, "default" or a targeted one."""
        return self.attack_mode

    def set_mode_default(self) -> None:
        """Away from the labels."""
        self.attack_mode, self._targets = "default", None

    def set_mode_targeted_by_label(self, quiet: bool = False) -> None:
        """The labels given are the classes to move to."""
        self._aim("targeted(label)", lambda images, labels: labels, quiet)

    def set_mode_targeted_by_function(
        self, target_map_function: Callable[[Tensor, Tensor], Tensor], quiet: bool = False
    ) -> None:
        """`target_map_function` of images and labels gives the classes to move to."""
        self._aim("targeted(custom)", target_map_function, quiet)

    def set_mode_targeted_random(self, quiet: bool = False) -> None:
        """To a class drawn among the others, from `seed`."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(images: Tensor, labels: Tensor) -> Tensor:
            others = self._logits(images).shape[1] - 1
            step = 1 + torch.randint(others, (len(labels),), generator=generator)
            return (labels + step.to(labels.device)) % (others + 1)

        self._aim("targeted(random)", draw, quiet)

    def set_mode_targeted_least_likely(self, kth_min: int = 1, quiet: bool = False) -> None:
        """To the class of the `kth_min`-th smallest logit among the others."""
        if kth_min < 1:
            raise ValueError(f"kth_min must be at least 1, got {kth_min}")

        def choose(images: Tensor, labels: Tensor) -> Tensor:
            others = self._logits(images).scatter(1, labels.unsqueeze(1), torch.inf)
            return others.kthvalue(kth_min, dim=1).indices

        self._aim("targeted(least-likely)", choose, quiet)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial images (N, C, H, W) on the model's device, normalized where images are."""
        images, labels = images.detach().to(self.device), labels.detach().to(self.device)
        if self._normal is None:
            return self.forward(images, labels)
        return self._normal.there(self.forward(self._normal.back(images), labels))

    @abstractmethod
    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images in [0, 1] to adversarial ones."""

    def _aim(self, mode: str, targets: Callable[[Tensor, Tensor], Tensor], quiet: bool) -> None:
        self.attack_mode, self._targets = mode, targets
        if not quiet:
            print(f"Attack mode is changed to '{mode}'.")

    @property
    def _asked(self) -> Model:
        return self.model if self._normal is None else self._normal

    def _logits(self, images: Tensor) -> Tensor:
        with torch.no_grad(), frozen(self.model):
            return self._asked(images)


class _Normalized(nn.Module):
    """A model of normalized images as one of images in [0, 1]."""

    def __init__(self, model: Model, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.model = model
        self.mean, self.std = (torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))

    def there(self, images: Tensor) -> Tensor:
        """From [0, 1] to normalized."""
        return (images - self.mean.to(images)) / self.std.to(images)

    def back(self, images: Tensor) -> Tensor:
        """From normalized to [0, 1]; what rounding carried over the edge is put back."""
        undone = images * self.std.to(images) + self.mean.to(images)
        inside = undone.clamp(0, 1)
        return torch.where((undone - inside).abs() <= 1e-5, inside, undone)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.there(images))


class _Steps(_Compat):
    """Attacks that hand back their last point."""

    def __init__(self, model: Model, eps: float, seed: int | None):
        super().__init__(model, eps, seed)
        self._adversary: attacks.Adversary | None = None

    @abstractmethod
    def _attack(self) -> Attack:
        """regfast's attack with the present settings."""

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        attack, before = self._attack(), self._adversary
        if before is None or before.attack.options != attack.options:
            self._adversary = attacks.Adversary(attack, seed=self.seed)
            self._adversary.drawn = 0 if before is None else before.drawn
        assert self._adversary is not None
        targets = None if self._targets is None else self._targets(images, labels)
        return self._adversary(self._asked, images, labels, targets=targets)


class FGSM(_Steps):
    """One step of `eps` along the sign of the gradient, in linf."""

    def __init__(self, model: Model, eps: float = 8 / 255):
        super().__init__(model, eps, 0)

    def _attack(self) -> Attack:
        return attacks.FGSM("linf", self.eps)


class FFGSM(_Steps):
    """FGSM from a random point, by steps of `alpha` (Wong et al. 2020, arXiv 2001.03994)."""

    def __init__(self, model: Model, eps: float = 8 / 255, alpha: float = 10 / 255, *, seed: int = 0):
        super().__init__(model, eps, seed)
        self.alpha = alpha

    def _attack(self) -> Attack:
        return attacks.PGD("linf", self.eps, 1, step_size=self.alpha)


class PGD(_Steps):
    """Projected gradient descent in linf, from a random point of the ball."""

    _norm = "linf"

    def __init__(
        self,
        model: Model,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        random_start: bool = True,
        *,
        seed: int = 0,
    ):
        super().__init__(model, eps, seed)
        self.alpha, self.steps, self.random_start = alpha, steps, random_start

    def _attack(self) -> Attack:
        return attacks.PGD(self._norm, self.eps, self.steps, step_size=self.alpha, random_start=self.random_start)


class PGDL2(PGD):
    """Projected gradient descent in l2."""

    _norm = "l2"

    def __init__(
        self,
        model: Model,
        eps: float = 1.0,
        alpha: float = 0.2,
        steps: int = 10,
        random_start: bool = True,
        eps_for_division: float = 1e-10,
        *,
        seed: int = 0,
    ):
        super().__init__(model, eps, alpha, steps, random_start, seed=seed)


class BIM(_Steps):
    """PGD in linf from the image itself."""

    def __init__(self, model: Model, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10):
        super().__init__(model, eps, 0)
        self.alpha, self.steps = alpha, steps

    def _attack(self) -> Attack:
        return attacks.PGD("linf", self.eps, self.steps, step_size=self.alpha, random_start=False)


class MIFGSM(BIM):
    """BIM along a decaying sum of gradients (Dong et al. 2018, arXiv 1710.06081)."""

    def __init__(self, model: Model, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10, decay: float = 1.0):
        super().__init__(model, eps, alpha, steps)
        self.decay = decay

    def _attack(self) -> Attack:
        return attacks.PGD("linf", self.eps, self.steps, step_size=self.alpha, momentum=self.decay, random_start=False)


class _Found(_Compat):
    """Attacks that hand back what fools the model, and the image itself where nothing does."""

    def __init__(self, model: Model, norm: str, eps: float, seed: int | None):
        super().__init__(model, eps, seed)
        self.norm = norm

    @abstractmethod
    def _attack(self) -> Runnable:
        """regfast's attack with the present settings."""

    def _aim(self, mode: str, targets: Any, quiet: bool) -> None:
        raise ValueError("Targeted mode is not supported.")

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        result = self._attack().run(self._asked, images, labels, seed=self.seed)
        return torch.where(result.success.view(-1, *[1] * (images.ndim - 1)), result.images, images)


class APGD(_Found):
    """Auto-PGD away from the label."""

    def __init__(
        self,
        model: Model,
        norm: str = "Linf",
        eps: float = 8 / 255,
        steps: int = 10,
        n_restarts: int = 1,
        seed: int = 0,
        loss: str = "ce",
        eot_iter: int = 1,
        rho: float = 0.75,
        verbose: bool = False,
    ):
        super().__init__(model, norm, eps, seed)
        if rho != 0.75:
            raise ValueError(f"rho must be 0.75, the paper's, got {rho}")
        self.steps, self.n_restarts, self.loss, self.eot_iter = steps, n_restarts, loss, eot_iter
        self.n_classes = 1  # of which all others are targets

    def _attack(self) -> Runnable:
        return attacks.APGD(
            self.norm.lower(), self.eps, self.steps, self.n_restarts, loss=self.loss, targets=self.n_classes - 1,
            samples=self.eot_iter,
        )  # fmt: skip


class APGDT(APGD):
    """Auto-PGD towards the other classes, one after the other."""

    def __init__(
        self,
        model: Model,
        norm: str = "Linf",
        eps: float = 8 / 255,
        steps: int = 10,
        n_restarts: int = 1,
        seed: int = 0,
        eot_iter: int = 1,
        rho: float = 0.75,
        verbose: bool = False,
        n_classes: int = 10,
    ):
        super().__init__(model, norm, eps, steps, n_restarts, seed, "dlr", eot_iter, rho)
        self.n_classes = n_classes


class AutoAttack(_Found):
    """AutoAttack with the paper's 100 steps a stage; torchattacks' has 10. The number of classes is the model's."""

    def __init__(
        self,
        model: Model,
        norm: str = "Linf",
        eps: float = 8 / 255,
        version: str = "standard",
        n_classes: int = 10,
        seed: int | None = None,
        verbose: bool = False,
    ):
        super().__init__(model, norm, eps, seed)
        self.version = version

    def _attack(self) -> Runnable:
        return attacks.AutoAttack(self.norm.lower(), self.eps, self.version)
