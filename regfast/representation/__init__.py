"""Representation space: class centers, the geometry of features around them, and what an attack does to it."""

from regfast.representation.centers import ClassCenters, class_centers
from regfast.representation.displacement import Displacement, feature_displacement
from regfast.representation.geometry import Geometry, default_radius, feature_geometry
from regfast.representation.span import row_space

__all__ = [
    "ClassCenters",
    "Displacement",
    "Geometry",
    "class_centers",
    "default_radius",
    "feature_displacement",
    "feature_geometry",
    "row_space",
]
