"""Data sets that come with the laboratory."""
