"""A page as a browser would read it."""

import base64
import hashlib
import re
from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """What a browser would make of a page: its text, tags and nesting."""

    def __init__(self, html):
        super().__init__()
        self.html = html
        self.words, self.tags, self.images, self.headings, self.open = [], [], [], [], []
        self.feed(html)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch(r"h\d", tag):
            self.headings.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    def check_is_one_offline_file(self):
        """Assert that the page refers to no other file or address, and that its only script is the one it allows."""
        for tag, attributes in self.tags:
            for name in ("src", "href", "srcset", "poster", "action"):
                assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes[name][:60])
            assert not any(name.startswith("on") for name in attributes)
        (script,) = re.findall(r"<script>(.*?)</script>", self.html, re.S)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in self.html
        assert "default-src 'none'" in self.html
