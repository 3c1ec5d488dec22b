"""CodeLM: a decoder-only language model whose text is item codes.

TIGER (Rajput et al., NeurIPS 2023) writes the next item's code with an encoder and a decoder, a sample per
prefix of a history. A decoder alone reads a history as one text in which every code is predicted from what
stands before it, so one pass trains all positions: about six times fewer tokens an epoch on Amazon, where
histories have eight items. Reading begins with a mark, so somebody without a history is served as well.
B users, L history, T codes of an item, S tokens, V code vocabulary, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn

from recbench.models.base import Paper, Recipe, at_least
from recbench.models.generator import Decoding, Generator
from recbench.nn.attention import causal_rows, check_heads
from recbench.nn.dropout import check_rate
from recbench.nn.item_codes import Collaborative, ItemCodes
from recbench.nn.lm_loading import package
from recbench.nn.prompts import Prompt, Template, item_block, text_words
from recbench.nn.tree_decoder import TreeDecoder, additive, places

if TYPE_CHECKING:
    from torch import Tensor

    from recbench.data.batch import SequenceBatch
    from recbench.data.catalog import Catalog


class CodeLM(Generator):
    """A decoder-only language model over item codes (after TIGER, Rajput et al., NeurIPS 2023).

    Args:
        codes: how items are written; two collaborative codes when None.
        dim: width of the model.
        num_layers: blocks.
        num_heads: heads per block.
        hidden: width inside the feed-forward.
        dropout: on attention weights and sublayers.
        embedding_dropout: on the sum of token and place.
        max_len: most recent items that are read.
        num_beams: width of the search, and length of the list that is evaluated.
        decoding: whether the search is constrained to real items; free for parity with published figures.
        recipe: how it is trained; its samples are windows, of which all positions learn.
    """

    paper: ClassVar[Paper] = Paper(
        "Recommender Systems with Generative Retrieval", "NeurIPS", 2023, "https://arxiv.org/abs/2305.05065"
    )

    def __init__(
        self,
        *,
        codes: ItemCodes | None = None,
        dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        hidden: int = 512,
        dropout: float = 0.3,
        embedding_dropout: float = 0.3,
        max_len: int = 50,
        num_beams: int = 20,
        decoding: Decoding = "constrained",
        recipe: Recipe = Recipe(),
    ) -> None:
        super().__init__(
            codes=codes or Collaborative(), num_beams=num_beams, decoding=decoding, recipe=recipe
        )
        at_least(1, dim=dim, num_layers=num_layers, num_heads=num_heads, hidden=hidden, max_len=max_len)
        check_heads(dim, num_heads)
        check_rate(dropout)
        check_rate(embedding_dropout)
        if recipe.samples != "positions":
            raise ValueError(
                f"all positions of a window learn at once: samples {recipe.samples} has no use here"
            )
        self.dim, self.num_layers, self.num_heads, self.hidden = dim, num_layers, num_heads, hidden
        self.dropout, self.embedding_dropout, self.max_len = dropout, embedding_dropout, max_len

    def build(self, catalog: Catalog) -> None:
        """Token table, shared by input and output, and the blocks of a GPT-2."""
        super().build(catalog)
        transformers = package("transformers")
        config = transformers.GPT2Config(
            vocab_size=1,  # tokens come as vectors
            bos_token_id=None,
            eos_token_id=None,
            n_positions=1 + (self.max_len + 1) * self.item_tokens.shape[1],
            n_embd=self.dim,
            n_layer=self.num_layers,
            n_head=self.num_heads,
            n_inner=self.hidden,
            attn_pdrop=self.dropout,
            resid_pdrop=self.dropout,
            embd_pdrop=self.embedding_dropout,
        )
        self.transformer = transformers.GPT2Model(config)
        self.transformer.set_input_embeddings(nn.Identity())  # its own would be a weight that never learns
        self.tokens = nn.Embedding(self.num_tokens + 1, self.dim)  # the last is the mark of the beginning
        nn.init.normal_(self.tokens.weight, std=0.02)
        mark = {"begin": self.num_tokens}
        self._template = Template("begin {history}", text_words(mark), counts_words=False)

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Mean cross-entropy of all codes of a window, each given those before it."""
        items = torch.cat([batch.history[:, -self.max_len :], batch.target[:, None]], dim=1)
        text = self._read(items).tokens
        real = text[:, :-1] != 0
        states = self.transformer(
            inputs_embeds=self.tokens(text[:, :-1]),
            attention_mask=additive(causal_rows(real), self.tokens.weight.dtype),
            position_ids=places(real),
            use_cache=False,
        ).last_hidden_state
        logits = states[real] @ self.tokens.weight[: self.num_tokens].T
        return F.cross_entropy(logits.float(), text[:, 1:][real])

    def decoder(self, batch: SequenceBatch) -> TreeDecoder:
        """Goes on with the user's history."""
        prompt = self._read(batch.history[:, -self.max_len :]).tokens
        return TreeDecoder(self.transformer, self.tokens.weight, num_tokens=self.num_tokens, prompt=prompt)

    def _read(self, items: Tensor) -> Prompt:
        """(B, L) items -> (B, S) the mark and their codes, PAD on the left."""
        return self._template.fill({"history": item_block(items, self.item_tokens)})
