"""`autoattack.AutoAttack` (github.com/fra31/auto-attack): change the import and keep the rest of the script."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from regfast.attacks import APGD, FAB, Square
from regfast.attacks import AutoAttack as _AutoAttack
from regfast.attacks.base import Attack, AttackResult, Runnable
from regfast.attacks.classifier import Model
from regfast.attacks.norms import norm_of
from regfast.attacks.progress import Silent

__all__ = ["AutoAttack"]

_ATTACKS = {
    "standard": ["apgd-ce", "apgd-t", "fab-t", "square"],
    "plus": ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"],
    "rand": ["apgd-ce", "apgd-dlr"],
}


class AutoAttack:
    """The reference's class: same arguments, methods, and lines in the log; the points are regfast's.

    Differs in that images stay where they are (only those under attack go to the model's device), modules are attacked
    in eval mode, and the draws depend on the seed and a sample's place alone.

    Args:
        model: images in [0, 1] to logits.
        norm: "Linf", "L2" or "L1".
        eps: radius.
        seed: of all draws; None is 0.
        verbose: print, and write to `log_path`.
        attacks_to_run: with version="custom": of "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square".
        version: "standard", "plus", "rand", "custom", or regfast's "fast".
        is_tf_model: must be False.
        device: where a model that is no module computes; modules say it themselves.
        log_path: file that lines are added to.

    Attributes:
        apgd, apgd_targeted, fab, square: settings that custom evaluations change: `n_restarts`, `n_iter`, `eot_iter`,
            `use_largereps`, `n_target_classes`, `n_queries`.

    Raises:
        ValueError: for unknown names, attacks given with another version than "custom", and TensorFlow models.
    """

    def __init__(
        self,
        model: Model,
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: str | torch.device | None = None,
        log_path: str | Path | None = None,
    ):
        if is_tf_model:
            raise ValueError("is_tf_model must be False: regfast attacks PyTorch models")
        if version not in (*_ATTACKS, "fast", "custom"):
            raise ValueError(f"version must be standard, plus, rand, fast or custom, got {version!r}")
        if attacks_to_run and version != "custom":
            raise ValueError(f"attacks_to_run goes with version='custom', got version={version!r}")
        self.model, self.norm, self.epsilon, self.seed, self.verbose = model, norm, eps, seed, verbose
        self._norm = norm_of(norm.lower())
        self.version, self.device, self.log_path = version, device, log_path
        self.apgd = SimpleNamespace(n_restarts=5, n_iter=100, eot_iter=1, use_largereps=False)
        self.apgd_targeted = SimpleNamespace(n_restarts=1, n_iter=100, use_largereps=False, n_target_classes=9)
        self.fab = SimpleNamespace(n_restarts=5, n_iter=100, n_target_classes=9)
        self.square = SimpleNamespace(n_queries=5000)
        self.attacks_to_run = list(attacks_to_run)
        if version in _ATTACKS:
            self.set_version(version)

    def set_version(self, version: str = "standard") -> None:
        """The attacks and settings of "standard", "plus" or "rand"."""
        if version not in _ATTACKS:
            raise ValueError(f"version must be one of {', '.join(_ATTACKS)}, got {version!r}")
        self.version, self.attacks_to_run = version, list(_ATTACKS[version])
        l1 = self._norm.name == "l1"
        if version == "standard":
            self.apgd.n_restarts, self.apgd_targeted.n_target_classes = (5, 5) if l1 else (1, 9)
            self.apgd.use_largereps = self.apgd_targeted.use_largereps = l1
        elif version == "plus":
            self.apgd.n_restarts = self.fab.n_restarts = 5
        else:
            self.apgd.n_restarts, self.apgd.eot_iter = 1, 20

    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: Path | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Adversarial images (N, C, H, W), the clean ones where the model held; with `return_labels` their classes too.

        Raises ValueError for a `state_path`: `regfast evaluate` resumes.
        """
        if state_path is not None:
            raise ValueError("state_path is not taken here: `regfast evaluate` resumes where it was stopped")
        self._say(f"using {self.version} version including {', '.join(self._names())}.")
        result = self._run(self._stages(), x_orig, y_orig, bs, self._say)
        moved = result.distance.max() if len(x_orig) else torch.zeros(())
        images = torch.where(result.success.view(-1, *[1] * (x_orig.ndim - 1)), result.images, x_orig)
        self._say(
            f"max {self.norm} perturbation: {moved:.5f}, nan in tensor: {int(images.isnan().sum())}, "
            f"max: {images.max():.5f}, min: {images.min():.5f}"
        )
        self._say(f"robust accuracy: {result.robust_accuracy:.2%}")
        return (images, result.prediction) if return_labels else images

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Tensor] | dict[str, tuple[Tensor, Tensor]]:
        """Every attack alone on all images: its name to what `run_standard_evaluation` gives."""
        self._say(f"using {self.version} version including {', '.join(self._names())}.")
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, stage in zip(self._names(), self._stages(), strict=True):
            began = time.time()
            result = self._run([stage], x_orig, y_orig, bs, lambda line: None)
            images = torch.where(result.success.view(-1, *[1] * (x_orig.ndim - 1)), result.images, x_orig)
            found[name] = images, result.prediction
            self._say(
                f"robust accuracy by {name.upper()} \t {result.robust_accuracy:.2%} \t "
                f"(time attack: {time.time() - began:.1f} s)"
            )
        return found if return_labels else {name: images for name, (images, _) in found.items()}

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """Share of the images that the model gets right, as it is."""
        with torch.no_grad():
            right = sum(
                int((self.model(x.to(self._at(x))).argmax(1).to(y.device) == y).sum())
                for x, y in zip(x_orig.split(bs), y_orig.split(bs), strict=True)
            )
        accuracy = right / len(x_orig)
        self._say(f"clean accuracy: {accuracy:.2%}")
        return accuracy

    def _names(self) -> list[str]:
        return [stage.name for stage in self._stages()]

    def _stages(self) -> list[Attack]:
        if self.version == "fast":
            return list(_AutoAttack(self._norm, self.epsilon, "fast").stages())
        norm, eps, apgd, targeted = self._norm, self.epsilon, self.apgd, self.apgd_targeted
        ascent = {"steps": apgd.n_iter, "restarts": apgd.n_restarts, "samples": apgd.eot_iter}
        larger = {"larger_eps": apgd.use_largereps}
        kinds: dict[str, Callable[[], Attack]] = {
            "apgd-ce": lambda: APGD(norm, eps, loss="ce", **ascent, **larger),
            "apgd-dlr": lambda: APGD(norm, eps, loss="dlr", **ascent, **larger),
            "apgd-t": lambda: APGD(
                norm, eps, targeted.n_iter, targeted.n_restarts, loss="dlr", targets=targeted.n_target_classes,
                larger_eps=targeted.use_largereps,
            ),
            "fab": lambda: FAB(norm, eps, self.fab.n_iter, self.fab.n_restarts),
            "fab-t": lambda: FAB(norm, eps, self.fab.n_iter, targets=self.fab.n_target_classes),
            "square": lambda: Square(norm, eps, self.square.n_queries),
        }  # fmt: skip
        unknown = [name for name in self.attacks_to_run if name not in kinds]
        if unknown or not self.attacks_to_run:
            raise ValueError(f"attacks_to_run must name some of {', '.join(kinds)}, got {self.attacks_to_run}")
        return [kinds[name]() for name in self.attacks_to_run]

    def _run(
        self, stages: Sequence[Attack], images: Tensor, labels: Tensor, bs: int, say: Callable[[str], None]
    ) -> AttackResult:
        log = _Log(say, len(images))
        result = _Ensemble(stages).run(
            self.model, images, labels.to(images.device), seed=self.seed or 0, lanes=bs, progress=log
        )
        log.ended(int(result.robust.sum()))
        return result

    def _at(self, images: Tensor) -> torch.device | str:
        if isinstance(self.model, torch.nn.Module):
            return next((p.device for p in self.model.parameters()), images.device)
        return images.device if self.device is None else self.device

    def _say(self, line: str) -> None:
        if not self.verbose:
            return
        print(line)
        if self.log_path is not None:
            with Path(self.log_path).open("a", encoding="utf-8") as file:
                file.write(line + "\n")


class _Ensemble(Runnable):
    """Stages one after the other, survivors only."""

    name = "custom"

    def __init__(self, stages: Sequence[Attack]):
        self._stages = stages
        self.norm, self.eps = stages[0].norm, stages[0].eps

    def stages(self) -> Sequence[Attack]:
        return self._stages


class _Log(Silent):
    """The reference's lines: accuracy before the first stage and after every one."""

    def __init__(self, say: Callable[[str], None], count: int):
        super().__init__()
        self._say, self._count, self._began = say, count, time.time()

    def begin(self, name: str, total: int) -> None:
        """`total` samples are still right when the stage begins."""
        if self.name:
            self.ended(total)
        else:
            self._say(f"initial accuracy: {total / self._count:.2%}")
        super().begin(name, total)

    def ended(self, robust: int) -> None:
        """A stage leaves `robust` samples."""
        self._say(
            f"{self.name} - {self.total - robust} out of {self.total} successfully perturbed\n"
            f"robust accuracy after {self.name.upper()}: {robust / self._count:.2%} "
            f"(total time {time.time() - self._began:.1f} s)"
        )
