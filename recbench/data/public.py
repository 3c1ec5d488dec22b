"""The public data sets: which files they are made of, where those are, and what is known of them.

All are sequence files of S3-Rec (Zhou et al., CIKM 2020) at one commit of the authors' repository; P5, POD,
CoSeRec and most later work use the same files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from recbench.data.raw import RawFile

_S3REC = (
    "https://raw.githubusercontent.com/aHuiWang/CIKM2020-S3Rec/49a890dcb516c9ed3126564495234ea74d5cd566/data"
)


class Golden(NamedTuple):
    """Published sizes of a data set."""

    num_users: int
    num_items: int
    num_interactions: int


@dataclass(frozen=True, slots=True)
class DataSet:
    """A public data set: its files and what is known of them.

    Args:
        name: what `--data` calls it.
        about: one line for people.
        sequences: the interactions.
        attributes: anonymous item attributes, wanted where there is no `items.parquet`.
        golden: published sizes.
    """

    name: str
    about: str
    sequences: RawFile
    attributes: RawFile
    golden: Golden


def _s3rec(name: str, about: str, folder: str, file: str, hashes: tuple[str, str], golden: Golden) -> DataSet:
    """A data set of the S3-Rec repository; a file without a known hash is not downloaded."""
    names = (f"{file}.txt", f"{file}_item2attributes.json")
    sequences, attributes = (
        RawFile(folder, named, f"{_S3REC}/{named}" if digest else "", digest)
        for named, digest in zip(names, hashes, strict=True)
    )
    return DataSet(name, about, sequences, attributes, golden)


DATA_SETS = {
    data_set.name: data_set
    for data_set in (
        _s3rec(
            "beauty",
            "Amazon reviews 2014, Beauty, 5-core",
            "amazon_beauty",
            "Beauty",
            (
                "226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
                "129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4",
            ),
            Golden(22_363, 12_101, 198_502),
        ),
        _s3rec(
            "sports",
            "Amazon reviews 2014, Sports and Outdoors, 5-core",
            "amazon_sports",
            "Sports_and_Outdoors",
            (
                "2a095e0648872beb9982408958290f5d655db5be2911c3756b5446de9f0b8de2",
                "7fb10733ac4f1811384a52144cdefa7fcc7536fa80a7232c5da9bd789155c34b",
            ),
            Golden(35_598, 18_357, 296_337),
        ),
        _s3rec(
            "toys",
            "Amazon reviews 2014, Toys and Games, 5-core",
            "amazon_toys",
            "Toys_and_Games",
            ("176c680c", ""),  # only these digits are known; the sizes below are checked as well
            Golden(19_412, 11_924, 167_597),
        ),
        _s3rec(
            "yelp",
            "Yelp Open Dataset, reviews of 2019, 5-core",
            "yelp",
            "Yelp",
            (
                "724b219106b81dd2349027da997334ddb6da9fe2f152ad6e0d97a93170f7caed",
                "f25acd5e1e680e0b22fd4e3f4fb6be4b2a7461e9222610616e3e1ee6702dd58d",
            ),
            Golden(30_431, 20_033, 316_354),
        ),
    )
}
