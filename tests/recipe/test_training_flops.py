"""Peaks of devices by the names that drivers report."""

from __future__ import annotations

import pytest

from firstsight.recipe.training_flops import PEAK_FLOPS, device_peak_flops


@pytest.mark.parametrize(
    ("driver_name", "device"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA A100-PCIE-40GB", "a100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 3090", None),
        ("NVIDIA A10", None),
        ("Intel CPU", None),
        ("", None),
    ],
)
def test_the_peak_of_a_gpu_is_that_of_its_name(driver_name: str, device: str | None) -> None:
    assert device_peak_flops(driver_name) == (device and PEAK_FLOPS[device])
