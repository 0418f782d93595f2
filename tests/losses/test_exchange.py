"""Vector exchange against the plain sum, and what it means for vectors that others have or lack."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from landmark_lab.losses.exchange import exchange
from tests.oracles import matching as oracle


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_it_is_the_plain_sum_over_all_images_of_the_set() -> None:
    queries, auxiliary = random(2, 7, 3), random(2, 4, 3, 2, 5)
    torch.testing.assert_close(exchange(queries, auxiliary), oracle.exchange(queries, auxiliary))


def test_the_order_of_the_set_and_of_the_pixels_does_not_matter() -> None:
    queries, auxiliary = random(2, 7, 3), random(2, 4, 3, 2, 5)
    for axis in (1, 3, 4):
        torch.testing.assert_close(
            exchange(queries, auxiliary.flip(axis)), exchange(queries, auxiliary)
        )


def test_vectors_that_others_have_come_back_and_those_that_they_lack_come_out_short() -> None:
    basis = 10 * torch.eye(4)
    others = basis[:3].T.reshape(1, 1, 4, 1, 3)  # all but the last one
    rebuilt = exchange(basis[None], others)[0]
    torch.testing.assert_close(rebuilt[:3], basis[:3])
    torch.testing.assert_close(rebuilt[3], basis[:3].mean(0))


def test_half_precision_stays_near() -> None:
    queries, auxiliary = random(2, 7, 3).float(), random(2, 4, 3, 2, 5).float()
    found = exchange(queries.bfloat16(), auxiliary.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exchange(queries, auxiliary), rtol=0.05, atol=0.03)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_maps_of_either_memory_order_take_the_kernel_that_keeps_no_matrix(
    order: torch.memory_format,
) -> None:
    maps = random(2, 3, 4, 5).contiguous(memory_format=order).requires_grad_()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # fails where torch would choose another one
        found = exchange(maps.flatten(2).mT, maps.roll(-1, 0)[:, None])
    found.sum().backward()
    assert maps.grad is not None
