"""Estimators of the optical flow between frames of a video."""
