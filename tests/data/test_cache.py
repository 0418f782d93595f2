"""The memory for decoded images."""

import os
import pickle

import numpy as np
import pytest

from landmark_lab.data.cache import ImageCache


def image(value, size=8):
    return np.full((size, size, 3), value, np.uint8)


def test_it_gives_back_what_was_put_until_it_is_full():
    cache = ImageCache(rows=10, size=8, limit=3 * (8 * 8 * 3 + 1))
    assert cache.capacity == 3
    for row in (0, 2, 3, 9):
        assert cache.get(row) is None
        cache.put(row, image(row))
    assert [row for row in range(10) if cache.get(row) is not None] == [0, 2]
    np.testing.assert_array_equal(cache.get(2), image(2))


def test_what_it_gives_is_a_copy():
    cache = ImageCache(4, 8, 10**6)
    cache.put(1, image(5))
    cache.get(1)[:] = 0
    np.testing.assert_array_equal(cache.get(1), image(5))


@pytest.mark.parametrize("rows", [0, 5])
def test_it_may_be_empty(rows):
    cache = ImageCache(rows, 8, 0)
    cache.prepare()
    cache.put(0, image(1))
    assert cache.get(0) is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_processes_share_it():
    cache = ImageCache(4, 8, 10**6)
    cache.prepare()
    child = os.fork()
    if child == 0:
        cache.put(2, image(7))
        os._exit(0)
    os.waitpid(child, 0)
    np.testing.assert_array_equal(cache.get(2), image(7))


def test_a_process_that_is_started_anew_begins_empty():
    cache = ImageCache(4, 8, 10**6)
    cache.put(2, image(7))
    other = pickle.loads(pickle.dumps(cache))
    assert other.get(2) is None
    other.put(2, image(8))
    np.testing.assert_array_equal(other.get(2), image(8))
