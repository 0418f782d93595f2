"""Annotation files: COCO keypoints JSON, DeepLabCut CSV, ``.pts``, CAT and plain CSV.

``read(path)`` recognises the format by the file's content; each format has a module of its own
with a reader and a writer.
"""

from landmark_lab.data.annotations.common import Annotations
from landmark_lab.data.annotations.detect import FORMATS, read, recognise

__all__ = ["FORMATS", "Annotations", "read", "recognise"]
