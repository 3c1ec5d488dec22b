"""The methods, one file per paper."""

from recbench.models.bert4rec import BERT4Rec
from recbench.models.bsarec import BSARec
from recbench.models.caser import Caser
from recbench.models.din import DIN
from recbench.models.fdsa import FDSA
from recbench.models.gru4rec import GRU4Rec
from recbench.models.hgn import HGN
from recbench.models.hstu import HSTU
from recbench.models.itemknn import ItemKNN
from recbench.models.last_item import LastItem
from recbench.models.popularity import Popularity
from recbench.models.s3rec import S3Rec
from recbench.models.sasrec import SASRec

__all__ = [
    "DIN",
    "FDSA",
    "HGN",
    "HSTU",
    "BERT4Rec",
    "BSARec",
    "Caser",
    "GRU4Rec",
    "ItemKNN",
    "LastItem",
    "Popularity",
    "S3Rec",
    "SASRec",
]
