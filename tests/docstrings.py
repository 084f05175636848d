"""The form of a method's docstring: one sentence, a blank line, free paragraphs, then headings."""

from collections.abc import Sequence

_INDENT = " " * 4


def problems(doc: str, headings: Sequence[str]) -> list[str]:
    """Return what departs from the form, one message each; none if the docstring has it.

    Args:
        doc: docstring of the module.
        headings: required headings, in their order; other lines are free text.
    """
    lines = doc.strip().splitlines()
    starts = [line.partition(":") for line in lines[2:] if not line.startswith(_INDENT)]
    found = [name for name, colon, _ in starts if colon and name in headings]
    texts = {name: text.strip() for name, _, text in starts}
    return [
        *_first_lines(lines),
        *(f"heading '{heading}' is missing" for heading in headings if heading not in found),
        *(
            f"heading '{heading}' occurs {found.count(heading)} times"
            for heading in headings
            if found.count(heading) > 1
        ),
        *(f"heading '{heading}' has no text" for heading in headings if heading in found and not texts[heading]),
        *_order(found, headings),
    ]


def _first_lines(lines: list[str]) -> list[str]:
    if not lines:
        return ["there is no docstring"]
    name, colon, sentence = lines[0].partition(": ")
    is_named = bool(name and colon and sentence) and " " not in name
    return [
        *([] if is_named and sentence.endswith(".") else ["the first line is not 'NAME: one sentence.'"]),
        *([] if len(lines) > 1 and not lines[1].strip() else ["the second line is not blank"]),
    ]


def _order(found: list[str], headings: Sequence[str]) -> list[str]:
    known = list(dict.fromkeys(found))
    is_ordered = known == sorted(known, key=list(headings).index)
    return [] if is_ordered else [f"headings are in the order {', '.join(known)}"]
