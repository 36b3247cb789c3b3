"""The driver itself, on a page that does what tests look for."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chromium import Page, ScriptError, browse

PAGE = """<!doctype html><meta charset="utf-8"><title>t</title>
<style>@media (prefers-color-scheme: dark) { body { color: white } } @media print { p { display: none } }</style>
<p id="far" style="margin-top: 3000px">words</p>
<button onclick="setTimeout(() => document.querySelector('p').textContent = 'later', 300)">later</button>
<script>console.error('first', 2); setTimeout(() => { throw new Error('second') }, 10)</script>
<img src="missing.png"><img src="http://elsewhere.example/picture.png">"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    path = tmp_path_factory.mktemp("site") / "page.html"
    path.write_text(PAGE, encoding="utf-8")
    with browse(400, 300) as page:
        page.open(path.as_uri())
        yield page


def test_what_goes_wrong_in_the_page_is_an_error(page: Page) -> None:
    page.wait_for("[...document.images].every(image => image.complete)")
    assert page.evaluate("new Promise(done => setTimeout(() => done(1 + 1), 50))") == 2
    joined = "\n".join(page.errors)
    for expected in ("first 2", "Error: second", "missing.png"):
        assert expected in joined
    # Other hosts are asked for, which a test can forbid, and never reached.
    assert "http://elsewhere.example/picture.png" in page.addresses
    assert "ERR_NAME_NOT_RESOLVED http://elsewhere.example/picture.png" in joined


def test_a_click_reaches_what_one_must_scroll_to(page: Page) -> None:
    page.click("(document.querySelector('button'))")
    page.wait_for_text("later")
    assert page.wait_for("document.querySelector('p').textContent == 'later' && scrollY > 1000")


def test_what_never_comes_is_an_error_with_the_text_of_the_page(page: Page) -> None:
    with pytest.raises(TimeoutError, match=r"still not nothing.at.all.*is not defined"):
        page.wait_for("nothing.at.all", timeout_s=0.5)
    with pytest.raises(ScriptError, match="TypeError"):
        page.evaluate("null.x")


def test_screen_and_paper_and_sizes(page: Page, tmp_path: Path) -> None:
    page.emulate(media="print", is_dark=True)
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('p')).display") == "none"
    page.emulate()
    page.resize(375, 600, scale=2, is_phone=True)
    assert page.evaluate("innerHeight / innerWidth") == pytest.approx(600 / 375, rel=0.01)
    page.resize(320, 200)
    part = page.screenshot(tmp_path / "part.png").read_bytes()
    whole = page.screenshot(tmp_path / "whole.png", is_whole=True).read_bytes()
    assert struct.unpack(">II", part[16:24]) == (320, 200)
    assert struct.unpack(">II", whole[16:24])[1] > 3000
    assert page.print_pdf(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_an_address_nobody_answers_is_an_error(page: Page) -> None:
    with pytest.raises(AssertionError, match=r"http://127.0.0.1:9/: net::ERR_"):
        page.open("http://127.0.0.1:9/")
