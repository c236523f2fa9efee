"""Networks, as functions that build Keras models. `ARCHITECTURES` is the list to choose from.

Each takes plain names and integers, which a weight card carries, and refuses what fits into no memory. A network gives
(batch, ..., outputs) probabilities; one with deep supervision (batch, ..., outputs, heads).
"""

from __future__ import annotations

from collections.abc import Callable

import keras

from covct.architectures.deeplab import deeplabv3_plus
from covct.architectures.mask_rcnn import mask_rcnn
from covct.architectures.segnet import segnet, smallcovid_net
from covct.architectures.slice_classifier import slice_classifier
from covct.architectures.unet import attention_unet, unet, unet_plus_plus, unet_transposed
from covct.architectures.unet3d import unet3d
from covct.errors import UsageError

ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {
    "unet": unet,
    "unet-transposed": unet_transposed,
    "attention-unet": attention_unet,
    "unet-plus-plus": unet_plus_plus,
    "deeplabv3-plus": deeplabv3_plus,
    "segnet": segnet,
    "smallcovid-net": smallcovid_net,
    "mask-rcnn": mask_rcnn,
    "unet3d": unet3d,
    "slice-classifier": slice_classifier,
}
ALIASES = {
    "unet++": "unet-plus-plus",
    "deeplabv3+": "deeplabv3-plus",
    "attention": "attention-unet",
    "mask_rcnn": "mask-rcnn",
}


def architecture_name(text: str) -> str:
    """The name in ARCHITECTURES of what was asked for on the command line, such as unet++."""
    name = ALIASES.get(text.lower(), text.lower())
    if name not in ARCHITECTURES:
        raise UsageError(f"no network is called {text}; there are {', '.join([*ARCHITECTURES, *ALIASES])}")
    return name
