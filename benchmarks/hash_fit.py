"""Training time of hash coders: five epochs of CroVCA, a plain loop of its formulas, and ITQ, on one set of features.

python benchmarks/hash_fit.py [--count 100000] [--width 768] [--bits 64] [--rounds 3]

Features are clusters with noise, two views each. The plain loop is the loss as it is written down (every ordered pair
of views, a log-determinant for each view), on the same network, batches and optimizer. Contenders take turns.
"""

from __future__ import annotations

import argparse
import itertools

import measuring
import torch
import torch.nn.functional as F
from torch import Tensor

from umbel.evaluation.hashing import ITQ, CrovcaConfig, fit_crovca
from umbel.evaluation.hashing.coder import HashCoder
from umbel.evaluation.hashing.train_coders import FitLog

CLUSTERS = 1000


def main() -> None:
    """Measure and print one line a contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    print(measuring.in_words(measuring.setting(device)))
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn((CLUSTERS, options.width), generator=generator)
    photographs = centers[torch.randint(CLUSTERS, (options.count,), generator=generator)]
    photographs = photographs + torch.randn(photographs.shape, generator=generator)
    views = torch.stack([photographs + 0.3 * torch.randn(photographs.shape, generator=generator) for _ in range(2)])
    views = views.to(device)
    features = views[0].cpu().numpy()
    config = CrovcaConfig(least_steps=0)
    ends: dict[str, float] = {}

    def ours() -> None:
        log = FitLog()
        fit_crovca(views, bits=options.bits, config=config, log=log)
        ends["CroVCA"] = sum(log.total[-20:]) / 20

    def plain() -> None:
        losses = plain_loop(views, options.bits, config)
        ends["plain loop"] = sum(losses[-20:]) / 20

    contenders = {"CroVCA": ours, "plain loop": plain, "ITQ": lambda: ITQ(options.bits, seed=0).fit(features)}
    seconds = measuring.in_turn(contenders, rounds=options.rounds, device=device, warm_up=0)
    steps = config.epochs * (options.count // config.batch)
    print(f"{options.count:,} x {options.width}, {options.bits} bits, {config.epochs} epochs, {steps:,} steps")
    for name, median in measuring.medians(seconds).items():
        end = f", loss at the end {ends[name]:.4f}" if name in ends else ""
        print(f"{name:10s} {median:7.1f} s, {measuring.ratio(seconds, name, 'CroVCA'):5.2f} x{end}")


def plain_loop(views: Tensor, bits: int, config: CrovcaConfig) -> list[float]:
    """The formulas as they are written down; the loss of every step."""
    torch.manual_seed(0)
    coder = HashCoder(views.shape[-1], bits).to(views.device).train()
    optimizer = torch.optim.AdamW(coder.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    count, losses = views.shape[1], []
    steps = config.epochs * (count // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, eta_min=config.floor)
    for _ in range(config.epochs):
        for rows in torch.randperm(count).split(config.batch):
            if len(rows) < config.batch:
                continue
            logits = [coder(view[rows]) for view in views]
            pairs = [
                F.binary_cross_entropy_with_logits(logits[i], (logits[j] > 0).float())
                for i, j in itertools.permutations(range(len(views)), 2)
            ]
            m, p = logits[0].shape
            rates = []
            for one in logits:
                u = one / one.norm(dim=1, keepdim=True)
                grown = torch.eye(p, device=u.device) + p / (m * config.eps) * u.T @ u
                rates.append(torch.logdet(grown) / 2)
            regularizer = -sum(rates) / len(rates) * (p + m) / (p * m)
            loss = sum(pairs) / len(pairs) + config.weight * regularizer
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    main()
