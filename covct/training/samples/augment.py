"""Changes to a training slice. Every function takes HU (256, 256) float32 and a random generator, and is small.

What moves slices or bends greys takes any shape; what puts lesions in wants 256 x 256. `presets.py` says how often.

Lesions inserted here serve two ends: the restorer must have seen opacities of every density, else it brings
every grey inside a lung back as tissue; and the source of a slice must never predict its label.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

SIZE = 256
TISSUE_HU = 40.0
CLEARLY_VISIBLE_HU = 200.0  # median of a lesion above the median of the lung around it


def affine(
    images: Sequence[np.ndarray],
    orders: Sequence[str],
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.85, 1.2),
    rotation: float = 12.0,
    shift: float = 0.06,
    flip: bool = True,
    border_hu: float = -1000.0,
    elastic_px: float = 0.0,
    cells: int = 5,
) -> list[np.ndarray]:
    """The same random similarity, and with `elastic_px` an elastic deformation, for several images: one interpolation.

    Parameters
    ----------
    images : sequence of (rows, columns) or (slices, rows, columns)
        All slices of a stack move alike, as neighbours of one another must.
    orders : sequence of str
        For each image 'hu' (linear, `border_hu` outside) or 'mask' (nearest, 0).
    rotation : float
        Degrees to either side.
    shift : float
        Share of the side, to each direction.
    flip : bool
        Whether left and right are exchanged, half the time. That puts the heart on the right, which one in ten
        thousand people has, and is allowed where a label does not tell sides: disease and "lung" look the same on both.
        Never for labels of the left or right lung. Up-down never: lying on the back, blood, effusions and dependent
        density sink to the spine, and a chest upside down is none that is scanned.
    elastic_px : float
        Standard deviation of the displacement (Simard 2003), in pixels; smooth over 1/`cells` of the side.

    Returns
    -------
    list of arrays, shaped as `images`; 'hu' as float32
    """
    rows, columns = images[0].shape[-2:]
    angle = rng.uniform(-rotation, rotation)
    zoom = np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1])))
    matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), angle, zoom)
    matrix[:, 2] += rng.uniform(-shift, shift, 2) * (columns, rows)
    matrix[0, 1] += rng.uniform(-0.05, 0.05)
    if flip and rng.random() < 0.5:
        matrix[0] = -matrix[0]
        matrix[0, 2] += columns - 1
    maps = _elastic_maps(matrix, rows, columns, elastic_px, cells, rng) if elastic_px else None

    def move(image: np.ndarray, interpolation: int, border: float) -> np.ndarray:
        if maps is not None:
            moved: np.ndarray = cv2.remap(
                image, maps[0], maps[1], interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=border
            )
            return moved
        turned: np.ndarray = cv2.warpAffine(image, matrix, (columns, rows), flags=interpolation, borderValue=border)
        return turned

    out = []
    for image, order in zip(images, orders, strict=True):
        interpolation, border = (cv2.INTER_LINEAR, border_hu) if order == "hu" else (cv2.INTER_NEAREST, 0)
        image = image.astype(np.float32) if order == "hu" else image
        if image.ndim == 2:
            out.append(move(image, interpolation, border))
        else:
            out.append(np.stack([move(one, interpolation, border) for one in image]))
    return out


def _elastic_maps(
    matrix: np.ndarray, rows: int, columns: int, elastic_px: float, cells: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel where it comes from, (rows, columns) float32 each: displaced, then back through the similarity."""
    back = cv2.invertAffineTransform(matrix).astype(np.float32)
    coarse = rng.standard_normal((cells + 3, cells + 3, 2), dtype=np.float32) * np.float32(elastic_px)
    displaced = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    displaced += _places(rows, columns)
    across, down = displaced[..., 0], displaced[..., 1]
    # not cv2.transform: its last bits depend on where in memory an array lies
    (cc, cr, c), (rc, rr, r) = np.asarray(back, np.float32)
    return cc * across + cr * down + c, rc * across + rr * down + r


@lru_cache(maxsize=4)
def _places(rows: int, columns: int) -> np.ndarray:
    """(rows, columns, 2) float32: the column and the row of each pixel."""
    down, across = np.mgrid[:rows, :columns].astype(np.float32)
    return np.dstack([across, down])


def random_patch(
    images: Sequence[np.ndarray],
    shape: tuple[int, ...],
    rng: np.random.Generator,
    around: np.ndarray | None = None,
    share: float = 0.5,
    border_hu: float = -1000.0,
) -> list[np.ndarray]:
    """The same random patch of several volumes, for a network of volumes.

    Parameters
    ----------
    images : sequence of (slices, rows, columns)
        HU first, then masks; all of one shape. Beyond them, where the patch is larger, HU is `border_hu`, masks 0.
    shape : (int, int, int)
        Slices, rows and columns of the patch, e.g. (80, 160, 160).
    around : (slices, rows, columns) bool, optional
        With the chance `share` the patch holds a voxel of this, at random: disease is rare, patches of the rest common.

    Returns
    -------
    list of arrays of `shape`
    """
    whole = images[0].shape
    spare = [have - wanted for have, wanted in zip(whole, shape, strict=True)]
    corner = [int(rng.integers(min(0, s), max(0, s) + 1)) for s in spare]
    places = np.flatnonzero(around) if around is not None and rng.random() < share else ()
    if len(places):
        held = np.unravel_index(int(rng.choice(places)), whole)
        for axis, (place, length, s) in enumerate(zip(held, shape, spare, strict=True)):
            first = int(place) - int(rng.integers(length))
            corner[axis] = int(np.clip(first, min(0, s), max(0, s)))
    out = []
    for number, image in enumerate(images):
        patch = np.full(shape, 0 if number else border_hu, image.dtype)
        source = tuple(slice(max(0, c), min(n, c + s)) for c, s, n in zip(corner, shape, whole, strict=True))
        inside = tuple(slice(one.start - c, one.stop - c) for one, c in zip(source, corner, strict=True))
        patch[inside] = image[source]
        out.append(patch)
    return out


def smooth_field(rng: np.random.Generator, cells: float) -> np.ndarray:
    """A random field with about `cells` bumps a side, zero mean, unit deviation. (256, 256) float32."""
    coarse = rng.standard_normal((int(cells) + 4, int(cells) + 4), dtype=np.float32)
    field = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    mean, deviation = cv2.meanStdDev(field)
    standardised: np.ndarray = (field - np.float32(mean.item())) / np.float32(deviation.item() + 1e-6)
    return standardised


def lung_density(hu: np.ndarray, lungs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale the air content of the lungs: from deep inspiration with emphysema to expiration."""
    factor = np.float32(rng.uniform(0.6, 1.7))
    target = np.minimum(-1000 + (hu + 1000) * factor, np.maximum(hu, -300))
    inside = cv2.GaussianBlur((lungs > 0).astype(np.float32), (0, 0), 1)
    changed: np.ndarray = hu + inside * (target - hu) * (hu < -300)
    return changed


def raise_ellipse(level: np.ndarray, centre: int, radius: float, stretch: float, angle: float) -> None:
    """Raise levels to 1 at a pixel, falling to 0 at an ellipse around it and on beyond; in place.

    Parameters
    ----------
    level : (rows, columns) float32
    centre : int
        The pixel, counted row by row.
    radius, stretch : float
        The long half axis in pixels, and the short one as a share of it.
    angle : float
        Radians, from straight down to the long axis.
    """
    row, column = divmod(centre, level.shape[1])
    rows, columns = np.ogrid[: level.shape[0], : level.shape[1]]
    rows, columns = rows.astype(np.float32), columns.astype(np.float32)
    # turned, then stretched to a circle of radius 1: (column, row) to (u, v)
    turn = np.array([[np.sin(angle), np.cos(angle)], [np.cos(angle), -np.sin(angle)]]) / radius
    turn[1] /= stretch
    (uc, ur), (vc, vr) = turn.astype(np.float32)
    u, v = uc * (columns - column) + ur * (rows - row), vc * (columns - column) + vr * (rows - row)
    # not by OpenCV, whose last bits depend on where in memory an array lies: a sample is a function of its seed
    np.maximum(level, 1 - np.sqrt(u * u + v * v), out=level)


def lesion_mask(lungs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A soft random mask in the lungs: one to five blobs with ragged edges, mostly peripheral. float32 in 0..1."""
    inside = (lungs > 0).astype(np.uint8)
    if inside.sum() < 200:
        return np.zeros(lungs.shape, np.float32)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
    places = np.flatnonzero(inside)
    reached = np.cumsum(np.exp(-depth.ravel()[places] / rng.uniform(4, 40)))
    centres = places[np.searchsorted(reached, rng.random(rng.integers(1, 6)) * reached[-1])]
    level = np.full(lungs.shape, -9.0, np.float32)
    for centre in centres:
        radius = np.exp(rng.uniform(np.log(3), np.log(38)))
        raise_ellipse(level, int(centre), radius, rng.uniform(0.5, 1), rng.uniform(0, np.pi))
    level += np.float32(rng.uniform(0.1, 0.5)) * smooth_field(rng, rng.uniform(8, 40))
    softness = np.float32(rng.uniform(0.03, 0.35))
    soft: np.ndarray = np.clip(level / softness + np.float32(0.5), 0, 1) * inside
    return soft


def fill_air(
    hu: np.ndarray, mask: np.ndarray, target_hu: float, rng: np.random.Generator, texture: float = 0.15
) -> np.ndarray:
    """Fill a share of each pixel's air with tissue, so that the lung's median under `mask` comes to `target_hu`.

    Vessels stay visible and noise fades with the air, as in ground glass. Septa (crazy paving) by `texture`.
    """
    under = hu[(mask > 0.5) & (hu < -500)]
    median = float(np.median(under)) if under.size > 20 else -850.0
    share = np.float32(np.clip((target_hu - median) / (TISSUE_HU - median), 0, 1.0))
    if share <= 0:
        return hu
    ripple = smooth_field(rng, rng.uniform(4, 16)) + smooth_field(rng, rng.uniform(40, 90))
    ripple = 1 + np.float32(texture) * ripple
    share = np.clip(share * ripple, 0, 1) * mask
    return np.where(hu < TISSUE_HU, hu + share * (TISSUE_HU - hu), hu)


def insert_opacity(hu: np.ndarray, lungs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Insert a lesion of random shape and density (-740..20 HU).

    Returns (hu, mask): the mask float32 in 0..1, all zero where the lung is too small.
    """
    mask = lesion_mask(lungs, rng)
    target, texture = random_density(rng)
    return fill_air(hu, mask, target, rng, texture), mask


def consolidate_dependent(hu: np.ndarray, lungs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fill the lowest part of the lungs with tissue, one side or both: dense as the chest wall it lies on.

    Where it ends is a tilted, wavy line, anywhere from the lower half to the rim. What is lung is told by its shape
    alone then. Returns HU.
    """
    rows, columns = np.nonzero(lungs > 0)
    if rows.size < 200:
        return hu
    level = np.quantile(rows, rng.uniform(0.5, 0.97)) + 6 * smooth_field(rng, rng.uniform(3, 20))
    down, across = _places(*hu.shape)[..., 1], _places(*hu.shape)[..., 0]
    middle = np.float32((columns.min() + columns.max()) / 2)
    level = level + np.float32(rng.uniform(-0.3, 0.3)) * (across - middle)
    mask = np.clip((down - level) / np.float32(rng.uniform(1, 12)) + np.float32(0.5), 0, 1) * (lungs > 0)
    side = rng.random()
    if side < 0.7:
        mask = mask * ((across < middle) == (side < 0.35))
    return fill_air(hu, mask, rng.uniform(-120, TISSUE_HU), rng, rng.uniform(0, 0.2))


def random_density(rng: np.random.Generator) -> tuple[float, float]:
    """Median HU and texture of an invented lesion: ground glass three times in four."""
    target = rng.uniform(-740, -300) if rng.random() < 0.75 else rng.uniform(-300, 20)
    return target, rng.uniform(0, 0.35)


def transplant_lesion(
    hu: np.ndarray,
    lungs: np.ndarray,
    donor_hu: np.ndarray,
    donor_lungs: np.ndarray,
    donor_infection: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
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
    tissue_share = cv2.GaussianBlur(tissue_share, (0, 0), rng.uniform(0.4, 1.2)) * np.float32(rng.uniform(0.3, 1.0))
    soft = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.7, 1.8)) * (lungs > 0)
    share = tissue_share * soft
    return np.where(hu < TISSUE_HU, hu + share * (TISSUE_HU - hu), hu), mask


def rescale_lesion(
    hu: np.ndarray, lungs: np.ndarray, infection: np.ndarray, rng: np.random.Generator, remove: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
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


def contrast(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A calibration a little off: offset and gain around air."""
    return -1000 + (hu + 1000) * rng.uniform(0.93, 1.07) + rng.uniform(-25, 25)


def blur(hu: np.ndarray, rng: np.random.Generator, strongest: float = 1.2) -> np.ndarray:
    """A softer kernel, or a patient who breathed: Gaussian, up to `strongest` pixels."""
    blurred: np.ndarray = cv2.GaussianBlur(hu, (0, 0), rng.uniform(0.3, strongest))
    return blurred


def gamma(
    hu: np.ndarray, rng: np.random.Generator, strongest: float = 0.3, low: float = -1000.0, high: float = 200.0
) -> np.ndarray:
    """Greys between `low` and `high` HU bent by a power from exp(-strongest) to exp(strongest); both ends stay."""
    scaled = np.clip((hu - low) / (high - low), 0, 1)
    bent = cv2.pow(scaled, float(np.exp(rng.uniform(-strongest, strongest))))
    bent_hu: np.ndarray = hu + (bent - scaled) * (high - low)
    return bent_hu


def local_contrast(
    hu: np.ndarray, rng: np.random.Generator, strongest: float = 0.5, low: float = -1000.0, high: float = 200.0
) -> np.ndarray:
    """Some way towards its CLAHE (Zuiderveld 1994) of random clip limit and tiles."""
    scaled = np.rint(np.clip((hu - low) * (255 / (high - low)), 0, 255)).astype(np.uint8)
    tiles = int(rng.integers(2, 9))
    equalised = cv2.createCLAHE(float(rng.uniform(1, 4)), (tiles, tiles)).apply(scaled)
    # only the difference is of 8 bits: where there is none the HU stay whole
    difference = cv2.subtract(equalised, scaled, dtype=cv2.CV_32F)
    equalised_hu: np.ndarray = hu + difference * np.float32(rng.uniform(0, strongest) * (high - low) / 255)
    return equalised_hu
