"""Training recipes: regularizer, optimizer, schedule and loop."""

from regfast.training.loop import Epoch, predict, train
from regfast.training.recipe import RECIPES, Recipe
from regfast.training.regularizers import REGULARIZERS, Context, Regularizer
from regfast.training.state import SavedState

__all__ = ["RECIPES", "REGULARIZERS", "Context", "Epoch", "Recipe", "Regularizer", "SavedState", "predict", "train"]
