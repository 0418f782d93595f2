"""Object keypoint similarity (OKS), and the average precision and recall over it.

The OKS of one object is the mean over its annotated points of ``exp(−e² / (2 s² k²))`` with the
distance e of the prediction, the object's area s², and k = 2σ, twice the spread of annotators about
that point. A predicted object is right if its OKS is at least a threshold; average precision (AP)
and recall (AR) are means over the thresholds 0.50, 0.55, ..., 0.95 of COCO's evaluation, whose own
code (pycocotools, imported in this file only) computes them. There is one object an image here.

Convention: any isotropic coordinates, the same for points, predictions and √area.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.errors import require
from landmark_lab.metrics.rows import RowMetric

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Those of COCO."""

_PURPOSE = "average precision over the object keypoint similarity"


def keypoint_similarity(predicted: Tensor, points: Tensor, area: Tensor, sigmas: Tensor) -> Tensor:
    """The OKS of every object.

    Args:
        predicted: (N, P, 2), NaN where not found: as far away as can be.
        points: (N, P, 2) annotation, NaN where a point does not count.
        area: (N,) of the object; one without a positive area is left out.
        sigmas: (P,) σ of each point, as a share of √area.

    Returns:
        (N,) in [0, 1], NaN for an object that is left out or of which no point counts.
    """
    known = ~points.isnan().any(-1) & (area > 0)[:, None]
    squares = (predicted - points).square().sum(-1)
    each = torch.exp(-squares / (2 * area[:, None] * (2 * sigmas).square())).nan_to_num(0.0)
    return torch.where(known, each, 0).sum(1) / known.sum(1)


class KeypointDetections:
    """COCO's evaluation of one predicted object in each image, ready to be asked.

    Args:
        predicted, points, area, sigmas: see :func:`keypoint_similarity`; only objects whose
            similarity is not NaN are evaluated.
        scores: (N,) how sure each prediction is: the order of the objects on the precision-recall
            curve.
        thresholds: T of the OKS.

    Attributes:
        counts: (N,) bool, the objects that are evaluated.

    Raises:
        MissingDependencyError: pycocotools is not installed.
    """

    def __init__(
        self,
        predicted: Tensor,
        points: Tensor,
        area: Tensor,
        sigmas: Tensor,
        scores: Tensor,
        thresholds: tuple[float, ...] = THRESHOLDS,
    ) -> None:
        evaluate = require("pycocotools.cocoeval", purpose=_PURPOSE).COCOeval
        self.counts = (area > 0) & ~points.isnan().any(-1).all(1)
        predicted, points, area, scores = (
            column[self.counts].double().cpu() for column in (predicted, points, area, scores)
        )
        known = ~points.isnan().any(-1)
        # What was not found lies so far away that it adds nothing.
        far = 1e3 * (points.nan_to_num().abs().amax() + area.max().sqrt()) if len(area) else 0.0
        truths = [
            {"area": float(size), "iscrowd": 0, "num_keypoints": int(seen.sum()),
             "bbox": [0.0, 0.0, 1.0, 1.0], "keypoints": _triples(at, seen)}
            for at, size, seen in zip(points, area, known, strict=True)
        ]  # fmt: skip
        found = [
            {"area": 1.0, "score": float(score), "keypoints": _triples(at, torch.ones(len(at)))}
            for at, score in zip(predicted.nan_to_num(float(far)), scores, strict=True)
        ]
        self._evaluation = evaluate(_annotations(truths), _annotations(found), "keypoints")
        settings = self._evaluation.params
        settings.iouThrs = np.array(thresholds)
        settings.kpt_oks_sigmas = sigmas.double().cpu().numpy()
        settings.areaRng, settings.areaRngLbl, settings.maxDets = [[0.0, np.inf]], ["all"], [1]
        _quietly(self._evaluation.evaluate)
        self._images = list(self._evaluation.evalImgs)

    def __len__(self) -> int:
        return len(self._images)

    def precision_recall(self, rows: NDArray[np.int64] | None = None) -> Tensor:
        """Precision and recall at each threshold.

        Args:
            rows: the evaluated objects to count, as often as they are listed, e.g. resampled ones;
                by default each once. As many as there are.

        Returns:
            (T, 2): the area under the precision-recall curve, and the share of the objects found;
            NaN without objects.
        """
        if not self._images:
            return torch.full((len(self._evaluation.params.iouThrs), 2), torch.nan)
        chosen = range(len(self._images)) if rows is None else rows.tolist()
        self._evaluation.evalImgs = [self._images[row] for row in chosen]
        _quietly(self._evaluation.accumulate)
        # (thresholds, 101 recalls, 1 category, 1 area range, 1 number of detections)
        precision = self._evaluation.eval["precision"][:, :, 0, 0, 0].mean(1)
        recall = self._evaluation.eval["recall"][:, 0, 0, 0]
        return torch.from_numpy(np.stack([precision, recall], 1))


def average_precision(
    predicted: Tensor,
    points: Tensor,
    area: Tensor,
    sigmas: Tensor,
    scores: Tensor,
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> Tensor:
    """AP and AR, the means over the thresholds; see :class:`KeypointDetections`.

    Returns:
        (2,) in [0, 1].
    """
    found = KeypointDetections(predicted, points, area, sigmas, scores, thresholds)
    return found.precision_recall().mean(0)


class _OfObjects(RowMetric):
    """A number about one predicted object in each image, each image counted once."""

    higher_is_better = True
    is_differentiable = False

    def __init__(self, sigmas: Tensor, **settings: Any) -> None:
        super().__init__(("predicted", "points", "area", "scores"), **settings)
        self.sigmas = sigmas

    def update(
        self, predicted: Tensor, points: Tensor, area: Tensor, scores: Tensor, index: Tensor
    ) -> None:
        """Add a batch.

        Args:
            predicted, points, area, scores: see :class:`KeypointDetections`.
            index: (B,) position of each image in its split.
        """
        self.keep(index, predicted=predicted, points=points, area=area, scores=scores)


class KeypointSimilarity(_OfObjects):
    """The mean of :func:`keypoint_similarity` over batches and processes.

    Args:
        sigmas: (P,) σ of each point.
    """

    def compute(self) -> Tensor:
        """The mean over all images seen by all processes."""
        rows = self.rows()
        similarity = keypoint_similarity(
            rows["predicted"], rows["points"], rows["area"], self.sigmas
        )
        return similarity.nanmean()


class AveragePrecision(_OfObjects):
    """:func:`average_precision` over batches and processes.

    Args:
        sigmas: (P,) σ of each point.
        thresholds: of the OKS.
    """

    def __init__(
        self, sigmas: Tensor, thresholds: tuple[float, ...] = THRESHOLDS, **settings: Any
    ) -> None:
        super().__init__(sigmas, **settings)
        self.thresholds = thresholds

    def compute(self) -> Tensor:
        """(2,) AP and AR over all images seen by all processes."""
        return average_precision(sigmas=self.sigmas, thresholds=self.thresholds, **self.rows())


def _annotations(objects: list[dict[str, Any]]) -> Any:
    """One object an image as pycocotools holds them."""
    coco = require("pycocotools.coco", purpose=_PURPOSE).COCO()
    own = [{"id": n + 1, "image_id": n, "category_id": 1, **one} for n, one in enumerate(objects)]
    coco.dataset = {
        "images": [{"id": n} for n in range(len(objects))],
        "annotations": own,
        "categories": [{"id": 1, "name": "object"}],
    }
    _quietly(coco.createIndex)
    return coco


def _triples(points: Tensor, visible: Tensor) -> list[float]:
    """x, y and 1 or 0 of each point in one list; 0, 0, 0 where unknown."""
    triples: list[float] = torch.cat([points.nan_to_num(), visible[:, None]], 1).ravel().tolist()
    return triples


def _quietly(work: Any) -> None:
    """Do something that reports its progress on the standard output."""
    with contextlib.redirect_stdout(io.StringIO()):
        work()


__all__ = [
    "THRESHOLDS",
    "AveragePrecision",
    "KeypointDetections",
    "KeypointSimilarity",
    "average_precision",
    "keypoint_similarity",
]
