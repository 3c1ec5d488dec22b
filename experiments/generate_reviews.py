"""A reviews file of any size in Amazon's 2014 layout, to measure how fast and in how much memory it is read.

    python experiments/generate_reviews.py /tmp/reviews_Made_5.json.gz --millions 1 --seed 0

Every row has the nine keys of the real files, in their order. Users and items are drawn from power laws, and
rows lie item by item as in the real files; texts are drawn from a pool of 20,000, made of words of Zipf
frequency, of log-normal length, with quotes, line breaks and accents where people put them. A row has about
700 bytes, 445 of them the text, and level 1 of gzip shrinks it 2.4 times. The same seed gives the same rows.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

ROWS_PER_MEMBER = 50_000  # gzip members are compressed beside each other
NUM_TEXTS = 20_000
FIRST_DAY, LAST_DAY = 12_000, 16_270  # 2002-11-09 .. 2014-07-19
ALPHABET = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", dtype=np.uint8)
RATING_SHARES = (0.06, 0.05, 0.10, 0.20, 0.59)
ROW = (
    '{{"reviewerID": "{}", "asin": "{}", "reviewerName": {}, "helpful": [{}, {}], "reviewText": {}, '
    '"overall": {}.0, "summary": {}, "unixReviewTime": {}, "reviewTime": "{}"}}'
)


class Made(NamedTuple):
    """What was written."""

    num_rows: int
    num_bytes: int
    num_packed_bytes: int
    seconds: float


def power_law(rng: np.random.Generator, num: int, size: int, *, exponent: float, shift: float) -> np.ndarray:
    """`size` draws from 0..num-1 with probability about (rank + shift)^-exponent, by its inverse integral."""
    low, high = shift ** (1 - exponent), (num + shift) ** (1 - exponent)
    ranks = (low + rng.random(size) * (high - low)) ** (1 / (1 - exponent)) - shift
    return np.minimum(ranks.astype(np.int64), num - 1)


def names(num: int, prefix: str, width: int) -> pl.Series:
    """`num` different ids: `prefix` and `width` characters that look random."""
    size = 36**width
    scattered = (np.arange(num, dtype=np.uint64) * np.uint64(3_141_592_653_589) + np.uint64(97)) % np.uint64(
        size
    )
    digits = np.empty((num, width), dtype=np.uint8)
    for place in range(width):
        digits[:, place] = ALPHABET[scattered % np.uint64(36)]
        scattered //= np.uint64(36)
    return pl.Series([prefix + row.decode() for row in digits.view(f"S{width}").ravel()])


def texts(rng: np.random.Generator, num: int, *, mean_words: float) -> pl.Series:
    """`num` JSON strings of words; their lengths are log-normal."""
    letters = rng.choice(list("etaoinshrdlucmfwypvbgk"), size=(30_000, 9))
    widths = np.clip(rng.poisson(4.2, size=30_000), 1, 9)
    vocabulary = ["".join(row[:width]) for row, width in zip(letters, widths, strict=True)]
    vocabulary[100:103] = ['"great"', "café", "end.\nThen"]
    counts = np.clip(rng.lognormal(np.log(mean_words) - 0.4, 0.9, size=num), 1, 5_000).astype(np.int64)
    words = power_law(rng, len(vocabulary), int(counts.sum()), exponent=1.05, shift=2.7)
    ends = np.cumsum(counts)
    return pl.Series(
        [
            json.dumps(" ".join(vocabulary[word] for word in words[end - count : end]), ensure_ascii=True)
            for count, end in zip(counts, ends, strict=True)
        ]
    )


def rows(rng: np.random.Generator, num_rows: int) -> pl.DataFrame:
    """Who reviewed what and when, item by item."""
    users = power_law(rng, max(10, num_rows // 8), num_rows, exponent=0.7, shift=20)
    items = power_law(rng, max(10, num_rows // 60), num_rows, exponent=0.8, shift=50)
    stars = rng.choice(5, size=num_rows, p=RATING_SHARES).astype(np.int8) + 1
    days = FIRST_DAY + (LAST_DAY - FIRST_DAY) * rng.random(num_rows) ** 0.4  # most reviews are recent
    return pl.DataFrame(
        {
            "user": users.astype(np.int32),
            "item": np.sort(items).astype(np.int32),
            "stars": stars,
            "day": days.astype(np.int32),
            "text": rng.integers(NUM_TEXTS, size=num_rows, dtype=np.int32),
        }
    )


class Pools(NamedTuple):
    """What the fields are drawn from."""

    users: pl.Series
    items: pl.Series
    texts: pl.Series
    summaries: pl.Series

    def member(self, part: pl.DataFrame) -> tuple[bytes, int]:
        """These rows as one gzip member, and the size of its content."""
        text, date = pl.col("text"), pl.col("day").cast(pl.Date)
        lines = part.select(
            pl.format(
                ROW,
                self.users.gather(part["user"]),
                self.items.gather(part["item"]),
                self.summaries.gather(part["user"] % NUM_TEXTS),
                text % 7,
                text % 7 + text % 3,
                self.texts.gather(part["text"]),
                "stars",
                self.summaries.gather(part["text"]),
                pl.col("day").cast(pl.Int64) * 86_400,
                date.dt.strftime("%m %d, %Y"),
            )
        )
        content = lines.write_csv(include_header=False, quote_style="never").encode()
        return gzip.compress(content, compresslevel=1, mtime=0), len(content)


def generate(path: Path, num_rows: int, *, seed: int = 0) -> Made:
    """Write `num_rows` reviews to `path`."""
    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    table = rows(rng, num_rows)
    pools = Pools(
        names(max(10, num_rows // 8), "A1", 12),
        names(max(10, num_rows // 60), "B00", 7),
        texts(rng, NUM_TEXTS, mean_words=85),
        texts(rng, NUM_TEXTS, mean_words=4),
    )
    num_bytes = 0
    with path.open("wb") as file, ThreadPoolExecutor(2) as workers:
        for packed, size in workers.map(pools.member, table.iter_slices(ROWS_PER_MEMBER)):
            file.write(packed)
            num_bytes += size
    return Made(num_rows, num_bytes, path.stat().st_size, time.perf_counter() - start)


def main() -> None:
    """Write the file that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--millions", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    made = generate(options.path, round(options.millions * 1e6), seed=options.seed)
    print(json.dumps(made._asdict() | {"bytes_per_row": round(made.num_bytes / made.num_rows)}))


if __name__ == "__main__":
    main()
