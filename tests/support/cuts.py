"""The phantom as other scanners would have cut it: any plane, any step; and where a SEG says that its voxels lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.uid import generate_uid

from covct.phantom.chest import Phantom
from covct.phantom.dicom import write_dicom_series


@dataclass(frozen=True)
class Cut:
    """Direction cosines along a row and down a column, and the way from slice to slice (unit, LPS)."""

    row: tuple[float, float, float] = (1, 0, 0)
    column: tuple[float, float, float] = (0, 1, 0)
    step: tuple[float, float, float] = (0, 0, 1)


def turned(axis: str, degrees: float) -> Cut:
    """Axial planes turned around a patient axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = {"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
              "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]}[axis]  # fmt: skip
    row, column, normal = np.array(matrix).T
    return Cut(tuple(row), tuple(column), tuple(normal))


def tilted(degrees: float) -> Cut:
    """The gantry leans, the table moves on along the patient."""
    return Cut(column=turned("x", degrees).column)


def write_cut(phantom: Phantom, folder: Path, cut: Cut, pixel_mm: float, step_mm: float, name: str = "cut") -> Path:
    """Resample the phantom onto the planes of a cut that cover it, and write them as CT images."""
    row, column, step = (np.array(v, float) for v in (cut.row, cut.column, cut.step))
    image = _image(phantom, phantom.volume.array.astype(np.float32))
    corners = _corners(phantom)
    frame = np.stack([row, column, step], axis=1)
    inside = np.linalg.solve(frame, corners.T).T  # the corners in mm along row, column and step
    low, high = inside.min(0), inside.max(0)
    columns, rows, slices = np.ceil((high - low) / (pixel_mm, pixel_mm, step_mm)).astype(int).tolist()
    normal = np.cross(row, column)
    write_dicom_series(phantom, folder)
    template = pydicom.dcmread(sorted(folder.iterdir())[0])
    for path in folder.iterdir():
        path.unlink()
    series_uid = generate_uid(entropy_srcs=[name, str(cut)])
    for index in range(slices):
        origin = frame @ (low + np.array([0, 0, index * step_mm]))
        plane = sitk.Resample(
            image, (columns, rows, 1), sitk.Transform(), sitk.sitkLinear, origin.tolist(), (pixel_mm, pixel_mm, 1.0),
            np.stack([row, column, normal], axis=1).ravel().tolist(), -1000.0,
        )  # fmt: skip
        _write_slice(template, folder, index, sitk.GetArrayFromImage(plane)[0], origin, cut, pixel_mm, series_uid)
    return folder


def _write_slice(template, folder, index, hu, origin, cut, pixel_mm, series_uid) -> None:
    template.SOPInstanceUID = generate_uid(entropy_srcs=[series_uid, str(index)])
    template.file_meta.MediaStorageSOPInstanceUID = template.SOPInstanceUID
    template.SeriesInstanceUID = series_uid
    template.InstanceNumber = index + 1
    template.Rows, template.Columns = hu.shape
    template.PixelSpacing = [pixel_mm, pixel_mm]
    template.ImagePositionPatient = [f"{v:.6f}" for v in origin]
    template.ImageOrientationPatient = [f"{v:.9f}" for v in (*cut.row, *cut.column)]
    template.PixelData = np.clip(np.rint(hu) + 1024, 0, 65535).astype("<u2").tobytes()
    template.save_as(folder / f"{index + 1:04d}.dcm")


def _image(phantom: Phantom, array: np.ndarray) -> sitk.Image:
    affine = phantom.volume.affine
    image = sitk.GetImageFromArray(array)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing([float(v) for v in spacing[::-1]])
    image.SetOrigin([float(v) for v in affine[:3, 3]])
    image.SetDirection((affine[:3, :3] / spacing)[:, ::-1].ravel().tolist())
    return image


def _corners(phantom: Phantom) -> np.ndarray:
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in phantom.volume.shape])).reshape(3, -1)
    return (phantom.volume.affine[:3, :3] @ ends).T + phantom.volume.affine[:3, 3]


def label_at(phantom: Phantom, points: np.ndarray) -> np.ndarray:
    """The phantom's lung label at points (N, 3) LPS mm: 0, 1 right, 2 left."""
    inverse = np.linalg.inv(phantom.volume.affine)
    index = np.rint((inverse[:3, :3] @ points.T).T + inverse[:3, 3]).astype(int)
    inside = ((index >= 0) & (index < phantom.volume.shape)).all(1)
    out = np.zeros(len(points), np.uint8)
    out[inside] = phantom.lungs[tuple(index[inside].T)]
    return out


def points_in_seg(path: Path, segment: int) -> np.ndarray:
    """(N, 3) LPS mm of a segment's voxels, from nothing but the SEG's own functional groups."""
    seg = pydicom.dcmread(path)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    points = []
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        if groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber != segment:
            continue
        place = {keyword: (groups if keyword in groups else shared)[keyword].value[0] for keyword in
                 ("PlaneOrientationSequence", "PixelMeasuresSequence", "PlanePositionSequence")}  # fmt: skip
        cosines = np.array(place["PlaneOrientationSequence"].ImageOrientationPatient, float)
        between_rows, between_columns = map(float, place["PixelMeasuresSequence"].PixelSpacing)
        origin = np.array(place["PlanePositionSequence"].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        points.append(
            origin + np.outer(columns * between_columns, cosines[:3]) + np.outer(rows * between_rows, cosines[3:])
        )
    return np.concatenate(points) if points else np.zeros((0, 3))


POSITIONS = ["HFS", "HFP", "FFS", "FFP", "HFDR", "HFDL", "FFDR", "FFDL"]


CUTS = {
    "axial": Cut(),
    "column negated": Cut(column=(0, -1, 0)),
    "row negated, head to feet": Cut(row=(-1, 0, 0), step=(0, 0, -1)),
    "oblique 5 degrees": turned("x", 5),
    "oblique 20 degrees sideways": turned("y", 20),
    "oblique 20 degrees turned on the table": turned("z", 20),
    "coronal": Cut(column=(0, 0, -1), step=(0, 1, 0)),
    "sagittal": Cut(row=(0, 1, 0), column=(0, 0, -1), step=(1, 0, 0)),
    "gantry tilt 15 degrees": tilted(15),
    "gantry tilt 30 degrees": tilted(30),
    "gantry tilt back 20 degrees": tilted(-20),
}
