"""Our own arithmetic held against libraries that did not learn it from us.

SciPy and cc3d define what we define, and so does surface-distance, by the authors of the surface Dice: they must agree
exactly.
"""

import cc3d
import numpy as np
import pytest
import surface_distance
from scipy import ndimage, stats
from surface_distance import lookup_tables

from covct.evaluation import bootstrap
from covct.evaluation.lesions import lesion_sums
from covct.evaluation.scores import scores
from covct.evaluation.surface import piece_area, surface_scores
from covct.pipeline.burden import find_lesions
from covct.pipeline.postprocess import _fill_holes, air_around
from covct.voxels.components import components

SPACING_MM = (5.0, 3.0, 2.0)
FACES = ndimage.generate_binary_structure(3, 1)


def noise(seed, shape=(12, 40, 36), share=0.3):
    return np.random.default_rng(seed).random(shape) < share


def blobs(seed, shape=(12, 40, 36), sigma=1.5, share=0.35):
    """Rounded bodies, some at the border of the array."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), sigma)
    return field > np.quantile(field, 1 - share)


def masks_of(phantom):
    lungs = phantom.lungs > 0
    return {
        "noise": noise(0), "dense noise": noise(1, share=0.6), "blobs": blobs(2), "one slice": blobs(3, (1, 40, 36)),
        "lungs": lungs, "infection": phantom.infection > 0, "neither": ~lungs,
        "nothing": np.zeros((3, 4, 5), bool),
    }  # fmt: skip


def pair(name, phantom):
    """A truth, and a call that is off by what networks are off by."""
    if name == "blobs":
        return blobs(4), blobs(4, sigma=1.7, share=0.4)
    truth = (phantom.lungs if name == "lungs" else phantom.infection) > 0
    shifted = np.roll(truth, (0, 1, -1), (0, 1, 2))
    return truth, ndimage.binary_opening(shifted, FACES) | shifted & noise(5, truth.shape, 0.7)


# Components


@pytest.mark.parametrize(
    "name", ["noise", "dense noise", "blobs", "one slice", "lungs", "infection", "neither", "nothing"]
)
def test_components_are_those_of_cc3d_and_scipy(name, phantom):
    """Through faces (6 neighbours): as many, as large, and the same voxels together."""
    mask = masks_of(phantom)[name]
    found = components(mask.__getitem__, len(mask))
    ours = np.stack([found.on_slice(index) for index in range(len(mask))])
    assert np.array_equal(np.bincount(ours.ravel(), minlength=len(found.sizes) + 1)[1:], found.sizes)
    assert list(found.sizes) == sorted(found.sizes, reverse=True)
    for theirs in (cc3d.connected_components(mask, connectivity=6), ndimage.label(mask, FACES)[0]):
        assert theirs.max() == len(found.sizes)
        together = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
        assert together.shape[1] == len(np.unique(ours)), "each of ours is one of theirs"


def test_a_corner_joins_nothing():
    """Else the comparison with 6 neighbours could not tell it from 18 and 26."""
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 0, 0] = mask[1, 1, 0] = mask[0, 1, 1] = True
    assert [cc3d.connected_components(mask, connectivity=c).max() for c in (6, 18, 26)] == [3, 1, 1]
    assert len(components(mask.__getitem__, 2).sizes) == 3


def test_lesions_lie_where_scipy_finds_their_centres(phantom):
    infection, lungs = phantom.infection > 0, phantom.lungs
    affine = np.diag([-2.0, 3.0, 5.0, 1.0])
    count, lesions = find_lesions(infection, lungs, affine)
    labels, number = ndimage.label(infection, FACES)
    centres = np.array(ndimage.center_of_mass(infection, labels, range(1, number + 1))) @ affine[:3, :3]
    sizes = ndimage.sum_labels(infection, labels, range(1, number + 1)) * 30 / 1000
    assert count == number and len(lesions) == min(number, 10)
    for one in lesions:
        near = np.argmin(np.abs(centres - one.centroid_lps_mm).max(1))
        assert one.centroid_lps_mm == pytest.approx(centres[near], abs=0.051), "written to a tenth of a millimetre"
        assert one.volume_ml == pytest.approx(sizes[near])


@pytest.mark.parametrize("name", ["lungs", "blobs", "neither"])
def test_holes_are_filled_as_scipy_fills_them(name, phantom):
    mask = masks_of(phantom)[name]
    labels, _ = ndimage.label(mask, FACES)
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    main = np.isin(labels, np.flatnonzero(counts >= max(0.02 * counts.max(), 20)))
    filled = _fill_holes(components(mask.__getitem__, len(mask)))
    assert np.array_equal(filled, np.stack([ndimage.binary_fill_holes(one) for one in main]))


def test_air_that_reaches_the_border_is_that_of_scipy():
    for seed in range(5):
        air = noise(seed, (40, 36), 0.6)
        theirs = ndimage.binary_propagation(np.zeros_like(air), mask=air, border_value=1)
        assert np.array_equal(air_around(np.where(air, -1000, 40)), theirs)


# Surfaces


@pytest.mark.parametrize("spacing", [SPACING_MM, (1.0, 1.0, 1.0), (0.7, 2.1, 1.3)])
def test_each_piece_of_surface_has_the_area_that_its_authors_gave_it(spacing):
    """All 256 cases of the eight voxels around a corner; ours are made from fourteen."""
    theirs = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    assert [piece_area(code, spacing) for code in range(256)] == pytest.approx(theirs)


@pytest.mark.parametrize("name", ["blobs", "lungs", "infection"])
@pytest.mark.parametrize("spacing", [SPACING_MM, (1.0, 1.0, 1.0)], ids=["uneven", "cubes"])
def test_surface_scores_are_those_of_their_authors(name, spacing, phantom):
    truth, called = pair(name, phantom)
    theirs = surface_distance.compute_surface_distances(truth, called, spacing)
    for tolerance in (0.0, 0.9, 2.5, 6.0):
        expected = (
            surface_distance.compute_robust_hausdorff(theirs, 95),
            (surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)),
        )
        assert surface_scores(truth, called, spacing, tolerance) == pytest.approx(expected, abs=1e-5)


def test_a_single_slice_has_the_scores_of_its_outline():
    """As theirs in two dimensions: no faces across."""
    truth, called = blobs(3, (1, 40, 36)), blobs(3, (1, 40, 36), sigma=1.7, share=0.4)
    theirs = surface_distance.compute_surface_distances(truth[0], called[0], SPACING_MM[1:])
    for tolerance in (0.0, 2.5):
        expected = (
            surface_distance.compute_robust_hausdorff(theirs, 95),
            (surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)),
        )
        assert surface_scores(truth, called, SPACING_MM, tolerance) == pytest.approx(expected, abs=1e-5)


# Lesions


@pytest.mark.parametrize("seed", range(3))
def test_lesions_match_as_scipy_s_labels_do(seed):
    """Panoptica 2.1 counted the same in these; it brings too much along to be among what tests need."""
    truth, called = blobs(seed, share=0.2), blobs(seed, sigma=1.7, share=0.25) & ~noise(seed, share=0.1)
    (one, ones), (other, others) = (ndimage.label(mask, FACES) for mask in (truth, called))
    voxel_mm3 = 15.0
    large = [[n for n in range(1, count + 1) if (labels == n).sum() * voxel_mm3 >= 100]
             for labels, count in ((one, ones), (other, others))]  # fmt: skip
    touching = [(a, b) for a in large[0] for b in large[1] if ((one == a) & (other == b)).any()]
    matched = [(a, b) for a, b in touching if ((one == a) & (other == b)).sum() * 2 > ((one == a) | (other == b)).sum()]
    expected = [*map(len, large), len({a for a, _ in touching}), len({b for _, b in touching}), len(matched)]
    assert lesion_sums(truth, called, voxel_mm3)[: len(expected)].tolist() == expected
    assert len(matched) < len(touching), "some touch and do not match"


# Intervals


def of_patients(seed, patients=60):
    """Counts of hits, inventions, misses and the rest, of lungs of many sizes."""
    rng = np.random.default_rng(seed)
    size = rng.lognormal(8, 0.5, patients)
    return np.stack([size * rng.beta(30, 3, patients), size * rng.beta(2, 20, patients), size * 0.1, size * 9], 1)


@pytest.mark.parametrize(
    "statistic",
    [
        lambda sums: sums[..., 0] / sums[..., -1],  # a mean of cases
        lambda sums: scores(sums[..., :4])["dice"],  # pooled
    ],
    ids=["mean", "pooled Dice"],
)
def test_intervals_are_those_of_scipy_s_bootstrap(statistic):
    """Corrected for bias and skewness, at the level that is wider by Student's t.

    20,000 resamples each, drawn apart: the ends differ by less than 3 % of the width (four standard errors).
    """
    sums = np.concatenate([of_patients(1), np.ones((60, 1))], 1)
    low, high = bootstrap.interval(sums, statistic, bootstrap.draw(60, 20_000, seed=1))
    expanded = 2 * stats.norm.cdf(stats.t.ppf(0.975, 59) * (60 / 59) ** 0.5) - 1
    assert bootstrap.expanded(0.95, 60) == pytest.approx(expanded, abs=1e-5)
    theirs = stats.bootstrap(
        (np.arange(60),), lambda drawn, axis: statistic(sums[drawn].sum(axis=-2)), method="BCa",
        n_resamples=20_000, batch=2_000, confidence_level=expanded, rng=np.random.default_rng(2),
    )  # fmt: skip
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.03 * (high - low))
