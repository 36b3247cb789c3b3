from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pipelines.planning.architecture import load_architecture
from pipelines.planning.network import build_network
from pipelines.planning.plan import Plan
from pipelines.planning.planner import plan_entry
from pipelines.planning.target import filled_arguments, import_target
from pipelines.tasks.segmentation_loss import segmentation_loss_terms
from tests.nnunet_data import DATA
from tests.own_networks import PACKAGE, write_package
from tests.planning_arguments import planning_arguments

NETS = f"{PACKAGE}.nets"


@pytest.fixture(scope="module", autouse=True)
def _own_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("elsewhere")
    write_package(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        del sys.modules[name]


def plan(target: str, configuration: str | None = "3d_fullres", **changes: Any) -> Plan:
    arguments = planning_arguments(DATA["Hippo"]) | {
        "architecture": target,
        "configuration": configuration,
        "memory_gib": 0.05,
        "overrides": {"max_batch_size": 2},
    }
    return plan_entry(**(arguments | changes))


def trained_output(result: Plan) -> Any:
    problem = result.problem
    torch.manual_seed(0)
    return build_network(result).train()(torch.randn(2, problem["in_channels"], *result.patch_size))


def test_what_the_data_decide_is_filled_in_and_said() -> None:
    arguments, reasons = filled_arguments(f"{NETS}.Hourglass", {"width": 8})
    assert arguments == {
        "width": 8,
        "spatial_dims": "$dims",
        "in_channels": "$channels",
        "num_classes": "$classes",
    }
    assert reasons[0] == "argument spatial_dims: $dims (spatial dimensions of the configuration), by its name"
    assert len(reasons) == 3


def test_an_argument_that_is_given_is_left_alone() -> None:
    arguments, reasons = filled_arguments(
        f"{NETS}.Hourglass", {"spatial_dims": 3, "in_channels": "$channels", "num_classes": 2}
    )
    assert arguments == {"spatial_dims": 3, "in_channels": "$channels", "num_classes": 2}
    assert reasons == []


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("Hourglass", "give the path of a class or function, as package.module.Class"),
        ("no_such_package.Net", "there is no package no_such_package; install it .* or put the folder .* PYTHONPATH"),
        (f"{NETS}.HourGlas", f"has no HourGlas; did you mean {NETS}.Hourglass"),
        (f"{PACKAGE}.net.Hourglass", f"{PACKAGE} has no net; did you mean {PACKAGE}.nets"),
        (f"{PACKAGE}.broken.Net", "importing .*broken fails with ModuleNotFoundError: .*a_package_that_nobody_has"),
        (NETS, "it is a module; give the class or function of the network"),
        (f"{NETS}.Hourglass.nothing", "Hourglass has no nothing"),
    ],
)
def test_a_wrong_target_is_told_with_the_fix(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        import_target(target)


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("Hourglass", {"widht": 8}, "has no argument 'widht'; did you mean width. It takes spatial_dims, in_channels"),
        ("Positions", {"in_channels": "$channel"}, r"'\$channel' stands for nothing; valid are \$channels, \$classes"),
        ("block", {"inputs": 1}, "needs the argument outputs, stride; give it under `arguments` of the entry"),
    ],
)
def test_wrong_arguments_are_told_with_the_fix(target: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filled_arguments(f"{NETS}.{target}", arguments)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_network_of_a_user_is_planned_and_survives_the_plan_s_file(configuration: str) -> None:
    result = plan(f"{NETS}.Hourglass", configuration, arguments={"width": 8})
    assert result.architecture == f"{NETS}.Hourglass"
    assert result.network["num_classes"] == "$classes"
    assert all(side % 4 == 0 for side in result.patch_size)
    assert 0 < result.memory["predicted_gib"] <= 0.05
    assert any("takes multiples of 4x4" in reason for reason in result.reasons)
    assert any(reason.startswith("argument in_channels: $channels") for reason in result.reasons)
    network = build_network(Plan.from_json(result.to_json()))
    assert network.first[0].out_channels == 8
    logits = network.eval()(torch.zeros(1, 1, *result.patch_size))
    assert logits.shape == (1, 3, *result.patch_size)


def test_weights_keep_their_names_and_overrides_replace_arguments() -> None:
    result = plan(f"{NETS}.Hourglass", arguments={"width": 8}, overrides={"network": {"width": 4}})
    network = build_network(result)
    assert network.first[0].out_channels == 4
    raw = import_target(f"{NETS}.Hourglass")(3, 1, 3, width=4)
    raw.load_state_dict(network.state_dict())


def test_a_function_with_arguments_of_any_name_gives_a_network() -> None:
    arguments = {"spatial_dims": "$dims", "in_channels": "$channels", "num_classes": "$classes"}
    assert build_network(plan(f"{NETS}.small", arguments=arguments)).first[0].out_channels == 2


@pytest.mark.parametrize("supervision", ["list", "coarse_first", "stacked"])
def test_several_outputs_become_a_list_with_the_finest_first(supervision: str) -> None:
    result = plan(f"{NETS}.Hourglass", arguments={"supervision": supervision})
    output = trained_output(result)
    assert isinstance(output, list)
    assert output[0].shape == (2, 3, *result.patch_size)
    sides = result.patch_size if supervision == "stacked" else tuple(side // 4 for side in result.patch_size)
    assert output[1].shape == (2, 3, *sides)
    network = build_network(result)
    batch = {
        "image": torch.randn(2, 1, *result.patch_size),
        "target": torch.randint(0, 3, (2, *result.patch_size)),
    }
    sum(segmentation_loss_terms(network.train(), batch, False)).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_an_output_that_is_no_logits_names_the_fix() -> None:
    with pytest.raises(ValueError, match=r"returns a dict with keys out, aux; .* wrap it as docs/how-to/bring"):
        plan(f"{NETS}.Hourglass", arguments={"supervision": "dict"})


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("Hourglass", {"num_classes": 2}, r"returns \(1, 2, 64, 64, 64\) where \(1, 3, .*as `\$classes`"),
        ("Shrinking", {}, "logits must have the size of the image: pad its convolutions"),
        ("Hourglass", {"width": 0.5}, "cannot be built: with width=0.5, .* it raises ValueError"),
        (
            "Hourglass",
            {"spatial_dims": 2},
            "configuration 3d_fullres: target .* fails on an image of 64x64x64: RuntimeError",
        ),
        ("number", {}, "gives a int and no torch.nn.Module"),
    ],
)
def test_a_network_that_does_not_fit_names_the_fix(target: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(f"{NETS}.{target}", arguments=arguments)


def test_a_network_made_for_one_size_is_made_for_the_patch() -> None:
    result = plan(f"{NETS}.Positions")
    assert result.network["img_size"] == result.patch_size
    assert build_network(result).positions.shape == (1, 1, *result.patch_size)
    with pytest.raises(ValueError, match=r"takes images of 64x64x64 and none that is larger.*`\$patch`"):
        plan(f"{NETS}.Positions", arguments={"img_size": [64, 64, 64]})


def test_a_network_of_two_dimensions_is_planned_in_them_unasked() -> None:
    # Its constructor reads numbers out of tensors, which shapes alone do not have.
    result = plan(f"{NETS}.FlatNet", configuration=None)
    assert result.configuration == "2d"
    with pytest.raises(ValueError, match=r"configuration 3d_fullres: target .*FlatNet"):
        plan(f"{NETS}.FlatNet")


def test_a_network_that_takes_no_image_says_why() -> None:
    with pytest.raises(ValueError, match=r"no image of these data fits: in 3D, target .*returns .*as `.classes`"):
        plan(f"{NETS}.Hourglass", configuration=None, arguments={"num_classes": 2})


def test_two_loads_of_one_network_share_what_was_found() -> None:
    first, second = (load_architecture(f"{NETS}.Hourglass", {"width": 2}) for _ in range(2))
    assert first is second
    assert first.Config() == second.Config()
    assert hash(load_architecture("a.b", {"norm": ["group", {"num_groups": 2}]}).Config())


def test_parameters_without_a_gradient_are_said() -> None:
    result = plan(f"{NETS}.Hourglass", arguments={"supervision": "forgotten"})
    # The coarse head: two times four channels to three classes.
    assert "parameters: 27 get no gradient, so ray.workers above 1 cannot train this network" in result.reasons
