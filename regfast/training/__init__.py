"""Training recipes: regularizer, optimizer, schedule and loop."""

from regfast.training.loop import Epoch, predict, train
from regfast.training.recipe import Recipe
from regfast.training.regularizer import DEFAULTS, Regularizer

__all__ = ["DEFAULTS", "Epoch", "Recipe", "Regularizer", "predict", "train"]
