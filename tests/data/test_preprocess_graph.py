"""The preprocessing that exported models carry, against the one of the training."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landmark_lab.data.preprocess import Preprocess
from landmark_lab.data.preprocess_graph import PreprocessGraph
from landmark_lab.seeding import rng


class ThereAndBack(nn.Module):
    """The squares, and points of them in pixels of the images."""

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.square = PreprocessGraph(preprocess)

    def forward(self, images: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.square(images), self.square.to_original(points, images)


def exported(preprocess: Preprocess) -> nn.Module:
    free = {0: torch.export.Dim("n", min=1), 1: torch.export.Dim("h"), 2: torch.export.Dim("w")}
    example = torch.zeros(2, 91, 113, 3, dtype=torch.uint8), torch.zeros(2, 5, 2)
    shapes = {"images": free, "points": {0: free[0]}}
    program = torch.export.export(ThereAndBack(preprocess), example, dynamic_shapes=shapes)
    return program.module()


# Sides relative to the outer square's: whole multiples (OpenCV's shortcuts, one of them for 2 × 2),
# fractions with a power of two (sums half-way between two grey levels), growing, both at once.
FACTORS = [(2, 2), (3, 3), (2, 4), (1, 1), (1.5, 1.5), (0.5, 0.5), (0.3, 0.7), (3.7, 0.4), (0.2, 5)]


@pytest.mark.parametrize(
    "preprocess",
    [
        pytest.param(Preprocess(64, fill=(10, 200, 30)), id="letterbox"),
        pytest.param(Preprocess(64, "squash", window=0.75), id="squash"),
        pytest.param(Preprocess(50, "crop", window=0.8), id="crop", marks=pytest.mark.slow),
        pytest.param(
            Preprocess(48, window=0.6, fill="edge"), id="letterbox-edge", marks=pytest.mark.slow
        ),
    ],
)
def test_squares_are_the_same_to_the_last_bit(preprocess: Preprocess) -> None:
    graph = exported(preprocess)
    outer = preprocess.outer_size
    draw = rng(0, "images", outer)
    sizes = [(max(8, round(outer * a)), max(8, round(outer * b))) for a, b in FACTORS]
    sizes += [tuple(draw.integers(8, 400, 2).tolist()) for _ in range(12)]
    for height, width in [*sizes, (128, 128), (406, 396), (480, 632)]:
        images = draw.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        points = draw.uniform(-1, 1, (2, 5, 2)).astype(np.float32)
        squares, pixels = graph(torch.from_numpy(images), torch.from_numpy(points))
        for row, image in enumerate(images):
            expected, place = preprocess(image)
            found = (squares[row] * 255).permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(found.round(), expected, err_msg=f"{height}x{width}")
            np.testing.assert_allclose(found, expected, atol=1e-4)
            np.testing.assert_allclose(pixels[row], place.to_original(points[row]), atol=1e-4)
