"""Two ranks with half a batch each against one rank with all of it, through DistributedDataParallel.

The ranks are processes that run this file as a script.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torch.distributed
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from umbel.backbones.build import BackboneConfig, build
from umbel.coding_rate import Covariance, coding_rate, coding_rate_weight
from umbel.ssl.head import HeadConfig
from umbel.ssl.losses import image_loss, patch_loss
from umbel.ssl.masking import MaskConfig, draw_masks
from umbel.ssl.network import Network

RANKS, BATCH, LOCALS, GRID, WIDTH, EPS = 2, 4, 3, 4, 8, 0.05
VARIANTS: list[tuple[Covariance, bool]] = [("summed", True), ("summed", False), ("local", True), ("local", False)]


TINY: dict[str, Any] = {
    "img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_pool": "token",
    "dynamic_img_size": True, "num_classes": 0,
}  # fmt: skip


class Case(NamedTuple):
    """A network; its global views are 64 px wide, local ones 32."""

    kind: str
    dtype: torch.dtype = torch.float64
    masked: bool = True
    again: bool = False
    """Whether activations are computed again."""


FIRST = Case("ours")
OTHERS = {
    "in float32": Case("ours", dtype=torch.float32),
    "no patch masked": Case("ours", masked=False),
    "activations computed again": Case("ours", again=True),
    "class position inside": Case("DINOv2"),
    "rotary positions": Case("DINOv3"),
    "ConvNeXt": Case("ConvNeXt", masked=False),
    "ConvNeXt, activations computed again": Case("ConvNeXt", masked=False, again=True),
}


def make_backbone(kind: str) -> Any:
    match kind:
        case "ours":
            return build(BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=2, heads=2), GRID * 16)
        case "DINOv2":
            return timm.create_model("vit_small_patch14_dinov2", **TINY)
        case "DINOv3":
            return timm.create_model("vit_small_patch16_dinov3", **TINY)
    return timm.create_model("convnext_tiny", dims=(8, 12, 16, 24), depths=(1, 1, 2, 1), num_classes=0)


def make_network(seed: int, case: Case = FIRST) -> Network:
    torch.manual_seed(seed)
    head = HeadConfig(hidden=16, width=WIDTH)
    network = Network(make_backbone(case.kind), head, 0.0, masking=case.masked, checkpoint_activations=case.again)
    for parameter in network.parameters():
        # Larger than the first weights, so that views differ and no gradient is near zero.
        torch.nn.init.normal_(parameter, std=0.3)
    return network.to(case.dtype)


def view_major_rows(views: int, rows: range) -> list[int]:
    return [v * BATCH + b for v in range(views) for b in rows]


def outputs(rows: range, student: Any, case: Case = FIRST) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Student and teacher classes and patches of some rows of the global batch, and their masks."""
    generator = torch.Generator().manual_seed(0)
    globals_ = torch.randn(2 * BATCH, 3, 64, 64, generator=generator, dtype=torch.float64).to(case.dtype)
    locals_ = torch.randn(LOCALS * BATCH, 3, 32, 32, generator=generator, dtype=torch.float64).to(case.dtype)
    globals_, locals_ = globals_[view_major_rows(2, rows)], locals_[view_major_rows(LOCALS, rows)]
    config = MaskConfig(ratio=(0.2, 0.6), views=0.5 if case.masked else 0.0)
    masks = torch.from_numpy(draw_masks(config, seed=0, step=5, global_batch=BATCH, rows=rows, grid=(GRID, GRID)))
    masked = masks.flatten().nonzero().squeeze(1)
    with torch.no_grad():
        teacher = make_network(1, case).eval()(globals_, None, None, masked)
    out = student(globals_, locals_, masks, masked)
    return out.classes, out.patches, teacher.classes, teacher.patches, masks


def step(
    rows: range, student: Any, network: Network, covariance: Covariance, center: bool, case: Case = FIRST
) -> dict[str, Any]:
    """Loss terms and gradients of every parameter, as the training loop has them before the optimizer's step."""
    classes, patches, teacher_classes, teacher_patches, masks = outputs(rows, student, case)
    image, compression, expansion = image_loss(
        classes, teacher_classes, eps=EPS, center_with_teacher=center, covariance=covariance
    )
    patch = patch_loss(patches, teacher_patches, masks)
    network.zero_grad()
    (image + patch).backward()
    terms = torch.stack([image, compression, expansion, patch]).detach()
    return {"terms": terms, "gradients": gradients(network), "masked": int(masks.sum())}


def gradients(network: Network) -> dict[str, Tensor]:
    found = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            found[name] = parameter.grad.clone()
    return found


def main(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    network = make_network(0)
    student = DistributedDataParallel(network)
    share = BATCH // RANKS
    rows = range(rank * share, (rank + 1) * share)
    results: list[Any] = [step(rows, student, network, *variant) for variant in VARIANTS]
    results.append({"weight": coding_rate_weight(share, WIDTH), "rates": rates_of_a_rank(rank)})
    for case in OTHERS.values():
        network = make_network(0, case)
        # Twice: data-parallel training that waits for a gradient in vain says so in the second step.
        student = DistributedDataParallel(network)
        step(rows, student, network, "summed", True, case)
        results.append(step(rows, student, network, "summed", True, case))
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def rank_features(rank: int) -> Tensor:
    return torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)


def rates_of_a_rank(rank: int) -> list[Tensor]:
    return [coding_rate(rank_features(rank), eps=EPS, covariance=c) for c in ("summed", "local")]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """What each rank found, for every variant and of the coding rate alone."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        for process in processes:
            text, _ = process.communicate(timeout=150)
            assert process.returncode == 0, text
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To 1e-10 in float64, and in float32 to 1e-6 of the greatest entry of any parameter's."""
    assert set(found) == set(expected)
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        rtol, atol = (1e-10, 1e-12) if gradient.dtype == torch.float64 else (0.0, 1e-6 * scale)
        torch.testing.assert_close(found[name], gradient, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("center", [True, False])
def test_two_ranks_of_half_a_batch_equal_one_rank_of_all(ranks: list[list[Any]], center: bool) -> None:
    network = make_network(0)
    alone = step(range(BATCH), network, network, "summed", center)
    found = [rank[VARIANTS.index(("summed", center))] for rank in ranks]
    # The case is not trivial: each rank has masked patches, of different numbers.
    assert 0 < found[0]["masked"] != found[1]["masked"] > 0
    mean = (found[0]["terms"] + found[1]["terms"]) / 2
    torch.testing.assert_close(mean, alone["terms"], rtol=1e-10, atol=1e-12)
    # The expansion is the global one on every rank.
    torch.testing.assert_close(found[0]["terms"][2], found[1]["terms"][2], rtol=1e-12, atol=0)
    for rank in found:
        assert_same_gradients(rank["gradients"], alone["gradients"])


@pytest.mark.parametrize("name", OTHERS)
def test_so_do_two_ranks_of_every_network(ranks: list[list[Any]], name: str) -> None:
    case = OTHERS[name]
    network = make_network(0, case)
    alone = step(range(BATCH), network, network, "summed", True, case)
    found = [rank[len(VARIANTS) + 1 + list(OTHERS).index(name)] for rank in ranks]
    assert [results["masked"] > 0 for results in found] == [case.masked] * RANKS
    rtol = 1e-10 if case.dtype == torch.float64 else 1e-6
    mean = (found[0]["terms"] + found[1]["terms"]) / 2
    torch.testing.assert_close(mean, alone["terms"], rtol=rtol, atol=rtol)
    assert ("mask_token" in alone["gradients"]) == case.masked
    for rank in found:
        assert_same_gradients(rank["gradients"], alone["gradients"])


def local_reference(student: Tensor, teacher: Tensor, center: bool) -> Tensor:
    """R of the paper-compatible option: the rank's own rows, but m = W B in both places."""
    b, d = student.shape[1:]
    m = RANKS * b
    rates = []
    for v in range(2):
        f = (student[v] + teacher[v]) / 2 if center else student[v]
        matrix = torch.eye(d, dtype=f.dtype) + d / (m * EPS) * sum(torch.outer(row, row) for row in f)
        rates.append(torch.log(torch.linalg.det(matrix)) / 2)
    return (d + m) / (d * m) * (rates[0] + rates[1]) / 2


@pytest.mark.parametrize("center", [True, False])
def test_local_covariances_are_those_of_the_public_code(ranks: list[list[Any]], center: bool) -> None:
    network, share = make_network(0), BATCH // RANKS
    expansions, total = [], torch.zeros((), dtype=torch.float64)
    for rank in range(RANKS):
        rows = range(rank * share, (rank + 1) * share)
        classes, patches, teacher_classes, teacher_patches, masks = outputs(rows, network)
        expansion = local_reference(classes, teacher_classes, center)
        compression = image_loss(classes, teacher_classes)[1]
        patch = patch_loss(patches, teacher_patches, masks)
        expansions.append(expansion.detach())
        total = total + (-compression - expansion + patch) / RANKS
    total.backward()
    for rank, results in enumerate(ranks):
        found = results[VARIANTS.index(("local", center))]
        torch.testing.assert_close(found["terms"][2], expansions[rank], rtol=1e-10, atol=1e-12)
        assert_same_gradients(found["gradients"], gradients(network))


def test_the_coding_rate_sees_the_rows_of_all_ranks(ranks: list[list[Any]]) -> None:
    rows = [rank_features(rank) for rank in range(RANKS)]
    both, m, eye = torch.cat(rows), 3 * RANKS, torch.eye(WIDTH, dtype=torch.float64)
    summed = torch.log(torch.linalg.det(eye + WIDTH / (m * EPS) * both.T @ both)) / 2
    for rank, results in enumerate(ranks):
        found = results[len(VARIANTS)]["rates"]
        local = torch.log(torch.linalg.det(eye + WIDTH / (m * EPS) * rows[rank].T @ rows[rank])) / 2
        torch.testing.assert_close(torch.stack(found), torch.stack([summed, local]))


def test_the_weight_counts_the_rows_of_all_ranks(ranks: list[list[Any]]) -> None:
    assert {results[len(VARIANTS)]["weight"] for results in ranks} == {(WIDTH + BATCH) / (WIDTH * BATCH)}


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
