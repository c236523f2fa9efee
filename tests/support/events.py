"""Events as a script reads them: each is held to the published model, which knows every field."""

from __future__ import annotations

import json
from typing import Any

from pydantic import RootModel

from covct.visible import json_line

Event = dict[str, Any]


def as_published(model: type[RootModel[Any]], events: list[Event]) -> list[Event]:
    """The events. Raises ValidationError where one is not as published: it may hold nothing more."""
    for event in events:
        model.model_validate_json(json_line(event))
    return events


def events_in(stream: str, model: type[RootModel[Any]]) -> list[Event]:
    """The events of a stream, one a line, as published."""
    return as_published(model, [json.loads(line) for line in stream.splitlines()])
