"""The form of a method's docstring: one sentence, a blank line, then headings, at most twelve lines in all."""

from collections.abc import Sequence

_MOST_LINES = 12
_INDENT = " " * 4


def problems(doc: str, headings: Sequence[str]) -> list[str]:
    """Return what departs from the form, one message each; none if the docstring has it.

    Args:
        doc: docstring of the module.
        headings: all that the docstring must have, in their order.
    """
    lines = doc.strip().splitlines()
    found = [line.partition(":")[0] for line in lines[2:] if not line.startswith(_INDENT)]
    texts = {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines[2:]}
    return [
        *_first_lines(lines),
        *(f"unknown heading or text that is not indented: '{own}'" for own in found if own not in headings),
        *(f"heading '{heading}' is missing" for heading in headings if heading not in found),
        *(
            f"heading '{heading}' occurs {found.count(heading)} times"
            for heading in headings
            if found.count(heading) > 1
        ),
        *(f"heading '{heading}' has no text" for heading in headings if heading in found and not texts[heading]),
        *_order(found, headings),
        *([f"{len(lines)} lines, at most {_MOST_LINES} are allowed"] if len(lines) > _MOST_LINES else []),
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
    known = [own for own in dict.fromkeys(found) if own in headings]
    is_ordered = known == sorted(known, key=list(headings).index)
    return [] if is_ordered else [f"headings are in the order {', '.join(known)}"]
