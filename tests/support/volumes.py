"""Volume files as NIfTI and SimpleITK have them."""

import nibabel
import numpy as np
import SimpleITK as sitk


def save(array, path, affine=None, **codes):
    image = nibabel.Nifti1Image(array, np.diag([-2.0, -2, 5, 1]) if affine is None else affine)
    image.set_sform(image.affine, code=codes.get("sform", 1))
    image.set_qform(image.affine, code=codes.get("qform", 1))
    nibabel.save(image, path)


def sheared(degrees, axis=2):
    """Voxels of 3 x 2 x 5 mm whose slices along an axis are pushed sideways, RAS."""
    affine = np.diag([3.0, 2.0, 5.0, 1.0])
    affine[1 if axis != 1 else 2, axis] = np.tan(np.radians(degrees)) * affine[axis, axis]
    return affine


def as_itk(volume):
    """A volume as SimpleITK has it; its arrays are (k, j, i)."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.transpose()))
    image.SetSpacing([float(mm) for mm in volume.spacing])
    image.SetDirection((volume.affine[:3, :3] / np.array(volume.spacing)).ravel().tolist())
    image.SetOrigin(volume.affine[:3, 3].tolist())
    return image
