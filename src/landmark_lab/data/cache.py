"""A bounded memory for decoded images."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ImageCache:
    """Keeps the first images of a table, as many as fit; forked loading processes share it.

    Nothing is thrown out again: under shuffled epochs a memory for half of the images then serves
    half of the requests, where one that drops the least recently used serves a sixth. The pages
    that were never written take no memory. A process that is not forked but started anew (macOS,
    Windows, Python 3.14) begins with an empty cache and its share of the limit.

    Args:
        rows: number of images.
        size: side of the square images in pixels.
        limit: largest number of bytes.
    """

    def __init__(self, rows: int, size: int, limit: int) -> None:
        self.size = size
        self.capacity = max(0, min(rows, limit // (3 * size**2 + 1)))
        self._images: NDArray[np.uint8] | None = None
        self._present: NDArray[np.uint8] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"size": self.size, "capacity": self.capacity, "_images": None, "_present": None}

    def get(self, row: int) -> NDArray[np.uint8] | None:
        """A copy of the image of a row, (size, size, 3), or None if it is not kept."""
        if self._present is None or row >= self.capacity or not self._present[row]:
            return None
        assert self._images is not None
        image: NDArray[np.uint8] = self._images[row].copy()
        return image

    def put(self, row: int, image: NDArray[np.uint8]) -> None:
        """Keep the image of a row, if there is room for it."""
        if row >= self.capacity:
            return
        if self._present is None:
            self._allocate()
        assert self._images is not None
        assert self._present is not None
        self._images[row] = image
        self._present[row] = 1  # after the pixels: another process may be reading

    def prepare(self) -> None:
        """Reserve the memory now, so that processes forked from here on share it."""
        if self._present is None:
            self._allocate()

    def _allocate(self) -> None:
        from torch.utils.data import get_worker_info

        worker = get_worker_info()
        if worker is not None:
            self.capacity //= worker.num_workers
        shape = (self.capacity, self.size, self.size, 3)
        # Anonymous memory is shared by forked processes and, unlike /dev/shm, has no limit that a
        # container may set to 64 MB.
        pixels, flags = (mmap.mmap(-1, max(n, 1)) for n in (int(np.prod(shape)), self.capacity))
        self._images = np.frombuffer(pixels, np.uint8, int(np.prod(shape))).reshape(shape)
        self._present = np.frombuffer(flags, np.uint8, self.capacity)
