"""How hard are the synthetic plants? Simple baselines, a supervised ceiling, drawing speed.

Run from the repository root: python benchmarks/synthetic.py --images 12000 --epochs 12
Baselines should stay near chance (4.2 %) and the supervised network near the top.
"""

import argparse
import platform
import subprocess
import time
from itertools import pairwise

import numpy as np
import PIL
import sklearn
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.nn import functional

from umbel.data.synthetic import SPECIES, draw

CLASSES = len(SPECIES)
Floats = NDArray[np.float32]


def drawn(seed: int, count: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first `count` pictures of a set: (count, size, size, 3), and their labels."""
    plants = [draw(seed, index, size=size) for index in range(count)]
    return np.stack([p.image for p in plants]), np.array([p.label for p in plants])


def resized(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Each picture reduced to (side, side)."""
    return np.stack([np.asarray(Image.fromarray(image).resize((side, side))) for image in images])


def histograms(images: NDArray[np.uint8]) -> Floats:
    """Joint color histogram of 8 x 8 x 8 bins: (N, 512)."""
    bins = images.reshape(len(images), -1, 3).astype(np.int64) // 32
    codes = bins[..., 0] * 64 + bins[..., 1] * 8 + bins[..., 2]
    return np.stack([np.bincount(code, minlength=512) for code in codes]).astype(np.float32)


@torch.inference_mode()
def untrained_vit(images: NDArray[np.uint8], seed: int) -> Floats:
    """Class token of a randomly initialized tiny vision transformer: (N, 128)."""
    torch.manual_seed(seed)
    backbone = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, embed_dim=128, depth=4, num_heads=4,
        patch_size=8, img_size=48, reg_tokens=4, no_embed_class=True, num_classes=0,
    ).eval()  # fmt: skip
    small = torch.from_numpy(resized(images, 54)[:, 3:51, 3:51])
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((small.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)
    tokens = [backbone.forward_features(batch)[:, 0] for batch in torch.split(pixels, 200)]
    return torch.cat(tokens).numpy()


def five_shot(features: Floats, labels: NDArray[np.int64], seed: int) -> tuple[float, float]:
    """Nearest centroid on five supports a class, 50 queries a class: mean and deviation."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(20):
        picks = np.stack([rng.permutation(np.flatnonzero(labels == c))[:55] for c in range(CLASSES)])
        centroids = unit[picks[:, :5]].mean(axis=1)  # (CLASSES, D)
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        found = (unit[picks[:, 5:]] @ centroids.T).argmax(axis=2)  # (CLASSES, 50)
        scores.append((found == np.arange(CLASSES)[:, None]).mean())
    return float(np.mean(scores)), float(np.std(scores))


def network() -> nn.Sequential:
    """A compact convolutional classifier for 64 x 64 pictures."""
    layers: list[nn.Module] = []
    widths = (3, 24, 48, 96, 160, 192)
    for i, (before, after) in enumerate(pairwise(widths)):
        layers += [
            nn.Conv2d(before, after, 3, stride=2 if i == 0 else 1, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
        if 0 < i < 4:
            layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(192, CLASSES)]
    return nn.Sequential(*layers)


def supervised(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, epochs: int, seed: int) -> float:
    """Test accuracy of the network trained on random flips and crops; images (N, 3, 72, 72)."""
    torch.manual_seed(seed)
    (images, labels), (test_images, test_labels) = train, test
    model, batch = network(), 64
    steps = len(images) // batch
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        model.train()
        order = torch.randperm(len(images))[: steps * batch].view(steps, batch)
        for rows in order:
            top, left = torch.randint(0, 9, (2,)).tolist()
            pixels = images[rows, :, top : top + 64, left : left + 64].float() / 127.5 - 1
            mirrored = torch.rand(batch, 1, 1, 1) < 0.5
            logits = model(torch.where(mirrored, pixels.flip(3), pixels))
            loss = functional.cross_entropy(logits, labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        print(f"  epoch {epoch + 1}/{epochs}: loss {loss.item():.3f}", flush=True)
    model.eval()
    with torch.inference_mode():
        center = test_images[:, :, 4:68, 4:68]
        found = torch.cat([model(part.float() / 127.5 - 1).argmax(1) for part in torch.split(center, 200)])
    return float((found == test_labels).float().mean())


def commit() -> str:
    """The checked-out commit, or "none"."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "none"


def main() -> None:
    """Measure everything and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=12000, help="training images of the network")
    parser.add_argument("--epochs", type=int, default=12, help="zero skips the network")
    parser.add_argument("--size", type=int, default=96, help="side of the drawn pictures")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training pictures")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seed = options.seed

    start = time.perf_counter()
    images, labels = drawn(seed, CLASSES * 250, options.size)
    speed = len(images) / (time.perf_counter() - start)
    rows: list[tuple[str, str]] = [("drawing, images per minute, one core", f"{60 * speed:,.0f}")]

    colors = histograms(images)
    raw = resized(images, 32).reshape(len(images), -1).astype(np.float32)
    for name, features in (
        ("five-shot, color histogram 8x8x8", colors),
        ("five-shot, square root of the histogram", np.sqrt(colors)),
        ("five-shot, raw pixels 32x32", raw),
        ("five-shot, raw pixels 32x32, mean removed", raw - raw.mean(axis=0)),
        ("five-shot, untrained ViT class token", untrained_vit(images, seed)),
    ):
        mean, deviation = five_shot(features, labels, seed)
        rows.append((name, f"{100 * mean:.1f} % +- {100 * deviation:.1f}"))
    # Square roots make Euclidean distance the Hellinger distance, the better one for histograms.
    known = CLASSES * 200
    neighbors = KNeighborsClassifier(20, weights="distance").fit(np.sqrt(colors[:known]), labels[:known])
    score = neighbors.score(np.sqrt(colors[known:]), labels[known:])
    rows.append(("k-NN (k = 20), color histogram, 200 a class", f"{100 * score:.1f} %"))

    if options.epochs:
        sets = []
        for part, count in ((seed + 1, options.images), (seed + 2, CLASSES * 50)):
            pictures, classes = drawn(part, count, options.size)
            pixels = torch.from_numpy(resized(pictures, 72)).permute(0, 3, 1, 2).contiguous()
            sets.append((pixels, torch.from_numpy(classes)))
        start = time.perf_counter()
        score = supervised(sets[0], sets[1], epochs=options.epochs, seed=seed)
        spent = time.perf_counter() - start
        name = f"supervised network, {options.images:,} images, {options.epochs} epochs"
        rows.append((name, f"{100 * score:.1f} % ({spent:.0f} s)"))

    print(f"\n{CLASSES} species (chance {100 / CLASSES:.1f} %), {options.size} px, seeds {seed} to {seed + 2}")
    print(
        f"python {platform.python_version()}, numpy {np.__version__}, pillow {PIL.__version__}, "
        f"scikit-learn {sklearn.__version__}, torch {torch.__version__}, timm {timm.__version__}"
    )
    print(f"device cpu ({platform.machine()}), {options.threads} thread(s), commit {commit()}")
    for name, value in rows:
        print(f"| {name:<52} | {value:>18} |")


if __name__ == "__main__":
    main()
