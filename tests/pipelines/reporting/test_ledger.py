from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.reporting.ledger import KEYS, OF_A_RUN, ledger_markdown, read_rows, write_ledger

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"

ROW = {
    "paper": "Isensee et al., 2021",
    "architecture": "segmentation/nnunet",
    "dataset": "a made-up set",
    "measure": "mean Dice",
    "published": 0.9,
    "published_source": "table 1",
    "ours": 0.89,
    "interval": [0.88, 0.9],
    "budget": "1000 steps",
    "data": "all | of it",
    "seeds": [0, 1],
    "folds": [0],
    "machine": "one machine",
    "command": "dvc repro",
    "commit": "abc",
    "date": "2001-02-03",
}


def write(folder, name, row):
    (folder / name).write_text(json.dumps(row), encoding="utf-8")


def test_the_committed_page_is_what_the_committed_rows_give():
    page = (REFERENCE / "ledger.md").read_text(encoding="utf-8")
    assert page == ledger_markdown(read_rows(REFERENCE / "ledger"))


def test_a_row_becomes_a_line_with_every_key(tmp_path):
    write(tmp_path, "a.json", ROW)
    write_ledger(tmp_path, tmp_path / "ledger.md")
    lines = (tmp_path / "ledger.md").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == (
        "| Isensee et al., 2021 | segmentation/nnunet | a made-up set | mean Dice | 0.9 | table 1 | 0.89 | 0.88 to 0.9 "
        r"| 1000 steps | all \| of it | 0, 1 | 0 | one machine | `dvc repro` | `abc` | 2001-02-03 |"
    )
    assert lines[-3] == "| " + " | ".join(KEYS) + " |"


def test_a_figure_that_was_never_published_is_a_dash(tmp_path):
    write(tmp_path, "a.json", ROW | {"published": None, "published_source": None})
    assert "| mean Dice | – | – | 0.89 |" in ledger_markdown(read_rows(tmp_path))


def test_a_counted_figure_has_dashes_where_a_run_has_its_budget(tmp_path):
    write(tmp_path, "a.json", ROW | dict.fromkeys(OF_A_RUN))
    assert "| 0.89 | – | – | – | – | – | one machine |" in ledger_markdown(read_rows(tmp_path))


@pytest.mark.parametrize("key", OF_A_RUN)
def test_a_run_without_one_of_its_keys_is_no_counted_figure(tmp_path, key):
    write(tmp_path, "a.json", ROW | {key: None})
    with pytest.raises(ValueError, match=f"no value for {key}"):
        read_rows(tmp_path)


def test_rows_are_sorted_by_architecture_and_date(tmp_path):
    write(tmp_path, "1.json", ROW | {"date": "2002-01-01"})
    write(tmp_path, "2.json", ROW)
    write(tmp_path, "3.json", ROW | {"architecture": "segmentation/a"})
    assert [(row["architecture"], row["date"]) for row in read_rows(tmp_path)] == [
        ("segmentation/a", "2001-02-03"),
        ("segmentation/nnunet", "2001-02-03"),
        ("segmentation/nnunet", "2002-01-01"),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ours": None}, "no value for ours"),
        ({"score": 1}, "unknown keys score"),
        ({"published_source": None}, "published is 0.9 without published_source"),
    ],
)
def test_a_wrong_row_names_its_file_and_the_rule(tmp_path, change, message):
    write(tmp_path, "wrong.json", ROW | change)
    with pytest.raises(ValueError, match=rf"wrong\.json: {message}"):
        read_rows(tmp_path)


def test_a_missing_key_is_an_error_even_where_null_is_allowed(tmp_path):
    write(tmp_path, "a.json", {key: value for key, value in ROW.items() if key != "published"})
    with pytest.raises(ValueError, match="no value for published"):
        read_rows(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "holds a list")])
def test_a_file_that_is_no_object_is_an_error(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path)
