"""Pages from the templates in `covct/templates`: each one self-contained file that fetches nothing.

Where a page has a script, it is one of ours, and its policy lets no other run.

Markup comes from the templates alone: Jinja2 escapes every value, whatever a header, a path or a message says. One
base template, whose policy lets exactly the one stylesheet in, is under all of them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, Any

from covct import RESEARCH_USE, __version__

if TYPE_CHECKING:
    from jinja2 import Environment

_BETWEEN = "\0"


def render(template: str, *filters: Callable[..., Any], **values: Any) -> str:
    """A page.

    Parameters
    ----------
    template : str
        A file in `covct/templates`.
    *filters : function
        The template's filters, by their names without a leading underscore. They are as fast as functions are; a
        function among the values is several times slower.
    **values
        What the template asks for by name; one that is missing is an error (`jinja2.UndefinedError`).
    """
    return _environment(filters).get_template(template).render(**values)


def filled(rows: Iterable[Sequence[str]], markup: str) -> str:
    """Markup of the template once for each row, the row's texts in place of its `{}`; a filter of all templates.

    The texts are escaped in one go: Jinja2 makes an object of each value that it escapes, which costs several times the
    escaping, and where thousands of rows are written most of the time.
    """
    rows = list(rows)
    texts = escape(_BETWEEN.join(text for row in rows for text in row)).split(_BETWEEN)
    if len(texts) != sum(map(len, rows)):  # no row, or a text that holds what stands between them
        return "".join(markup.format(*map(escape, row)) for row in rows)
    left = iter(texts)
    return "".join(markup.format(*islice(left, len(row))) for row in rows)


def png_address(png: bytes) -> str:
    """A picture as the address of an image, within the page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@cache
def inline_script(name: str) -> dict[str, str]:
    """A script of `covct/templates`, and the hash by which the page's policy lets it run; values for `render`."""
    text = files("covct").joinpath("templates", name).read_text(encoding="utf-8")
    return {"script": text, "script_sha256": _sha256(text)}


@cache
def small_style(name: str) -> dict[str, str]:
    """A stylesheet of `covct/templates` in place of the one of all pages; values for `render`."""
    text = files("covct").joinpath("templates", name).read_text(encoding="utf-8")
    return {"style": text, "style_sha256": _sha256(text)}


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def stylesheet() -> str:
    """The stylesheet of all pages: light, dark and printed."""
    return files("covct").joinpath("templates", "pages.css").read_text(encoding="utf-8")


@cache
def _environment(filters: tuple[Callable[..., Any], ...]) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from jinja2.filters import do_mark_safe

    environment = Environment(
        loader=PackageLoader("covct"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals.update(
        research_use=RESEARCH_USE,
        version=__version__,
        style=stylesheet(),
        style_sha256=_sha256(stylesheet()),
    )
    environment.filters["thousands"] = "{:,}".format
    environment.filters["filled"] = lambda rows, markup: do_mark_safe(filled(rows, markup))
    environment.filters.update({one.__name__.lstrip("_"): one for one in filters})
    return environment
