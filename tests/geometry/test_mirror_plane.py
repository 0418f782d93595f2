"""The plane of symmetry that pairs of vectors suggest."""

import pytest
import torch

from landmark_lab.geometry.mirror_plane import MirrorPlane, fit_mirror_plane


def mirrored(count=40, channels=4, noise=0.0, seed=0):
    """Vectors and their partners about a known plane."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(2 * count + 1, channels, generator=generator, dtype=torch.float64)
    plane = MirrorPlane(
        torch.nn.functional.normalize(numbers[0], dim=0), torch.tensor(0.3).double()
    )
    vectors = numbers[1 : count + 1]
    return plane, vectors, plane.reflect(vectors) + noise * numbers[count + 1 :]


def test_a_reflection_is_its_own_inverse_and_keeps_the_plane():
    plane, vectors, partners = mirrored()
    torch.testing.assert_close(plane.reflect(partners), vectors)
    on_it = (vectors + partners) / 2
    torch.testing.assert_close(plane.reflect(on_it), on_it)
    torch.testing.assert_close(on_it @ plane.normal, torch.full((40,), 0.3).double())


def test_the_plane_is_found():
    plane, vectors, partners = mirrored()
    found = fit_mirror_plane(vectors.float(), partners.float())
    sign = torch.sign(found.normal @ plane.normal)
    torch.testing.assert_close(found.normal * sign, plane.normal, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.offset * sign, plane.offset, atol=1e-5, rtol=0)
    assert found.reflect(vectors.float()).dtype == torch.float32


def test_no_other_plane_has_a_smaller_error():
    plane, vectors, partners = mirrored(count=9, channels=3, noise=0.4)
    vectors[:2] = partners[:2] = (vectors[:2] + partners[:2]) / 2  # their own partners

    def error(one):
        return float((one.reflect(vectors) - partners).square().sum())

    found = fit_mirror_plane(vectors, partners)
    best = error(found)
    generator = torch.Generator().manual_seed(3)
    for size in (1e-3, 1e-1, 10.0):
        for _ in range(100):
            step = size * torch.randn(4, generator=generator, dtype=torch.float64)
            normal = torch.nn.functional.normalize(found.normal + step[:3], dim=0)
            assert error(MirrorPlane(normal, found.offset + step[3])) > best
    assert best < error(plane)


def test_what_makes_no_plane():
    with pytest.raises(ValueError, match=r"\(0, 3\)"):
        fit_mirror_plane(torch.zeros(0, 3), torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"\(2, 3\) and partners \(3, 3\)"):
        fit_mirror_plane(torch.zeros(2, 3), torch.zeros(3, 3))
