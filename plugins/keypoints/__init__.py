"""Generic keypoint detectors: where self-training starts."""
