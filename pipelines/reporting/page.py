"""The document of a report: one HTML file with its style and its script inside, which asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

# The policy makes the promise binding: no address is ever asked, and no script runs but the one below.
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="$policy">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header>
$heading
$contents
</header>
<main>
$sections
</main>
<script>
$script</script>
</body>
</html>
""")


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: its anchor.
        title: its heading, plain text.
        html: what stands under the heading; empty leaves the section out.
    """

    name: str
    title: str
    html: str


def page(title: str, heading: str, sections: Sequence[Section]) -> str:
    """The whole document.

    Args:
        title: of the window, plain text.
        heading: HTML of the head of the page.
        sections: those without content are left out, also from the list of contents.
    """
    folder = Path(__file__).parent
    script = (folder / "script.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode("ascii")
    shown = [section for section in sections if section.html]
    links = "".join(f'<a href="#{section.name}">{escape(section.title)}</a>' for section in shown)
    return _PAGE.substitute(
        title=escape(title),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        style=(folder / "style.css").read_text(encoding="utf-8"),
        heading=heading,
        contents=f'<nav aria-label="Contents">{links}</nav>' if shown else "",
        sections="\n".join(
            f'<section id="{section.name}">\n<h2>{escape(section.title)}</h2>\n{section.html}\n</section>'
            for section in shown
        ),
        script=script,
    )
