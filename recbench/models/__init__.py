"""The methods, one file per paper."""

from recbench.models.caser import Caser
from recbench.models.gru4rec import GRU4Rec
from recbench.models.hgn import HGN
from recbench.models.itemknn import ItemKNN
from recbench.models.last_item import LastItem
from recbench.models.popularity import Popularity
from recbench.models.sasrec import SASRec

__all__ = ["HGN", "Caser", "GRU4Rec", "ItemKNN", "LastItem", "Popularity", "SASRec"]
