"""Images, their annotations, how they become samples, and in which order they are loaded."""
