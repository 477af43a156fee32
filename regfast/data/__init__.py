"""Data sets to train, measure and attack on: images in [0, 1], validated labels, divisions that never change."""

from regfast.data.images import ImageArray, ImageSet, Splits, Subset
from regfast.data.load import DATASETS, load_images, load_splits

__all__ = ["DATASETS", "ImageArray", "ImageSet", "Splits", "Subset", "load_images", "load_splits"]
