"""Using a trained method on new images and videos, without its experiment or training data."""

from landmark_lab.inference.predictor import Predictor, find_checkpoint

__all__ = ["Predictor", "find_checkpoint"]
