"""The same scan as another kernel or another thickness would show it, segmented again: how far the burden moves.

A reconstruction kernel is imitated by a Gaussian within the slices, a thicker slice by the mean of what it would hold.
Both change what is there and add nothing: noise of a dose, motion and another patient position are other questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import highdicom as hd
import numpy as np

from covct.networks.network import Networks
from covct.pipeline.series import segment
from covct.voxels.labels import per_slice
from covct.voxels.volume import Scan, spacing_mm

KERNEL_MM = 1.0  # sigma: between a soft kernel and a lung kernel the resolution differs by about as much
THICKNESSES_MM = (1, 3, 5)


@dataclass(frozen=True)
class Varied:
    """Infected share of the lungs found, percent: of the scan as it is, and of its variants by name."""

    percent: float
    variants: dict[str, float]

    @property
    def points(self) -> dict[str, float]:
        """By variant, how far the share moves."""
        return {name: percent - self.percent for name, percent in self.variants.items()}


def vary(networks: Networks, scan: Scan, lungs: np.ndarray, infection: np.ndarray) -> Varied:
    """Segment every variant of a scan.

    Parameters
    ----------
    lungs, infection : (slices, rows, columns)
        As found in the scan itself.
    """
    here = _percent(int(np.count_nonzero(lungs)), int(np.count_nonzero(infection)))
    found = {}
    for name, variant in variants(scan.working):
        labels = segment(networks, Scan(variant))
        found[name] = _percent(int(per_slice(labels.lungs).sum()), int(per_slice(labels.infection).sum()))
    return Varied(here, found)


def _percent(lungs: int, infection: int) -> float:
    return 100 * infection / lungs if lungs else 0.0


def variants(volume: hd.Volume) -> Iterator[tuple[str, hd.Volume]]:
    """By name, one at a time; thicknesses only above the distance of the scan's own slices."""
    yield "smooth", _each_slice(volume, _blurred)
    yield "sharp", _each_slice(volume, lambda one, sigmas: 2 * one - _blurred(one, sigmas))
    for thickness in THICKNESSES_MM:
        if thickness > 1.05 * spacing_mm(volume)[0]:
            yield f"{thickness}mm", thicker(volume, thickness)


def _blurred(hu: np.ndarray, sigmas: tuple[float, float]) -> np.ndarray:
    down, across = sigmas
    blurred: np.ndarray = cv2.GaussianBlur(hu, (0, 0), sigmaX=across, sigmaY=down)
    return blurred


def _each_slice(volume: hd.Volume, change: Callable[[np.ndarray, tuple[float, float]], np.ndarray]) -> hd.Volume:
    _, down, across = spacing_mm(volume)
    out = np.empty(volume.shape, np.int16)
    for index, hu in enumerate(volume.array):
        changed = change(hu.astype(np.float32), (KERNEL_MM / down, KERNEL_MM / across))
        out[index] = np.clip(np.rint(changed), hu.min(), hu.max())
    return volume.with_array(out)


def thicker(volume: hd.Volume, thickness_mm: float) -> hd.Volume:
    """Slices of `thickness_mm`, one beside the other from the head on, each the mean of what it holds of the old ones.

    What is left at the feet, less than a new slice, is left out.
    """
    old = spacing_mm(volume)[0]
    count = max(1, int(len(volume.array) * old / thickness_mm + 1e-6))
    out = np.empty((count, *volume.shape[1:]), np.int16)
    for index in range(count):
        first, last = index * thickness_mm / old, (index + 1) * thickness_mm / old
        held = range(int(first), min(len(volume.array), int(np.ceil(last - 1e-6))))
        weights = np.array([min(last, k + 1) - max(first, k) for k in held], np.float32)
        out[index] = np.rint(np.tensordot(weights / weights.sum(), volume.array[held.start : held.stop], 1))
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (thickness_mm / old - 1) / 2
    affine[:3, 0] *= thickness_mm / old
    return hd.Volume(out, affine, volume.coordinate_system, frame_of_reference_uid=volume.frame_of_reference_uid)
