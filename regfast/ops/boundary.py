"""FAB's move: to the plane that stands for the decision boundary, drawn towards the clean image, and a little over it.

S lanes; points have any shape (S, …) and lie in [0, 1]. Nothing here is differentiable.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from regfast.ops.dispatch import find

__all__ = ["boundary_step"]


def boundary_step(
    point: Tensor, image: Tensor, rise: Tensor, slope: Tensor, across: Tensor, eta: float | Tensor, alpha_max: float,
    beta: float, norm: Literal["linf", "l2", "l1"],
) -> Tensor:  # fmt: skip
    """The next point (S, …) of FAB (Croce and Hein 2020, arXiv 1907.02044, algorithm 1).

    A point across the boundary first steps back to `image + beta · (point - image)`. From there and from the image the
    shortest moves to the plane (section 3.1, where nothing leaves the box) are mixed, the nearer one counting more.

    Args:
        point: (S, …) float32, where the model was asked.
        image: (S, …) float32, the clean one.
        rise: (S,) float32: by how much the class to move to is above the label there; the plane is where it is 0.
            NaN: nobody knows where, and no entry moves towards it.
        slope: (S, …) float32, its gradient there.
        across: (S,) bool: the point counts as adversarial.
        eta: overshoot, a number or (S,).
        alpha_max: most that a move is drawn towards the image.
        beta: share of the perturbation that stays after the step back.
        norm: in which moves are short.
    """
    run = find("boundary", "boundary_step", point)
    return run(point, image, rise, slope, across, eta, alpha_max, beta, norm)
