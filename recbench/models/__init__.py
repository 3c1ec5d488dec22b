"""The methods, one file per paper."""

from recbench.models.gru4rec import GRU4Rec
from recbench.models.itemknn import ItemKNN
from recbench.models.last_item import LastItem
from recbench.models.popularity import Popularity
from recbench.models.sasrec import SASRec

__all__ = ["GRU4Rec", "ItemKNN", "LastItem", "Popularity", "SASRec"]
