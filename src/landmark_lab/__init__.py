"""Landmark Lab: discover the landmarks of objects in images without labels."""

__version__ = "0.1.0"
