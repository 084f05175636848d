"""Files beside a page, as a spreadsheet reads them."""

import csv


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
