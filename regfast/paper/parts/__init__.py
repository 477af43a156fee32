"""The parts of a paper run, one file each; what is listed here is computed, drawn and checked, in this order."""

from collections.abc import Sequence

from regfast.paper.parts.base import Given, Part, Work
from regfast.paper.parts.boundary import Boundary
from regfast.paper.parts.collapse import Collapse
from regfast.paper.parts.counterfactual import Counterfactual
from regfast.paper.parts.feature_attack import FeatureAttack
from regfast.paper.parts.objectives import Objectives
from regfast.paper.parts.planes import Planes
from regfast.paper.parts.predictors import Predictors
from regfast.paper.parts.radius import Radius
from regfast.paper.parts.scaling import Scaling
from regfast.paper.parts.smooth import Smooth
from regfast.paper.parts.theorem1 import Theorem1
from regfast.paper.parts.transfer import Transfer

__all__ = ["PARTS", "SCHEMAS", "Given", "Part", "Work"]

PARTS: Sequence[Part] = (
    Planes(),
    Theorem1(),
    Scaling(),
    Smooth(),
    Radius(),
    Predictors(),
    Boundary(),
    Counterfactual(),
    Transfer(),
    Objectives(),
    FeatureAttack(),
    Collapse(),
)
SCHEMAS = {part.name: tuple(part.columns) for part in PARTS}
