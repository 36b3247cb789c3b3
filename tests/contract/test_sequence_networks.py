"""What every network of tokens must hold. Runs on all files of the family sequence, unasked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import safetensors.torch
import torch
from torch import Tensor, distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from repro_models import registry
from repro_models.contract import NO_GRID, IllegalSizeError, SequenceProblem

NAMES = [name for name in registry.names() if name.startswith("sequence/")]
VARIANTS = [
    pytest.param(name, variant, id=f"{name}-{variant}") for name in NAMES for variant in registry.load(name).VARIANTS
]
for_every_network = pytest.mark.parametrize("name", NAMES)
VOCABULARY_SIZE, LENGTH = 11, 12


def build(name: str, vocabulary_size: int = VOCABULARY_SIZE, seed: int = 0) -> nn.Module:
    architecture = registry.load(name)
    torch.manual_seed(seed)
    return architecture.build(architecture.VARIANTS["tiny"].config, SequenceProblem(vocabulary_size))


def tokens(batch_size: int = 2, length: int = LENGTH, vocabulary_size: int = VOCABULARY_SIZE, seed: int = 0) -> Tensor:
    return torch.randint(vocabulary_size, (batch_size, length), generator=torch.Generator().manual_seed(seed))


def loss_of(network: nn.Module, x: Tensor) -> Tensor:
    """Cross entropy of the next token."""
    return functional.cross_entropy(network(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())


def test_there_are_networks_of_tokens() -> None:
    assert "sequence/mamba" in NAMES


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_variant_was_counted_at_a_vocabulary(name: str, variant: str) -> None:
    architecture = registry.load(name)
    assert isinstance(architecture.VARIANTS[variant].problem, SequenceProblem)
    assert architecture.CONSTRAINTS is NO_GRID


@for_every_network
@pytest.mark.parametrize(("vocabulary_size", "length"), [(2, 1), (7, 5), (65, 33)])
def test_every_token_gets_finite_logits(name: str, vocabulary_size: int, length: int) -> None:
    network = build(name, vocabulary_size).eval()
    with torch.no_grad():
        logits = network(tokens(3, length, vocabulary_size))
    assert logits.shape == (3, length, vocabulary_size)
    assert logits.isfinite().all()


@for_every_network
@pytest.mark.parametrize("shape", [(5,), (2, 5, 1), (2, 0)], ids=str)
def test_an_illegal_shape_raises_the_documented_error(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(IllegalSizeError, match=r"tokens of shape .*must be \(sequences, tokens\)"):
        build(name)(torch.zeros(shape, dtype=torch.int64))


@for_every_network
def test_no_token_sees_a_later_one_and_every_token_counts(name: str) -> None:
    network = build(name).eval()
    x = tokens(1)
    with torch.no_grad():
        before = network(x)
        for place in (1, 5, LENGTH - 1):
            changed = x.clone()
            changed[:, place] = (changed[:, place] + 1) % VOCABULARY_SIZE
            after = network(changed)
            torch.testing.assert_close(after[:, :place], before[:, :place])
            assert not torch.allclose(after[:, place], before[:, place])
            # To the last one: it is remembered.
            assert not torch.equal(after[:, -1], before[:, -1])


@for_every_network
def test_a_longer_sequence_begins_with_the_logits_of_a_shorter_one(name: str) -> None:
    network = build(name).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(tokens())[:, :7], network(tokens()[:, :7]))


@for_every_network
def test_the_order_of_tokens_counts(name: str) -> None:
    network = build(name).eval()
    x = torch.arange(6)[None]
    swapped = torch.tensor([[1, 0, 2, 3, 4, 5]])
    with torch.no_grad():
        assert not torch.allclose(network(x)[:, -1], network(swapped)[:, -1], atol=1e-8)


@for_every_network
def test_every_trainable_parameter_gets_a_finite_gradient(name: str) -> None:
    network = build(name).train()
    loss_of(network, tokens()).backward()
    trainable = {key: p.grad for key, p in network.named_parameters() if p.requires_grad}
    assert trainable
    assert [key for key, gradient in trainable.items() if gradient is None or not gradient.isfinite().all()] == []
    assert all(gradient is not None and gradient.any() for gradient in trainable.values())


@for_every_network
def test_sequences_of_a_batch_do_not_see_each_other_in_eval_mode(name: str) -> None:
    network = build(name).eval()
    batch = tokens(3)
    with torch.no_grad():
        torch.testing.assert_close(network(batch)[1:2], network(batch[1:2]), rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def _group_of_one() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        yield
        distributed.destroy_process_group()


@for_every_network
@pytest.mark.usefixtures("_group_of_one")
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides:UserWarning")
def test_data_parallel_training_finds_no_unused_parameter(name: str) -> None:
    wrapped = DistributedDataParallel(build(name).train(), find_unused_parameters=False)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=1e-3)
    # The second forward pass is where it misses the gradients that the first step did not give.
    for step in range(2):
        optimizer.zero_grad()
        loss = loss_of(wrapped, tokens(seed=step))
        loss.backward()
        optimizer.step()
    assert loss.isfinite()


@for_every_network
def test_evaluation_mode_is_exported(name: str) -> None:
    network = build(name).eval()
    exported = torch.export.export(network, (tokens(),)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(tokens(seed=1)), network(tokens(seed=1)))


@for_every_network
def test_same_seed_gives_the_same_loss(name: str) -> None:
    def losses(seed: int) -> list[float]:
        network = build(name, seed=seed).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
        values = []
        for step in range(2):
            optimizer.zero_grad()
            loss = loss_of(network, tokens(seed=step))
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        return values

    assert losses(seed=7) == losses(seed=7)
    assert losses(seed=7) != losses(seed=8)


@for_every_network
def test_it_learns_a_sequence_by_heart(name: str) -> None:
    network, x = build(name).train(), tokens(1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-2)
    begin = loss_of(network, x).item()
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_of(network, x)
        loss.backward()
        optimizer.step()
    assert loss.item() < begin / 4


@for_every_network
def test_weights_survive_a_round_trip_through_a_file(name: str) -> None:
    written, read = build(name, seed=1).eval(), build(name, seed=2).eval()
    with torch.no_grad():
        expected = written(tokens())
        assert not torch.equal(expected, read(tokens()))
        read.load_state_dict(safetensors.torch.load(safetensors.torch.save(written.state_dict())))
        assert torch.equal(expected, read(tokens()))


@for_every_network
def test_training_step_runs_on_shapes_alone(name: str) -> None:
    with FakeTensorMode():
        network = build(name).train()
        network(torch.empty(2, LENGTH, dtype=torch.int64)).square().mean().backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
