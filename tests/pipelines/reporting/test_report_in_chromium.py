from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.reporting.report import Search
from tests.chromium import Page, browse
from tests.pipelines.reporting.small_report import GRAPH, history, overlay_case, scores, write_small_report

PHONE = 375
FEW = ["swin_unetr", "nnunet", "unet_3d_instance_norm_small"]
MANY = [*FEW, *(f"an_architecture_with_a_name_{number}" for number in range(17))]
ENTRIES = "[...document.querySelectorAll('.ranking .name')].map(name => name.textContent)"
# What reaches beyond the window, but for what scrolls in a frame of its own or is not shown.
TOO_WIDE = """[...document.querySelectorAll('body *')].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width && box.right > innerWidth + 1 && !element.closest('.wide, pre, svg, script, style');
}).map(element => element.outerHTML.slice(0, 200))"""


def write(folder: Path, names: list[str]) -> Path:
    levels = {name: 0.8 - 0.01 * rank for rank, name in enumerate(names)}
    write_small_report(
        folder,
        {name: scores(level, with_test=True) for name, level in levels.items()} | {"intensity": scores(0.3)},
        histories={name: {f"fold{fold}_seed0": history(3) for fold in (0, 1)} for name in names},
        overlays=[overlay_case("best"), overlay_case("median"), overlay_case("worst")],
        plans={name: {"patch_size": [8, 8, 8], "reasons": ["patch: 8x8x8 because " + "x" * 120]} for name in names},
        fingerprint=["4 training cases were measured."],
        settings="family: segmentation  # " + "x" * 120,
        provenance={"commit": "0123456789" * 4, "machine": {"num_cores": 4}},
    )
    return folder / "index.html"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("reports")
    graph = root / "graph"
    nodes = [
        {"case_id": f"n{node}", "patient": f"n{node}", "class_name": f"topic_{node % 3}", "split": "test", "fold": 0}
        | {"seed": seed, "accuracy": float((node + seed) % 4 > 0)}
        for node in range(30)
        for seed in range(3)
    ]
    scores = {"gcn": nodes, "intensity": [row | {"seed": 0} for row in nodes[::3]]}
    trials = [
        {"trial": f"fold0_trial{number:03d}", "fold": 0, "score": 0.1 * number, "epochs": 9, "status": "finished"}
        | {"seconds": 1.0, "reason": None, "learning_rate": 0.001 * number}
        for number in range(1, 7)
    ]
    best = {"num_trials": 6, "folds": {0: {"optimizer": {"name": "adam", "learning_rate": 0.006}}}}
    plans = {"gcn": {"optimizer": {"name": "adam", "learning_rate": 0.01}}}
    write_small_report(graph, scores, GRAPH, plans=plans, searches={"gcn": Search(trials, best)})
    return {"few": write(root / "few", FEW), "many": write(root / "many", MANY), "graph": graph / "index.html"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with browse() as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Page:
    """The browser as a desk has it: wide and light."""
    browser.resize(1280, 900)
    browser.emulate()
    browser.errors.clear()
    browser.addresses.clear()
    return browser


@pytest.mark.parametrize("name", ["few", "many", "graph"])
def test_the_page_opens_without_an_error_and_asks_for_nothing(page: Page, reports: dict[str, Path], name: str) -> None:
    page.open(reports[name].as_uri())
    asked = [address for address in page.addresses if not address.startswith("data:")]
    assert asked == [reports[name].as_uri()]
    assert page.errors == []


def test_the_policy_of_the_page_forbids_the_network(page: Page, reports: dict[str, Path]) -> None:
    page.open(reports["few"].as_uri())
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'reached', error => error.name)") == "TypeError"
    assert any("Content Security Policy" in error for error in page.errors)


def test_every_picture_is_there(page: Page, reports: dict[str, Path]) -> None:
    page.open(reports["few"].as_uri())
    page.wait_for("[...document.images].every(image => image.complete)")
    assert page.evaluate("[...document.images].map(image => image.naturalWidth > 50)") == [True] * 9
    drawings = page.evaluate("[...document.querySelectorAll('svg[role=img]')].map(svg => svg.ariaLabel)")
    assert drawings == [
        "Dice of every case",
        "Dice",
        "HD95 mm (smaller is better)",
        "NSD",
        "Training loss",
        "Pseudo Dice of the validation fold",
    ]
    assert page.evaluate("[...document.querySelectorAll('svg[role=img]')].every(svg => svg.clientHeight > 80)")


def test_a_search_is_drawn(page: Page, reports: dict[str, Path]) -> None:
    page.open(reports["graph"].as_uri())
    widths = page.evaluate("[...document.querySelectorAll('#search svg[role=img]')].map(svg => svg.clientWidth)")
    assert len(widths) == 2
    assert min(widths) > 300


def test_the_table_sorts_best_first_then_the_other_way_with_what_is_missing_last(
    page: Page, reports: dict[str, Path]
) -> None:
    page.open(reports["few"].as_uri())
    by_score = [*FEW, "intensity"]
    assert page.evaluate(ENTRIES) == by_score
    head = "[...document.querySelectorAll('.ranking th')].find(head => head.textContent == 'parameters')"
    orders = []
    for _ in range(2):
        page.click(f"({head}.querySelector('button'))")
        orders.append((page.evaluate(f"{head}.ariaSort"), page.evaluate(ENTRIES)))
    by_size = sorted(FEW, key=len)
    assert orders == [("ascending", [*by_size, "intensity"]), ("descending", [*by_size[::-1], "intensity"])]
    page.click(".ranking th:nth-child(3) button")
    assert page.evaluate("[...document.querySelectorAll('.ranking [aria-sort]')].map(head => head.ariaSort)") == [
        "descending"
    ]
    assert page.evaluate(ENTRIES) == by_score


def test_words_sort_by_the_alphabet_and_the_keyboard_does_it_too(page: Page, reports: dict[str, Path]) -> None:
    page.open(reports["few"].as_uri())
    page.evaluate("document.querySelector('.ranking th:nth-child(2) button').focus()")
    for kind in ("keyDown", "keyUp"):
        page.send("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13)
    assert page.evaluate(ENTRIES) == sorted([*FEW, "intensity"])


def test_the_numbers_of_the_cases_sort_too(page: Page, reports: dict[str, Path]) -> None:
    page.open(reports["few"].as_uri())
    page.evaluate("document.querySelector('#cases details').open = true")
    page.click("#cases th:nth-child(2) button")
    cells = "[...document.querySelectorAll('#cases tbody td:first-child')].map(cell => cell.textContent)"
    assert page.evaluate(cells) == ["c3", "c2", "c1", "c0"]


@pytest.mark.parametrize("name", ["few", "many", "graph"])
def test_nothing_is_wider_than_a_phone(page: Page, reports: dict[str, Path], name: str) -> None:
    page.resize(PHONE, 800, scale=2, is_phone=True)
    page.open(reports[name].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true })")
    assert page.evaluate(TOO_WIDE) == []
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [PHONE, PHONE]


def test_the_ranking_needs_no_scrolling_on_a_phone_nor_at_a_desk(page: Page, reports: dict[str, Path]) -> None:
    for width in (PHONE, 1280):
        page.resize(width, 800, is_phone=width == PHONE)
        page.open(reports["many"].as_uri())
        assert page.evaluate(
            "(frame => frame.scrollWidth <= frame.clientWidth)(document.querySelector('#ranking .wide'))"
        )


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2 of "rgb(r, g, b)"."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("is_dark", [False, True])
def test_text_stands_out_by_day_and_by_night(page: Page, reports: dict[str, Path], is_dark: bool) -> None:
    page.emulate(is_dark=is_dark)
    page.open(reports["few"].as_uri())
    paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper < 0.05) == is_dark
    for element in ("h1", ".note", ".ranking td", ".ranking .reference td", "nav a", "summary span", "thead th"):
        ink = luminance(page.evaluate(f"getComputedStyle(document.querySelector('{element}')).color"))
        contrast = (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)
        # 4.5 is level AA of WCAG 2.2 for text.
        assert contrast >= 4.5, (element, contrast)
    # Marks of a figure: 3 is level AA for graphics; the paler ones stand beside their names.
    mark = page.evaluate("getComputedStyle(document.querySelector('.ranking circle')).fill")
    assert (max(luminance(mark), paper) + 0.05) / (min(luminance(mark), paper) + 0.05) >= 3


def test_paper_has_the_plans_unfolded_and_no_list_of_contents(
    page: Page, reports: dict[str, Path], tmp_path: Path
) -> None:
    page.emulate(media="print", is_dark=True)
    page.open(reports["few"].as_uri())
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("document.documentElement.dataset.opened = ''")
    page.evaluate(
        "addEventListener('beforeprint', () => { document.documentElement.dataset.opened = "
        "[...document.querySelectorAll('#plans details, #cases details')].map(details => +details.open).join('') })"
    )
    assert page.print_pdf(tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    # The numbers of every case are not worth the paper.
    assert page.evaluate("document.documentElement.dataset.opened") == "0111"
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
