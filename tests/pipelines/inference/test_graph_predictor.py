from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from pipelines.inference.graph_predictor import graph_tensors, predict_nodes
from pipelines.planning.graph_network import build_graph_network
from pipelines.preprocessing.graph import PreparedGraph, open_graph
from tests.tiny_graph import NUM_CLASSES, NUM_FEATURES, NUM_NODES, TinyGraphStudy, features_and_links


@pytest.fixture(scope="module")
def prepared(tiny_graph_study: TinyGraphStudy) -> PreparedGraph:
    (path,) = tiny_graph_study.folder("prepared").rglob("*.arrow")
    return open_graph(path)


def test_the_tensors_are_the_normalised_graph(prepared: PreparedGraph) -> None:
    x, links = features_and_links()
    tensors = graph_tensors(prepared, NUM_FEATURES)
    expected = torch.from_numpy(x / x.sum(axis=1, keepdims=True).clip(min=1))
    torch.testing.assert_close(tensors.features.to_dense(), expected)
    torch.sparse_coo_tensor(
        tensors.features.indices(), tensors.features.values(), tensors.features.shape, check_invariants=True
    )
    pairs = {tuple(pair) for pair in tensors.edges.T.tolist()}
    assert pairs == {
        pair for node, others in links.items() for other in others for pair in [(node, other), (other, node)]
    }


@pytest.mark.parametrize("entry", ["gcn_tiny", "gat_tiny"])
def test_the_weights_of_the_file_say_the_probabilities(
    tiny_graph_study: TinyGraphStudy, prepared: PreparedGraph, tmp_path: Path, entry: str
) -> None:
    plan = tiny_graph_study.plan(entry)
    torch.manual_seed(5)
    network = build_graph_network(plan.architecture, plan.network, plan.problem).eval()
    (tmp_path / "weights.safetensors").write_bytes(save(network.state_dict()))
    tensors = graph_tensors(prepared, NUM_FEATURES)
    probabilities = predict_nodes(plan, prepared, tmp_path / "weights.safetensors")
    assert probabilities.shape == (NUM_NODES, NUM_CLASSES)
    torch.testing.assert_close(probabilities, network(tensors.features, tensors.edges).softmax(dim=1))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(NUM_NODES))
