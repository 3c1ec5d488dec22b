"""The methods, one file per paper."""

from recbench.models.bert4rec import BERT4Rec
from recbench.models.bsarec import BSARec
from recbench.models.caser import Caser
from recbench.models.cda4rec import CDA4Rec
from recbench.models.code_lm import CodeLM
from recbench.models.dccl import DCCL
from recbench.models.din import DIN
from recbench.models.duet import DUET
from recbench.models.ease import EASE
from recbench.models.fdsa import FDSA
from recbench.models.gru4rec import GRU4Rec
from recbench.models.hgn import HGN
from recbench.models.hstu import HSTU
from recbench.models.itemknn import ItemKNN
from recbench.models.l3rec import L3Rec
from recbench.models.last_item import LastItem
from recbench.models.lightgcn import LightGCN
from recbench.models.lsc4rec import LSC4Rec
from recbench.models.mf import MF
from recbench.models.mlp import MLP
from recbench.models.multvae import MultVAE
from recbench.models.p5 import P5
from recbench.models.pod import POD
from recbench.models.popularity import Popularity
from recbench.models.s3rec import S3Rec
from recbench.models.sasrec import SASRec
from recbench.models.scalrec import SCaLRec
from recbench.models.surge import Surge
from recbench.models.surge_tf import SurgeTF

__all__ = [
    "DCCL",
    "DIN",
    "DUET",
    "EASE",
    "FDSA",
    "HGN",
    "HSTU",
    "MF",
    "MLP",
    "P5",
    "POD",
    "BERT4Rec",
    "BSARec",
    "CDA4Rec",
    "Caser",
    "CodeLM",
    "GRU4Rec",
    "ItemKNN",
    "L3Rec",
    "LSC4Rec",
    "LastItem",
    "LightGCN",
    "MultVAE",
    "Popularity",
    "S3Rec",
    "SASRec",
    "SCaLRec",
    "Surge",
    "SurgeTF",
]
