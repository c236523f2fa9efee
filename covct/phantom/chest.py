"""A synthetic chest CT whose lung and lesion volumes are known; `phantom.dicom` writes it. Never loads keras.

The anatomy is a set of depth functions of the point (x, y, u): x to the patient's left, y to posterior, u downwards
from the lung apices, in millimetres. A depth is positive inside, in millimetres from the surface, so shapes combine
by minimum and maximum, masks are `depth > 0` and a voxel's share of a tissue is the depth clipped over one voxel.
A grid only samples these functions: the patient does not depend on it, scanner noise does. `shapes` has the depths of
simple shapes, `anatomy` puts the patient together from them, `growth` draws what differs from seed to seed, `density`
turns depths into HU.
"""

from __future__ import annotations

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom.uid import generate_uid

from covct.errors import UsageError
from covct.phantom.density import render
from covct.phantom.growth import grow
from covct.phantom.shapes import CENTRE_Y_MM, Grid
from covct.terms import LEFT_LUNG, RIGHT_LUNG

COVERAGE_MM = 300.0
FIELD_OF_VIEW_MM = 384.0
LESIONS = ("none", "one-voxel", "mild", "moderate", "severe")
_LUNGS_NEED_MM = (270.0, 225.0, 290.0)
_ABOVE_APEX_MM = 30.0  # of the 300 mm covered, lungs take the 240 from here on


@dataclass(frozen=True)
class Phantom:
    """A synthetic chest CT and its truth.

    Attributes
    ----------
    volume : highdicom.Volume
        HU, int16, (slices, rows, columns) towards feet, posterior and left ("FPL"), LPS millimetres.
    lungs : (slices, rows, columns) uint8
        0 background, 1 right lung, 2 left lung. Lesions and intrapulmonary vessels are lung; trachea, main bronchi
        and hila are not.
    infection : (slices, rows, columns) bool
        Ground glass and consolidation, all inside `lungs`.
    consolidation : (slices, rows, columns) bool
        The consolidated part of `infection`; the rest is ground glass.
    lesions : str
        One of `LESIONS`.
    seed : int
    """

    volume: hd.Volume
    lungs: np.ndarray
    infection: np.ndarray
    consolidation: np.ndarray
    lesions: str
    seed: int

    def truth(self) -> dict[str, float]:
        """Volumes in mL, counted voxel by voxel; lesion volumes of the right, the left and both lungs."""
        millilitre = float(self.volume.voxel_volume) / 1000

        def volume_ml(mask: np.ndarray) -> float:
            return round(int(np.count_nonzero(mask)) * millilitre, 6)

        return {
            "right_lung_ml": volume_ml(self.lungs == RIGHT_LUNG),
            "left_lung_ml": volume_ml(self.lungs == LEFT_LUNG),
            "lungs_ml": volume_ml(self.lungs),
            "right_lung_infection_ml": volume_ml(self.infection & (self.lungs == RIGHT_LUNG)),
            "left_lung_infection_ml": volume_ml(self.infection & (self.lungs == LEFT_LUNG)),
            "infection_ml": volume_ml(self.infection),
            "ground_glass_ml": volume_ml(self.infection & ~self.consolidation),
            "consolidation_ml": volume_ml(self.consolidation),
        }


def make_phantom(
    slices: int = 60,
    rows: int = 512,
    columns: int = 512,
    slice_spacing_mm: float | None = None,
    pixel_spacing_mm: tuple[float, float] | None = None,
    lesions: str = "moderate",
    seed: int = 0,
) -> Phantom:
    """Make a synthetic chest CT. The same arguments give the same voxels.

    Parameters
    ----------
    slices, rows, columns : int
    slice_spacing_mm : float, optional
        Default: 300 mm divided by `slices`, 5 mm for 60.
    pixel_spacing_mm : (float, float), optional
        Between rows and between columns. Default: 384 mm divided by rows and columns, 0.75 mm for 512.
    lesions : str
        "none", "one-voxel" (a single voxel in the right lung), "mild" (some of the lesions of "moderate", as if the
        others had healed), "moderate" (about an eighth of the lungs) or "severe" (nearly a half).
    seed : int
        Chooses size of the patient, vessels, lesions and noise.

    Raises
    ------
    UsageError
        An unknown kind of lesions, or a grid that would cut the lungs off.
    """
    if lesions not in LESIONS:
        raise UsageError(f"unknown lesions {lesions!r}; choose from {', '.join(LESIONS)}")
    if min(slices, rows, columns) < 1:
        raise UsageError(f"a phantom needs at least one slice, row and column, got {slices} x {rows} x {columns}")
    spacing_z = COVERAGE_MM / slices if slice_spacing_mm is None else slice_spacing_mm
    spacing_y, spacing_x = pixel_spacing_mm or (FIELD_OF_VIEW_MM / rows, FIELD_OF_VIEW_MM / columns)
    extent = (slices * spacing_z, rows * spacing_y, columns * spacing_x)
    if any(got < wanted for got, wanted in zip(extent, _LUNGS_NEED_MM, strict=True)):
        got, wanted = (" x ".join(f"{mm:.0f}" for mm in sizes) for sizes in (extent, _LUNGS_NEED_MM))
        raise UsageError(f"the grid covers {got} mm (slices, rows, columns); the lungs need {wanted} mm")

    anatomy = grow(seed, lesions)
    spacing = (spacing_z, spacing_y, spacing_x)
    hu = np.empty((slices, rows, columns), np.int16)
    lungs = np.zeros(hu.shape, np.uint8)
    consolidation = np.zeros(hu.shape, bool)
    infection = np.zeros(hu.shape, bool)
    grid = Grid(rows, columns, spacing_y / anatomy.scale, spacing_x / anatomy.scale, spacing_z / anatomy.scale)
    # More than 300 mm lengthen abdomen and neck alike.
    first_u = -_ABOVE_APEX_MM - (extent[0] - COVERAGE_MM) / 2 + spacing_z / 2
    for index in range(slices):
        u = (first_u + index * spacing_z) / anatomy.scale
        hu[index], lungs[index], infection[index], consolidation[index] = render(anatomy, grid, u, (seed, index))
    volume = hd.Volume.from_components(
        hu,
        spacing=spacing,
        coordinate_system="PATIENT",
        patient_orientation="FPL",
        center_position=(0.0, CENTRE_Y_MM, -(first_u + (slices - 1) / 2 * spacing_z)),
        frame_of_reference_uid=generate_uid(entropy_srcs=["covct phantom frame of reference", str(seed)]),
    )
    if lesions == "one-voxel":
        chosen = _healthy_voxel(volume, lungs == RIGHT_LUNG)
        infection[chosen], hu[chosen] = True, -550
        volume = volume.with_array(hu)
    return Phantom(volume, lungs, infection, consolidation, lesions, seed)


def _healthy_voxel(volume: hd.Volume, right_lung: np.ndarray) -> tuple[int, ...]:
    """The aerated voxel nearest to a point in the posterior right lower lobe."""
    index = volume.map_reference_to_indices(np.array([[-70.0, 55.0, -175.0]]))[0]
    candidates = np.argwhere(right_lung & (volume.array < -700))
    distance = ((candidates - index) * np.array(volume.spacing)) ** 2
    return tuple(int(i) for i in candidates[np.argmin(distance.sum(axis=1))])
