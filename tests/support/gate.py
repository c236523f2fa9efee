"""What the gate says of a series."""

import pytest

from covct.errors import SeriesError
from covct.intake.discover import discover
from covct.intake.gate import check_headers


def verdict(folder) -> SeriesError:
    [series] = discover([folder]).series
    with pytest.raises(SeriesError) as caught:
        check_headers(series)
    return caught.value


def slugs(findings) -> list[str]:
    return [finding.slug for finding in findings]
