"""The image and patch losses against loops over pairs, views and patches, in float64, values and gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from umbel.ssl.losses import image_loss, patch_loss, patch_weights, weighted_patch_loss

B, D, P = 5, 7, 6


def unit(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.square().sum(-1, keepdim=True).sqrt()


def compression_reference(student: Tensor, teacher: Tensor) -> Tensor:
    pairs = []
    for i in range(2):
        for j in range(len(student)):
            if i != j:
                pairs.append(
                    sum((teacher[i, b] * student[j, b]).sum() for b in range(student.shape[1])) / len(teacher[i])
                )
    assert len(pairs) == 2 * len(student) - 2
    return torch.stack(pairs).mean()


def expansion_reference(student: Tensor, teacher: Tensor, eps: float, center_with_teacher: bool) -> Tensor:
    _, m, d = student.shape
    rates = []
    for v in range(2):
        f = (student[v] + teacher[v]) / 2 if center_with_teacher else student[v]
        covariance = sum(torch.outer(f[b], f[b]) for b in range(m))
        rates.append(torch.log(torch.linalg.det(torch.eye(d, dtype=f.dtype) + d / (m * eps) * covariance)) / 2)
    return (d + m) / (d * m) * torch.stack(rates).mean()


@pytest.mark.parametrize("local_views", [0, 1, 3])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(("eps", "coeff"), [(0.05, 1.0), (0.5, 0.3)])
def test_image_loss_equals_the_loops(local_views: int, center: bool, eps: float, coeff: float) -> None:
    student, teacher = unit(2 + local_views, B, D).requires_grad_(), unit(2, B, D, seed=1)
    total, compression, expansion = image_loss(student, teacher, eps=eps, coeff=coeff, center_with_teacher=center)
    c, r = compression_reference(student, teacher), expansion_reference(student, teacher, eps, center)
    torch.testing.assert_close(compression, c)
    torch.testing.assert_close(expansion, r)
    torch.testing.assert_close(total, -coeff * c - r)
    (ours,) = torch.autograd.grad(total, student)
    (theirs,) = torch.autograd.grad(-coeff * c - r, student)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_image_loss_defaults_are_the_plant_configuration() -> None:
    student, teacher = unit(3, B, D), unit(2, B, D, seed=1)
    default = image_loss(student, teacher)
    named = image_loss(student, teacher, eps=0.05, coeff=1.0, center_with_teacher=True, covariance="summed")
    assert torch.equal(torch.stack(default), torch.stack(named))


def test_image_loss_gradient_is_the_derivative() -> None:
    student, teacher = unit(3, 3, 4).requires_grad_(), unit(2, 3, 4, seed=1)
    assert torch.autograd.gradcheck(lambda s: image_loss(s, teacher)[0], (student,))


def test_teacher_gets_no_gradient() -> None:
    student, teacher = unit(3, B, D).requires_grad_(), unit(2, B, D, seed=1).requires_grad_()
    image_loss(student, teacher)[0].backward()
    assert student.grad is not None
    assert teacher.grad is None
    patches = unit(4, D).requires_grad_()
    masks = torch.tensor([[True, True], [True, True]])
    patch_loss(unit(4, D, seed=1).requires_grad_(), patches, masks).backward()
    assert patches.grad is None


def test_inputs_stay_as_they_were() -> None:
    student, teacher = unit(3, B, D), unit(2, B, D, seed=1)
    image_loss(student, teacher)
    assert torch.equal(student, unit(3, B, D))
    assert torch.equal(teacher, unit(2, B, D, seed=1))


def test_bfloat16_outputs_are_computed_in_float32() -> None:
    student, teacher = unit(4, B, D).bfloat16(), unit(2, B, D, seed=1).bfloat16()
    total, compression, expansion = image_loss(student, teacher)
    assert {x.dtype for x in (total, compression, expansion)} == {torch.float32}
    s, t = student.double(), teacher.double()
    # Float32 keeps six digits; sums in bfloat16 would keep two.
    torch.testing.assert_close(compression.double(), compression_reference(s, t), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(expansion.double(), expansion_reference(s, t, 0.05, True), rtol=1e-5, atol=1e-6)


def test_autocast_does_not_change_the_losses() -> None:
    student, teacher = unit(4, B, D).float(), unit(2, B, D, seed=1).float()
    masks = torch.ones(2, 5, dtype=torch.bool)
    plain = [*image_loss(student, teacher), patch_loss(student[:2].flatten(0, 1), teacher.flatten(0, 1), masks)]
    with torch.autocast("cpu", torch.bfloat16):
        under = [*image_loss(student, teacher), patch_loss(student[:2].flatten(0, 1), teacher.flatten(0, 1), masks)]
    assert torch.equal(torch.stack(plain), torch.stack(under))


@pytest.mark.parametrize("where", ["student", "teacher"])
def test_nan_makes_a_nan_loss_and_no_exception(where: str) -> None:
    views = {"student": unit(3, B, D), "teacher": unit(2, B, D, seed=1)}
    views[where][0, 1, 2] = math.nan
    total, _, expansion = image_loss(views["student"], views["teacher"])
    assert total.isnan()
    assert expansion.isnan()


def test_expansion_of_collapsed_features_is_that_of_one_direction() -> None:
    # All rows equal: one eigenvalue 1 + D / eps, whatever the batch.
    same = unit(D).expand(2, B, D)
    _, compression, expansion = image_loss(same, same)
    assert float(compression) == pytest.approx(1)
    assert float(expansion) == pytest.approx((D + B) / (D * B) * math.log(1 + D / 0.05) / 2)


def test_expansion_of_orthonormal_features_is_the_greatest() -> None:
    # B orthonormal rows: B eigenvalues 1 + D / (B eps).
    rows = torch.linalg.qr(unit(D, D)).Q[:B].expand(2, B, D)
    _, compression, expansion = image_loss(rows, rows)
    assert float(compression) == pytest.approx(1)
    assert float(expansion) == pytest.approx((D + B) / (D * B) * B / 2 * math.log(1 + D / (B * 0.05)))
    assert float(expansion) > float(image_loss(unit(2, B, D), unit(2, B, D))[2])


def test_mean_with_the_teacher_is_not_renormalized() -> None:
    # Opposite student and teacher cancel, and nothing is left to expand.
    student = unit(2, B, D)
    assert float(image_loss(student, -student)[2]) == pytest.approx(0, abs=1e-12)
    assert float(image_loss(student, -student, center_with_teacher=False)[2]) > 0.1


def test_global_views_are_not_compared_with_themselves() -> None:
    # Teacher view 0 equals student view 0 and is orthogonal to all else: no pair is left with a cosine.
    axes = torch.eye(4, dtype=torch.float64)
    student = torch.stack([axes[0].expand(B, 4), axes[1].expand(B, 4), axes[2].expand(B, 4)])
    teacher = torch.stack([axes[0].expand(B, 4), axes[1].expand(B, 4)])
    assert float(image_loss(student, teacher)[1]) == 0


@pytest.mark.parametrize(("student", "teacher"), [
    ((3, B, D), (3, B, D)), ((1, B, D), (2, B, D)), ((3, B, D), (2, B + 1, D)), ((3, B, D), (2, B, D + 1)),
    ((3 * B, D), (2, B, D)), ((3, B, D), (2 * B, D)),
])  # fmt: skip
def test_image_loss_refuses_shapes_that_do_not_fit(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="student"):
        image_loss(torch.zeros(student), torch.zeros(teacher))


# --- Patches


def some_masks() -> Tensor:
    """(2B, P) with B = 3: views of 0 to all patches, their counts no powers of two."""
    masks = torch.zeros(6, P, dtype=torch.bool)
    for view, count in enumerate([3, 0, 5, 1, 6, 2]):
        masks[view, torch.randperm(P, generator=torch.Generator().manual_seed(view))[:count]] = True
    return masks


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def patch_reference(student: Tensor, teacher: Tensor, masks: Tensor) -> Tensor:
    """- sum over masked patches of w_p cos(z_t,p, z_s,p) / 2B, walking the masks row by row."""
    total, row = torch.zeros((), dtype=torch.float64), 0
    for view in masks:
        for masked in view:
            if masked:
                total = total - cosine(teacher[row], student[row]) / int(view.sum()) / len(masks)
                row += 1
    assert row == len(student)
    return total


def by_weights(student: Tensor, teacher: Tensor, masks: Tensor) -> Tensor:
    return weighted_patch_loss(student, teacher, patch_weights(masks))


@pytest.mark.parametrize("loss", [patch_loss, by_weights])
@pytest.mark.parametrize("length", [1.0, 3.0])
def test_patch_loss_equals_the_loops(loss: Callable[[Tensor, Tensor, Tensor], Tensor], length: float) -> None:
    masks = some_masks()
    m = int(masks.sum())
    student, teacher = (length * unit(m, D)).requires_grad_(), 2 * length * unit(m, D, seed=1)
    ours, theirs = loss(student, teacher, masks), patch_reference(student, teacher, masks)
    # The weights are float32 numbers, also where the outputs are float64.
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)
    gradients = [torch.autograd.grad(x, student)[0] for x in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)


def test_patch_loss_gradient_is_the_derivative() -> None:
    masks = some_masks()
    m = int(masks.sum())
    student, teacher = unit(m, 3).requires_grad_(), unit(m, 3, seed=1)
    assert torch.autograd.gradcheck(lambda s: patch_loss(s, teacher, masks), (student,))


def test_views_without_masked_patches_count_as_zero() -> None:
    same = unit(2, D)
    masks = torch.zeros(8, P, dtype=torch.bool)
    masks[2, :2] = True
    assert float(patch_loss(same, same, masks)) == pytest.approx(-1 / 8)


def test_a_view_weighs_the_same_whatever_its_count() -> None:
    masks = torch.zeros(2, P, dtype=torch.bool)
    masks[0, :1], masks[1, :5] = True, True
    z = unit(6, D)
    against_first, against_second = z.clone(), z.clone()
    against_first[0], against_second[1:] = -z[0], -z[1:]
    assert float(patch_loss(against_first, z, masks)) == pytest.approx(0, abs=1e-7)
    assert float(patch_loss(against_second, z, masks)) == pytest.approx(0, abs=1e-7)


def test_nothing_masked_is_zero_with_a_zero_gradient() -> None:
    student = torch.zeros(0, D, requires_grad=True)
    loss = patch_loss(student, torch.zeros(0, D), torch.zeros(4, P, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0


def test_rows_are_in_the_masks_row_major_order() -> None:
    masks = torch.tensor([[True, False, False], [True, True, True]])
    weights = patch_weights(masks)
    torch.testing.assert_close(weights, torch.tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6]))
    student, teacher = unit(4, D), unit(4, D, seed=1)
    turned = torch.tensor([3, 2, 1, 0])
    assert not torch.isclose(patch_loss(student, teacher, masks), patch_loss(student[turned], teacher[turned], masks))


def test_row_major_order_is_that_of_flat_indices() -> None:
    # The network picks patches by flat indices (the training loop's): the same order as the weights'.
    masks = some_masks()
    views = masks.flatten().nonzero().squeeze(1) // P
    expected = torch.tensor([1 / (int(masks[v].sum()) * len(masks)) for v in views.tolist()])
    torch.testing.assert_close(patch_weights(masks), expected)


def test_patch_loss_of_bfloat16_is_computed_in_float32() -> None:
    masks = some_masks()
    m = int(masks.sum())
    student, teacher = unit(m, D).bfloat16(), unit(m, D, seed=1).bfloat16()
    loss = patch_loss(student, teacher, masks)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss.double(), patch_reference(student.double(), teacher.double(), masks), rtol=1e-5, atol=1e-6
    )


def test_patch_loss_refuses_shapes_that_do_not_fit() -> None:
    masks = some_masks()
    m = int(masks.sum())
    for student, teacher in [((m, D), (m, D + 1)), ((m, D), (m - 1, D)), ((m,), (m,)), ((m - 1, D), (m - 1, D))]:
        with pytest.raises(ValueError, match=r"needed|masked patches"):
            patch_loss(torch.zeros(student), torch.zeros(teacher), masks)
    with pytest.raises(ValueError, match="needed"):
        patch_loss(torch.zeros(m, D), torch.zeros(m, D), masks.flatten())
