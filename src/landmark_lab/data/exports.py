"""What protocols need to find in a file of predictions; a run exports what its protocols need.

Matches are asked for by requests that fix everything about them but the method, so that any two
methods, and the same method before and after its training, answer the same question.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Reflected = Literal["learned", "estimated", "first_axis", "none"]
"""How a vector is reflected: as the method says, in a plane fitted to annotated points, by the sign
of its first coordinate, or not at all."""


@dataclass(frozen=True)
class PairRequest:
    """Points of one image, looked for in another one.

    Attributes:
        kind: ``same``: two warps of one image; ``different``: images of two individuals.
        pairs: how many, at most one for every image.
        split: of the images.
        seed: of the choice of images and of the warps.
    """

    kind: Literal["same", "different"]
    pairs: int
    split: Literal["val", "test"]
    seed: int

    @property
    def key(self) -> str:
        """What the matches are called in a file."""
        return f"{self.kind}-{self.pairs}-{self.split}-{self.seed}"


@dataclass(frozen=True)
class PartnerRequest:
    """Points of an image whose reflected vectors are looked for in the image itself.

    Attributes:
        reflection: of the vectors.
        images: how many.
        annotated: training images that a plane is fitted to; 0 where none is.
        split: of the images.
        seed: of the choice of images.
    """

    reflection: Reflected
    images: int
    annotated: int
    split: Literal["val", "test"]
    seed: int

    @property
    def key(self) -> str:
        """What the matches are called in a file."""
        fitted = f"-{self.annotated}" if self.annotated else ""
        return f"partners-{self.reflection}{fitted}-{self.images}-{self.split}-{self.seed}"


MatchRequest = PairRequest | PartnerRequest


@dataclass(frozen=True)
class Exports:
    """What a file of predictions has to hold, besides the images' annotation.

    Attributes:
        landmarks: the landmarks of every image.
        copies: landmarks in so many warped copies of each training image.
        matches: these matches.
        keypoints: unordered keypoints of every image; of a method that offers none, its landmarks
            are taken for them.
    """

    landmarks: bool = False
    copies: int = 0
    matches: tuple[MatchRequest, ...] = ()
    keypoints: bool = False

    @classmethod
    def union(cls, each: Iterable[Exports]) -> Exports:
        """All that several ask for, each request once."""
        parts = list(each)
        return cls(
            any(part.landmarks for part in parts),
            max((part.copies for part in parts), default=0),
            tuple(dict.fromkeys(request for part in parts for request in part.matches)),
            any(part.keypoints for part in parts),
        )


__all__ = ["Exports", "MatchRequest", "PairRequest", "PartnerRequest", "Reflected"]
