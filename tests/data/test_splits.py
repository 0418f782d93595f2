"""Drawn splits."""

import pytest
from hypothesis import given, settings, strategies as st

from landmark_lab.data.splits import draw_splits
from landmark_lab.errors import DataError

FRACTIONS = {"test": 0.2, "val": 0.1}


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60), st.integers(0, 9))
def test_groups_are_never_shared_and_no_split_is_empty(groups, seed):
    if len(set(groups)) < 3:
        with pytest.raises(DataError, match="cannot fill 3 splits"):
            draw_splits(groups, FRACTIONS, seed)
        return
    drawn = draw_splits(groups, FRACTIONS, seed)
    assert set(drawn) == {"train", "val", "test"}
    for group in set(groups):
        assert (
            len({split for split, other in zip(drawn, groups, strict=True) if other == group}) == 1
        )


def test_fractions_are_kept():
    groups = [f"person {i // 3}" for i in range(3000)]
    drawn = draw_splits(groups, FRACTIONS, 0)
    assert drawn.count("test") == pytest.approx(600, abs=3)
    assert drawn.count("val") == pytest.approx(300, abs=3)


def test_order_does_not_matter_and_more_files_change_little():
    groups = [f"{i}.png" for i in range(200)]
    drawn = dict(zip(groups, draw_splits(groups, FRACTIONS, 0), strict=True))
    turned = dict(zip(groups[::-1], draw_splits(groups[::-1], FRACTIONS, 0), strict=True))
    assert drawn == turned
    more = [*groups, "new.png"]
    again = dict(zip(more, draw_splits(more, FRACTIONS, 0), strict=True))
    assert sum(again[name] != drawn[name] for name in groups) <= 2
    assert draw_splits(groups, FRACTIONS, 1) != list(drawn.values())


def test_a_fraction_of_zero_makes_no_split():
    assert set(draw_splits(["a", "b"], {"test": 0.5, "val": 0}, 0)) == {"train", "test"}
    assert draw_splits(["a"], {"test": 0, "val": 0}, 0) == ["train"]
