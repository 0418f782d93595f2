"""Faces that the project draws itself, with exact landmarks.

A head is a convex egg in three dimensions with its features on the surface. It is turned, projected
in parallel, and drawn as anti-aliased polygons over a cluttered background. What an individual
looks like (shapes of head and features, hair, skin) is a function of (seed, split, individual); all
else (pose, expression, light, background, occluders) of (seed, split, index).

Convention: the head's axes are x to the right in the image, y down and z towards the viewer, with
half the head's height as the unit; points of an image are (x, y) in [-1, 1], see
``geometry/points.py``. *Left* and *right* are the viewer's.
"""

from collections.abc import Callable, Iterator
from colorsys import hsv_to_rgb
from math import cos, pi, sin
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.sampling import Images, Row
from landmark_lab.roles import ImageData, Split
from landmark_lab.seeding import rng

Array = NDArray[np.float64]
Colour = tuple[float, float, float]
Numbers = dict[str, float]

POINT_NAMES = (
    "left_brow_outer",
    "left_brow_inner",
    "right_brow_inner",
    "right_brow_outer",
    "left_eye_outer",
    "left_eye_inner",
    "right_eye_inner",
    "right_eye_outer",
    "nose_left",
    "nose_tip",
    "nose_right",
    "mouth_left",
    "mouth_top",
    "mouth_right",
    "mouth_bottom",
    "chin",
    "left_ear",
    "right_ear",
)
FLIP = (3, 2, 1, 0, 7, 6, 5, 4, 10, 9, 8, 13, 12, 11, 14, 15, 17, 16)
OUTER_EYE_CORNERS = (4, 7)
IMAGES_OF_AN_INDIVIDUAL = 4

# What stays when an individual is seen again: each number is drawn between two limits.
INDIVIDUAL: dict[str, tuple[float, float]] = {
    "width": (0.68, 0.86),
    "depth": (0.78, 0.92),
    "jaw": (0.0, 0.32),  # how much narrower the head is at the chin
    "roundness": (2.0, 2.5),  # 2 is an ellipse, more is squarer
    "eye_apart": (0.30, 0.37),
    "eye_y": (-0.06, 0.06),
    "eye_width": (0.15, 0.19),
    "eye_height": (0.075, 0.125),
    "eye_tilt": (-0.18, 0.18),
    "brow_y": (-0.34, -0.24),
    "brow_width": (0.17, 0.22),
    "brow_thickness": (0.025, 0.06),
    "brow_arch": (0.0, 0.07),
    "nose_y": (0.28, 0.38),
    "nose_width": (0.11, 0.18),
    "nose_length": (0.16, 0.32),
    "mouth_y": (0.58, 0.66),
    "mouth_width": (0.22, 0.33),
    "upper_lip": (0.04, 0.08),
    "lower_lip": (0.05, 0.10),
    "ear_y": (0.0, 0.14),
    "ear_height": (0.16, 0.24),
    "hair_style": (0, 6),
    "hair_line": (0, 4),
    "hair_volume": (1.05, 1.16),
    "hair_colour": (0, 8),
    "hair_light": (0.8, 1.15),
    "beard": (-5, 3),  # below 1: none
    "glasses": (-5, 1),  # below 0: none
    "skin": (0, 1),
    "lip_redness": (0.35, 0.8),
    "iris_hue": (0.05, 0.65),
    "shirt_hue": (0, 1),
    "shirt_light": (0.3, 0.95),
}
# What changes from image to image; angles in radians, the scale and the shift in half images.
LOOK: dict[str, tuple[float, float]] = {
    "yaw": (-0.6, 0.6),
    "pitch": (-0.3, 0.3),
    "roll": (-0.5, 0.5),
    "scale": (0.56, 0.8),
    "shift_x": (-0.34, 0.34),
    "shift_y": (-0.34, 0.34),
    "smile": (-0.06, 0.12),
    "mouth_open": (-0.25, 0.22),  # below 0: closed
    "brow_raise": (-0.04, 0.06),
    "brow_tilt": (-0.05, 0.05),
    "eye_open": (0.35, 1.15),
    "gaze_x": (-0.5, 0.5),
    "gaze_y": (-0.3, 0.3),
    "light": (0.8, 1.1),
    "light_x": (-0.2, 0.2),
    "light_y": (-0.2, 0.2),
}

_SPLITS: dict[Split, int] = {"train": 0, "val": 1, "test": 2}
_OVERSAMPLING = 2  # pixels are drawn this much smaller, then averaged
_FRACTION_BITS = 4  # of the coordinates given to OpenCV
_SKINS: tuple[Colour, ...] = (
    (255, 226, 205),
    (246, 205, 170),
    (226, 172, 128),
    (196, 136, 92),
    (148, 94, 62),
    (104, 66, 48),
)
_HAIRS: tuple[Colour, ...] = (
    (38, 32, 34),
    (74, 46, 32),
    (120, 76, 44),
    (186, 92, 40),
    (226, 184, 104),
    (168, 166, 170),
    (58, 118, 138),
    (176, 72, 120),
)
# Hair behind the head: the hull of a few balls (x, y, z, radius), by style. Style 0 is bald and
# style 1 is short.
_BACK_HAIR: dict[int, Array] = {
    2: np.array([[0, -0.3, -0.2, 0.92], [0.55, 0.95, -0.3, 0.3], [-0.55, 0.95, -0.3, 0.3]]),
    3: np.array([[0, -0.38, -0.15, 1.08]]),
    4: np.array([[0, -1.18, -0.2, 0.32]]),
    5: np.array([[0, -0.3, -0.2, 0.95], [0.68, 0.4, -0.2, 0.25], [-0.68, 0.4, -0.2, 0.25]]),
}


def _circle(count: int) -> Array:
    angle = np.linspace(0, 2 * pi, count, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _sphere(rings: int, sectors: int) -> Array:
    polar = np.linspace(0, pi, rings)[:, None]
    angle = np.linspace(0, 2 * pi, sectors, endpoint=False)[None]
    across, up = np.sin(polar) * np.cos(angle), np.cos(polar) + 0 * angle
    return np.stack([across, up, np.sin(polar) * np.sin(angle)], axis=-1).reshape(-1, 3)


_CIRCLE, _SPHERE = _circle(20), _sphere(21, 36)
_STAR = _circle(10) * np.tile([[1.0], [0.45]], (5, 1))
_SHAPES = (_CIRCLE, _circle(4), _circle(3), _STAR)
_ALONG = np.linspace(-1, 1, 11)  # along an eyelid, a brow or a lip
_DOME = 1 - _ALONG**2


class Patch(NamedTuple):
    """A filled polygon on the face.

    Attributes:
        outline: (n, 2) positions on the surface, in the head's x and y.
        colour: red, green and blue up to 255.
        lift: how far it stands out towards the viewer, one number or (n,).
    """

    outline: Array
    colour: Colour
    lift: float | Array = 0.0


class Drawing(NamedTuple):
    """An image and what is known about it.

    Attributes:
        image: (size, size, 3) uint8.
        points: (18, 2), exact also where they are hidden or outside the image.
        visible: (18,) whether they are in the image and nothing hides them.
        mask: (1, size, size) the share of each pixel that shows the head with its ears and hair.
    """

    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    visible: NDArray[np.bool_]
    mask: NDArray[np.float32]


class Canvas:
    """Anti-aliased polygons on a square image; the fourth channel says where the head is."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.side = size * _OVERSAMPLING
        self.pixels = np.zeros((self.side, self.side, 4), np.uint8)

    def fill(self, outline: Array, colour: Colour, head: bool = True) -> None:
        """Fill a polygon (n, 2) given as points of the image."""
        scale = self.side * 2 ** (_FRACTION_BITS - 1)
        corners = np.rint(outline * scale + (scale - 2 ** (_FRACTION_BITS - 1))).astype(np.int32)
        cv2.fillPoly(
            self.pixels, [corners], (*colour, 255 if head else 0), cv2.LINE_AA, _FRACTION_BITS
        )

    def finish(self, look: Numbers) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """The image in its light, and the head's mask."""
        small = cv2.resize(self.pixels, (self.size, self.size), interpolation=cv2.INTER_AREA)
        across = np.linspace(-1, 1, self.size, dtype=np.float32)
        light = look["light"] + look["light_x"] * across + look["light_y"] * across[:, None]
        lit = cv2.convertScaleAbs(small[..., :3] * light[..., None])  # rounds and saturates
        mask = small[None, ..., 3].astype(np.float32) / np.float32(255)
        return lit.astype(np.uint8, copy=False), mask


def draw_face(who: Numbers, look: Numbers, scene: np.random.Generator, size: int) -> Drawing:
    """Draw one face.

    Args:
        who: a number for each key of ``INDIVIDUAL``.
        look: a number for each key of ``LOOK``.
        scene: the source of the background and the occluders.
        size: side of the image in pixels.
    """
    turn = _rotation(look)
    shift = np.array([look["shift_x"], look["shift_y"]])
    # The middle of the features, not of the head, is what the shift brings to its place.
    centre = shift - look["scale"] * np.array([-sin(look["roll"]), cos(look["roll"])]) * 0.22

    def project(solid: Array) -> Array:
        return centre + look["scale"] * (solid @ turn[:2].T)

    canvas = Canvas(size)
    _background(canvas, scene)
    _body(canvas, who, look, centre)
    if int(who["hair_style"]) in _BACK_HAIR:
        balls = _BACK_HAIR[int(who["hair_style"])]
        rims = project(balls[:, :3])[:, None] + look["scale"] * balls[:, None, 3:] * _CIRCLE
        canvas.fill(_hull(rims.reshape(-1, 2)), _scaled(_hair(who), 0.78))

    egg = _egg(who)
    covers = [_hull(project(egg))]
    ears = [_ear(who, side) for side in (-1.0, 1.0)]
    before = [bool(turn[2] @ ear[-1] > 0) for ear in ears]  # the head, not behind it
    for ear, is_before in zip(ears, before, strict=True):
        if not is_before:
            _draw_ear(canvas, who, project(ear))
    canvas.fill(covers[0], _scaled(_skin(who), 0.86))
    if who["hair_style"] >= 1:
        covers.append(_hull(project(egg[egg[:, 1] < 0.05] * who["hair_volume"])))
        canvas.fill(covers[1], _hair(who))
    for ear, is_before in zip(ears, before, strict=True):
        if is_before:
            _draw_ear(canvas, who, project(ear))

    patches, features = _face(who, look)
    for outline, patch in zip(_projected(who, patches, project), patches, strict=True):
        canvas.fill(outline, patch.colour)

    solid = _on_surface(who, features[:, :2], features[:, 2])
    points = project(np.concatenate([solid, *(ear[-1:] for ear in ears)]))
    visible = np.asarray((np.abs(points) < 1).all(axis=1))
    for number, is_before in enumerate(before, start=len(features)):
        if not is_before:
            visible[number] &= not any(_inside(cover, points[number]) for cover in covers)
    for cover in _occluders(canvas, scene, shift):
        visible &= [not _inside(cover, point) for point in points]
    image, mask = canvas.finish(look)
    return Drawing(image, points.astype(np.float32), visible, mask)


def _projected(
    who: Numbers, patches: list[Patch], project: Callable[[Array], Array]
) -> Iterator[Array]:
    """The outlines of the patches in the image, computed together because each is small."""
    flat = np.concatenate([patch.outline for patch in patches])
    lift = np.concatenate([np.zeros(len(patch.outline)) + patch.lift for patch in patches])
    outlines = project(_on_surface(who, flat, lift))
    first = 0
    for patch in patches:
        yield outlines[first : first + len(patch.outline)]
        first += len(patch.outline)


# --- the head ------------------------------------------------------------------------------------


def _rotation(look: Numbers) -> Array:
    """The rotation of the head (3, 3): first its yaw, then its pitch, then its roll."""
    c, s = cos(look["yaw"]), sin(look["yaw"])
    yaw = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    c, s = cos(look["pitch"]), sin(look["pitch"])
    pitch = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    c, s = cos(look["roll"]), sin(look["roll"])
    roll = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return np.asarray(roll @ pitch @ yaw)


def _half_width(who: Numbers, y: Array) -> Array:
    return who["width"] * (1 - who["jaw"] * np.maximum(y, 0) ** 1.5)


def _egg(who: Numbers) -> Array:
    """Points (n, 3) all over the head: a super-ellipsoid with a jaw."""
    n = who["roundness"]
    unit = _SPHERE * (np.abs(_SPHERE) ** n).sum(axis=1, keepdims=True) ** (-1 / n)
    x, y, z = unit.T
    return np.stack([x * _half_width(who, y), y, z * who["depth"]], axis=1)


def _on_surface(who: Numbers, flat: Array, lift: Array) -> Array:
    """Put (n, 2) positions on the front of the egg, standing out by ``lift`` (n,): (n, 3)."""
    x, y = flat.T
    n = who["roundness"]
    rest = 1 - np.abs(x / _half_width(who, y)) ** n - np.abs(y) ** n
    z = who["depth"] * np.maximum(rest, 0) ** (1 / n) + lift
    return np.stack([x, y, z], axis=1)


def _ear(who: Numbers, side: float) -> Array:
    """The rim of an ear and, as the last row, its middle: (n + 1, 3)."""
    middle = np.array([side * who["width"] * 1.06, who["ear_y"], -0.1])
    axes = np.array([[side * 0.12, 0, -0.08], [side * 0.02, who["ear_height"], 0]])
    return np.concatenate([middle + _CIRCLE @ axes, middle[None]])


def _draw_ear(canvas: Canvas, who: Numbers, ear: Array) -> None:
    rim, middle = ear[:-1], ear[-1]
    canvas.fill(rim, _scaled(_skin(who), 0.92))
    canvas.fill(middle + 0.55 * (rim - middle), _scaled(_skin(who), 0.68))


# --- the face ------------------------------------------------------------------------------------


def _face(who: Numbers, look: Numbers) -> tuple[list[Patch], Array]:
    """All patches in the order of drawing, and x, y and lift of the first 16 landmarks."""
    skin = _skin(who)
    patches = [Patch(_mask_of_skin(who), skin), *_beard(who)]
    for side in (-1.0, 1.0):
        patches.append(Patch(_ellipse(side * 0.42, 0.32, 0.12, 0.10), _mix(skin, _RED, 0.22)))
    if who["glasses"] > 0:
        patches += _glasses(who, skin)
    left_eye, left_corners = _eye(who, look, -1.0)
    right_eye, right_corners = _eye(who, look, 1.0)
    left_brow, left_ends = _brow(who, look, -1.0)
    right_brow, right_ends = _brow(who, look, 1.0)
    nose, nose_points = _nose(who)
    mouth, mouth_points = _mouth(who, look)
    patches += [*left_eye, *right_eye, left_brow, right_brow, *mouth, *nose]
    flat = [left_ends, right_ends, left_corners, right_corners, nose_points[:, :2], mouth_points]
    features = np.zeros((16, 3))
    features[:, :2] = np.concatenate([*flat, [[0, 0.95]]])
    features[8:11, 2] = nose_points[:, 2]
    return patches, features


def _mask_of_skin(who: Numbers) -> Array:
    """The front of the face below the hair line."""
    t = np.linspace(-1, 1, 15)
    styles = (
        -0.66 + 0.42 * t**2,
        -0.44 + 0.2 * t**2 + 0.03 * np.cos(14 * t),
        -0.66 + 0.34 * np.abs(t - 0.35) ** 1.5,
        -0.68 + 0.42 * t**2 + 0.16 * np.exp(-((t / 0.22) ** 2)),
    )
    line = styles[int(who["hair_line"])]
    y = np.linspace(-0.1, 0.95, 9)
    n = who["roundness"]
    side = 0.93 * _half_width(who, y) * (1 - np.abs(y) ** n) ** (1 / n)
    top = np.stack([0.86 * who["width"] * t, line], axis=1)
    right = np.stack([side, y], axis=1)
    return np.concatenate([top, right, right[::-1] * (-1, 1)])


def _beard(who: Numbers) -> list[Patch]:
    """Nothing, a moustache, or a full beard."""
    lip = who["nose_y"] + 0.13
    if who["beard"] < 1:
        return []
    if who["beard"] < 2:
        right = np.array([[0, lip], [0.16, lip + 0.01], [0.3, 0.6], [0.16, 0.55], [0, lip + 0.09]])
    else:
        y = np.linspace(0.28, 0.97, 7)
        n = who["roundness"]
        side = 0.93 * _half_width(who, y) * (1 - y**n) ** (1 / n)
        inner = [[0, lip], [0.16, lip + 0.01], [0.36, 0.52], [0.55, 0.4]]
        right = np.concatenate([np.array(inner), np.stack([side, y], axis=1)])
    return [Patch(_both_sides(right), _scaled(_hair(who), 0.92))]


def _glasses(who: Numbers, skin: Colour) -> list[Patch]:
    frame: Colour = (50, 44, 56)
    width, x, y = who["eye_width"] + 0.07, who["eye_apart"] + 0.01, who["eye_y"] + 0.01
    bridge = np.array([[0, y - 0.05], [x, y - 0.04], [x, y], [0, y - 0.01]])
    arm = np.array([[x, y - 0.05], [0.95 * who["width"], y - 0.06], [0.95 * who["width"], y]])
    patches = [Patch(_both_sides(bridge), frame)]
    for side in (-1.0, 1.0):
        patches += [
            Patch(arm * (side, 1), frame),
            Patch(_ellipse(side * x, y, width, width), frame),
            Patch(_ellipse(side * x, y, width - 0.05, width - 0.05), _mix(skin, _WHITE, 0.25)),
        ]
    return patches


def _eye(who: Numbers, look: Numbers, side: float) -> tuple[list[Patch], Array]:
    """An eye, and its corners from left to right (2, 2)."""
    width, height = who["eye_width"], who["eye_height"]
    upper, lower = -height * look["eye_open"], 0.7 * height * min(look["eye_open"], 1.0)
    middle = np.array([side * who["eye_apart"], who["eye_y"]])

    def place(across: Array, down: Array) -> Array:
        return middle + np.stack([across, down - side * who["eye_tilt"] * across], axis=1)

    across = width * _ALONG
    iris = 0.085 * _CIRCLE + (look["gaze_x"] * 0.4 * width, look["gaze_y"] * height)
    pupil = 0.04 * _CIRCLE + iris.mean(axis=0)

    def between_lids(x: Array, y: Array) -> Array:
        dome = np.maximum(1 - (x / width) ** 2, 0)
        return place(x, np.clip(y, upper * dome, lower * dome))

    white = np.concatenate([place(across, upper * _DOME), place(across, lower * _DOME)[::-1]])
    lid = np.concatenate(
        [place(across, upper * _DOME), place(across, (upper - 0.05) * _DOME)[::-1]]
    )
    hue = hsv_to_rgb(who["iris_hue"], 0.55, 0.5)
    patches = [
        Patch(white, (250, 250, 246)),
        Patch(between_lids(*iris.T), (255 * hue[0], 255 * hue[1], 255 * hue[2])),
        Patch(between_lids(*pupil.T), (16, 14, 20)),
        Patch(lid, _scaled(_skin(who), 0.3)),
    ]
    return patches, white[[0, len(_ALONG) - 1]]


def _brow(who: Numbers, look: Numbers, side: float) -> tuple[Patch, Array]:
    """A brow, and its ends from left to right (2, 2)."""
    x = side * who["eye_apart"] + 1.1 * who["brow_width"] * _ALONG
    outwards = side * _ALONG
    y = who["brow_y"] - look["brow_raise"] - who["brow_arch"] * _DOME - look["brow_tilt"] * outwards
    half = who["brow_thickness"] * (0.85 - 0.4 * outwards)
    line, thick = np.stack([x, y], axis=1), np.stack([0 * x, half], axis=1)
    outline = np.concatenate([line - thick, (line + thick)[::-1]])
    dark = _scaled(_hair(who), 0.6) if who["hair_style"] >= 1 else _scaled(_skin(who), 0.35)
    return Patch(outline, dark), line[[0, -1]]


def _nose(who: Numbers) -> tuple[list[Patch], Array]:
    """The nose, and x, y and lift of its left, tip and right (3, 3)."""
    skin, y, width, length = _skin(who), who["nose_y"], who["nose_width"], who["nose_length"]
    right = np.array([[0, who["eye_y"]], [0.04, who["eye_y"]], [width, y + 0.05], [0, y + 0.11]])
    lift = np.array([0.05, 0.05, 0.06, 0.5 * length, 0.06, 0.05])
    side = _both_sides(right)
    nostril = _ellipse(0.45 * width, y + 0.07, 0.25 * width, 0.025)
    tip = _ellipse(0, y, 0.5 * width, 0.45 * width)
    patches = [
        Patch(side, _scaled(skin, 0.8), lift),
        Patch(nostril, _scaled(skin, 0.4), 0.4 * length),
        Patch(nostril * (-1, 1), _scaled(skin, 0.4), 0.4 * length),
        Patch(tip, _mix(skin, _WHITE, 0.3), length),
    ]
    wing = y + 0.05
    return patches, np.array([[-width, wing, 0.06], [0, y, length], [width, wing, 0.06]])


def _mouth(who: Numbers, look: Numbers) -> tuple[list[Patch], Array]:
    """The mouth, and its left, top, right and bottom (4, 2)."""
    y, opening = who["mouth_y"], max(0.0, look["mouth_open"])
    corner = y - look["smile"]
    across = who["mouth_width"] * (1 + 0.8 * look["smile"]) * _ALONG
    bow = 0.02 * np.exp(-((_ALONG / 0.2) ** 2))

    def curve(middle: float, power: float = 1.0) -> Array:
        return np.stack([across, corner + (middle - corner) * _DOME**power], axis=1)

    top, bottom = curve(y - who["upper_lip"], 0.7), curve(y + who["lower_lip"] + opening, 0.8)
    top[:, 1] += bow
    seam, jaw = curve(y), curve(y + opening)
    redness = who["lip_redness"] * (0.55 + 0.45 * (1 - who["skin"]))
    patches = [Patch(np.concatenate([top, bottom[::-1]]), _mix(_skin(who), _RED, redness))]
    if opening > 0.03:
        teeth = curve(y + min(0.4 * opening, 0.06))
        patches += [
            Patch(np.concatenate([seam, jaw[::-1]]), (70, 18, 26)),
            Patch(np.concatenate([seam, teeth[::-1]]), (248, 246, 240)),
        ]
    else:
        patches.append(Patch(np.concatenate([seam, curve(y + 0.03)[::-1]]), (96, 26, 34)))
    middle = len(_ALONG) // 2
    return patches, np.stack([top[0], top[middle], top[-1], bottom[middle]])


# --- around the face -----------------------------------------------------------------------------


def _background(canvas: Canvas, scene: np.random.Generator) -> None:
    corners = scene.uniform(60, 200, 3) + scene.uniform(-55, 55, (3, 3, 3))
    canvas.pixels[..., :3] = cv2.resize(
        np.rint(corners).astype(np.uint8),  # between 5 and 255
        (canvas.side, canvas.side),
        interpolation=cv2.INTER_CUBIC,
    )
    for outline, colour in _things(scene, int(scene.integers(4, 12)), 1.0, 0.08, 0.45):
        canvas.fill(outline, colour, head=False)


def _body(canvas: Canvas, who: Numbers, look: Numbers, centre: Array) -> None:
    """Neck and shoulders; they follow the head's roll half way."""
    c, s = cos(look["roll"] / 2), sin(look["roll"] / 2)
    place = look["scale"] * np.array([[c, s], [-s, c]])
    neck = np.array([[-0.34, 0.5], [0.34, 0.5], [0.4, 1.6], [-0.4, 1.6]])
    hue = hsv_to_rgb(who["shirt_hue"], 0.55, who["shirt_light"])
    shirt = (255 * hue[0], 255 * hue[1], 255 * hue[2])
    canvas.fill(centre + _ellipse(0, 2.15, 1.25, 0.95) @ place, shirt, head=False)
    canvas.fill(centre + neck @ place, _scaled(_skin(who), 0.7), head=False)
    canvas.fill(centre + _ellipse(0, 1.6, 0.4, 0.16) @ place, _scaled(_skin(who), 0.7), head=False)


def _occluders(canvas: Canvas, scene: np.random.Generator, middle: Array) -> list[Array]:
    """Draw up to two things before the face, in two of five images; their outlines."""
    outlines = []
    for thing, colour in _things(scene, max(0, int(scene.integers(-2, 3))), 0.6, 0.1, 0.26):
        outline = middle + thing
        canvas.fill(outline, colour, head=False)
        inner = 0.4 * outline.mean(axis=0) + 0.6 * outline
        canvas.fill(inner, _scaled(colour, 0.8), head=False)
        outlines.append(outline)
    return outlines


def _things(
    scene: np.random.Generator, count: int, spread: float, low: float, high: float
) -> Iterator[tuple[Array, Colour]]:
    """Turned ellipses, diamonds, triangles and stars, up to ``spread`` from the origin."""
    for x, y, size, slim, angle, kind, r, g, b in scene.random((count, 9)).tolist():
        long = low + (high - low) * size
        slender = long * (0.35 + 0.65 * slim)
        c, s = cos(pi * angle), sin(pi * angle)
        turn = np.array([[long * c, long * s], [-slender * s, slender * c]])
        place = (spread * (2 * x - 1), spread * (2 * y - 1))
        colour = (30 + 205 * r, 30 + 205 * g, 30 + 205 * b)
        yield place + _SHAPES[int(kind * len(_SHAPES))] @ turn, colour


# --- small tools ---------------------------------------------------------------------------------

_RED: Colour = (196, 40, 48)
_WHITE: Colour = (255, 255, 255)


def _skin(who: Numbers) -> Colour:
    at = who["skin"] * (len(_SKINS) - 1)
    low = min(int(at), len(_SKINS) - 2)
    return _mix(_SKINS[low], _SKINS[low + 1], at - low)


def _hair(who: Numbers) -> Colour:
    colour = _scaled(_HAIRS[int(who["hair_colour"])], who["hair_light"])
    difference = sum(abs(a - b) for a, b in zip(colour, _skin(who), strict=True))
    return colour if difference > 120 else _scaled(colour, 0.5)  # never the skin's own colour


def _scaled(colour: Colour, light: float) -> Colour:
    return colour[0] * light, colour[1] * light, colour[2] * light


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    r, g, b = (a + share * (b - a) for a, b in zip(one, other, strict=True))
    return r, g, b


def _ellipse(x: float, y: float, across: float, down: float) -> Array:
    return np.asarray(_CIRCLE * (across, down) + (x, y))


def _both_sides(right: Array) -> Array:
    """Complete the right half of an outline, whose ends may lie on the axis, by its mirror."""
    left = right[right[:, 0] > 0]
    return np.concatenate([right, left[::-1] * (-1, 1)])


def _hull(points: Array) -> Array:
    return np.asarray(cv2.convexHull(points.astype(np.float32))[:, 0], dtype=np.float64)


def _inside(outline: Array, point: Array) -> bool:
    x, y = point.tolist()
    return cv2.pointPolygonTest(outline.astype(np.float32), (x, y), False) > 0


# --- the data set --------------------------------------------------------------------------------


def _numbers(limits: dict[str, tuple[float, float]], generator: np.random.Generator) -> Numbers:
    shares = generator.random(len(limits)).tolist()
    pairs = zip(limits.items(), shares, strict=True)
    return {name: low + (high - low) * share for (name, (low, high)), share in pairs}


class Faces(Images):
    """One split of the drawn faces."""

    def __init__(self, split: Split, count: int, size: int, seed: int) -> None:
        self.split = _SPLITS[split]
        self.count = count
        self.size = size
        self.seed = seed
        # Unlike in any other split: 10^9 individuals are more than anybody asks for.
        first = self.split * 10**9
        self.identity = first + np.arange(count, dtype=np.int64) // IMAGES_OF_AN_INDIVIDUAL

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < self.count:
            raise IndexError(index)
        individual = index // IMAGES_OF_AN_INDIVIDUAL
        who = _numbers(INDIVIDUAL, rng(self.seed, "toy individual", self.split, individual))
        scene = rng(self.seed, "toy face", self.split, index)
        drawing = draw_face(who, _numbers(LOOK, scene), scene, self.size)
        return {**drawing._asdict(), "identity": self.split * 10**9 + individual}


class ToyFaces(ImageData, name="toy_faces"):
    """Faces that the project draws: 18 exact landmarks, four images of every individual.

    Image i of a split is a function of (seed, split, i) alone, so a longer split begins with the
    shorter one. No individual is in two splits.

    Args:
        size: side of the images in pixels.
        train: number of training images; nothing is stored, so it may be large.
        val: number of validation images.
        test: number of test images.
        seed: another seed draws other faces.

    Raises:
        ValueError: a size below 16 or a negative number.
    """

    point_names = POINT_NAMES
    flip = FLIP
    normaliser = OUTER_EYE_CORNERS

    def __init__(
        self, size: int = 64, train: int = 20000, val: int = 200, test: int = 500, seed: int = 0
    ) -> None:
        super().__init__()
        if size < 16:
            raise ValueError(f"size must be at least 16, not {size}")
        if min(train, val, test) < 0:
            raise ValueError("train, val and test must not be negative")
        self._size = size
        self._counts: dict[Split, int] = {"train": train, "val": val, "test": test}
        self._data_seed = seed
        self.check_annotation()

    @property
    def provides(self) -> frozenset[str]:
        """Points and their visibility, the mask of the head, and the individual."""
        return frozenset({"points", "visible", "mask", "identity"})

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self._size

    def images(self, split: Split) -> Images:
        """The images of a split, drawn when they are asked for."""
        return Faces(split, self._counts[split], self._size, self._data_seed)
