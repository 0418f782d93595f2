"""What happens beside the training step: saving, logging, watching, drawing."""
