"""An example of a package with plugins for Landmark Lab."""
