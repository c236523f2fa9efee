"""What a network makes of a slice on its way down, and how far that lies from what it made of its training samples.

A scan whose look a network never learned from (another modality, dose, kernel, contrast) is segmented all the same, and
its probabilities do not say so. Its features do: Mahalanobis' distance from those of the training samples tells such
scans better than the network's own confidence (González 2021, of this very task). The features are the means over each
slice of what comes out of each pooling of the encoder: sizes of edges, grain and tissue, at every scale, for hardly any
time. The shrinkage is Ledoit and Wolf's, so that a few hundred samples suffice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from covct.errors import WeightsError
from covct.networks.cards import Card

LARGEST_BYTES = 64 * 1024**2
MOST_FEATURES = 4096


@dataclass(frozen=True)
class Learned:
    """Where the features of a network's training samples lie.

    Attributes
    ----------
    mean : (features,) float32
    whitening : (features, features) float32
        What makes of a difference from the mean one whose length is the distance.
    limit : float
        The distance of a scan, see `covct.pipeline.likeness`, above which it looks like nothing learned.
    """

    mean: np.ndarray
    whitening: np.ndarray
    limit: float

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Mahalanobis' distance over the root of the number of features, about 1 in training.

        features (slices, features) -> (slices,) float64
        """
        white = (np.asarray(features, np.float64) - self.mean) @ self.whitening.T.astype(np.float64)
        found: np.ndarray = np.sqrt((white**2).mean(1))
        return found


def fitted(features: np.ndarray) -> np.ndarray:
    """Mean and whitening of training samples, one below the other: (1 + features, features) float32.

    features (samples, features). Those that never change there are left out of the distance.
    """
    features = np.asarray(features, np.float64)
    mean, scale = features.mean(0), features.std(0)
    kept = scale > 1e-6 * max(float(scale.max()), 1e-12)
    scaled = (features - mean)[:, kept] / scale[kept]
    values, vectors = np.linalg.eigh(_shrunk(scaled))
    whitening = np.zeros((len(mean), len(mean)))
    whitening[np.ix_(kept, kept)] = (vectors / np.sqrt(values)).T / scale[kept]
    return np.concatenate([mean[None], whitening]).astype(np.float32)


def _shrunk(scaled: np.ndarray) -> np.ndarray:
    """Covariance of standardised samples, drawn towards the identity as much as suits their number (Ledoit 2004)."""
    count, width = scaled.shape
    raw = scaled.T @ scaled / count
    centre = np.trace(raw) / width
    apart = np.sum((raw - centre * np.eye(width)) ** 2) / width
    noise = (np.sum((scaled**2).sum(1) ** 2) / count - np.sum(raw**2)) / count / width
    share = min(1.0, noise / apart) if apart > 0 else 1.0
    shrunk: np.ndarray = (1 - share) * raw + share * centre * np.eye(width)
    return shrunk


def read_learned(card_path: Path, card: Card) -> Learned | None:
    """The features that a card names; None where it names none, as cards of earlier versions.

    Raises
    ------
    WeightsError
        The file is missing, altered, measured on other weights, or no such file.
    """
    given = card.features
    if given is None:
        return None
    path = card_path.with_name(given.file)
    if given.source_sha256 != card.sha256:
        raise WeightsError(
            f"{path}: measured on other weights ({given.source_sha256[:12]}…) than {card.weights} "
            f"({card.sha256[:12]}…); benchmarks/features.py measures them anew"
        )
    try:
        content = path.read_bytes() if path.stat().st_size <= LARGEST_BYTES else b""
    except OSError as error:
        raise WeightsError(f"{path}: the features learned cannot be read ({error.strerror})") from error
    if (actual := hashlib.sha256(content).hexdigest()) != given.sha256:
        raise WeightsError(f"{path}: sha256 is {actual[:12]}…, the card says {given.sha256[:12]}…: altered features")
    try:
        return Learned(*_parsed(content), given.limit)
    except (ValueError, EOFError) as error:
        raise WeightsError(f"{path}: not a file of features: {error}") from error


def _parsed(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Mean and whitening of a .npy file; nothing of it is run."""
    stream = BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"format {version}, wanted 1.0")
    shape, by_columns, kind = np.lib.format.read_array_header_1_0(stream)
    if by_columns or kind != np.float32 or len(shape) != 2 or shape[0] != shape[1] + 1 or shape[1] > MOST_FEATURES:
        raise ValueError(f"{shape} {kind}, wanted float32, one row more than columns")
    data = stream.read()
    if len(data) != 4 * shape[0] * shape[1]:
        raise ValueError(f"{len(data)} bytes, {4 * shape[0] * shape[1]} declared")
    table = np.frombuffer(data, np.float32).reshape(shape)
    if not np.isfinite(table).all():
        raise ValueError("numbers that are not finite")
    return table[0], table[1:]
