"""Labels that name the sides of the body."""

from __future__ import annotations

import re
from collections.abc import Iterable

_OTHER_SIDE = {"left": "right", "l": "r", "lh": "rh"}


def sided_pair(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that differ only in their side (left and right, or l and r as words of their own), if there are any.

    Returns:
        The left one first; None where there is no such pair.
    """
    words = {name: re.split(r"[^a-z0-9]+", name.casefold()) for name in names}
    for left, left_words in words.items():
        swapped = [_OTHER_SIDE.get(word, word.replace("left", "right")) for word in left_words]
        for right, right_words in words.items():
            if swapped != left_words and swapped == right_words:
                return left, right
    return None
