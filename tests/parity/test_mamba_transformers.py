"""Mamba's block and language model against transformers' with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.mamba_mixer import MambaMixer, mamba
from repro_models.contract import SequenceProblem
from repro_models.sequence.mamba import Config, build

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

# Same operations in float64, in another order.
EXACT = {"rtol": 1e-9, "atol": 1e-9}
# Theirs takes some steps in float32 whatever the weights are. It keeps seven digits; a hundred operations one behind
# the other, and sums over the steps, cost two of them.
ROUNDED = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def _float64_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their block asks for float32 by this method alone."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)


def their_model(**changes: Any) -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(
        **{"vocab_size": 24, "hidden_size": 32, "num_hidden_layers": 3, "use_mambapy": False, **changes}
    )
    model = MambaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if not name.endswith("A_log"):  # negative ones of any size would be as well, but not decays above 1
            nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.2)
    return model


def copy_mixer(ours: MambaMixer, theirs: Any) -> None:
    scan = ours.scan
    for part, their_part in (
        (ours.in_projection, theirs.in_proj),
        (scan.conv, theirs.conv1d),
        (scan.selection, theirs.x_proj),
        (scan.step_size, theirs.dt_proj),
        (ours.out_projection, theirs.out_proj),
    ):
        part.load_state_dict(their_part.state_dict())
    scan.log_a.data.copy_(theirs.A_log.data)
    scan.d.data.copy_(theirs.D.data)


def copied(theirs: Any) -> Any:
    """Our network with the weights of theirs."""
    config = theirs.config
    ours: Any = build(
        Config(config.hidden_size, config.num_hidden_layers, config.state_size, config.conv_kernel, config.expand, 1),
        SequenceProblem(config.vocab_size),
    )
    ours.embedding.load_state_dict(theirs.backbone.embeddings.state_dict())
    ours.norm.load_state_dict(theirs.backbone.norm_f.state_dict())
    for block, reference in zip(ours.blocks, theirs.backbone.layers, strict=True):
        block.norm.load_state_dict(reference.norm.state_dict())
        copy_mixer(block.mixer, reference.mixer)
    return ours.eval()


@pytest.mark.usefixtures("_float64_throughout")
@pytest.mark.parametrize("sizes", [(32, 16, 4, 2), (40, 8, 3, 3)])
def test_the_block_and_all_its_gradients_equal_transformers(sizes: tuple[int, int, int, int]) -> None:
    channels, num_states, kernel_size, expand = sizes
    model = their_model(hidden_size=channels, state_size=num_states, conv_kernel=kernel_size, expand=expand)
    theirs = model.double().backbone.layers[0].mixer
    ours = mamba(channels, num_states, kernel_size, expand).double()
    copy_mixer(ours, theirs)
    x, their_x = (torch.randn(2, 13, channels, generator=torch.Generator().manual_seed(1)).double() for _ in range(2))
    y, their_y = ours(x.requires_grad_()), theirs(their_x.requires_grad_())
    torch.testing.assert_close(y, their_y, **EXACT)
    assert y.std() > 1e-3
    y.square().sum().backward()
    their_y.square().sum().backward()
    torch.testing.assert_close(x.grad, their_x.grad, **EXACT)
    for mine, reference in (
        (ours.in_projection.weight, theirs.in_proj.weight),
        (ours.scan.conv.weight, theirs.conv1d.weight),
        (ours.scan.selection.weight, theirs.x_proj.weight),
        (ours.scan.step_size.weight, theirs.dt_proj.weight),
        (ours.scan.step_size.bias, theirs.dt_proj.bias),
        (ours.scan.log_a, theirs.A_log),
        (ours.scan.d, theirs.D),
        (ours.out_projection.weight, theirs.out_proj.weight),
    ):
        torch.testing.assert_close(mine.grad, reference.grad, **EXACT)


def test_logits_of_the_language_model_equal_transformers() -> None:
    theirs = their_model()
    ours = copied(theirs)
    tokens = torch.randint(24, (2, 17), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, **ROUNDED)


def test_the_loss_and_its_gradients_equal_transformers() -> None:
    theirs = their_model()
    ours = copied(theirs)
    tokens = torch.randint(24, (2, 17), generator=torch.Generator().manual_seed(2))
    loss = functional.cross_entropy(ours(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    their_loss = theirs(tokens, labels=tokens).loss
    torch.testing.assert_close(loss, their_loss, **ROUNDED)
    loss.backward()
    their_loss.backward()
    pairs = [(ours.embedding.weight, theirs.backbone.embeddings.weight)]
    for block, reference in zip(ours.blocks, theirs.backbone.layers, strict=True):
        pairs += [
            (block.norm.weight, reference.norm.weight),
            (block.mixer.scan.log_a, reference.mixer.A_log),
            (block.mixer.in_projection.weight, reference.mixer.in_proj.weight),
        ]
    for mine, reference in pairs:
        assert reference.grad.any()
        scale = reference.grad.abs().max().item()
        torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-4, atol=1e-5 * scale)


def test_a_published_size_has_the_parameters_of_transformers() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    with torch.device("meta"):
        theirs = MambaForCausalLM(MambaConfig(vocab_size=50_280, hidden_size=768, num_hidden_layers=24))
        ours = build(Config(), SequenceProblem(50_277))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == 129_135_360
