"""Records -> leaderboard: one table per data set and protocol, as Markdown and as HTML. Imports no torch.

Rows are compared by a paired bootstrap over users, quoted figures stand apart from measured ones, and every
metric is recomputed from the stored ranks on the way: a figure that its ranks do not give is refused.
"""

from recbench.leaderboard.board import leaderboard
from recbench.leaderboard.recompute import replay

__all__ = ["leaderboard", "replay"]
