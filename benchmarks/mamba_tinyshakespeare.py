"""Mamba beside a Transformer of equal size: both learn to guess the next character of Shakespeare.

`python -m benchmarks.mamba_tinyshakespeare` trains the variant `small` of `repro_models/sequence/mamba.py` and a
decoder of torch's own transformer layers with as many parameters (within 2 %) on the same characters in the same order,
with the same optimiser, and writes the bits a character of the validation text costs each, and the seconds, to
benchmarks/results/mamba_tinyshakespeare.json. `--seeds 0 1 2` trains each three times.

The text is data/tinyshakespeare/input.txt, or the same below ../shared. Its last tenth is for validation; of that every
character but the first is guessed once, from those before it in its window.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from pipelines.atomic_files import write_text
from pipelines.tracking.provenance import ROOT, git_commit, machine
from repro_models.contract import SequenceProblem
from repro_models.sequence import mamba

RESULT = ROOT / "benchmarks/results/mamba_tinyshakespeare.json"
_PLACES = ("data/tinyshakespeare/input.txt", "../shared/data/tinyshakespeare/input.txt")
_VALIDATION_SHARE = 0.1
_NUM_CURVE_POINTS = 5


@dataclass(frozen=True)
class Settings:
    """How both networks are trained; AdamW, and a rate that rises over the first steps and falls along a cosine.

    Attributes:
        steps: how many.
        length: characters that a window shows.
        batch_size: windows of a step.
        learning_rate: the highest.
        last_learning_rate: at the end.
        warmup_share: of the steps over which the rate rises.
        betas: of AdamW.
        weight_decay: of matrices, but for Mamba's A.
        clip_norm: of the gradient.
    """

    steps: int = 600
    length: int = 128
    batch_size: int = 16
    learning_rate: float = 2e-3
    last_learning_rate: float = 1e-5
    warmup_share: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip_norm: float = 1.0


class Transformer(nn.Module):
    """Decoder with learned positions, normalisation first and the embedding as head: (B, L) -> (B, L, V).

    Args:
        vocabulary_size: V.
        length: the largest L.
        channels: of a token.
        num_blocks: how many.
        num_heads: of each; they share the channels evenly.
    """

    def __init__(
        self, vocabulary_size: int, length: int, channels: int = 112, num_blocks: int = 3, num_heads: int = 4
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, channels)
        self.positions = nn.Parameter(torch.empty(length, channels))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                channels, num_heads, 4 * channels, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(channels)
        # As GPT-2 starts: what is added to the residual stream is smaller by the root of how often that happens.
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                is_added = name.endswith(("out_proj.weight", "linear2.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * num_blocks) if is_added else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token after each, from it and those before."""
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        x = self.embedding(tokens) + self.positions[:length]
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        return functional.linear(self.norm(x), self.embedding.weight)


def networks(vocabulary_size: int, length: int) -> dict[str, Callable[[], nn.Module]]:
    """The two that are compared, each a function that builds it."""
    return {
        "mamba": lambda: mamba.build(mamba.VARIANTS["small"].config, SequenceProblem(vocabulary_size)),
        "transformer": lambda: Transformer(vocabulary_size, length),
    }


def find_text(root: Path = ROOT) -> Path:
    """Where the text is.

    Raises:
        ValueError: it is not there.
    """
    for place in _PLACES:
        if (root / place).is_file():
            return root / place
    raise ValueError(f"there is no {_PLACES[0]} in {root}; put the text of tinyshakespeare there (or in {_PLACES[1]})")


def tokens_of(text: str) -> tuple[Tensor, Tensor, int]:
    """Training characters and validation characters by their number, and how many different ones there are."""
    numbers = {character: number for number, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([numbers[character] for character in text])
    num_validation = round(len(text) * _VALIDATION_SHARE)
    return tokens[:-num_validation], tokens[-num_validation:], len(numbers)


def window_starts(num_tokens: int, settings: Settings, seed: int) -> Tensor:
    """Where the windows of each step begin: (steps, batch_size), the same for every network."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(num_tokens - settings.length, (settings.steps, settings.batch_size), generator=generator)


def bits_per_character(network: nn.Module, tokens: Tensor, settings: Settings) -> float:
    """What each of `tokens` but the first costs, in windows that follow each other."""
    total = 0.0
    network.eval()
    with torch.inference_mode():
        step = settings.length * settings.batch_size
        for start in range(0, len(tokens) - 1, step):
            chunk = tokens[start : start + step + 1]
            whole = (len(chunk) - 1) // settings.length * settings.length
            if whole:
                x, y = (part[:whole].unflatten(0, (-1, settings.length)) for part in (chunk[:-1], chunk[1:]))
                total += _cost(network(x), y, "sum").item()
            if whole < len(chunk) - 1:
                total += _cost(network(chunk[None, whole:-1]), chunk[None, whole + 1 :], "sum").item()
    network.train()
    return total / (len(tokens) - 1) / math.log(2)


def bigram_bits(train: Tensor, validation: Tensor, vocabulary_size: int) -> float:
    """What a character costs by how often it followed the one before it in training, each pair counted once more."""
    pairs = train[:-1] * vocabulary_size + train[1:]
    counts = torch.bincount(pairs, minlength=vocabulary_size**2).reshape(vocabulary_size, -1).double() + 1
    shares = counts / counts.sum(1, keepdim=True)
    return -shares[validation[:-1], validation[1:]].log2().mean().item()


def train_one(
    build: Callable[[], nn.Module], train: Tensor, validation: Tensor, settings: Settings, seed: int, title: str
) -> dict[str, Any]:
    """Train a network.

    Returns:
        Keys seed, num_parameters, bits_per_character, seconds (of the steps alone), ms_per_step, curve (at each fifth:
        keys step, seconds, bits_per_character).
    """
    torch.manual_seed(seed)
    network = build().train()
    optimizer = _optimizer(network, settings)
    starts, offsets = window_starts(len(train), settings, seed), torch.arange(settings.length + 1)
    seconds, curve = 0.0, []
    validated = {round(settings.steps * point / _NUM_CURVE_POINTS) for point in range(1, _NUM_CURVE_POINTS + 1)}
    bar = tqdm(range(settings.steps), desc=title)
    for step in bar:
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, settings)
        windows = train[starts[step, :, None] + offsets]
        optimizer.zero_grad()
        loss = _cost(network(windows[:, :-1]), windows[:, 1:], "mean")
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
        optimizer.step()
        seconds += time.perf_counter() - started
        if step + 1 in validated:
            bits = bits_per_character(network, validation, settings)
            curve.append({"step": step + 1, "seconds": round(seconds, 2), "bits_per_character": round(bits, 4)})
        bar.set_postfix(loss=f"{loss.item():.3f}", bits=curve[-1]["bits_per_character"] if curve else "–")
    return {
        "seed": seed,
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "bits_per_character": curve[-1]["bits_per_character"],
        "seconds": round(seconds, 1),
        "ms_per_step": round(1000 * seconds / settings.steps, 1),
        "curve": curve,
    }


def compare(text: str, settings: Settings, seeds: Sequence[int]) -> dict[str, Any]:
    """Train both networks with each seed; keys as in the file, without machine and command."""
    train, validation, vocabulary_size = tokens_of(text)
    return {
        "text": {
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "num_different_characters": vocabulary_size,
            "num_training_characters": len(train),
            "num_validation_characters": len(validation),
        },
        "settings": asdict(settings),
        "num_characters_trained_on": settings.steps * settings.batch_size * settings.length,
        "bigram_bits_per_character": round(bigram_bits(train, validation, vocabulary_size), 4),
        "runs": {
            name: [train_one(build, train, validation, settings, seed, f"{name}, seed {seed}") for seed in seeds]
            for name, build in networks(vocabulary_size, settings.length).items()
        },
    }


def _cost(logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


def _optimizer(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    named = list(network.named_parameters())
    decayed = [parameter for name, parameter in named if parameter.ndim >= 2 and not name.endswith("log_a")]
    others = [parameter for name, parameter in named if parameter.ndim < 2 or name.endswith("log_a")]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas)


def _learning_rate(step: int, settings: Settings) -> float:
    num_warmup = max(1, round(settings.steps * settings.warmup_share))
    if step < num_warmup:
        return settings.learning_rate * (step + 1) / num_warmup
    share = (step - num_warmup) / max(1, settings.steps - num_warmup)
    span = settings.learning_rate - settings.last_learning_rate
    return settings.last_learning_rate + span * (1 + math.cos(math.pi * share)) / 2


def main(given: Sequence[str] | None = None) -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is written, for a try")
    arguments = parser.parse_args(given)
    if arguments.steps < 1:
        parser.error(f"--steps {arguments.steps}: must be 1 or more")
    try:
        text = find_text().read_text(encoding="utf-8")
    except ValueError as error:
        parser.error(str(error))
    commit = git_commit()  # of what runs; files may be edited while it does
    compared = compare(text, Settings(steps=arguments.steps), arguments.seeds)
    result = {
        "command": "python -m benchmarks.mamba_tinyshakespeare"
        + (f" --steps {arguments.steps}" if arguments.steps != Settings.steps else "")
        + (f" --seeds {' '.join(map(str, arguments.seeds))}" if arguments.seeds != [0] else ""),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "machine": machine(),
        "num_threads": torch.get_num_threads(),
        **compared,
    }
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")
    for name, runs in compared["runs"].items():
        for run in runs:
            print(
                f"{name}, seed {run['seed']}: {run['bits_per_character']:.3f} bits a character after "
                f"{run['seconds']:.0f} s ({run['ms_per_step']:.0f} ms a step), {run['num_parameters']:,} parameters"
            )
    print(f"bigram: {compared['bigram_bits_per_character']:.3f} bits a character; written to {arguments.out}")


if __name__ == "__main__":
    main()
