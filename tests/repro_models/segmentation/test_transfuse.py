from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from repro_models.contract import IllegalSizeError, Problem, SupervisedLogits
from repro_models.segmentation import transfuse
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=3)
TINY = transfuse.VARIANTS["tiny"].config


def outputs_of(modules: Any) -> list[Tensor]:
    """Filled by the next forward pass with the output of every module."""
    seen: list[Tensor] = []
    for module in modules:
        module.register_forward_hook(lambda _, __, output: seen.append(output))
    return seen


def inputs_of(modules: Any) -> list[tuple[Tensor, ...]]:
    """Filled by the next forward pass with the inputs of every module."""
    seen: list[tuple[Tensor, ...]] = []
    for module in modules:
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    return seen


def num_macs(name: str, is_training: bool) -> int:
    variant = transfuse.VARIANTS[name]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        transfuse.build(variant.config, variant.problem).train(is_training)(torch.empty(1, 3, *variant.size))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("name", "in_authors_code"), [("paper", 8_818_767_744), ("large", 62_594_041_728)])
def test_operations_are_as_many_as_in_the_authors_code(name: str, in_authors_code: int) -> None:
    # The authors' code computes all three outputs always, ours in training only.
    assert num_macs(name, is_training=True) == in_authors_code
    assert num_macs(name, is_training=False) == transfuse.VARIANTS[name].num_macs


def test_three_classes_have_the_parameters_of_the_authors_code_but_for_the_class_token() -> None:
    with torch.device("meta"):
        assert num_parameters(transfuse.build(transfuse.Config(), Problem(2, 3, 3))) == 26_252_187 - 384


def test_training_gives_three_outputs_of_the_size_of_the_image_and_the_papers_weights() -> None:
    network = transfuse.build(replace(TINY, image_size=(32, 48)), PROBLEM)
    x = torch.randn(2, 1, 32, 48)
    output = network.train()(x)
    assert isinstance(output, SupervisedLogits)
    assert output.weights == (0.5, 0.3, 0.2)
    assert [tuple(logits.shape) for logits in output.logits] == [(2, 3, 32, 48)] * 3
    assert isinstance(network.eval()(x), Tensor)


def test_each_output_has_its_own_place_in_the_network() -> None:
    network: Any = transfuse.build(replace(TINY, dropout=0.0), PROBLEM).train()
    heads = [network.fused_head, network.transformer_head, network.coarse_head]
    seen = inputs_of(heads)
    fused, transformer, coarse = (
        outputs_of(network.steps),
        outputs_of(network.transformer_steps),
        outputs_of(network.fusions),
    )
    network(torch.randn(2, 1, 32, 32))
    for (entering,), expected in zip(seen, [fused[-1], transformer[-1], coarse[0]], strict=True):
        assert torch.equal(entering, expected)


def test_maps_of_both_branches_meet_at_three_resolutions() -> None:
    network: Any = transfuse.build(replace(TINY, image_size=(32, 64)), PROBLEM).eval()
    meetings = inputs_of(network.fusions)
    network(torch.randn(1, 1, 32, 64))
    shapes = [[tuple(branch.shape[1:]) for branch in branches] for branches in meetings]
    assert shapes == [[(16, 2, 4), (16, 2, 4)], [(8, 4, 8), (8, 4, 8)], [(4, 8, 16), (4, 8, 16)]]


def test_fusion_gates_the_cnn_by_place_and_the_transformer_by_channel() -> None:
    fusion = transfuse._BiFusion(4, 6, reduction=2, dropout=0.0).eval()
    seen = inputs_of([fusion.residual])
    cnn, transformer = torch.randn(1, 4, 5, 3), torch.randn(1, 6, 5, 3)
    fusion(cnn, transformer)
    ((joined,),) = seen
    by_place = joined[:, :4] / cnn
    by_channel = joined[:, 4:10] / transformer
    torch.testing.assert_close(by_place, by_place[:, :1].expand_as(by_place), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(by_channel, by_channel[..., :1, :1].expand_as(by_channel), rtol=1e-3, atol=1e-4)
    assert joined.shape[1] == 4 + 6 + 4


def test_attention_over_places_reads_the_largest_and_the_mean_channel() -> None:
    fusion = transfuse._BiFusion(3, 4, reduction=2, dropout=0.0).eval()
    seen = inputs_of([fusion.spatial_attention])
    cnn = torch.tensor([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    fusion(cnn, torch.randn(1, 4, 2, 2))
    ((pooled,),) = seen
    assert pooled[0, :, 0, 0].tolist() == [6.0, 3.0]


def test_the_product_of_both_branches_enters_the_fusion() -> None:
    fusion = transfuse._BiFusion(4, 4, reduction=1, dropout=0.0).eval()
    seen = inputs_of([fusion.product])
    cnn, transformer = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    fusion(cnn, transformer)
    torch.testing.assert_close(seen[0][0], fusion.cnn_factor(cnn) * fusion.transformer_factor(transformer))


def test_a_closed_gate_lets_nothing_of_the_finer_fusion_through() -> None:
    step = transfuse._GatedStep(4, 2).eval()
    nn.init.constant_(step.gate[1].bias, -1e4)  # type: ignore[arg-type]
    coarse = torch.randn(1, 4, 3, 3)
    one, other = step(coarse, torch.randn(1, 2, 6, 6)), step(coarse, torch.randn(1, 2, 6, 6))
    assert torch.equal(one, other)


def test_the_gate_reads_the_enlarged_coarse_map_beside_the_finer_one() -> None:
    step = transfuse._GatedStep(4, 2).eval()
    seen, joined = inputs_of([step.gate]), inputs_of([step.convs])
    coarse, skip = torch.randn(1, 4, 3, 3), torch.randn(1, 2, 6, 6)
    step(coarse, skip)
    enlarged = functional.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(seen[0][0], functional.relu(step.gate_projection(enlarged) + step.skip_projection(skip)))
    torch.testing.assert_close(joined[0][0], torch.cat([step.gate(seen[0][0]) * skip, enlarged], dim=1))


@pytest.mark.parametrize("name", ["_cnn_maps", "_transformer_maps"])
def test_whole_channels_of_the_branches_are_dropped_in_training(name: str) -> None:
    torch.manual_seed(0)
    network: Any = transfuse.build(replace(TINY, dropout=0.5), PROBLEM).train()
    coarse = getattr(network, name)(torch.rand(2, 1, 32, 32))[0].flatten(2)
    is_dropped = (coarse == 0).all(-1)
    assert 4 <= is_dropped.sum() <= 28
    assert [drop.p for drop in network.modules() if isinstance(drop, nn.Dropout2d)] == [0.5, 0.25, 0.25, 0.25]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "hidden_size=16 and num_heads=3"),
        ({"hidden_size": 18}, "hidden_size=18 and base_features=4: the first must be a multiple of 4"),
        ({"base_features": 3}, "hidden_size=16 and base_features=3: .* the second of 2"),
        ({"resnet_depths": (1, 1)}, r"resnet_depths=\(1, 1\): give three numbers of units"),
        ({"resnet_depths": (1, 0, 1)}, "1 at least"),
        ({"loss_weights": (0.5, 0.5)}, r"loss_weights=\(0.5, 0.5\): give three that are not negative"),
        ({"loss_weights": (0.5, 0.7, -0.2)}, "not negative, one for each output"),
        ({"image_size": 40}, "side 40 of axis 0 must be a multiple of 16"),
        ({"image_size": 16}, "side 16 of axis 0 must be a multiple of 16 and at least 32"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transfuse.build(replace(TINY, **changes), PROBLEM)


def test_volumes_are_refused_with_what_to_take() -> None:
    with pytest.raises(ValueError, match="spatial_dims=3: TransFuse serves 2; take segmentation/unetr"):
        transfuse.build(TINY, Problem(3, 1, 2))


def test_another_size_is_refused_with_what_to_do() -> None:
    with pytest.raises(IllegalSizeError, match="side 48 of axis 1 must be 32, for which this network has positions"):
        transfuse.build(TINY, PROBLEM)(torch.zeros(1, 1, 32, 48))


def test_the_patch_becomes_the_image_size() -> None:
    assert transfuse.with_patch_size(TINY, [32, 48]) == replace(TINY, image_size=(32, 48))


@pytest.mark.slow
def test_exported_network_gives_the_same_logits_for_any_batch() -> None:
    network = transfuse.build(TINY, PROBLEM).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(network, (torch.zeros(2, 1, 32, 32),), dynamic_shapes=({0: batch},)).module()
    x = torch.randn(3, 1, 32, 32)
    torch.testing.assert_close(exported(x), network(x), rtol=1e-4, atol=1e-5)
