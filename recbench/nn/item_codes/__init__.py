"""How items are written for a model that generates them: each as a few codes. Imports no torch.

Codes decide how an item is written, never its index. Of the interactions they see what may be learnt from, so
that the items to be found leave no trace in them; the one exception exists to reproduce published numbers and
says so (`reads_targets`).
"""

from recbench.nn.item_codes.base import END, PAD, Atomic, ItemCodes, Random
from recbench.nn.item_codes.collaborative import Collaborative
from recbench.nn.item_codes.numeric import Numeric, Sequential
from recbench.nn.item_codes.semantic import Semantic

__all__ = [
    "END",
    "PAD",
    "Atomic",
    "Collaborative",
    "ItemCodes",
    "Numeric",
    "Random",
    "Semantic",
    "Sequential",
]
