"""Backbones that come with the laboratory."""
