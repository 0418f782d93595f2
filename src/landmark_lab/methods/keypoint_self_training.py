"""Keypoints by self-training without correspondence, and correspondence with one template.

D. Mallis, "Unsupervised Landmark Discovery via Self-Training Correspondence", PhD thesis, 2023,
chapter 4, algorithm 1. A generic detector finds a noisy mixture: some of its keypoints lie on
landmarks, in many images on the same ones, and the others anywhere. A network that is stopped early
learns what the images have in common before it learns the noise by heart. So, in rounds:

- Ψ, one confidence map for all keypoints of an image, is trained *from scratch* on the keypoints of
  the last round: the mean squared error of the map and Gaussians at the keypoints.
- After 1,500 steps it looks at all training images. Its peaks above a threshold (eq. 4.1) are the
  keypoints of the next round. From round 5 on its maps of several transformed copies of an image
  are averaged (data distillation): what is background is not found in all of them.

What keeps Ψ from learning the noise (§4.2.3): weight decay, large batches and a small learning
rate, few steps, group normalisation, and strong augmentation, which is the pairing's and the
loader's business: ``mirrored`` pairs with ``affine`` warps (scale 0.7 to 1.3, rotation ±30°) and
colours. Both images of a pair are trained on, so the paper's batches of 128 are 64 pairs.

A round can be too short or too long. A network that has learned too little finds few keypoints,
nowhere in particular, and the next rounds learn these. And a generic detector is a function of the
image: a network that has the steps learns this very function, and finds what the detector found.
The threshold says in what share of its appearances a keypoint must have been found to be found in
all of them from the next round on; noise grows from round to round where it is low.

At last the keypoints of each image are put in the order of a template, ``clustering/template.py``
(§4.2.4), and images with too few correspondences are left out. ``landmark_detector`` learns these
landmarks in a stage of its own, three rounds of 15,000 steps from scratch::

    stages:
      keypoints: {method: {name: keypoint_self_training, landmarks: 13}}
      landmarks:
        method: {name: landmark_detector, landmarks: 13, labels: {stage: keypoints}, ...}

Deviations and what the text leaves open. The map is linear, not a sigmoid, which starts at one half
everywhere and would spend a short round on learning that most of an image is background. The
weight decay is the 1e-5 of §4.3; §4.2.3 says 5e-5. Neither the threshold nor the suppression's
radius is given. The template's image need not be chosen: by default it is the one to which most
others can be aligned. The keypoints are aligned in mirrored form too; so the second stage learns
from mirror images, for which the text has no correspondence.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from landmark_lab.data.batch import Pair, Sample
from landmark_lab.data.keypoints import NO_CLUSTER, KeypointTable
from landmark_lab.data.rounds import Labelled
from landmark_lab.data.template import Template, position_of
from landmark_lab.errors import DataError
from landmark_lab.geometry.distillation import distil, distillation_warps
from landmark_lab.geometry.peaks import peaks
from landmark_lab.keypoint_network import LandmarkNetwork
from landmark_lab.losses.heatmap import Gaussian, keypoint_regression
from landmark_lab.plugin import part, settings
from landmark_lab.roles import Backbone, KeypointDetector, Optimiser, Schedule
from landmark_lab.rounds import Found, RoundsMethod, UnusableRound

# Keypoints of an image, at most.
_MOST = 200


class KeypointSelfTraining(RoundsMethod, name="keypoint_self_training"):
    """Keypoints that images have in common, by rounds from scratch (Mallis, thesis, chapter 4).

    Args:
        landmarks: points of the template, the paper's K; the rounds do not depend on it.
        template: what gives the keypoints their correspondence in the end.
        keypoints: finds the initial keypoints.
        backbone: its finest map is the resolution of the confidence map.
        every: steps of a round.
        distil: the first round whose keypoints are distilled.
        mirror: whether mirrored keypoints are aligned, too; needed for mirrored pairs.
        threshold: of the confidence map, in [0, 1).
        radius: of the non-maximum suppression, in cells.
        sigma: of the Gaussians at the keypoints, in cells.
        weights: of the loss.
        optimiser: the paper's by default.
        schedule: over all rounds.
    """

    cure: ClassVar[str] = (
        "a lower threshold, more steps in a round or a larger learning rate (a round that ends too "
        "early finds little), more initial keypoints"
    )

    reads_descriptors = False

    def __init__(
        self,
        landmarks: int = 13,
        template: Template = Template(),  # noqa: B008 - frozen
        keypoints: KeypointDetector = part("superpoint", scales=(1.0,)),
        backbone: Backbone = part(
            "hourglass", stride=4, block="parallel", blocks=1, norm="group", groups=32
        ),
        every: int = 1_500,
        distil: int = 5,
        mirror: bool = True,
        threshold: float = 0.15,
        radius: int = 2,
        sigma: float = 1.0,
        weights: Mapping[str, float] = settings(detection=1.0),
        optimiser: Optimiser = part("rmsprop", lr=1e-5, weight_decay=1e-5),
        schedule: Schedule = part("constant"),
    ) -> None:
        super().__init__(keypoints, every, every, weights, optimiser, schedule)
        if template.points and len(template.points) != landmarks:
            raise ValueError(
                f"a template of {len(template.points)} points for {landmarks} landmarks"
            )
        if landmarks < 3 or min(every, distil) < 1 or radius < 0 or not 0 <= threshold < 1:
            raise ValueError(
                f"landmarks {landmarks}, every {every}, distil {distil}, radius {radius}, "
                f"threshold {threshold}; allowed: at least 3, 1, 1 and 0, and 0 to below 1"
            )
        self.network = LandmarkNetwork(backbone, 1)
        self.afresh = True
        self.landmark_count, self.template, self.mirror = landmarks, template, mirror
        self.distil = distil
        self.threshold, self.radius, self.mark = threshold, radius, Gaussian(sigma)
        # In buffers, because the next stage loads the method without its training.
        self.last_round: Tensor
        self.template_image: Tensor
        self.register_buffer("last_round", torch.tensor(0))
        self.register_buffer("template_image", torch.tensor(NO_CLUSTER))

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        """The squared error of the confidence maps of both images of each pair."""
        points = self.in_views(batch).joined().points
        maps: Tensor = self.network(torch.cat([batch.source.image, batch.target.image]))
        return {"detection": keypoint_regression(maps, points, self.mark)}

    # --- rounds ----------------------------------------------------------------------------------

    def find(self, sample: Sample) -> Found:
        """The peaks of the confidence maps, which are distilled once it is time."""
        points, scores, _ = self.keypoints(sample.image)
        return Found(points, scores)

    def relabel(self, found: KeypointTable, number: int) -> Labelled:
        """The keypoints as they are; in round 0 the template's image is looked up."""
        image = self.template_image.cpu()
        if number == 0 and self.template.image is not None:
            where = "method.template.image"
            position = position_of(self.template.image, self._data.images("train"), where)
            image = torch.tensor(position)
        kept = {"last_round": torch.tensor(number), "template_image": image}
        return Labelled(found.without_descriptors(), kept)

    @property
    def concluded(self) -> int:
        """K, the landmarks."""
        return self.landmark_count

    def conclude(self, found: KeypointTable) -> Labelled:
        """For the next stage: the keypoints in the template's order, gaps filled.

        Raises:
            UnusableRound: no image can serve as the template, or none can be aligned with it.
        """
        image = int(self.template_image)
        chosen = None if image == NO_CLUSTER else image
        try:
            return Labelled(self.template.ordered(found, self.landmark_count, chosen, self.mirror))
        except DataError as problem:
            raise UnusableRound(str(problem)) from problem

    # --- what is found ---------------------------------------------------------------------------

    def keypoints(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keypoints (B, N, 2), NaN where there is none, scores (B, N), and labels: all −1."""
        maps: Tensor
        # The round at hand; of a method that was loaded, that of its labels.
        if max(self.number, int(self.last_round)) + 1 >= self.distil:
            size = (images.shape[-2], images.shape[-1])
            views = distillation_warps(len(images), size, device=images.device)
            maps = distil(self.network, images, views)
        else:
            maps = self.network(images)
        points, scores = peaks(maps[:, 0], self.radius, self.threshold, _MOST)
        return points, scores.clamp(max=1), torch.full_like(scores, NO_CLUSTER, dtype=torch.int64)
