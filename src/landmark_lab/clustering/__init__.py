"""Clustering of descriptors."""
