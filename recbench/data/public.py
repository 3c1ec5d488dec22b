"""The public data sets: what they are called, the files they are made of, and the sizes they must have.

`beauty`, `sports`, `toys`, `yelp` and `lastfm` are sequence files of S3-Rec (Zhou et al., CIKM 2020) at one
commit of the authors' repository; P5, POD, CoSeRec and most later work use the same files. `beauty-2014`,
`sports-2014`, `toys-2014` and `yelp-2019` are made from the files of their owners by the same rule, have the
same sizes and, besides, real times. The others are made from their owners' files, too. A data set that is not
whole says so in its name and on its card.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from recbench.data import recipes
from recbench.data.raw import RawFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from recbench.data.source import Source

_S3REC = (
    "https://raw.githubusercontent.com/aHuiWang/CIKM2020-S3Rec/49a890dcb516c9ed3126564495234ea74d5cd566/data"
)
_AMAZON = "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html"
_YELP = "https://business.yelp.com/data/resources/open-dataset/ (the release with all of 2019)"
_REDIAL = "https://redialdata.github.io/website/"
_MUSIC4ALL = "https://sites.google.com/view/contact4music4all (on request)"
_TSMC = "https://sites.google.com/site/yangdingqi/home/foursquare-dataset (dataset_tsmc2014.zip)"
_SUBSET = "whoever made the subset: it was put together from public repositories and is not handed out"
_GROUPLENS = "https://grouplens.org/datasets/movielens/"


class Golden(NamedTuple):
    """Sizes that a data set must have, published or counted in its owner's files."""

    num_users: int
    num_items: int
    num_interactions: int


@dataclass(frozen=True, slots=True)
class DataSet:
    """A public data set: its files and what is known of them.

    Args:
        name: what `--data` calls it.
        about: one line for people.
        files: what it is made of, the interactions first; all of them are needed.
        read: makes the source of it.
        golden: the sizes it must have; None where nobody has counted.
        partial: what is missing of a data set that is not whole.
        attributes: of sequence files, anonymous item attributes, wanted where there is no `items.parquet`.
        instead: files that hold the same as `files`, taken where those are not here.
        digests: sha256 of the files that are here.
    """

    name: str
    about: str
    files: tuple[RawFile, ...]
    read: Callable[[DataSet], Source]
    golden: Golden | None = None
    partial: str = ""
    attributes: RawFile | None = None
    instead: tuple[RawFile, ...] = ()
    digests: Callable[[DataSet], dict[str, str]] = recipes.digests

    @property
    def sequences(self) -> RawFile | None:
        """The sequence file, of a data set that is one; else None."""
        return self.files[0] if self.read is recipes.sequences else None


_BEAUTY, _SPORTS = Golden(22_363, 12_101, 198_502), Golden(35_598, 18_357, 296_337)
_TOYS, _YELP_2019 = Golden(19_412, 11_924, 167_597), Golden(30_431, 20_033, 316_354)


def _s3rec(name: str, about: str, folder: str, file: str, hashes: tuple[str, str], golden: Golden) -> DataSet:
    """A data set of the S3-Rec repository; a file without a known hash is not downloaded."""
    sequences, attributes = (
        RawFile(folder, named, f"{_S3REC}/{named}" if digest else "", digest, f"{_S3REC}/{named}")
        for named, digest in zip((f"{file}.txt", f"{file}_item2attributes.json"), hashes, strict=True)
    )
    return DataSet(
        name,
        about,
        (sequences,),
        recipes.sequences,
        golden,
        attributes=attributes,
        digests=recipes.sequence_digests,
    )


def _provided(folder: str, owner: str, *names: str, archive: str = "") -> tuple[RawFile, ...]:
    """Files that only the user can provide, by themselves or in the archive they are handed out in."""
    return tuple(RawFile(folder, name, owner=owner, archive=archive) for name in names)


def _amazon(name: str, category: str, golden: Golden) -> DataSet:
    """A category of Amazon's reviews of 2014."""
    files = _provided(f"amazon_{name}", _AMAZON, f"reviews_{category}_5.json", f"meta_{category}.json")
    about = f"Amazon reviews 2014, {category.replace('_', ' ')}, 5-core, from the owner's files"
    return DataSet(f"{name}-2014", about, files, recipes.amazon_2014, golden)


_SEQUENCES = (
    _s3rec(
        "beauty",
        "Amazon reviews 2014, Beauty, 5-core",
        "amazon_beauty",
        "Beauty",
        (
            "226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
            "129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4",
        ),
        _BEAUTY,
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
        _SPORTS,
    ),
    _s3rec(
        "toys",
        "Amazon reviews 2014, Toys and Games, 5-core",
        "amazon_toys",
        "Toys_and_Games",
        ("176c680c", ""),  # only these digits are known; the sizes are checked as well
        _TOYS,
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
        _YELP_2019,
    ),
    _s3rec(
        "lastfm",
        "Last.fm taggings of HetRec 2011, 5-core; not Music4All",
        "lastfm_s3rec",
        "LastFM",
        (
            "9ded486adb5b0fe9dc761950afa0a9a05e93ff018992e0c52bf11afec529f802",
            "a4ccd678dc9ff6d43fe5073f491db5c9b02eb98dfa4f8c0382913a784be217ef",
        ),
        Golden(1_090, 3_646, 52_551),
    ),
)

_OWNERS = (
    _amazon("beauty", "Beauty", _BEAUTY),
    _amazon("sports", "Sports_and_Outdoors", _SPORTS),
    _amazon("toys", "Toys_and_Games", _TOYS),
    DataSet(
        "yelp-2019",
        "Yelp Open Dataset, reviews of 2019, 5-core, from the owner's files",
        _provided(
            "yelp",
            _YELP,
            "yelp_academic_dataset_review.json",
            "yelp_academic_dataset_business.json",
            archive="yelp_dataset.tar",
        ),
        recipes.yelp_2019,
        _YELP_2019,
    ),
    DataSet(
        "redial",
        "ReDial: movies in dialogues, by seeker",
        _provided("redial", _REDIAL, "train_data.jsonl", "test_data.jsonl", "movies_with_mentions.csv"),
        recipes.redial,
    ),
    DataSet(
        "redial-partial",
        "ReDial, 3,155 of 11,348 dialogues",
        (
            *_provided("redial", _REDIAL, "test_data.jsonl"),
            *_provided(
                "redial",
                "Lancelot39/KGSF and RUCAIBox/iEvaLM-CRS on GitHub",
                "kgsf_valid_data.jsonl",
                "ievalm_valid_data.jsonl",
            ),
            *_provided("redial", _REDIAL, "movies_with_mentions.csv"),
            *_provided("redial", _SUBSET, "movies.parquet"),
        ),
        recipes.redial,
        Golden(433, 3_525, 15_975),
        partial="the test part is whole, of the 10,006 dialogues of the training part 1,813 are here",
    ),
    DataSet(
        "music4all",
        "Music4All listening histories",
        _provided("music4all", _MUSIC4ALL, "listening_history.csv", "id_information.csv"),
        recipes.music4all,
    ),
    DataSet(
        "foursquare-nyc",
        "Foursquare check-ins in New York City, TSMC2014",
        _provided("foursquare_nyc", _TSMC, "dataset_TSMC2014_NYC.txt", archive="dataset_tsmc2014.zip"),
        recipes.foursquare,
        Golden(1_083, 38_333, 227_428),
    ),
    DataSet(
        "foursquare-nyc-10core",
        "Foursquare check-ins in New York City at venues with at least 10",
        _provided("foursquare_nyc", _SUBSET, "checkins.parquet", "pois.parquet"),
        recipes.foursquare_10core,
        Golden(1_083, 5_135, 147_938),
        partial="33,198 venues with fewer than 10 check-ins and their 79,490 check-ins are missing",
    ),
    DataSet(
        "ml-100k",
        "MovieLens 100K, every rating an interaction",
        _provided("ml_100k", _GROUPLENS, "u.data", "u.item", archive="ml-100k.zip"),
        recipes.movielens_100k,
        Golden(943, 1_682, 100_000),
        instead=_provided("ml_100k", _GROUPLENS, "ml-100k.inter", "ml-100k.item"),
    ),
    DataSet(
        "ml-1m",
        "MovieLens 1M, every rating an interaction",
        _provided("ml_1m", _GROUPLENS, "ratings.dat", "movies.dat", archive="ml-1m.zip"),
        recipes.movielens_1m,
        Golden(6_040, 3_706, 1_000_209),
    ),
)

DATA_SETS = {data_set.name: data_set for data_set in (*_SEQUENCES, *_OWNERS)}
