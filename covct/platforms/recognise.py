"""Which platform started this process."""

from __future__ import annotations

from collections.abc import Mapping

from covct.errors import UsageError
from covct.platforms.assignment import Platform, Wishes
from covct.platforms.grand_challenge import GRAND_CHALLENGE
from covct.platforms.holoscan import HOLOSCAN
from covct.platforms.kaapana import KAAPANA
from covct.platforms.mercure import MERCURE

# In the order in which they are looked for: Mercure sets Holoscan's variables too.
PLATFORMS = {"mercure": MERCURE, "kaapana": KAAPANA, "holoscan": HOLOSCAN, "grand-challenge": GRAND_CHALLENGE}


def recognise(environment: Mapping[str, str], wishes: Wishes) -> Platform:
    """The platform whose signs are here.

    Raises
    ------
    UsageError
        There are none: whoever started the container without arguments shall not take that for a success.
    """
    for platform in PLATFORMS.values():
        if platform.recognise(environment, wishes):
            return platform
    signs = "; ".join(f"{one.title}: {one.sign}" for one in PLATFORMS.values())
    raise UsageError(
        f"nothing was asked for, and no platform is recognised here ({signs}); wanted a command such as "
        "covct scan SOURCE --out OUT, or covct --help"
    )


def named(name: str, environment: Mapping[str, str], wishes: Wishes) -> Platform:
    """A platform by its name, whose signs have to be here.

    Raises
    ------
    UsageError
    """
    platform = PLATFORMS[name]
    if not platform.recognise(environment, wishes):
        raise UsageError(f"{platform.title} did not start this process: wanted {platform.sign}")
    return platform
