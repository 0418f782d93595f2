"""Symmetric transfer: does a method know which point of the right side belongs to one of the left?

J. Thewlis, H. Bilen, A. Vedaldi, "Modelling and unsupervised learning of symmetric deformable
object categories", NeurIPS 2018, section 6.1 and figure 4a: the vector of a point on one side is
reflected, the most similar cell of the same image found, and its distance from the annotated
partner measured in pixels (200 faces; eyes and mouth corners). A method without sides is compared
in two ways: its vectors are reflected like the learned ones, by the sign of the first coordinate,
which means nothing to it (``reflection: first_axis``), or in a plane estimated afterwards from
annotated points of 200 training images (``estimated``, see ``geometry/mirror_plane.py``).

Convention: see ``evaluation/match_scores.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from landmark_lab.data.exports import Exports, PartnerRequest, Reflected
from landmark_lab.data.results import Predictions, Score
from landmark_lab.errors import ConfigError, DataError
from landmark_lab.evaluation.choices import at_least_one, position
from landmark_lab.evaluation.common import image_means, nan_mean
from landmark_lab.evaluation.match_scores import MatchProtocol
from landmark_lab.roles import ImageData

Partners = tuple[tuple[int, int] | tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class SymmetricTransfer(MatchProtocol, name="symmetric_transfer"):
    """Distance in pixels between a point's true partner and the one its reflected vector finds.

    The data must have annotated points and say which are partners. The reference ``no_reflection``
    looks for the vector as it is, which finds the point itself; ``estimated_plane`` reflects it in
    the plane that suits the annotated training images best. The other choices are explained in
    ``evaluation/match_scores.py``.

    Args:
        reflection: of the vectors: as the method has ``learned`` it (it must offer one); in an
            ``estimated`` plane; by the sign of the ``first_axis``; or ``none``.
        partners: pairs of points by number or by name, from the first to the second, e.g.
            ``[[36, 45], [48, 54]]``; by default all, in both directions.
        images: how many; fewer if there are fewer annotated ones.
        annotated: training images, all their points, that the plane is estimated from.
    """

    reflection: Reflected = "learned"
    partners: Partners | None = None
    images: int = 200
    annotated: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(images=self.images, annotated=self.annotated)
        if self.partners is not None and not self.partners:
            raise ValueError("partners is empty; leave it out for all")

    def request(self) -> PartnerRequest:
        """See :class:`~landmark_lab.evaluation.match_scores.MatchProtocol`."""
        return self._request(self.reflection)

    @property
    def exports(self) -> Exports:
        """Its own matches and those of the references."""
        kinds: tuple[Reflected, ...] = (self.reflection, "none", "estimated")
        return Exports(matches=tuple(dict.fromkeys(self._request(kind) for kind in kinds)))

    def check_data(self, data: ImageData) -> None:
        """Refuse partners that the data does not know as such.

        Raises:
            ConfigError: which they are.
        """
        if data.flip is not None:  # without it there are no matches at all
            self._chosen(data.point_names, data.flip)

    def columns(self, predictions: Predictions) -> list[int]:
        """See :class:`~landmark_lab.evaluation.match_scores.MatchProtocol`."""
        provenance = predictions.provenance
        if provenance.flip is None:
            raise DataError(
                "the data does not say which points are left-right partners",
                where=predictions.source,
            )
        return self._chosen(provenance.point_names, provenance.flip)

    def score(self, predictions: Predictions, untrained: Predictions | None = None) -> Score:
        """See :class:`~landmark_lab.roles.Protocol`."""

        def error(reflection: Reflected) -> float:
            return nan_mean(image_means(self.matched(predictions, self._request(reflection))[1]))

        columns = self.columns(predictions)
        names, flip = predictions.provenance.point_names, predictions.provenance.flip
        assert flip is not None  # there are columns
        return self.result(
            predictions,
            untrained,
            {"no_reflection": error("none"), "estimated_plane": error("estimated")},
            [f"{names[first]} → {names[flip[first]]}" for first in columns],
            {"images": len(predictions.matched(self.request()))},
        )

    def _request(self, reflection: Reflected) -> PartnerRequest:
        annotated = self.annotated if reflection == "estimated" else 0
        return PartnerRequest(reflection, self.images, annotated, self.split, self.seed)

    def _chosen(self, names: Sequence[str], flip: Sequence[int]) -> list[int]:
        """The points whose partners are looked for."""
        if self.partners is None:
            chosen = [point for point, other in enumerate(flip) if point != other]
            if not chosen:
                raise ConfigError("the data has no left-right partners among its points")
            return chosen
        where, chosen = f"{self.plugin_name}.partners", []
        for pair in self.partners:
            first, second = (position(point, names, where) for point in pair)
            if first == second or flip[first] != second:
                raise ConfigError(
                    f"{pair[0]} and {pair[1]} are no left-right partners",
                    where=where,
                    hint=f"the partner of {names[first]} is {names[flip[first]]}",
                )
            chosen.append(first)
        return chosen
