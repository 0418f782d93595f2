"""A detector of K landmarks, learned from keypoints that were clustered before.

D. Mallis, E. Sanchez, M. Bell, G. Tzimiropoulos, "From keypoints to object landmarks via
self-training correspondence", TPAMI 2023; D. Mallis, PhD thesis, §6.1.7: the second stage of
``self_training``, whose keypoints in K clusters it learns as ``landmark_maps.py`` says, starting
from that stage's weights.

Flipping (§6.1.8): the partner of a cluster in mirror images is the one that most of its keypoints
belong to there, over the whole data set (``clustering/flip.py``). In mirrored pairs a keypoint is a
landmark of the partner's map; and what is found in an image is the mean of its maps and of those of
its mirror image, mirrored back.

The landmarks of a template (chapter 4, ``keypoint_self_training``) are learned likewise, in rounds
of 15,000 steps from scratch: ``every: 15000, afresh: true``.

What the text leaves open: the learning rate is a tenth of the first stage's, as in public code.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from landmark_lab.clustering.flip import certainty, partners
from landmark_lab.data.batch import Sample
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.rounds import Labelled
from landmark_lab.errors import ConfigError
from landmark_lab.geometry.distillation import flip_average
from landmark_lab.geometry.peaks import channel_peaks
from landmark_lab.landmark_maps import LandmarkMaps
from landmark_lab.plugin import part, settings
from landmark_lab.roles import Backbone, Method, Optimiser, Schedule
from landmark_lab.rounds import Found, Labels


class LandmarkDetector(LandmarkMaps, name="landmark_detector"):
    """One map a landmark, learned from clustered keypoints (Mallis et al., TPAMI 2023, stage 2).

    Args:
        labels: whose keypoints are learned from: ``{stage: NAME}`` or ``{checkpoint: PATH}``.
        landmarks: K, as many as the first stage has.
        backbone: the first stage's.
        mirror: whether the mirror image is looked at, too; the first stage must have clustered
            mirror images.
        threshold: a landmark whose map stays below is not found.
        every: steps of a round, after which it learns from the landmarks that it finds itself; 0:
            from those of the first stage throughout.
        afresh: whether each of these rounds starts with new weights.
        weights: of the loss.
        optimiser: the paper's by default.
        schedule: of the learning rate.
    """

    counted: ClassVar[str] = "landmarks"

    def __init__(
        self,
        labels: Labels,
        landmarks: int = 10,
        backbone: Backbone = part(
            "hourglass", blocks=1, block="parallel", norm="group", groups=32, stride=4
        ),
        mirror: bool = True,
        threshold: float = 0.0,
        every: int = 0,
        afresh: bool = False,
        weights: Mapping[str, float] = settings(detection=1.0),
        optimiser: Optimiser = part("rmsprop", lr=2e-5, weight_decay=1e-5),
        schedule: Schedule = part("constant"),
    ) -> None:
        super().__init__(
            labels, landmarks, backbone, every, threshold, weights, optimiser, schedule
        )
        if afresh and not every:
            raise ValueError("afresh without rounds; allowed: with every, the steps of a round")
        self.afresh, self.mirror = afresh, mirror
        self.partner: Tensor
        self.learned: Tensor
        self.register_buffer("partner", torch.arange(landmarks))
        self.register_buffer("learned", torch.ones(landmarks, dtype=torch.bool))

    def find(self, sample: Sample) -> Found:
        """The landmarks of the images."""
        points, scores = self.landmarks(sample.image)
        every = torch.arange(self.count, device=points.device)
        return Found(points, scores, labels=every.expand_as(scores))

    def relabel(self, found: KeypointTable, number: int) -> Labelled:
        """The keypoints as they are, and which cluster is which in mirror images."""
        if number:
            partner, learned = self.partner.cpu(), self.learned.cpu()
        else:
            partner = partners(found.labels, found.mirrored, self.count)
            learned = found.labels[found.labels >= 0].bincount(minlength=self.count) > 0
            if not learned.all():
                empty = int((~learned).sum())
                rank_zero_warn(
                    f"{empty} of {self.count} clusters hold no keypoint; these landmarks are never "
                    "found"
                )
            if self.mirror and learned.any():
                met = certainty(found.labels, found.mirrored, partner)[learned].mean()
                rank_zero_info(f"in mirror images {met:.0%} of the keypoints are their partners")
        # Per data set, and not per keypoint as in the first stage.
        mirrored = torch.where(found.labels >= 0, partner[found.labels], -1)
        kept = {"partner": partner, "learned": learned}
        return Labelled(replace(found, mirrored=mirrored), kept)

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks (B, K, 2), and as scores (B, K) the heights of their maps, clamped to 1."""
        if self.mirror:
            maps = flip_average(self.network, images, self.partner)
        else:
            maps = self.network(images)
        points, scores = channel_peaks(maps, self.threshold)
        # A map that nothing was regressed to is noise.
        lost = ~self.learned
        return points.masked_fill(lost[:, None], torch.nan), scores.clamp(max=1).masked_fill(
            lost, 0
        )

    def check_teacher(self, teacher: Method) -> None:
        """Refuse a first stage of another number of landmarks, or that knows no mirror images.

        Raises:
            ConfigError: what to change.
        """
        super().check_teacher(teacher)
        if self.mirror and not teacher.spec.get("mirror"):
            raise ConfigError(
                f"the method '{teacher.plugin_name}' was not set to look at mirror images",
                where="method.mirror",
                allowed="mirror: false, or mirror: true in both stages",
            )
