"""Reading small pictures in one process: pictures a CPU second, and ratios. Takes about 20 s.

    python -m benchmarks.reading [--json FILE]

The same 64 x 64 PNGs as tensors: from memory (the limit), by records and loader (shuffled), and by webdataset's own
decoding (in order). To reach: 2x webdataset, 0.8x memory.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from webdataset.compat import WebDataset

from benchmarks.environment import environment
from components.data.loader import Loader, Prepared
from components.data.records import Records, decode_image
from components.data.shards import Record, ShardWriter
from components.data.validation import validate
from components.data.world.draw import draw
from components.data.world.scenes import details, scenes

COUNT, ROUNDS = 500, 3


def rate(read: Callable[[], Iterable]) -> float:
    """Pictures a CPU second, the best of some rounds: other processes only ever slow it down."""
    best = 0.0
    for _ in range(ROUNDS):
        started = time.process_time()
        count = sum(1 for _ in read())
        best = max(best, count / (time.process_time() - started))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pictures = [draw(scene, 64, details(scene, "pictures")) for scene in scenes(0, "train", COUNT)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split in ("train", "valid", "test"):
            writer = ShardWriter(folder / "shards" / split, text=False)
            for number, picture in enumerate(pictures if split == "train" else ()):
                writer.write(Record(f"{number:06d}", {}, picture, "png"))
            writer.close()
        validate(folder / "shards", folder / "index", "image", ())
        records = Records(folder / "shards" / "train", folder / "index" / "train")
        loader = Loader(Prepared(records, lambda record, _: decode_image(record["image"])), list, 50, seed=0)
        tar = str(folder / "shards" / "train" / "000000.tar")
        peer: Any = WebDataset(tar, shardshuffle=False).decode("torchrgb8").to_tuple("png")
        rates = {
            "memory": rate(lambda: map(decode_image, pictures)),
            "records and loader": rate(lambda: (x for batch in islice(loader(0), COUNT // 50) for x in batch)),
            "webdataset": rate(lambda: peer),
        }
    own = rates["records and loader"]
    rows = [
        {"reader": name, "per_second": round(value), "own_over_it": round(own / value, 2)}
        for name, value in rates.items()
    ]
    for row in rows:
        print(f"{row['reader']:20} {row['per_second']:>7,} a second   own / it {row['own_over_it']:.2f}")
    if arguments.json:
        result = {"environment": environment("torch", "webdataset"), "rates": rows}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
