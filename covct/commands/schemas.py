"""Write the JSON Schema of every published document beside the class that it is made from: ``make schemas``."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

from covct.disk.documents import Document, Published, json_schema
from covct.disk.outcome import Outcome
from covct.evaluation.evaluate_event import EvaluateEvent
from covct.evaluation.schema import Evaluation
from covct.exchange.pull_event import PullEvent
from covct.networks.cards import Card
from covct.pipeline.report_document import Report
from covct.training.train_event import TrainEvent
from covct.unattended.convert_event import ConvertEvent
from covct.unattended.event import Event
from covct.unattended.run_summary import RunSummary

PUBLISHED = (Card, ConvertEvent, EvaluateEvent, Evaluation, Event, Outcome, PullEvent, Report, RunSummary, TrainEvent)


def schema_path(document: type[Published]) -> Path:
    """Where the schema lies."""
    name = document.PUBLISHED_AS.removeprefix("covct-").rpartition("-")[0]
    return Path(inspect.getfile(document)).with_name(f"{name}.schema.json")


def schema_text(document: type[Published]) -> str:
    """The schema as the file holds it."""
    made = document.json_schema() if issubclass(document, Document) else json_schema(document)
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for one in PUBLISHED:
        schema_path(one).write_text(schema_text(one))
        print(schema_path(one))
