"""A detector of K landmarks, learned from keypoints that were clustered before.

D. Mallis, E. Sanchez, M. Bell, G. Tzimiropoulos, "From keypoints to object landmarks via
self-training correspondence", TPAMI 2023; D. Mallis, PhD thesis, §6.1.7: the second stage. A
network Ψ gives K maps, regressed to Gaussians at the keypoints of K clusters, which the first stage
finds in all training images and clusters once more:

    L_d = mean over k of |H_k − Ψ(x)_k|²,

over the clusters k that have a keypoint in the image; a landmark that was not found somewhere may
be there nevertheless. The network starts from the first stage's weights, but for the last layer.

In an experiment the first stage is named twice, for labels and for weights::

    stages:
      keypoints: {method: {name: self_training, landmarks: 30}}
      landmarks:
        method: {name: landmark_detector, landmarks: 30, labels: {stage: keypoints}}
        start_from: {stage: keypoints, parts: [network.backbone]}

Flipping (§6.1.8): the partner of a cluster in mirror images is the one that most of its keypoints
belong to there, over the whole data set (``clustering/flip.py``). In mirrored pairs a keypoint is a
landmark of the partner's map; and what is found in an image is the mean of its maps and of those of
its mirror image, mirrored back.

The landmarks of a template (chapter 4, ``keypoint_self_training``) are learned likewise, in rounds
of 15,000 steps from scratch: ``every: 15000, afresh: true``.

What the text leaves open: the marks have 3×3 cells, the learning rate is a tenth of the first
stage's (both as in public code). A landmark that a warp carries out of the image does not count.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from landmark_lab.clustering.flip import partners
from landmark_lab.data.batch import Pair, Sample
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.rounds import Labelled
from landmark_lab.errors import ConfigError
from landmark_lab.geometry.peaks import channel_peaks
from landmark_lab.keypoint_network import LandmarkNetwork
from landmark_lab.losses.heatmap import landmark_regression
from landmark_lab.plugin import part, settings
from landmark_lab.roles import Backbone, Method, Optimiser, Schedule
from landmark_lab.rounds import Found, Labels, RoundsMethod, by_label


class LandmarkDetector(RoundsMethod, name="landmark_detector"):
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
        super().__init__(labels, every, every, weights, optimiser, schedule)
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold {threshold}; allowed: at least 0, below 1")
        self.network = LandmarkNetwork(backbone, landmarks)
        self.afresh = afresh
        self.mirror, self.threshold = mirror, threshold
        self.partner: Tensor
        self.learned: Tensor
        self.register_buffer("partner", torch.arange(landmarks))
        self.register_buffer("learned", torch.ones(landmarks, dtype=torch.bool))

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        """The squared error of the maps whose landmark is known, of both images of each pair."""
        points, labels = self.in_source(batch)
        moved, theirs = self.in_target(batch, points)
        maps: Tensor = self.network(torch.cat([batch.source.image, batch.target.image]))
        places, names = torch.cat([points, moved]), torch.cat([labels, theirs])
        ordered = by_label(places, names, len(self.partner))
        return {"detection": landmark_regression(maps, ordered)}

    def find(self, sample: Sample) -> Found:
        """The landmarks of the images."""
        points, scores = self.landmarks(sample.image)
        every = torch.arange(len(self.partner), device=points.device)
        return Found(points, scores, labels=every.expand_as(scores))

    def relabel(self, found: KeypointTable, number: int) -> Labelled:
        """The keypoints as they are, and which cluster is which in mirror images."""
        count = len(self.partner)
        if number:
            partner, learned = self.partner.cpu(), self.learned.cpu()
        else:
            partner = partners(found.labels, found.mirrored, count)
            learned = found.labels[found.labels >= 0].bincount(minlength=count) > 0
            if not learned.all():
                empty = int((~learned).sum())
                rank_zero_warn(
                    f"{empty} of {count} clusters hold no keypoint; these landmarks are never found"
                )
        # Per data set, and not per keypoint as in the first stage.
        mirrored = torch.where(found.labels >= 0, partner[found.labels], -1)
        kept = {"partner": partner, "learned": learned}
        return Labelled(replace(found, mirrored=mirrored), kept)

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks (B, K, 2), and as scores (B, K) the heights of their maps, clamped to 1."""
        maps: Tensor = self.network(images)
        if self.mirror:
            there: Tensor = self.network(images.flip(-1))
            maps = (maps + there.flip(-1)[:, self.partner]) / 2
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
        assert isinstance(teacher, RoundsMethod)
        count = teacher.concluded
        if count != len(self.partner):
            raise ConfigError(
                f"learns {len(self.partner)} landmarks from the {count} of '{teacher.plugin_name}'",
                where="method.landmarks",
                allowed=str(count),
            )
        if self.mirror and not teacher.spec.get("mirror"):
            raise ConfigError(
                f"the method '{teacher.plugin_name}' was not set to look at mirror images",
                where="method.mirror",
                allowed="mirror: false, or mirror: true in both stages",
            )
