"""Reading a train.json of iNaturalist 2021's size: time and peak memory, beside json.load.

Run from the repository root: python benchmarks/inat2021_json.py --images 1100000
A file of that many images and annotations is made first, with the competition's 10,000 categories, all images of the
4,271 species of plants. Each way of reading runs in a process of its own, in turns.
"""

import argparse
import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import ijson

SPECIES, PLANTS, FIRST_PLANT = 10_000, 4_271, 5_729
LEVELS = ("kingdom", "phylum", "class", "order", "family", "genus")


def category(number: int) -> dict[str, object]:
    """A category with a classification of the real ones' lengths."""
    plant = number >= FIRST_PLANT
    levels = ["Plantae", "Tracheophyta", "Magnoliopsida"] if plant else ["Animalia", "Arthropoda", "Insecta"]
    levels += [f"Order{number // 100}", f"Family{number // 30}", f"Genus{number // 3}"]
    epithet = f"epithet{number}"
    return {
        "id": number,
        "name": f"{levels[-1]} {epithet}",
        "common_name": f"Common {epithet}",
        "supercategory": "Plants" if plant else "Insects",
        **dict(zip(LEVELS, levels, strict=True)),
        "specific_epithet": epithet,
        "image_dir_name": f"{number:05d}_{'_'.join(levels)}_{epithet}",
    }


def write_file(path: Path, images: int, seed: int = 0) -> None:
    """Write a file like the competition's, line by line."""
    dice = random.Random(seed)
    categories = [category(number) for number in range(SPECIES)]
    owners = [f"Holder {number}" for number in range(images // 10 + 1)]
    with path.open("w") as file:
        file.write('{"info": {"year": 2021}, "images": [')
        for number in range(images):
            species = FIRST_PLANT + number * PLANTS // images
            name = uuid.UUID(int=dice.getrandbits(128), version=4)
            row = {
                "id": number,
                "width": 500,
                "height": 375,
                "file_name": f"train/{categories[species]['image_dir_name']}/{name}.jpg",
                "license": dice.randrange(8),
                "rights_holder": dice.choice(owners),
                "date": f"20{dice.randrange(10, 21)}-09-{dice.randrange(10, 30)} 10:{dice.randrange(10, 60)}:00+00:00",
                "latitude": round(dice.uniform(-60, 70), 5),
                "longitude": round(dice.uniform(-180, 180), 5),
                "location_uncertainty": dice.choice((None, 5, 977)),
            }
            file.write((", " if number else "") + json.dumps(row))
        file.write('], "annotations": [')
        for number in range(images):
            row = {"id": number, "image_id": number, "category_id": FIRST_PLANT + number * PLANTS // images}
            file.write((", " if number else "") + json.dumps(row))
        licenses = [{"id": number, "name": f"License {number}", "url": "https://x"} for number in range(8)]
        file.write(f'], "categories": {json.dumps(categories)}, "licenses": {json.dumps(licenses)}}}')


def read(way: str, path: Path) -> tuple[int, int]:
    """Read a file one way; returns the numbers of images and species found."""
    if way == "json.load":
        with path.open("rb") as file:
            content = json.load(file)
        plants = {row["id"] for row in content["categories"] if row["kingdom"] == "Plantae"}
        wanted = {row["image_id"] for row in content["annotations"] if row["category_id"] in plants}
        return sum(row["id"] in wanted for row in content["images"]), len(plants)
    from umbel.data.sources.inat2021_json import Annotations
    from umbel.data.sources.taxon import Taxon

    found = Annotations(path, Taxon.parse("kingdom=Plantae"), keep_location=way == "umbel, with location")
    return len(found), len(found.categories)


def measure(way: str, path: Path) -> tuple[float, float]:
    """Seconds and peak GiB of one way, in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--file", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak, images, species = map(float, done.stdout.split())
    print(f"  {way}: {seconds:.1f} s, {peak:.2f} GiB, {images:,.0f} images, {species:,.0f} species", flush=True)
    return seconds, peak


def main() -> None:
    """Measure every way several times in turns and print the medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--file", type=Path, help="a file that is there already")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        began = time.perf_counter()
        images, species = read(options.way, options.file)
        seconds = time.perf_counter() - began
        unit = 2**30 if sys.platform == "darwin" else 2**20
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, images, species)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or Path(folder) / "train.json"
        if options.file is None:
            write_file(path, options.images)
        print(f"{path.stat().st_size / 2**30:.2f} GiB of JSON, {options.rounds} rounds")
        ways = ("umbel", "umbel, with location", "json.load")
        found = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way in ways:
                found[way].append(measure(way, path))
    medians = {way: [sorted(row)[len(row) // 2] for row in zip(*rows, strict=True)] for way, rows in found.items()}
    print(f"python {platform.python_version()}, ijson's backend {ijson.backend}, {platform.machine()}")
    for way, (seconds, peak) in medians.items():
        ratio = (
            f"{seconds / medians['json.load'][0]:.2f} of the time, {peak / medians['json.load'][1]:.2f} of the memory"
        )
        print(f"| {way:<22} | {seconds:6.1f} s | {peak:5.2f} GiB | {ratio} |")


if __name__ == "__main__":
    main()
