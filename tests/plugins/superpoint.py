"""A SuperPoint network whose weights are made up, not trained, for tests."""

from pathlib import Path

import pytest
import torch

_DUSTBIN = 64


def save_tiny(folder: Path) -> Path:
    """Write a small network into a folder that ``weights`` may name.

    A cell of 8×8 pixels with an edge in it gets keypoints at made-up places within the cell, one
    without gets none. Only the zeros beyond the border are an edge too, for the cells there.
    """
    library = pytest.importorskip("transformers")
    config = library.SuperPointConfig(
        encoder_hidden_sizes=[4, 4, 4, 4], decoder_hidden_size=4, descriptor_decoder_dim=16
    )
    model = library.SuperPointForKeypointDetection(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.zero_()
    first = model.encoder.conv_blocks[0].conv_a
    # Differences of neighbours: zero where the image is constant.
    for channel, (dy, dx) in enumerate([(0, 2), (2, 0), (1, 2), (2, 1)]):
        first.weight.data[channel, 0, 1, 1] = 1
        first.weight.data[channel, 0, dy, dx] = -1
    rest = [layer for block in model.encoder.conv_blocks for layer in (block.conv_a, block.conv_b)]
    score, descriptor = model.keypoint_decoder, model.descriptor_decoder
    for layer in (*rest[1:], score.conv_score_a, descriptor.conv_descriptor_a):
        layer.weight.data[:, :, 1, 1] = torch.eye(4)
    score.conv_score_b.weight.data.normal_(0, 300, generator=generator)
    score.conv_score_b.weight.data[_DUSTBIN] = 0
    score.conv_score_b.bias.data[_DUSTBIN] = 6
    descriptor.conv_descriptor_b.weight.data.normal_(generator=generator)
    model.save_pretrained(folder)
    return folder
