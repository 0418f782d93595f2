"""What the drawn worlds share: clips of frames, motions kept on the disk, solids in space."""
