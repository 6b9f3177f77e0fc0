"""Two ranks with half a batch each against one rank with all of it, through DistributedDataParallel, in float64.

The ranks are processes that run this file as a script.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
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


def make_network(seed: int) -> Network:
    torch.manual_seed(seed)
    config = BackboneConfig(name="vit_tiny_patch16_224", width=32, depth=2, heads=2, patch=8)
    network = Network(build(config, GRID * 8), HeadConfig(hidden=16, width=WIDTH), 0.0).double()
    for parameter in network.parameters():
        # Larger than the first weights, so that views differ and no gradient is near zero.
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def view_major_rows(views: int, rows: range) -> list[int]:
    return [v * BATCH + b for v in range(views) for b in rows]


def outputs(rows: range, student: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Student and teacher classes and patches of some rows of the global batch, and their masks."""
    generator = torch.Generator().manual_seed(0)
    globals_ = torch.randn(2 * BATCH, 3, 8 * GRID, 8 * GRID, generator=generator, dtype=torch.float64)
    locals_ = torch.randn(LOCALS * BATCH, 3, 16, 16, generator=generator, dtype=torch.float64)
    globals_, locals_ = globals_[view_major_rows(2, rows)], locals_[view_major_rows(LOCALS, rows)]
    masks = torch.from_numpy(
        draw_masks(MaskConfig(ratio=(0.2, 0.6)), seed=0, step=5, global_batch=BATCH, rows=rows, grid=(GRID, GRID))
    )
    masked = masks.flatten().nonzero().squeeze(1)
    with torch.no_grad():
        teacher_classes, teacher_patches = make_network(1).eval()(globals_, None, None, masked)
    student_classes, student_patches = student(globals_, locals_, masks, masked)
    return student_classes, student_patches, teacher_classes, teacher_patches, masks


def step(rows: range, student: Any, network: Network, covariance: Covariance, center: bool) -> dict[str, Any]:
    """Loss terms and gradients of every parameter, as the training loop has them before the optimizer's step."""
    classes, patches, teacher_classes, teacher_patches, masks = outputs(rows, student)
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
    assert set(found) == set(expected)
    for name in found:
        # timm interpolates positions in float32, forward and backward: their gradient has six digits.
        rtol, atol = (1e-5, 1e-7) if name == "backbone.pos_embed" else (1e-10, 1e-12)
        torch.testing.assert_close(found[name], expected[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


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
        found = results[-1]["rates"]
        local = torch.log(torch.linalg.det(eye + WIDTH / (m * EPS) * rows[rank].T @ rows[rank])) / 2
        torch.testing.assert_close(torch.stack(found), torch.stack([summed, local]))


def test_the_weight_counts_the_rows_of_all_ranks(ranks: list[list[Any]]) -> None:
    assert {results[-1]["weight"] for results in ranks} == {(WIDTH + BATCH) / (WIDTH * BATCH)}


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
