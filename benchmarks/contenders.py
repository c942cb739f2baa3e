"""One library at work on a list of images, in a process of its own: a helper of curate.py.

    python benchmarks/contenders.py NAME LIST.json

LIST.json is a list of paths. Every line on standard input is a request to go through them once; the answer is a line
of JSON: {"cpu": user and system seconds of this process and its children, "found": what was made of the images}.
The first line out, before any request, says that the library could be loaded. It runs with the Python of whichever
environment has the library, and imports nothing else.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

Work = Callable[[list[str]], Any]


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def edittools_phash() -> Work:
    """Bytes to signatures in all eight orientations, as `edit dedup` makes them; hexadecimal, the plain one first."""
    import numpy as np

    from edittools.dedup.signatures import phash
    from edittools.stream import codec
    from edittools.stream.rows import CHUNK_ROWS

    def work(paths: list[str]) -> list[list[str]]:
        found = []
        for start in range(0, len(paths), CHUNK_ROWS):
            chunk = paths[start : start + CHUNK_ROWS]
            made = phash.signatures_of(np.stack([codec.decode(read(path), phash.RASTER) for path in chunk]))
            found += [[] if words is None else [f"{word:016x}" for word in words.tolist()] for words in made]
        return found

    return work


def imagededup_phash() -> Work:
    from imagededup.methods import PHash

    hasher = PHash(verbose=False)
    return lambda paths: [hasher.encode_image(path) for path in paths]


def data_juicer(*makers: Callable[[], Any]) -> Work:
    """The operators as its executor runs them, over a data set in memory, without its start-up and its writing."""
    import datasets
    from data_juicer.core.data import NestedDataset
    from data_juicer.utils.constant import Fields

    datasets.disable_caching()
    datasets.disable_progress_bars()

    def work(paths: list[str]) -> int:
        rows = NestedDataset.from_list([{"text": "", "images": [path], Fields.stats: {}} for path in paths])
        for make in makers:
            rows = make().run(rows)
        return len(rows)

    return work


def data_juicer_phash() -> Work:
    from data_juicer.ops.deduplicator.image_deduplicator import ImageDeduplicator

    return data_juicer(lambda: ImageDeduplicator(method="phash", num_proc=1))


def data_juicer_sizes() -> Work:
    from data_juicer.ops.filter.image_aspect_ratio_filter import ImageAspectRatioFilter
    from data_juicer.ops.filter.image_shape_filter import ImageShapeFilter
    from data_juicer.ops.filter.image_size_filter import ImageSizeFilter

    return data_juicer(
        lambda: ImageShapeFilter(min_width=64, min_height=64, num_proc=1),
        lambda: ImageAspectRatioFilter(min_ratio=1 / 3, max_ratio=3, num_proc=1),
        lambda: ImageSizeFilter(min_size="1", max_size="1GB", num_proc=1),
    )


def cleanvision_checks() -> Work:
    """Its nine default checks. It would start processes of its own for more."""
    from cleanvision import Imagelab

    def work(paths: list[str]) -> int:
        lab = Imagelab(filepaths=paths)
        lab.find_issues(n_jobs=1, verbose=False)
        return len(lab.issue_summary)

    return work


def libjpeg_turbo() -> Work:
    """Its scaled decode in colour: the smallest scale whose short side is 256 or more."""
    import simplejpeg

    def work(paths: list[str]) -> None:
        for path in paths:
            simplejpeg.decode_jpeg(read(path), colorspace="RGB", min_height=256, min_width=256, min_factor=1)

    return work


WORKS = {
    made.__name__: made
    for made in (
        edittools_phash,
        imagededup_phash,
        data_juicer_phash,
        data_juicer_sizes,
        cleanvision_checks,
        libjpeg_turbo,
    )
}


def cpu_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in spent)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the libraries print what they like, not among the answers
    with open(sys.argv[2]) as file:
        paths = json.load(file)
    work = WORKS[sys.argv[1]]()
    work(paths[:2])  # what is loaded on first use is not counted
    print("{}", file=answers, flush=True)
    for _ in sys.stdin:
        started = cpu_seconds()
        found = work(paths)
        print(json.dumps({"cpu": cpu_seconds() - started, "found": found}), file=answers, flush=True)


if __name__ == "__main__":
    main()
