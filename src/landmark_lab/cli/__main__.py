"""``python -m landmark_lab.cli``, for launchers that want a module."""

from landmark_lab.cli import main

main()
