"""A source into shards: data/shards/KEY/{train,valid,test}. 20,000 small pictures take about 20 s of one core."""

import json
import os
import shutil

from components.data.config import Source as Params
from flows.stages.runtime import Stage, StageError, start

PROGRESS = 5000  # records between two lines


def cost(params: Params) -> str:
    if params.world is None:
        return f"reads {params.path} (layout {params.layout}) once; seconds to minutes by its size, 0.5 GiB at most"
    world = params.world
    count = world.train + world.valid + world.test
    seconds = count * {"pictures": 1.5e-3, "text": 2e-4, "speech": 2e-2}[world.view]
    return f"generates {count} scenes ({world.view}), about {seconds:.0f} s of one core, 0.3 GiB"


def run(params: Params, stage: Stage) -> None:
    from components.data.files import SourceError
    from components.data.shards import SPLITS, ShardWriter
    from components.data.sources import OUT, classes, records

    target = stage.root / "data" / "shards" / stage.key
    partial = target.with_name(f".{stage.key}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    writers = {split: ShardWriter(partial / split, params.kind == "text") for split in SPLITS}
    filtered = 0
    try:
        for number, (split, record) in enumerate(records(params), 1):
            if split == OUT:
                filtered += 1
            else:
                writers[split].write(record)
            if number % PROGRESS == 0:
                print(f"  {number} records")
    except SourceError as error:
        shutil.rmtree(partial)
        raise StageError(f"{error}") from None
    for writer in writers.values():
        writer.close()
    counts = {split: writer.count for split, writer in writers.items()} | {"filtered": filtered}
    (partial / "about.json").write_text(json.dumps({**counts, "classes": classes(params)}) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    print("  " + ", ".join(f"{name} {count}" for name, count in counts.items()))


if __name__ == "__main__":
    start(__file__, Params, cost, run, "sources")
