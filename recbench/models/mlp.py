"""MLP: a net decides whether user and item fit (the MLP of NCF; He et al., WWW 2017).

User and item have a vector each; both side by side go through layers, each half as wide as the one before,
to a score (Eq. 10).

The first layer of a pair is the sum of a user's half and an item's half, each made once, so that a pair costs
no more than an addition and the layers after it; the catalogue is scored in blocks, so that memory does not
grow with it. What differs from the authors' code: vectors are not shared with or pre-trained for NeuMF; a
negative is drawn for every item of a user and, in the softmax, meets all of that user's items; users' vectors
begin at zero and stay there for strangers, who get what a user without a vector gets: a popular choice, which
`forget_rate` trains; and a net may begin as a likeness of its inputs (`start`), which from random weights it
does not learn from a few items per user. B users, L items of a bag, M negatives of each, C candidates,
N items, D width, H width of layer 1.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from recbench.models.base import Paper, Recipe, Scorer, at_least
from recbench.nn.bags import contains, training_bag
from recbench.nn.dropout import Dropout, check_rate
from recbench.nn.users import UserTable

if TYPE_CHECKING:
    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog


class MLP(Scorer):
    """A net over a user's and an item's vector (NCF's MLP; He et al., WWW 2017).

    Args:
        dim: width of user and item vectors.
        hidden: width of the first layer; each further one has half of it.
        num_layers: layers before the output.
        start: the net's first weights. `random`: He's draw. `likeness`: one layer of 4 * dim, as |u + i| -
            |u - i| summed over the vectors' places, which is twice the lesser of |u| and |i| with the sign of
            their product.
        embedding_dropout: on the user vectors.
        forget_rate: chance that a training sample does not know its user.
        objective: cross entropy among an item and the user's negatives, or binary over each.
        num_negatives: items drawn for every item of a user; those the user took are dropped.
        recipe: how it is trained.
    """

    paper: ClassVar[Paper] = Paper(
        "Neural Collaborative Filtering", "WWW", 2017, "https://arxiv.org/abs/1708.05031"
    )

    def __init__(
        self,
        *,
        dim: int = 64,
        hidden: int = 64,
        num_layers: int = 2,
        start: Literal["random", "likeness"] = "random",
        embedding_dropout: float = 0.0,
        forget_rate: float = 0.0,
        objective: Literal["softmax", "bce"] = "softmax",
        num_negatives: int = 16,
        recipe: Recipe = Recipe(),
    ) -> None:
        super().__init__(recipe)
        at_least(1, dim=dim, hidden=hidden, num_layers=num_layers, num_negatives=num_negatives)
        if hidden < 2 ** (num_layers - 1):
            raise ValueError(f"hidden must be halved {num_layers - 1} times and stay above 0, got {hidden}")
        if start == "likeness" and (hidden, num_layers) != (4 * dim, 1):
            raise ValueError(
                f"start='likeness' needs num_layers 1 and hidden {4 * dim} (4 * dim), "
                f"got {num_layers} and {hidden}"
            )
        check_rate(embedding_dropout)
        check_rate(forget_rate)
        self.dim, self.hidden, self.num_layers, self.start = dim, hidden, num_layers, start
        self.embedding_dropout, self.forget_rate = embedding_dropout, forget_rate
        self.objective, self.num_negatives = objective, num_negatives

    def build(self, catalog: Catalog) -> None:
        """Both tables and the net, whose first layer is in two halves."""
        self.users = UserTable(catalog.num_users, self.dim, forget_rate=self.forget_rate)
        self.items = nn.Embedding(catalog.num_items + 1, self.dim, padding_idx=0)
        # of length 1: from smaller ones the net stays blind for long
        nn.init.normal_(self.items.weight[1:], std=self.dim**-0.5)
        self.user_dropout = Dropout(self.embedding_dropout)
        self.user_half = nn.Linear(self.dim, self.hidden, bias=False)
        self.item_half = nn.Linear(self.dim, self.hidden)
        widths = [self.hidden >> n for n in range(self.num_layers)] + [1]
        self.net = nn.Sequential()
        for wide, narrow in itertools.pairwise(widths):
            self.net.append(nn.ReLU())
            self.net.append(nn.Linear(wide, narrow))
        self.apply(_initialise)
        if self.start == "likeness":
            self._begin_as_likeness()

    @torch.no_grad()
    def _begin_as_likeness(self) -> None:
        """Units u + i and -u - i, whose sum is |u + i| after ReLU, count up; u - i and i - u count down."""
        same, up = torch.eye(self.dim), torch.ones(1, 2 * self.dim)
        self.user_half.weight.copy_(torch.cat([same, -same, same, -same]))
        self.item_half.weight.copy_(torch.cat([same, -same, -same, same]))
        output = self.net[-1]
        assert isinstance(output, nn.Linear)
        output.weight.copy_(torch.cat([up, -up], dim=1))

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Every item of a user against items that the user did not take."""
        bag = training_bag(batch)
        is_item = bag != 0
        drawn = torch.randint(
            1, len(self.items.weight), (len(bag), bag.shape[1] * self.num_negatives), device=bag.device
        )
        counts = is_item.repeat_interleave(self.num_negatives, dim=1) & ~contains(bag, drawn)
        scores = self._meet(self._half_of(torch.cat([bag, drawn], dim=1)), self._user(batch.users))
        positive, negative = scores[:, : bag.shape[1]], scores[:, bag.shape[1] :]
        if self.objective == "bce":
            total = F.softplus(-positive)[is_item].sum() + F.softplus(negative)[counts].sum()
            return total / is_item.sum()
        # a user who took all that was drawn has nothing to tell apart: no -inf, whose gradient is no number
        against = negative.masked_fill(~counts, -1e9).logsumexp(1, keepdim=True)
        return F.softplus(against - positive)[is_item].mean()

    def score(self, batch: SequenceBatch, items: Tensor | None = None) -> Tensor:
        """Scores of all items, a block of users and candidates at a time, or of those named."""
        with torch.autocast(batch.users.device.type, enabled=False):  # half precision ties what differs
            user = self._user(batch.users)
            if items is not None:
                return self._meet(self._half_of(items), user)
            return self._score_all(user, self.item_half(self.items.weight)[None])

    def _score_all(self, user: Tensor, table: Tensor) -> Tensor:
        """(B, H) users, (1, N + 1, H) items -> (B, N + 1), a block's first layer at a time."""
        num_users, num_items = len(user), table.shape[1]
        scores = user.new_empty(num_users, num_items)
        budget = (_BLOCK_GPU if user.is_cuda else _BLOCK_CPU) // self.hidden  # pairs of user and candidate
        wide = max(1, min(num_items, budget))
        tall = max(1, budget // wide)
        for top in range(0, num_users, tall):
            for left in range(0, num_items, wide):
                block = self._meet(table[:, left : left + wide], user[top : top + tall])
                scores[top : top + tall, left : left + wide] = block
        return scores

    def _user(self, users: Tensor) -> Tensor:
        """(B,) -> (B, H) the users' half of the first layer."""
        half: Tensor = self.user_half(self.user_dropout(self.users(users)))
        return half

    def _half_of(self, items: Tensor) -> Tensor:
        """(B, C) -> (B, C, H); where there are more than the catalogue has, each item is computed once."""
        if items.numel() > len(self.items.weight):
            return F.embedding(items, self.item_half(self.items.weight))
        half: Tensor = self.item_half(self.items(items))
        return half

    def _meet(self, items: Tensor, user: Tensor) -> Tensor:
        """(B or 1, C, H) items and (B, H) users -> (B, C) scores."""
        scores: Tensor = self.net(items + user[:, None])[..., 0]
        return scores


def _initialise(module: nn.Module) -> None:
    """He's normal draw, so that what differs at the input still differs at the output."""
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_BLOCK_CPU, _BLOCK_GPU = 1 << 18, 1 << 26  # numbers of the first layer in a block: in the cache; fill a GPU
