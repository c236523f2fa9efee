"""What is dense in the lungs of somebody without COVID-19: told from disease by geometry, on shapes one can see."""

import cv2
import numpy as np
import pytest

from covct.data.not_disease import labels_without_disease
from covct.data.slice_distance import estimated_distance_mm
from covct.data.slices import UNKNOWN

SPACING = (3.0, 1.6, 1.6)


@pytest.fixture
def scan():
    """Twelve slices of one round lung of 130 mm in soft tissue, -850 HU with a little noise, and its mask."""
    hu = np.full((12, 128, 128), 40.0, np.float32)
    rows, columns = np.mgrid[:128, :128] - 63.5
    lungs = np.repeat((np.hypot(rows, columns) < 41)[None], 12, 0)
    hu[lungs] = -850
    return hu + np.random.default_rng(0).normal(0, 20, hu.shape).astype(np.float32), lungs.astype(np.uint8)


def unknown(scan):
    hu, lungs = scan
    return labels_without_disease(hu, lungs, SPACING) == UNKNOWN


def test_aerated_lung_is_healthy(scan):
    assert not unknown(scan).any()


@pytest.mark.parametrize("density", [-500, -200, 30])
def test_a_dense_patch_may_be_disease(scan, density):
    hu, lungs = scan
    hu[4:8, 50:64, 50:64] = density
    assert unknown(scan)[5, 54:60, 54:60].all()
    assert not unknown(scan)[:3].any() and not unknown(scan)[5, 90:, 60].any()


def test_vessels_and_fissures_are_not(scan):
    hu, _ = scan
    for k, one in enumerate(hu):
        cv2.line(one, (40 + k, 45), (85, 50 + k), -100, 2)  # 3 mm thick
        cv2.circle(one, (60, 75), 1, 40, -1)
    assert not unknown(scan).any()


def test_partial_volume_of_a_dome_is_not(scan):
    """Soft tissue in the slice below, half of it in this one."""
    hu, lungs = scan
    hu[9:, 40:90, 40:90], lungs[9:, 40:90, 40:90] = 40, 0
    hu[8, 40:90, 40:90] = -400
    assert not unknown(scan)[8].any()
    hu[4, 40:90, 40:90] = -400  # the same with no tissue near
    assert unknown(scan)[4, 50:80, 50:80].all()


def test_dependent_density_is_not_but_a_consolidation_there_is(scan):
    hu, lungs = scan
    lowest = (lungs > 0) & ~np.roll(lungs > 0, -6, axis=1)
    hu[lowest] = -600
    assert not unknown(scan).any()
    hu[5:8, 88:102, 50:78] = np.where(lungs[5:8, 88:102, 50:78] > 0, 0, 40)
    assert unknown(scan)[6, 90:98, 56:72].mean() > 0.8


def test_lung_of_somebody_who_breathed_out_is_measured_by_itself(scan):
    hu, lungs = scan
    hu[lungs > 0] += 200
    assert not unknown(scan).any()


@pytest.mark.parametrize("slice_mm", [1.5, 3.0, 6.0])
def test_the_distance_of_slices_is_seen_in_their_texture(slice_mm):
    """Texture that is alike in all directions, in a lung 270 mm wide of 1.5 mm pixels."""
    depth = 24 if slice_mm > 2 else 40
    noise = np.random.default_rng(1).standard_normal((depth * round(slice_mm / 0.75), 224, 224)).astype(np.float32)
    from scipy.ndimage import gaussian_filter

    isotropic = gaussian_filter(noise, (2.4 / 0.75, 2.4 / 1.5, 2.4 / 1.5))[:: round(slice_mm / 0.75)]
    hu = np.full(isotropic.shape, 40.0, np.float32)
    inside = np.zeros((224, 224), np.uint8)
    cv2.circle(inside, (112, 112), 90, 1, -1)
    hu[:, inside > 0] = (-800 + 60 * isotropic / isotropic.std())[:, inside > 0]
    found = estimated_distance_mm(hu, np.arange(len(hu)))
    assert found == pytest.approx(slice_mm / 0.84 * 0.95, rel=0.3), "real lungs are a little coarser along the body"
    gaps = np.arange(len(hu)) * 9
    assert np.isnan(estimated_distance_mm(hu, gaps)), "no two follow one another"
    assert np.isnan(estimated_distance_mm(np.full_like(hu, 40), np.arange(len(hu))))


@pytest.mark.real
def test_the_distance_of_real_slices(shared):
    from covct.intake.volume_file import read_volume

    for name in ("lctsc-256/case-002_ct", "covid-ct-md/P001_hu256"):
        volume = read_volume(shared / f"{name}.nii.gz").to_patient_orientation("FPL")
        found = estimated_distance_mm(volume.array, np.arange(len(volume.array)))
        assert found == pytest.approx(volume.spacing[0], rel=0.2), name
