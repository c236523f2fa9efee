"""The figures of an evaluation's page as PNG files: `covct evaluate --figures`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from covct.evaluation.drawn import as_png, draw_plot, gallery
from covct.evaluation.judge import Picture
from covct.evaluation.page import Section, sections_of
from covct.evaluation.page_plots import History, training_plots

TRAINING = (("s0", "training"), ("s1", "validation"))


def figure_files(
    evaluation: dict[str, Any], history: Mapping[str, History | None], pictures: Mapping[str, list[Picture]]
) -> Iterator[tuple[str, bytes]]:
    """Names and contents, task by task; parameters as of `page.as_html`."""
    for section in sections_of(evaluation, pictures):
        yield from _of_task(section)
    for plot in training_plots(history):
        yield f"training-{plot.name.replace('/', '-')}.png", as_png(draw_plot(plot, TRAINING))


def _of_task(section: Section) -> Iterator[tuple[str, bytes]]:
    for plot in section.plots:
        legend = section.legend if plot.lines or plot.dots else ()
        yield f"{section.task}-{plot.name}.png", as_png(draw_plot(plot, legend))
    for which, chosen in (("worst", section.worst), ("best", section.best)):
        if chosen:
            title = f"{section.task}, {which} slices: scan, truth, call (green right, orange false, purple missed)"
            yield f"{section.task}-{which}-slices.png", as_png(gallery(chosen, title))
