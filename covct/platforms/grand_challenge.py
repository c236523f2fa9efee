"""Grand-challenge's contract: one MetaImage in, masks on its grid and JSON out, at the paths of sockets.

https://grand-challenge.org/documentation/choose-input-and-output-interfaces/. A container is started without
arguments, a job at a time; a mask of another geometry, or a file elsewhere, is a failed job.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from covct.disk.durable import make_folder, replace_file
from covct.errors import UsageError
from covct.outputs import NIFTI_PAIR
from covct.platforms.assignment import Assignment, Platform, Results, Wishes
from covct.platforms.deliver import tell

NIFTI_HEADER = 352  # bytes before the voxels, as covct writes masks
AT_ONCE = 16 * 1024**2


def is_here(environment: Mapping[str, str], wishes: Wishes) -> bool:
    return wishes.path("input/images").is_dir() and wishes.path("output").is_dir()


def assignments(environment: Mapping[str, str], wishes: Wishes) -> Iterable[Assignment]:
    """The one job."""
    folder, out = wishes.path("input") / wishes.image, wishes.path("output")
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    if len(found) != 1 or found[0].suffix.lower() != ".mha":
        got = ", ".join(sorted({path.suffix or "a file without suffix" for path in found})) or "nothing"
        raise UsageError(f"{folder}: got {len(found)} files ({got}), wanted one MetaImage (.mha)")
    [image] = found

    def deliver(results: Results) -> None:
        names: dict[str, list[str]] = {}
        for entry in results.done:
            for mask, socket in zip(NIFTI_PAIR, (wishes.lungs, wishes.infection), strict=True):
                name = f"{socket}/{image.name}"
                make_folder((out / name).parent)
                write_mask_like(image, results.tree / entry.folder / mask, out / name)
                names.setdefault(entry.folder, []).append(name)
        tell(results, out, names)

    yield Assignment(image, out, deliver)


def write_mask_like(image: Path, mask: Path, target: Path) -> None:
    """Write a NIfTI mask as MetaImage on the grid of the image that it was made of.

    covct writes a mask of a volume file in the order of that file's voxels, the first axis fastest, which is
    MetaImage's order. The fields that say where they lie are repeated as they stand, so that not a digit differs.
    """
    from covct.intake.metaimage import header_of_mask  # NumPy
    from covct.intake.voxel_layout import LONGEST_HEADER

    squeeze = zlib.compressobj()
    with gzip.open(mask) as file:
        file.seek(NIFTI_HEADER)
        voxels = b"".join(map(squeeze.compress, iter(partial(file.read, AT_ONCE), b""))) + squeeze.flush()
    with image.open("rb") as file:
        header = header_of_mask(file.read(LONGEST_HEADER), len(voxels))
    replace_file(target, header + voxels)


GRAND_CHALLENGE = Platform("Grand-challenge", "/input/images and /output", is_here, assignments)
