"""Changes to a training slice. Every function takes HU (256, 256) float32 and a random generator, and is small.

Lesions inserted here serve two ends: the restorer must have seen opacities of every density, else it brings
every grey inside a lung back as tissue; and the source of a slice must never predict its label.
"""

from __future__ import annotations

import cv2
import numpy as np

SIZE = 256
TISSUE_HU = 40.0
CLEARLY_VISIBLE_HU = 200.0  # median of a lesion above the median of the lung around it


def affine(images, orders, rng, scale=(0.85, 1.2), rotation=12.0, shift=0.06, flip=True, border_hu=-1000.0):
    """The same random similarity for several images.

    images : sequence of (256, 256); orders : for each 'hu' (linear, `border_hu` outside) or 'mask' (nearest, 0).
    A left-right flip keeps a plausible chest for a network that never tells the sides apart; up-down does not.
    """
    angle = rng.uniform(-rotation, rotation)
    zoom = np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1])))
    matrix = cv2.getRotationMatrix2D(((SIZE - 1) / 2, (SIZE - 1) / 2), angle, zoom)
    matrix[:, 2] += rng.uniform(-shift, shift, 2) * SIZE
    matrix[0, 1] += rng.uniform(-0.05, 0.05)
    if flip and rng.random() < 0.5:
        matrix[0] = -matrix[0]
        matrix[0, 2] += SIZE - 1
    out = []
    for image, order in zip(images, orders, strict=True):
        flags, border = (cv2.INTER_LINEAR, border_hu) if order == "hu" else (cv2.INTER_NEAREST, 0)
        image = image.astype(np.float32) if order == "hu" else image
        out.append(cv2.warpAffine(image, matrix, (SIZE, SIZE), flags=flags, borderValue=border))
    return out


def smooth_field(rng, cells: float) -> np.ndarray:
    """A random field with about `cells` bumps a side, zero mean, unit deviation. (256, 256) float32."""
    coarse = rng.standard_normal((int(cells) + 4, int(cells) + 4)).astype(np.float32)
    field = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return (field - field.mean()) / (field.std() + 1e-6)


def lung_density(hu, lungs, rng):
    """Scale the air content of the lungs: from deep inspiration with emphysema to expiration."""
    factor = rng.uniform(0.6, 1.7)
    target = np.minimum(-1000 + (hu + 1000) * factor, np.maximum(hu, -300))
    inside = cv2.GaussianBlur((lungs > 0).astype(np.float32), (0, 0), 1)
    return hu + inside * (target - hu) * (hu < -300)


def lesion_mask(lungs, rng) -> np.ndarray:
    """A soft random mask in the lungs: one to five blobs with ragged edges, mostly peripheral. float32 in 0..1."""
    inside = (lungs > 0).astype(np.uint8)
    if inside.sum() < 200:
        return np.zeros(lungs.shape, np.float32)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
    weight = np.where(inside > 0, np.exp(-depth / rng.uniform(4, 40)), 0).ravel()
    centres = rng.choice(weight.size, size=rng.integers(1, 6), p=weight / weight.sum())
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    level = np.full(lungs.shape, -9.0, np.float32)
    for centre in centres:
        row, column = divmod(int(centre), SIZE)
        radius = np.exp(rng.uniform(np.log(3), np.log(38)))
        stretch, angle = rng.uniform(0.5, 1), rng.uniform(0, np.pi)
        u = (rows - row) * np.cos(angle) + (columns - column) * np.sin(angle)
        v = (columns - column) * np.cos(angle) - (rows - row) * np.sin(angle)
        level = np.maximum(level, 1 - np.hypot(u, v / stretch) / radius)
    level += rng.uniform(0.1, 0.5) * smooth_field(rng, rng.uniform(8, 40))
    softness = rng.uniform(0.03, 0.35)
    return np.clip(level / softness + 0.5, 0, 1) * inside


def fill_air(hu, mask, target_hu, rng, texture=0.15):
    """Fill a share of each pixel's air with tissue, so that the lung's median under `mask` comes to `target_hu`.

    Vessels stay visible and noise fades with the air, as in ground glass. Septa (crazy paving) by `texture`.
    """
    under = hu[(mask > 0.5) & (hu < -500)]
    median = float(np.median(under)) if under.size > 20 else -850.0
    share = np.clip((target_hu - median) / (TISSUE_HU - median), 0, 1.0)
    if share <= 0:
        return hu
    ripple = 1 + texture * smooth_field(rng, rng.uniform(4, 16)) + texture * smooth_field(rng, rng.uniform(40, 90))
    share = np.clip(share * ripple, 0, 1) * mask
    return np.where(hu < TISSUE_HU, hu + share * (TISSUE_HU - hu), hu)


def insert_opacity(hu, lungs, rng):
    """Insert a lesion of random shape and density (-740..20 HU).

    Returns (hu, mask): the mask float32 in 0..1, all zero where the lung is too small.
    """
    mask = lesion_mask(lungs, rng)
    target = rng.uniform(-740, -300) if rng.random() < 0.75 else rng.uniform(-300, 20)
    return fill_air(hu, mask, target, rng, rng.uniform(0, 0.35)), mask


def transplant_lesion(hu, lungs, donor_hu, donor_lungs, donor_infection, rng):
    """Bring the lesions of one slice into the lungs of another: shape and density of the donor, texture of the host.

    Returns (hu, mask) like `insert_opacity`; the mask is what falls inside the host's lungs.
    """
    moved_hu, moved_lungs, moved = affine(
        (donor_hu, donor_lungs, donor_infection), ("hu", "mask", "mask"), rng, scale=(0.75, 1.3), rotation=25, shift=0.1
    )
    mask = ((moved == 1) & (lungs > 0)).astype(np.float32)
    healthy = moved_hu[(moved_lungs == 1) & (moved == 0)]
    if mask.sum() < 30 or healthy.size < 200:
        return hu, np.zeros_like(mask)
    tissue_share = np.clip((moved_hu - np.median(healthy)) / (TISSUE_HU - np.median(healthy)), 0, 1)
    tissue_share = cv2.GaussianBlur(tissue_share, (0, 0), rng.uniform(0.4, 1.2)) * rng.uniform(0.3, 1.0)
    soft = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.7, 1.8)) * (lungs > 0)
    share = tissue_share * soft
    return np.where(hu < TISSUE_HU, hu + share * (TISSUE_HU - hu), hu), mask


def rescale_lesion(hu, lungs, infection, rng, remove=0.2):
    """Give a real lesion another density, 0.8 to 2.5 times as far above the lung as it was; or take it away.

    Returns (hu, infection). With probability `remove` a clearly visible lesion fades into the lung and its label
    with it, so that slices of this source without disease exist; a faint one stays, else the network would learn
    that faint is healthy.
    """
    diseased = (infection == 1) & (hu > -950)
    healthy = hu[(lungs == 1) & (infection == 0) & (hu < -600)]
    if diseased.sum() < 20 or healthy.size < 100:
        return hu, infection
    base = float(np.median(healthy))
    soft = cv2.GaussianBlur(diseased.astype(np.float32), (0, 0), 1.2)
    excess = float(np.median(hu[diseased])) - base
    if rng.random() < remove and excess > CLEARLY_VISIBLE_HU:
        return hu - soft * np.maximum(hu - base, 0) * rng.uniform(0.95, 0.99), np.zeros_like(infection)
    factor = rng.uniform(0.8, 2.5)
    changed = np.where(hu > base, base + (hu - base) * factor, hu)
    return hu + soft * (np.minimum(changed, np.maximum(hu, 60)) - hu), infection


def noise(hu, rng, strongest=70.0):
    """Correlated scanner noise, blur or sharpening by chance: every source gets the same mixture."""
    if rng.random() < 0.25:
        hu = cv2.GaussianBlur(hu, (0, 0), rng.uniform(0.4, 1.1))
    elif rng.random() < 0.4:
        hu = hu + rng.uniform(0.3, 1.2) * (hu - cv2.GaussianBlur(hu, (0, 0), 1.0))
    if rng.random() < 0.7:
        grain = rng.standard_normal(hu.shape).astype(np.float32)
        correlation = rng.uniform(0, 1.2)
        if correlation > 0.3:
            grain = cv2.GaussianBlur(grain, (0, 0), correlation)
            grain /= grain.std()
        hu = hu + grain * strongest * rng.random() ** 2
    return hu


def contrast(hu, rng):
    """A calibration a little off: offset and gain around air."""
    return -1000 + (hu + 1000) * rng.uniform(0.93, 1.07) + rng.uniform(-25, 25)
