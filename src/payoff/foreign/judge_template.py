"""What a judge is shown of a row: a text with places, filled in once, so that what is filled in can pull in nothing more."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from payoff.arguments import MissingFieldError
from payoff.catalogue import nearest
from payoff.foreign.batches import Row, is_conversation, said

PLACE = re.compile(r"\{(\w+)(!q)?\}")


class JudgeTemplate:
    """A text with places: {field} is the field as text, {field!q} the field as a JSON string, whose end no response can forge.

    needs: fields that must stand in it
    given: fields that are no field of the row, but are given when it is filled

    All places are filled in one pass over the text, so a response that says {reference} says just that. Raises ValueError where
    a field that is needed is not there.

    >>> JudgeTemplate("Is {response!q} right?", needs=["response"]).filled({"response": 'a "{reference}"', "reference": "b"})
    'Is "a \\\\"{reference}\\\\"" right?'
    """

    def __init__(self, text: str, *, needs: Sequence[str], given: Sequence[str] = ()) -> None:
        self.text = text
        there = list(dict.fromkeys(name for name, _ in PLACE.findall(text)))
        for name in needs:
            if name not in there:
                raise ValueError(f"the template must say {{{name}}} somewhere; it says {', '.join(there) or 'no field'}")
        self.fields = [name for name in there if name not in given]

    def filled(self, values: Mapping[str, Any]) -> str:
        """The text with these values in its places."""

        def fill(match: re.Match[str]) -> str:
            text = shown(values[match[1]])
            return json.dumps(text, ensure_ascii=False) if match[2] else text

        return PLACE.sub(fill, self.text)


def rows_with(fields: Sequence[str], items: Sequence[Row]) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """These fields of every row, and which rows lack one. Raises MissingFieldError for a field that no row has."""
    there = sorted({str(name) for item in items for name in item})
    for name in fields:
        if items and name not in there:
            like = nearest(name, there)
            hint = f"; did you mean {like[0]!r}?" if like else ""
            raise MissingFieldError(f"the judge is shown {name!r}, which no row has; the rows have {', '.join(there)}{hint}")
    rows = [{name: item.get(name) for name in fields} for item in items]
    return rows, {k: f"there is no {name!r}" for k, row in enumerate(rows) for name in reversed(fields) if row[name] is None}


def shown(value: Any) -> str:
    """A field as a judge sees it: text as it is, a conversation as lines of role and content, other things as JSON."""
    if is_conversation(value):
        return "\n".join(f"{m['role']}: {m.get('content', '')}" for m in value)
    text = said(value)
    return text if text is not None else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
