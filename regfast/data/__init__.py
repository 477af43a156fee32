"""Data sets to train, measure and attack on: images in [0, 1], validated labels, divisions that never change."""

from regfast.data.class_map import ClassMap, imagenet_classes, map_classes, read_class_map
from regfast.data.images import ImageArray, ImageFiles, ImageSet, Splits, Subset, pick_samples
from regfast.data.load import DATASETS, DataSet, data_set, load_images, load_splits, load_training

__all__ = [
    "DATASETS",
    "ClassMap",
    "DataSet",
    "ImageArray",
    "ImageFiles",
    "ImageSet",
    "Splits",
    "Subset",
    "data_set",
    "imagenet_classes",
    "load_images",
    "load_splits",
    "load_training",
    "map_classes",
    "pick_samples",
    "read_class_map",
]
