from __future__ import annotations

import base64
import hashlib
import re

from pipelines.reporting.page import Section, page


def test_names_are_escaped():
    evil = "<script>"
    html = page(evil, "", [Section("a", evil, "<p></p>")])
    assert html.count(evil) == 1
    assert html.count("&lt;script&gt;") == 3


def test_an_empty_section_is_neither_shown_nor_listed():
    html = page("t", "", [Section("here", "Here", "<p>x</p>"), Section("gone", "Gone", "")])
    assert '<a href="#here">' in html
    assert "Gone" not in html


def test_no_address_may_be_asked_and_only_the_script_of_the_page_may_run():
    html = page("t", "", [])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html).group(1)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
    }
