"""What the figures of a report share: colours, style, and their way into files and into the page.

Figures are made without pyplot, so no window system is asked for and nothing is kept. Colours are those of Okabe and
Ito (2008), which stay apart under every common colour-vision deficiency; where more entries meet than there are
colours, names stand beside the marks and colour only points out the first.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENTRY_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
CLASS_COLOURS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00")
REFERENCE_COLOUR = "#8A8F94"
OTHERS_COLOUR = "#5F7D95"
INK = "#1b1d1f"
WIDTH_INCH = 4.6

# In the page these follow the light or dark colours of style.css.
_PAGE_COLOURS = {colour: f"--entry-{index}" for index, colour in enumerate(ENTRY_COLOURS)} | {
    REFERENCE_COLOUR: "--reference",
    OTHERS_COLOUR: "--others",
}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """The look of all figures, for `with` and as a decorator."""
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


def entry_colours(entries: Sequence[str], references: Sequence[str] = ()) -> dict[str, str]:
    """A colour for every entry, the same in all figures of a report; grey for the reference rows.

    Args:
        entries: best first; where there are more than colours, only the first stands out.
        references: entries that are yardsticks.
    """
    others = [entry for entry in entries if entry not in references]
    palette = ENTRY_COLOURS if len(others) <= len(ENTRY_COLOURS) else [ENTRY_COLOURS[0], *[OTHERS_COLOUR] * len(others)]
    return dict(zip(others, palette, strict=False)) | dict.fromkeys(references, REFERENCE_COLOUR)


def class_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for every class of a label map, in order."""
    return {name: CLASS_COLOURS[index % len(CLASS_COLOURS)] for index, name in enumerate(names)}


def page_colour(colour: str) -> str:
    """How the page says a colour of a figure: by a name that dark mode gives another value."""
    return f"var({_PAGE_COLOURS[colour]})" if colour in _PAGE_COLOURS else colour


def to_png(figure: Figure, dots_per_inch: int = 130) -> bytes:
    """The figure as PNG bytes, on white."""
    buffer = io.BytesIO()
    # A third of the time of the highest compression, for a few per cent of the size.
    compression = {"compress_level": 4}
    figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None}, pil_kwargs=compression)
    return buffer.getvalue()


def to_svg(figure: Figure, name: str, text: str) -> str:
    """The figure as an SVG element to stand inside HTML: text stays text, ink and colours are those of the page.

    Args:
        figure: a figure in the style of this module.
        name: prefix of every id, because ids are shared by all figures of a page.
        text: what the figure shows, for those who cannot see it.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing, dpi=160)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    for colour in _PAGE_COLOURS:
        svg = svg.replace(colour.lower(), page_colour(colour))
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(text)}"', 1)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)


def to_data_address(png: bytes) -> str:
    """PNG bytes as an address that an `img` tag can hold."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
