"""Methods: one paper's idea, one file."""
