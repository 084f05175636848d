"""What a page shows, and files beside it as a spreadsheet reads them."""

import csv


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def banners(page):
    """The classes of the banners of a page."""
    return [attributes["class"] for tag, attributes in page.tags if "banner" in attributes.get("class", "").split()]
