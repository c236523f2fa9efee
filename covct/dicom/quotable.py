"""Values of a header that a message may quote: words of the standard, and UIDs. Anything else may be a name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

UID = re.compile(r"[0-9.]{1,64}")
MODALITIES = {
    "AU", "BDUS", "BI", "CR", "CT", "DX", "ECG", "ES", "EPS", "GM", "HC", "IO", "IVUS", "KO", "LEN", "MG", "MR", "NM",
    "OCT", "OP", "OPT", "OT", "PR", "PT", "PX", "REG", "RF", "RG", "RTDOSE", "RTIMAGE", "RTPLAN", "RTSTRUCT", "SC",
    "SEG", "SM", "SR", "ST", "US", "XA", "XC",
}  # fmt: skip
IMAGE_TYPES = {
    "ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "MIXED", "AXIAL", "LOCALIZER", "VOLUME", "REFORMATTED", "MPR", "CPR",
    "MIP", "MINIP", "AVERAGE", "AVG", "PROJECTION IMAGE", "CSA MPR", "CSA MIP", "RENDERED", "3D", "VRT", "SSD", "OTHER",
    "SCREEN SAVE", "SUBTRACTION", "ADDITION", "DISTORTED", "REPROCESSED", "SCOUT", "DUAL ENERGY", "NONE", "M", "NORM",
    "CT_SOM5 SPI", "CT_SOM7 SPI", "CT_SOM5 MPR", "CT_SOM7 MPR", "CT_SOM5 MIP", "CT_SOM7 MIP", "CSA MPR THICK",
    "CSAPARALLEL", "PJN", "MAX_IP", "MIN_IP", "DOSE_INFO",
}  # fmt: skip
RESCALE_TYPES = {
    "OD", "HU", "US", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT", "NONE", "HOUNSFIELD", "HOUNSFIELD UNITS",
    "T1", "T2", "NORMALIZED", "UNSPECIFIED", "SUV",
}  # fmt: skip
PHOTOMETRIC_INTERPRETATIONS = {
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422",
    "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT",
}  # fmt: skip
# Kernels have no list. Their names are one short word with a digit in it (B70s, FC08-H, Br40d/3), or one of these.
KERNELS = {
    "LUNG", "BONE", "BONEPLUS", "EDGE", "STANDARD", "SOFT", "DETAIL", "CHEST", "ULTRA", "SHARP", "SMOOTH", "A", "B",
    "C", "D", "E", "L", "YA", "YB", "YC", "YD", "UB",
}  # fmt: skip
KERNEL = re.compile(r"(?=.*\d)[A-Za-z]{0,3}\d{1,3}[A-Za-z0-9_+/\\.-]{0,6}")
UNQUOTED = "no word of the standard (withheld: it may be a name)"


def quoted(value: str, known: Collection[str]) -> str:
    """The value where it is one of the standard's words, else that it is none."""
    if not value:
        return "missing"
    return value if value.upper() in known else UNQUOTED


def quoted_all(values: Iterable[str], known: Collection[str]) -> str:
    """Several, joined as DICOM does it; those unknown are question marks."""
    return "\\".join(value if value.upper() in known else "?" for value in values)


def quoted_uid(uid: str) -> str:
    if not uid:
        return "missing"
    return uid if UID.fullmatch(uid) else "no UID (withheld: it may be a name)"


def quoted_kernel(kernel: str) -> str:
    """The kernel's name; empty where it does not look like one."""
    return kernel if kernel.upper() in KERNELS or KERNEL.fullmatch(kernel) else ""
