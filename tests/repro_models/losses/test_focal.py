from __future__ import annotations

import pytest
import torch

from repro_models.losses.focal import FocalLoss, sigmoid_focal, softmax_focal

X = torch.tensor([2.0, -1.0, 0.5, -3.0], dtype=torch.float64)
IS_TRUE = torch.tensor([True, False, False, True])
Z = torch.tensor([[2, 0.5, -1, 0.1], [0.3, -0.2, 1.5, -0.7], [-1.2, 0.8, 0.4, 2.2]], dtype=torch.float64)
Y = torch.tensor([0, 2, 1])


def test_each_element_of_retinanet_s_form() -> None:
    expected = [0.0004508907, 0.0169935431, 0.2830587006, 0.6915701103]
    losses = sigmoid_focal(X, IS_TRUE)
    assert losses.tolist() == pytest.approx(expected, abs=1e-10)
    assert losses.mean().item() == pytest.approx(0.2480183, abs=1e-7)
    assert (losses.sum() / 2).item() == pytest.approx(0.4960366, abs=1e-7)


@pytest.mark.parametrize(
    ("alpha", "gamma", "total"), [(0.25, 2, 0.9920732), (0.75, 0.5, 2.4971721), (0.25, 5, 0.666366), (0.5, 0, 2.231427)]
)
def test_the_sum_of_retinanet_s_form(alpha: float, gamma: float, total: float) -> None:
    assert sigmoid_focal(X, IS_TRUE, gamma, alpha).sum().item() == pytest.approx(total, abs=1e-7)


@pytest.mark.parametrize(("gamma", "mean"), [(0, 1.1157136), (1, 0.902427)])
def test_without_alpha_gamma_0_is_binary_cross_entropy_and_1_is_not(gamma: float, mean: float) -> None:
    loss = sigmoid_focal(X, IS_TRUE, gamma, None).mean()
    assert loss.item() == pytest.approx(mean, abs=1e-7)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(X, IS_TRUE.double())
    assert (loss.item() == pytest.approx(plain.item(), abs=1e-9)) is (gamma == 0)


@pytest.mark.parametrize(("gamma", "expected"), [(2, 1.1021462), (0.5, 2.0360363), (0, 2.6894128)])
def test_the_form_of_the_bag_of_tricks(gamma: float, expected: float) -> None:
    assert FocalLoss(gamma, is_sigmoid=True)(Z, Y).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("gamma", "expected"), [(0, 0.8624584), (1, 0.5817596), (2, 0.4374446)])
def test_the_softmax_form(gamma: float, expected: float) -> None:
    assert FocalLoss(gamma)(Z, Y).item() == pytest.approx(expected, abs=1e-7)
    assert softmax_focal(Z, Y, gamma).mean().item() == pytest.approx(expected, abs=1e-7)


def test_the_default_is_the_softmax_form_with_gamma_2() -> None:
    assert FocalLoss()(Z, Y).item() == FocalLoss(gamma=2, is_sigmoid=False)(Z, Y).item()


def test_alpha_weighs_each_class_s_own_voxels_and_the_others_the_other_way() -> None:
    is_class = torch.nn.functional.one_hot(Y, 4).bool()
    expected = sigmoid_focal(Z, is_class, 2.0, 0.25).sum() / 3
    assert FocalLoss(is_sigmoid=True, alpha=0.25)(Z, Y).item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match=r"alpha=0.25: .* set is_sigmoid=True, or leave alpha out"):
        FocalLoss(alpha=0.25)


@pytest.mark.parametrize("is_sigmoid", [False, True])
def test_ignored_voxels_are_as_if_absent_and_get_no_gradient(is_sigmoid: bool) -> None:
    logits = Z.clone().requires_grad_()
    loss = FocalLoss(is_sigmoid=is_sigmoid, ignore_label=4)(logits, torch.tensor([0, 2, 4]))
    assert loss.item() == pytest.approx(FocalLoss(is_sigmoid=is_sigmoid)(Z[:2], Y[:2]).item())
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[2] == 0).all()
    assert (logits.grad[:2] != 0).all()
    nothing = FocalLoss(is_sigmoid=is_sigmoid, ignore_label=4)(Z, torch.full((3,), 4))
    assert nothing.item() == 0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_voxel_that_is_surely_right_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    FocalLoss(gamma)(logits, torch.tensor([0])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
