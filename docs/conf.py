"""Sphinx: `make docs` builds this folder to docs/_build. Nothing is fetched to build the pages, nor to read them."""

import re

from covct import __version__

project = "covct"
author = "the covct authors"
release = __version__
copyright = "the covct authors. Research use only. Not a medical device"

extensions = ["myst_parser"]
myst_heading_anchors = 3  # [text](page.md#heading), as forges resolve it
nitpicky = True
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"covct {release}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_sphinx = False

# Files that stay where they are; the page that includes each. Links to them lead to that page.
INCLUDED = {
    "CONTRIBUTING.md": "contributing.md",
    "DESIGN.md": "architecture.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "covct/dicom/CONFORMANCE.md": "conformance.md",
    "weights/README.md": "weights.md",
}


def link_to_pages(text: str) -> str:
    """Markdown whose links to included files lead to their pages, and those of included files to the others."""
    for file, page in INCLUDED.items():
        text = re.sub(rf"\]\((\.\./)*{re.escape(file)}", f"]({page}", text)
    return re.sub(r"\]\((\.\./)+docs/", "](", text)


def setup(app):
    def page_read(_app, _page, source):
        source[0] = link_to_pages(source[0])

    def include_read(_app, _path, _page, source):
        source[0] = link_to_pages(source[0])

    app.connect("source-read", page_read)
    app.connect("include-read", include_read)
