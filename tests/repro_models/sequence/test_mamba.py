from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from repro_models.contract import SequenceProblem
from repro_models.sequence.mamba import Config, build
from tests.fillings import num_parameters


@pytest.mark.parametrize(("vocabulary_size", "multiple", "rows"), [(50_277, 8, 50_280), (64, 8, 64), (65, 1, 65)])
def test_the_vocabulary_is_padded_to_a_multiple(vocabulary_size: int, multiple: int, rows: int) -> None:
    with torch.device("meta"):
        network: Any = build(Config(8, 1, vocabulary_multiple=multiple), SequenceProblem(vocabulary_size))
        assert network.embedding.weight.shape == (rows, 8)
        assert network(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, vocabulary_size)


def test_padding_changes_no_logit_and_learns_nothing() -> None:
    config, x = Config(8, 1, num_states=4), torch.arange(5)[None]
    padded: Any = build(config, SequenceProblem(5))
    bare: Any = build(Config(8, 1, num_states=4, vocabulary_multiple=1), SequenceProblem(5))
    state = padded.state_dict()
    bare.load_state_dict(state | {"embedding.weight": state["embedding.weight"][:5]})
    torch.testing.assert_close(padded(x), bare(x))
    padded(x).square().mean().backward()
    assert padded.embedding.weight.grad[:5].any(dim=1).all()
    assert not padded.embedding.weight.grad[5:].any()


def test_head_and_embedding_are_one() -> None:
    network = build(Config(8, 1, num_states=4, vocabulary_multiple=1), SequenceProblem(7))
    # A block: projections, convolution, selection, step sizes, A, D, normalisation; then the last normalisation.
    block = 8 * 32 + 16 * 8 + 16 * 4 + 16 + 16 * (1 + 4 + 4) + 2 * 16 + 16 * 4 + 16 + 8
    assert num_parameters(network) == 7 * 8 + block + 8


def test_weights_start_as_in_the_authors_code() -> None:
    torch.manual_seed(0)
    network: Any = build(Config(64, 16), SequenceProblem(4096))
    assert network.embedding.weight.std().item() == pytest.approx(0.02, rel=0.01)
    for block in network.blocks:
        # Uniform to 1 / sqrt(inputs), as torch's default, divided by the root of the number of blocks.
        bound = 1 / math.sqrt(128) / math.sqrt(16)
        assert bound * 0.99 < block.mixer.out_projection.weight.abs().max() <= bound
        assert block.mixer.in_projection.bias is None
        torch.testing.assert_close(block.mixer.scan.log_a.exp()[5], torch.arange(1.0, 17))
        assert block.mixer.scan.d.eq(1).all()


@pytest.mark.parametrize(
    "field", ["channels", "num_blocks", "num_states", "kernel_size", "expand", "vocabulary_multiple"]
)
def test_a_number_below_one_is_refused(field: str) -> None:
    changes: dict[str, Any] = {field: 0}
    with pytest.raises(ValueError, match=f"{field}=0: must be 1 or more"):
        build(Config(**changes), SequenceProblem(5))
