"""What self-training on keypoints adds to its network's step, as shares measured in the same run.

    python benchmarks/keypoints.py [--repeats 20] [--size 64] [--width 32] [--dimension 64]
        [--batch 16] [--keypoints 30] [--threads 1] [--device cpu]

``network``: forward and backward, from a fixed gradient, of backbone and detector, of two views of
each image. The other rows are what a step computes beside it, each forward and backward:

- ``targets``: the Gaussian map of all keypoints; ``regression``: its squared error.
- ``descriptors``: the head at the keypoints and at 20 places in the background; ``…, whole map``:
  what it would take to describe all cells and read these off, which gives the same.
- ``contrastive``: eq. 6.3 over 5,000 pairs of either kind; ``…, any image``: eq. 5.3.
- ``peaks``: suppression, threshold and refinement. A step needs none; a round does, for each image.

Each repeat times all rows one after the other, so that other work on the machine slows them alike;
the figure is the ratio of the medians. On the CPU it is the processor's time of this process. The
target is that one step's rows together, the first of each kind, take at most 0.15 of the network;
the exit status is 1 if it is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from _common import wait
from torch import Tensor

from landmark_lab.geometry.peaks import peaks
from landmark_lab.keypoint_network import KeypointNetwork
from landmark_lab.losses.contrastive import Contrastive, Described
from landmark_lab.losses.heatmap import gaussian_target, heatmap_regression
from landmark_lab_plugins.backbones.hourglass import Hourglass

NETWORK, STEP = "network", ("targets", "regression", "descriptors", "contrastive")
ANY_IMAGE, WHOLE_MAP = "contrastive, any image", "descriptors, whole map"
BACKGROUND, PAIRS, CLUSTERS, TARGET = 20, 5000, 100, 0.15

Call = Callable[[], object]


def rows(options: argparse.Namespace) -> dict[str, Call]:
    """What is measured, by name."""
    torch.manual_seed(0)
    device, batch, count = options.device, options.batch, options.keypoints
    backbone = Hourglass(width=options.width, blocks=1, block="basic", norm="group")
    network = KeypointNetwork(backbone, options.dimension).to(device)
    images = torch.rand(2 * batch, 3, options.size, options.size, device=device)
    points = (torch.rand(2 * batch, count, 2) * 2 - 1).to(device)
    places = (torch.rand(2 * batch, BACKGROUND, 2) * 2 - 1).to(device)
    labels = torch.randint(CLUSTERS, (batch, count)).to(device)
    uniform = torch.rand(2, PAIRS).to(device)

    with torch.no_grad():
        found, features = network(images), backbone(images)[0]
    size = (found.score.shape[2], found.score.shape[3])
    target = gaussian_target(points, size)
    everywhere = torch.cat([points, places], 1)
    gradients = [torch.randn_like(found.score), torch.randn_like(features)]
    score = found.score.clone().requires_grad_()
    features.requires_grad_()
    described = [features, *network.descriptor.parameters()]
    vectors = network.sample(found.descriptors, everywhere).detach().requires_grad_()

    def step() -> None:
        made = backbone(images)[0]
        torch.autograd.backward((network.detector(made).sigmoid(), made), gradients)
        network.zero_grad()

    def regression() -> Tensor:
        return learn(heatmap_regression(score, target), score)

    def at_points() -> object:
        return torch.autograd.grad(network.describe(features, everywhere).sum(), described)

    def of_a_map() -> object:
        whole = network.descriptor(features)
        return torch.autograd.grad(network.sample(whole, everywhere).sum(), described)

    def contrast(loss: Contrastive) -> Tensor:
        views = []
        for view in (slice(0, batch), slice(batch, None)):
            own, other = vectors[view][:, :count], vectors[view][:, count:]
            views.append(Described.keypoints(own, points[view], labels))
            views.append(Described.background(other, places[view]))
        return learn(loss(Described.joined(views), uniform), vectors)

    return {
        NETWORK: step,
        "targets": lambda: gaussian_target(points, size),
        "regression": regression,
        "descriptors": at_points,
        WHOLE_MAP: of_a_map,
        "contrastive": lambda: contrast(Contrastive()),
        ANY_IMAGE: lambda: contrast(Contrastive(negatives="cluster")),
        "peaks": lambda: peaks(found.score, 2, 0.15, 200),
    }


def learn(loss: Tensor, inputs: Tensor) -> Tensor:
    """The gradient of a loss."""
    return torch.autograd.grad(loss, inputs)[0]


def measure(timed: dict[str, Call], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of every row."""
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for repeat in range(-2, repeats):  # two to warm up
        for name, call in timed.items():
            wait(device)
            start = clock()
            call()
            wait(device)
            if repeat >= 0:
                seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> int:
    """Measure and print the table; 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--width", type=int, default=32, help="channels of the hourglass")
    parser.add_argument("--dimension", type=int, default=64, help="of a descriptor")
    parser.add_argument("--batch", type=int, default=16, help="images, each in two views")
    parser.add_argument("--keypoints", type=int, default=30, help="keypoints of an image")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    medians = measure(rows(options), max(options.repeats, 1), options.device)
    print(
        f"{options.batch} images of {options.size} px in two views, {options.keypoints} keypoints, "
        f"{options.width} channels, descriptors of {options.dimension}; torch "
        f"{torch.__version__}, {options.threads} threads, {options.device}, "
        f"load {os.getloadavg()[0]:.1f}, {options.repeats} repeats"
    )
    for name, seconds in medians.items():
        print(f"{name:24}{1000 * seconds:10.2f} ms{seconds / medians[NETWORK]:10.3f}")
    share = sum(medians[name] for name in STEP) / medians[NETWORK]
    print(f"{' + '.join(STEP)}: {share:.3f} of the network, target {TARGET}")
    return 0 if share <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
