"""What the second stages of self-training share: one map a landmark, from labelled keypoints.

D. Mallis, PhD thesis, sections 4.2.4, 5.2.2 and 6.1.7. A network
Ψ gives one map H_k for each label that the first stage gives to keypoints, and is trained by

    L_d = mean over k of |H_k − Ψ(x)_k|²

over the labels k that have a keypoint in the image (eq. 5.4): a landmark that was not found may be
there nevertheless. H_k has a Gaussian at the keypoint, of 3×3 cells as in public code. A keypoint
that a warp carries out of the image does not count.

In an experiment the first stage is named twice, for labels and for weights, the last layer's
excepted::

    stages:
      keypoints: {method: {name: self_training, landmarks: 30}}
      landmarks:
        method: {name: landmark_detector, landmarks: 30, labels: {stage: keypoints}}
        start_from: {stage: keypoints, parts: [network.backbone]}

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from landmark_lab.data.batch import Pair
from landmark_lab.errors import ConfigError
from landmark_lab.keypoint_network import LandmarkNetwork
from landmark_lab.losses.heatmap import landmark_regression
from landmark_lab.roles import Backbone, Method, Optimiser, Schedule
from landmark_lab.rounds import Labels, RoundsMethod, by_label


class LandmarkMaps(RoundsMethod):
    """A method that learns one map for each label of an earlier stage's keypoints.

    Args:
        labels: whose keypoints are learned from.
        count: labels of that stage, and maps.
        backbone: its finest map is the resolution.
        every: steps of a round; 0: there is one.
        threshold: a landmark whose map stays below is not found.
        weights, optimiser, schedule: see ``Method``.

    Attributes:
        counted: what a subclass calls ``count`` in its settings.
    """

    counted: ClassVar[str]
    network: LandmarkNetwork

    def __init__(
        self,
        labels: Labels,
        count: int,
        backbone: Backbone,
        every: int,
        threshold: float,
        weights: Mapping[str, float],
        optimiser: Optimiser,
        schedule: Schedule,
    ) -> None:
        super().__init__(labels, every, every, weights, optimiser, schedule)
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold {threshold}; allowed: at least 0, below 1")
        self.network = LandmarkNetwork(backbone, count)
        self.count, self.threshold = count, threshold

    def losses(self, batch: Pair) -> dict[str, Tensor]:
        """The squared error of the maps whose landmark is known, of both images of each pair."""
        views = self.in_views(batch).joined()
        maps: Tensor = self.network(torch.cat([batch.source.image, batch.target.image]))
        points = by_label(views.points, views.labels, self.count)
        return {"detection": landmark_regression(maps, points)}

    def check_teacher(self, teacher: Method) -> None:
        """Refuse a first stage that gives another number of labels.

        Raises:
            ConfigError: what to change.
        """
        super().check_teacher(teacher)
        assert isinstance(teacher, RoundsMethod)
        given = teacher.concluded
        if given != self.count:
            raise ConfigError(
                f"learns {self.count} {self.counted} from the {given} of '{teacher.plugin_name}'",
                where=f"method.{self.counted}",
                allowed=str(given),
            )
