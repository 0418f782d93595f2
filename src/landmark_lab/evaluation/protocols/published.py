"""Published protocols: which choices belong to whose numbers.

Each class fixes what its source fixes, as fields without a key in the configuration; what the
source leaves to the data set (which images, the normaliser) stays open. Where a source does not say
something, the choice made here is named *ours*. The table of all choices is in
``docs/protocols.md``.

Convention: NME in the square images that the method sees (see ``data/preprocess.py``).
"""

from dataclasses import dataclass, field
from typing import Literal

from landmark_lab.data.results import Predictions
from landmark_lab.errors import DataError
from landmark_lab.evaluation.choices import at_least_one
from landmark_lab.evaluation.common import Coordinates
from landmark_lab.evaluation.normalisers import Normaliser
from landmark_lab.evaluation.point_scores import Guesses
from landmark_lab.evaluation.protocols.backward_nme import BackwardNme
from landmark_lab.evaluation.protocols.few_shot import FewShot
from landmark_lab.evaluation.protocols.forward_nme import ForwardNme
from landmark_lab.evaluation.protocols.nme import Nme
from landmark_lab.evaluation.protocols.pck import Pck
from landmark_lab.metrics.pck import Average
from landmark_lab.metrics.regression import Regressor


@dataclass(frozen=True, kw_only=True)
class FactorizedForward(ForwardNme, name="forward_nme_factorized"):
    """Forward error as for factorized landmarks (Thewlis et al., ICCV 2017).

    Section 4.3: y = Wx without bias, by least squares, on the annotated training images and warped
    copies of them. Ours: the number of copies (the source draws new warps in every epoch), the
    strength of the warps (that of the same authors' later few-shot regressors), the coordinates.
    """

    regressor: Regressor = field(default="least_squares", init=False)
    bias: bool = field(default=False, init=False)
    copies: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(copies=self.copies)


@dataclass(frozen=True, kw_only=True)
class FactorizedFewShot(FewShot, name="few_shot_factorized"):
    """Few-shot curve as for factorized landmarks (Thewlis et al., ICCV 2017, table 4).

    The regressor of ``forward_nme_factorized`` after 1, 5, 10, 20 and all images. The source gives
    one number for each; here it is the mean over random choices.
    """

    regressor: Regressor = field(default="least_squares", init=False)
    bias: bool = field(default=False, init=False)
    copies: int = 10
    annotated: tuple[int | Literal["all"], ...] = (1, 5, 10, 20, "all")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(copies=self.copies)


@dataclass(frozen=True, kw_only=True)
class DenseNme(Nme, name="nme_dense"):
    """Error as for dense embeddings: of the virtual-points probe (Thewlis et al., NeurIPS 2017).

    J. Thewlis, DPhil thesis, Oxford 2018, chapters 5 and 7: a linear regressor on 50 virtual points
    of the embedding, trained on warped images; embedding volume compression reports both with and
    without the warps. The probe is the method ``virtual_points``, whose own settings say which; no
    other method's predictions are accepted.
    """

    def run(self, predictions: Predictions) -> Guesses:
        """See :class:`~landmark_lab.evaluation.choices.PointScore`."""
        method = predictions.provenance.method.get("name")
        if method != "virtual_points":
            raise DataError(
                f"holds predictions of the method '{method}'; the protocol '{self.plugin_name}' is "
                "for those of 'virtual_points'",
                where=predictions.source,
            )
        return super().run(predictions)


@dataclass(frozen=True, kw_only=True)
class StructuralForward(ForwardNme, name="forward_nme_structural"):
    """Forward error as for structural representations and conditional image generation (IMM).

    Y. Zhang et al., CVPR 2018, and T. Jakab et al., NeurIPS 2018: a linear regressor without bias
    on the annotated training images alone. Ours: least squares, the coordinates.
    """

    regressor: Regressor = "least_squares"
    bias: bool = field(default=False, init=False)
    copies: int = field(default=0, init=False)


@dataclass(frozen=True, kw_only=True)
class TwoStepForward(ForwardNme, name="forward_nme_two_step"):
    """Forward error as for two-step landmarks (Rahaman, Ghosh, Thiery, 2021).

    Ridge regression with α = 0.1 without bias. Ours: the coordinates, and so α's unit.
    """

    regressor: Regressor = field(default="ridge", init=False)
    bias: bool = field(default=False, init=False)
    alpha: float = field(default=0.1, init=False)
    alpha_is: Literal["fixed", "relative"] = field(default="fixed", init=False)
    copies: int = field(default=0, init=False)


@dataclass(frozen=True, kw_only=True)
class SelfTrainingForward(ForwardNme, name="forward_nme_self_training"):
    """Forward error as for self-training (Mallis et al., NeurIPS 2020 and TPAMI 2023).

    D. Mallis, PhD thesis, Nottingham 2023, sections 2.6 and 6.2.2: ridge with λ·max(XᵀX) on centred
    data, fitted on 300 images for the error curves of faces (800 for bodies, all for the tables of
    MAFL and AFLW); landmarks that were not found are completed by singular value thresholding in
    the training images and take the training mean in the test images. (The text says "no bias"; the
    data of the public protocol are centred, which is the same as a bias.) Ours: λ, the choices of
    the images and their number.
    """

    regressor: Regressor = field(default="ridge", init=False)
    bias: bool = field(default=True, init=False)
    alpha: float = 0.01
    alpha_is: Literal["fixed", "relative"] = field(default="relative", init=False)
    coordinates: Coordinates = field(default="centred", init=False)
    missing: Literal["mean", "completion"] = field(default="completion", init=False)
    copies: int = field(default=0, init=False)
    annotated: int | None = 300


@dataclass(frozen=True, kw_only=True)
class SelfTrainingBackward(BackwardNme, name="backward_nme_self_training"):
    """Backward error as for self-training (Mallis et al., NeurIPS 2020 and TPAMI 2023).

    The regressor of ``forward_nme_self_training`` the other way round; landmarks that were not
    found are skipped.
    """

    regressor: Regressor = field(default="ridge", init=False)
    bias: bool = field(default=True, init=False)
    alpha: float = 0.01
    alpha_is: Literal["fixed", "relative"] = field(default="relative", init=False)
    coordinates: Coordinates = field(default="centred", init=False)
    annotated: int | None = 300


@dataclass(frozen=True, kw_only=True)
class BbcPosePck(Pck, name="pck_bbc_pose"):
    """Percentage of regressed points within 6 of 128 pixels, as on BBC Pose.

    D. Mallis, PhD thesis, Nottingham 2023, table 6.9; earlier work uses the same threshold. Ours:
    the average over all points.
    """

    normaliser: Normaliser = field(default="image", init=False)
    threshold: float = field(default=6 / 128, init=False)
    average: Average = "point"
