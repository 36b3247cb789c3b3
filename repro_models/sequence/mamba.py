"""Mamba (Gu and Dao, 2023, arXiv 2312.00752): a language model of selective state spaces.

Figure 3 and section 3.4: tokens are embedded, pass through blocks that each normalise, mix the steps and add, and are
compared with the embedding again. No attention, no perceptron, no positions: the order is in the recurrence.

Differs:
    - B is discretised as in the authors' code, see `repro_models/blocks/selective_scan.py`.
    - The vocabulary is padded to a multiple of 8, as in the authors' code, but the logits of the padding are left out;
      theirs have them. `Config(vocabulary_multiple=1)` does without padding.
    - Whole sequences only: there is no step that goes on from a stored state, as generating text wants it.
Shapes:
    B batch, L tokens, C channels, V tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.mamba_mixer import mamba
from repro_models.blocks.residual_mixer import RMS_NORM_EPSILON, ResidualMixer, shrink_out_projections
from repro_models.contract import NO_GRID, IllegalSizeError, Paper, SequenceProblem, Variant

PAPER = Paper(
    title="Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
    year=2023,
    address="https://arxiv.org/abs/2312.00752",
    reference_code="https://github.com/state-spaces/mamba",
)


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are those of the smallest published model, mamba-130m.

    Attributes:
        channels: C.
        num_blocks: how many.
        num_states: of the state space, for each inner channel.
        kernel_size: tokens that the convolution of a block sees, itself and those before.
        expand: inner channels of a block, as a multiple of C.
        vocabulary_multiple: the embedding gets rows that no token has, up to a multiple of this.
    """

    channels: int = 768
    num_blocks: int = 24
    num_states: int = 16
    kernel_size: int = 4
    expand: int = 2
    vocabulary_multiple: int = 8


_COUNTED = "counted in transformers 5.23 (MambaForCausalLM)"
VARIANTS = {
    "mamba_130m": Variant(
        Config(),
        SequenceProblem(vocabulary_size=50_277),
        129_135_360,
        f"{_COUNTED}, whose vocabulary of 50,280 is padded",
    ),
    "reference_small": Variant(Config(channels=32, num_blocks=2), SequenceProblem(64), 21_984, _COUNTED),
    "small": Variant(
        Config(channels=128, num_blocks=4, vocabulary_multiple=1),
        SequenceProblem(65),
        474_880,
        "ours: 65 x 128, 4 blocks of 116,608, 128; the 65 characters are those of tinyshakespeare",
    ),
    "tiny": Variant(
        Config(channels=8, num_blocks=2, num_states=4, vocabulary_multiple=1), SequenceProblem(11), None, "ours"
    ),
}
CONSTRAINTS = NO_GRID

# Of the embedding at the start (the authors' code).
_EMBEDDING_DEVIATION = 0.02


class Mamba(nn.Module):
    """Embedding, blocks, normalisation; the embedding is the head too.

    Args:
        config: size and form.
        problem: the vocabulary.
    """

    def __init__(self, config: Config, problem: SequenceProblem) -> None:
        super().__init__()
        multiple = config.vocabulary_multiple
        self.vocabulary_size = problem.vocabulary_size
        self.embedding = nn.Embedding(-(-problem.vocabulary_size // multiple) * multiple, config.channels)
        self.blocks = nn.ModuleList(
            ResidualMixer(config.channels, mamba(config.channels, config.num_states, config.kernel_size, config.expand))
            for _ in range(config.num_blocks)
        )
        self.norm = nn.RMSNorm(config.channels, eps=RMS_NORM_EPSILON)
        nn.init.normal_(self.embedding.weight, std=_EMBEDDING_DEVIATION)
        shrink_out_projections(self.blocks)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token after each.

        Args:
            tokens: (B, L) int64, from 0 to less than V.

        Returns:
            (B, L, V); those at a token depend on it and on those before.

        Raises:
            IllegalSizeError: `tokens` has another shape, or no token.
        """
        if tokens.ndim != 2 or tokens.shape[1] < 1:
            raise IllegalSizeError(
                f"tokens of shape {tuple(tokens.shape)}: must be (sequences, tokens), with a token at least; put a "
                "sequence alone into a batch of one"
            )
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x.to(self.norm.weight.dtype))
        return functional.linear(x, self.embedding.weight[: self.vocabulary_size])


def build(config: Config, problem: SequenceProblem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: a number of `config` below 1.
    """
    for field, value in vars(config).items():
        if value < 1:
            raise ValueError(f"{field}={value}: must be 1 or more")
    return Mamba(config, problem)
