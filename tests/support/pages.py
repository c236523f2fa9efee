"""A page as a browser takes it apart."""

from html.parser import HTMLParser


class Elements(HTMLParser):
    """Every element and attribute that a browser would make of a page, and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        self.text += data
