"""The keypoints of all images in the order of a template."""

import pytest
import torch
from torch import Tensor

from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.sampling import Images, Row
from landmark_lab.data.template import Template, position_of
from landmark_lab.errors import DataError
from tests.clustering.test_template import FACE, moved, random

COUNT = len(FACE)


def faces(missing: int = 2, images: int = 6, clutter: int = 2) -> tuple[KeypointTable, Tensor]:
    """Faces that lack some points and have clutter; image 3 is empty. And where the points are."""
    points, image, scores, truths = [], [], [], []
    for number in range(images):
        draw = random(number)
        truth = moved(FACE, draw.uniform(-15, 15), draw.uniform(0.85, 1.15), (0.05, -0.05))
        truths.append(truth)
        if number == 3:
            continue
        lacking = missing if number else 0
        kept = torch.from_numpy(draw.permutation(COUNT)[: COUNT - lacking])
        more = torch.from_numpy(draw.uniform(-1, 1, (clutter, 2))).float()
        points.append(torch.cat([truth[kept], more]))
        # The clutter of the first image is less sure than its face.
        scores.append(torch.cat([0.5 + torch.rand(len(kept)) / 2, torch.full((clutter,), 0.1)]))
        image.append(torch.full((len(points[-1]),), number))
    table = KeypointTable.of(images, torch.cat(image), torch.cat(points), torch.cat(scores))
    return table, torch.stack(truths)


def test_keypoints_are_labelled_and_gaps_filled() -> None:
    table, truths = faces()
    found = Template(points=tuple(map(tuple, FACE.tolist()))).ordered(table, COUNT)
    assert found.images == 6
    assert found.counts().tolist() == [13, 13, 13, 0, 13, 13]
    points, labels, _, _ = found.padded(torch.tensor([0, 1, 2, 4, 5]))
    assert torch.equal(labels, torch.arange(COUNT).expand(5, COUNT))
    apart = (points - truths[[0, 1, 2, 4, 5]]).norm(dim=-1)
    assert apart.median() == 0
    assert (apart < 0.03).float().mean() > 0.95
    filled = (found.scores == 0).view(5, COUNT)
    assert filled.sum(1).tolist()[0] == 0
    assert 4 <= filled.sum() <= 10


def test_the_mirrored_label_is_the_partner_of_a_symmetric_template() -> None:
    table, _ = faces()
    template = Template(points=tuple(map(tuple, FACE.tolist())))
    found = template.ordered(table, COUNT)
    partner = torch.tensor([3, 2, 1, 0, 7, 6, 5, 4, 9, 8, 12, 11, 10])
    known = found.mirrored >= 0
    assert known.float().mean() > 0.75
    assert (found.mirrored == partner[found.labels])[known].float().mean() > 0.95
    assert (found.mirrored[found.scores == 0] == -1).all()
    assert (template.ordered(table, COUNT, mirror=False).mirrored == -1).all()


def test_the_template_may_be_an_image() -> None:
    table, truths = faces()
    found = Template(image=0).ordered(table, COUNT, image=0)
    own = found.points[found.image == 0]
    # Its surest keypoints are the face, in an order of their own, and the others follow it.
    order = torch.cdist(own, truths[0]).argmin(1)
    assert sorted(order.tolist()) == list(range(COUNT))
    other = found.points[found.image == 5]
    assert ((other - truths[5][order]).norm(dim=-1) < 0.03).float().mean() > 0.9


def test_an_image_with_too_few_keypoints_is_replaced_and_said(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    table, _ = faces(missing=6, clutter=0)
    found = Template(image=4).ordered(table, COUNT, image=4)
    assert (found.scores[found.image == 0] > 0).all()
    said = [str(one.message) for one in recwarn] + caplog.messages
    assert any("the image 4 has fewer than 13 keypoints" in one for one in said)


def test_by_default_the_template_fits_most_images() -> None:
    table, _ = faces(missing=0, images=6)
    # One image is not like the others.
    odd = table.image == 2
    points = table.points.clone()
    points[odd] = torch.from_numpy(random(5).uniform(-1, 1, (int(odd.sum()), 2))).float()
    table = KeypointTable.of(6, table.image, points, table.scores)
    found = Template(least=0.75).ordered(table, COUNT)
    assert found.counts().tolist() == [13, 13, 0, 0, 13, 13]


def test_images_with_few_correspondences_are_left_out() -> None:
    table, _ = faces(missing=5, clutter=0)
    points = tuple(map(tuple, FACE.tolist()))
    assert (Template(points=points, least=0.5).ordered(table, COUNT).counts() > 0).sum() == 5
    assert (Template(points=points, least=0.8).ordered(table, COUNT).counts() > 0).sum() == 1


def test_what_cannot_be_aligned_is_said() -> None:
    table, _ = faces(images=2)
    far = torch.from_numpy(random(9).uniform(-0.02, 0.02, (len(table), 2))).float()
    crowd = KeypointTable.of(2, table.image, far, table.scores)
    with pytest.raises(DataError, match="no image has keypoints for 6 of the template's 13"):
        Template(points=tuple(map(tuple, FACE.tolist()))).ordered(crowd, COUNT)
    few = table.select(torch.arange(len(table)) % 4 == 0)
    with pytest.raises(DataError, match="no image has the 13 keypoints of a template; the most"):
        Template().ordered(few, COUNT)
    with pytest.raises(DataError, match="no image has the 13 keypoints"):
        Template(image=0).ordered(few, COUNT, image=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points": ((0.0, 0.0), (0.5, 0.5))}, "points: a template of 2 points"),
        ({"points": ((0.0, 0.0), (0.5, 0.5), (2.0, 0.0))}, "point 2 of the template"),
        ({"points": tuple(map(tuple, FACE.tolist())), "image": 0}, "either points or an image"),
        ({"least": 0.0}, "least 0"),
        ({"reach": -1.0}, "reach -1"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Template(**settings)  # type: ignore[arg-type]


class _Files(Images):
    names = ("a/one.png", "a/two.png", "b/two.png")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Row:
        raise NotImplementedError

    def where(self, index: int) -> str:
        return self.names[index]


def test_an_image_is_found_by_position_or_name() -> None:
    images = _Files()
    assert [position_of(one, images, "x") for one in (2, "one.png", "b/two.png")] == [2, 0, 2]
    with pytest.raises(DataError, match="x: there is no image 3; allowed: 0 to 2"):
        position_of(3, images, "x")
    with pytest.raises(DataError, match=r"x: 2 images are called 'two.png'"):
        position_of("two.png", images, "x")
    with pytest.raises(DataError, match=r"no images are called 'oen.png'.*did you mean 'one.png'"):
        position_of("oen.png", images, "x")
