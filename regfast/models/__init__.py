"""Classifiers that can be trained and attacked: by name, split into features and head, images in [0, 1]."""

from regfast.models.checkpoint import read_checkpoint, save_checkpoint
from regfast.models.load import OWN_MODELS, load_model
from regfast.models.preprocess import Preprocess
from regfast.models.seed import seeded
from regfast.models.split import SplitClassifier, split_classifier

__all__ = [
    "OWN_MODELS",
    "Preprocess",
    "SplitClassifier",
    "load_model",
    "read_checkpoint",
    "save_checkpoint",
    "seeded",
    "split_classifier",
]
