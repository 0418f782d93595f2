"""Warp generators: random maps between two views of an image.

Each draws two batches of warps, one on top of the other: the *view* takes the image to the source,
the *warp* takes the source to the target. Settings are therefore pairs, (view, warp).
"""
