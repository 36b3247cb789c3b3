"""What every network of nodes must hold. Runs on all files of the family graph, unasked."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipelines.training.optimizer import build_optimizer
from repro_models import registry
from repro_models.contract import GraphProblem, IllegalSizeError, Recipe

NAMES = [name for name in registry.names() if name.startswith("graph/")]
VARIANTS = [
    pytest.param(name, variant, id=f"{name}-{variant}") for name in NAMES for variant in registry.load(name).VARIANTS
]
for_every_network = pytest.mark.parametrize("name", NAMES)
NUM_NODES = 9
# Two links, a triangle, and node 8 alone.
LINKS = ((0, 1), (2, 3), (4, 5), (5, 6), (6, 4), (6, 7))


def build(name: str, num_features: int = 5, num_classes: int = 3, seed: int = 0) -> nn.Module:
    architecture = registry.load(name)
    torch.manual_seed(seed)
    return architecture.build(architecture.VARIANTS["tiny"].config, GraphProblem(num_features, num_classes))


def edges() -> Tensor:
    links = torch.tensor(LINKS).T
    return torch.cat([links, links.flip(0)], dim=1)


def features(num_features: int = 5, seed: int = 0) -> Tensor:
    x = torch.rand(NUM_NODES, num_features, generator=torch.Generator().manual_seed(seed))
    return x * (x > 0.3)


def test_there_are_networks_of_nodes() -> None:
    assert {"graph/gcn", "graph/gat"} <= set(NAMES)


@for_every_network
def test_the_file_says_how_its_paper_trains(name: str) -> None:
    recipe = registry.load(name).RECIPE
    assert isinstance(recipe, Recipe)
    optimizer = build_optimizer(
        build(name).named_parameters(),
        name=recipe.optimizer,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        decayed=recipe.decayed,
    )
    assert [group["weight_decay"] for group in optimizer.param_groups] == [recipe.weight_decay, 0]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_variant_was_counted_at_a_graph(name: str, variant: str) -> None:
    assert isinstance(registry.load(name).VARIANTS[variant].problem, GraphProblem)


@for_every_network
@pytest.mark.parametrize(("num_features", "num_classes"), [(1, 2), (7, 5)])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_every_node_gets_finite_logits(name: str, num_features: int, num_classes: int, is_sparse: bool) -> None:
    x = features(num_features)
    logits = build(name, num_features, num_classes).eval()(x.to_sparse() if is_sparse else x, edges())
    assert logits.shape == (NUM_NODES, num_classes)
    assert logits.isfinite().all()


@for_every_network
def test_sparse_features_give_what_dense_ones_give(name: str) -> None:
    network = build(name).eval()
    torch.testing.assert_close(network(features().to_sparse(), edges()), network(features(), edges()))


@for_every_network
def test_a_graph_without_links_is_one_too(name: str) -> None:
    logits = build(name).eval()(features(), torch.zeros(2, 0, dtype=torch.int64))
    assert logits.isfinite().all()


@for_every_network
@pytest.mark.parametrize(
    ("x", "pairs", "told"),
    [
        (
            torch.zeros(4, 6),
            torch.zeros(2, 1, dtype=torch.int64),
            r"node features of shape \(4, 6\): must be \(nodes, 5\)",
        ),
        (torch.zeros(5), torch.zeros(2, 1, dtype=torch.int64), r"node features of shape \(5,\)"),
        (torch.zeros(4, 5), torch.zeros(3, 2, dtype=torch.int64), r"edges of shape \(3, 2\): must be \(2, edges\)"),
    ],
    ids=["features", "a vector", "pairs in rows"],
)
def test_an_illegal_shape_raises_the_documented_error(name: str, x: Tensor, pairs: Tensor, told: str) -> None:
    with pytest.raises(IllegalSizeError, match=told):
        build(name)(x, pairs)


@for_every_network
def test_every_trainable_parameter_gets_a_finite_gradient(name: str) -> None:
    network = build(name).eval()  # dropout may leave nothing of a tiny network
    network(features(), edges()).square().mean().backward()
    trainable = {key: p.grad for key, p in network.named_parameters() if p.requires_grad}
    assert trainable
    assert [key for key, gradient in trainable.items() if gradient is None or not gradient.isfinite().all()] == []
    assert all(gradient is not None and gradient.any() for gradient in trainable.values())


@for_every_network
def test_parts_that_no_link_joins_do_not_see_each_other_in_eval_mode(name: str) -> None:
    network = build(name).eval()
    x = features()
    before = network(x, edges())
    changed = x.clone()
    changed[4:8] += 1
    after = network(changed, edges())
    unchanged = [0, 1, 2, 3, 8]
    torch.testing.assert_close(after[unchanged], before[unchanged])
    assert not torch.allclose(after[4:8], before[4:8])


@for_every_network
def test_a_neighbour_counts(name: str) -> None:
    network = build(name).eval()
    x = features()
    changed = x.clone()
    changed[1] += 1
    assert not torch.allclose(network(changed, edges())[0], network(x, edges())[0])


@for_every_network
def test_the_order_of_nodes_and_of_edges_does_not_matter(name: str) -> None:
    network = build(name).eval()
    order = torch.randperm(NUM_NODES, generator=torch.Generator().manual_seed(1))
    new_number = order.argsort()
    shuffled = torch.randperm(edges().shape[1], generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        network(features()[order], new_number[edges()][:, shuffled]), network(features(), edges())[order]
    )


@for_every_network
def test_same_seed_gives_the_same_loss(name: str) -> None:
    def losses(seed: int) -> list[float]:
        network = build(name, seed=seed).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
        values = []
        for _ in range(2):
            optimizer.zero_grad()
            loss = (network(features(), edges()) - 1).square().mean()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        return values

    assert losses(seed=7) == losses(seed=7)
    assert losses(seed=7) != losses(seed=8)


@for_every_network
def test_weights_survive_a_round_trip_through_a_file(name: str) -> None:
    written, read = build(name, seed=1).eval(), build(name, seed=2).eval()
    with torch.no_grad():
        expected = written(features(), edges())
        assert not torch.equal(expected, read(features(), edges()))
        read.load_state_dict(safetensors.torch.load(safetensors.torch.save(written.state_dict())))
        assert torch.equal(expected, read(features(), edges()))


@for_every_network
def test_training_step_runs_on_shapes_alone(name: str) -> None:
    with FakeTensorMode():
        network = build(name).train()
        pairs = torch.empty(2, 12, dtype=torch.int64)
        network(torch.empty(NUM_NODES, 5), pairs).square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
