from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import mamba_tinyshakespeare as benchmark
from benchmarks.mamba_tinyshakespeare import Settings, Transformer

find_text, compare = benchmark.find_text, benchmark.compare
TINY = Settings(steps=12, length=8, batch_size=4, learning_rate=5e-3)


class Previous(nn.Module):
    """Sure that the next token is the same once more."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen.append(tuple(tokens.shape))
        return 50 * torch.nn.functional.one_hot(tokens, 3).float()


def test_both_networks_are_of_one_size() -> None:
    sizes = {
        name: sum(parameter.numel() for parameter in build().parameters())
        for name, build in benchmark.networks(65, Settings().length).items()
    }
    assert set(sizes) == {"mamba", "transformer"}
    assert sizes["mamba"] / sizes["transformer"] == pytest.approx(1, abs=0.02)


def test_the_transformer_sees_no_later_token() -> None:
    torch.manual_seed(0)
    network = Transformer(7, 10, channels=8, num_blocks=2, num_heads=2)
    x = torch.arange(10)[None] % 7
    changed = x.clone()
    changed[:, 6:] = 0
    for is_training in (False, True):
        network.train(is_training)
        with torch.no_grad():
            before, after = network(x), network(changed)
        torch.testing.assert_close(before[:, :6], after[:, :6])
        assert not torch.allclose(before[:, 6], after[:, 6])


def test_the_last_tenth_is_for_validation_and_characters_are_numbered_in_order() -> None:
    train, validation, vocabulary_size = benchmark.tokens_of("cab" * 10)
    assert vocabulary_size == 3
    assert torch.cat([train, validation]).tolist() == [2, 0, 1] * 10
    assert len(validation) == 3


@pytest.mark.parametrize("num_tokens", [2, 8, 9, 32, 33, 34, 79])
def test_every_character_but_the_first_is_guessed_once(num_tokens: int) -> None:
    network = Previous()
    tokens = torch.zeros(num_tokens, dtype=torch.int64)
    assert benchmark.bits_per_character(network, tokens, TINY) == pytest.approx(0, abs=1e-6)
    assert sum(math.prod(shape) for shape in network.seen) == num_tokens - 1
    # One wrong guess, wherever it is, costs 50 nats.
    for place in range(1, num_tokens):
        changed = tokens.clone()
        changed[place:] = 1
        bits = benchmark.bits_per_character(network, changed, TINY) * (num_tokens - 1)
        assert bits == pytest.approx(50 / math.log(2), rel=1e-5)


def test_a_bigram_s_bits_are_those_by_hand() -> None:
    train, validation = torch.tensor([0, 1, 0, 1, 1]), torch.tensor([0, 1, 0])
    # After 0: never 0, twice 1. After 1: once each. One is added to all.
    expected = -(math.log2(3 / 4) + math.log2(2 / 4)) / 2
    assert benchmark.bigram_bits(train, validation, 2) == pytest.approx(expected)


def test_windows_stay_in_the_text_and_depend_on_the_seed_alone() -> None:
    starts = benchmark.window_starts(9, Settings(steps=200, length=8, batch_size=4), 0)
    assert starts.shape == (200, 4)
    assert starts.unique().tolist() == [0]
    first, again, other = (benchmark.window_starts(1000, TINY, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.max() + TINY.length < 1000


def test_the_rate_rises_and_falls() -> None:
    settings = Settings(steps=100)
    rates = [benchmark._learning_rate(step, settings) for step in range(100)]
    assert rates[:5] == pytest.approx([2e-3 * part / 5 for part in (1, 2, 3, 4, 5)])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 1e-5 < rates[-1] < 2e-5


def test_both_learn_a_text_that_repeats_itself() -> None:
    result = benchmark.compare("To be, or not: " * 30, TINY, [3])
    (mamba,), (transformer,) = result["runs"]["mamba"], result["runs"]["transformer"]
    for run in (mamba, transformer):
        assert [point["step"] for point in run["curve"]] == [2, 5, 7, 10, 12]
        assert run["curve"][-1]["bits_per_character"] == run["bits_per_character"]
        # Ten different characters: 3.3 bits before anything is learnt.
        assert run["bits_per_character"] < 0.85 * run["curve"][0]["bits_per_character"] < 0.85 * 3.5
        assert run["seed"] == 3
    assert result["num_characters_trained_on"] == 12 * 4 * 8
    assert result["text"]["num_validation_characters"] == 45


def test_the_file_says_what_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data/tinyshakespeare").mkdir(parents=True)
    (tmp_path / "data/tinyshakespeare/input.txt").write_text("All the world's a stage. " * 80, encoding="utf-8")
    monkeypatch.setattr(benchmark, "find_text", lambda: find_text(tmp_path))
    monkeypatch.setattr(
        benchmark, "compare", lambda text, settings, seeds: compare(text, replace(TINY, steps=settings.steps), seeds)
    )
    benchmark.main(["--steps", "1", "--out", str(tmp_path / "out.json")])
    written: dict[str, Any] = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert written["command"] == "python -m benchmarks.mamba_tinyshakespeare --steps 1"
    assert {"date", "commit", "machine", "num_threads", "settings", "text", "runs"} <= set(written)
    assert written["machine"]["torch"]
    assert written["settings"]["steps"] == 1
    assert [len(runs) for runs in written["runs"].values()] == [1, 1]


def test_a_missing_text_is_told_with_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no data/tinyshakespeare/input.txt in .*; put the text"):
        find_text(tmp_path / "project")
    shared = tmp_path / "shared/data/tinyshakespeare"
    shared.mkdir(parents=True)
    (shared / "input.txt").write_text("x", encoding="utf-8")
    (tmp_path / "project").mkdir()
    assert find_text(tmp_path / "project").read_text(encoding="utf-8") == "x"
