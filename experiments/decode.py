"""How fast items are written: our search beside transformers' `generate`, and beside the passes it must make.

    python experiments/decode.py

One batch of 64 users over 12,101 items (as many as Beauty has) of two codes, by a T5 of width 128 with 2 + 2
blocks and random weights, from a source of 24 vectors; one thread. All are measured in turn, again and again,
in CPU seconds, and the fastest of each counts, so that what else the machine does falls on none:

- ours: encoder, then `beam_search` over `T5Decoder`;
- generate: the same request by transformers' `generate(prefix_allowed_tokens_fn=...)` over a dictionary of
  prefixes, as OpenP5 holds its model to real items; generate_to_end: with an END to write after the codes,
  as all published code has it; generate_free: two codes without the callback, as P5 and POD call it;
- search: ours after the encoder;
- passes: the calls of `T5Decoder` that a search makes, with nothing chosen between them;
- library_passes: the same calls by transformers' own decoder, with its cache and a row per beam.

`versus` has samples per second; `floor_ratio` is search over passes, what finding the items costs beyond the
net itself. B users, K beams.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from transformers import T5Config, T5ForConditionalGeneration

from recbench import runtime
from recbench.data.catalog import Catalog
from recbench.data.sequences import Sequences
from recbench.nn.beam import Trie, beam_search
from recbench.nn.item_codes import END, Random
from recbench.nn.t5_decoder import T5Decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

NUM_USERS, NUM_ITEMS, SOURCE, DIM = 64, 12_101, 24, 128
REPEATS = 7


class Request:
    """What all of them answer: the K best items of a batch of users, and their scores.

    Args:
        num_beams: K.
    """

    def __init__(self, num_beams: int) -> None:
        torch.manual_seed(0)
        codes, self.num_beams = Random(), num_beams
        catalog = Catalog(0, NUM_ITEMS, pl.DataFrame(), torch.zeros(0, dtype=torch.int64).numpy())
        nothing = torch.zeros(0, dtype=torch.int64).numpy()
        self.codes = torch.from_numpy(codes.write(catalog, Sequences(nothing, nothing)))
        self.trie = Trie.of(self.codes)
        config = T5Config(
            vocab_size=codes.shape(NUM_ITEMS)[1],
            d_model=DIM,
            d_kv=32,
            d_ff=512,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
        )
        self.model = T5ForConditionalGeneration(config).eval()
        self.source = torch.randn(NUM_USERS, SOURCE, DIM)
        self.real = torch.ones(NUM_USERS, SOURCE, dtype=torch.int64)
        self.states = self.encode()
        self.children: dict[tuple[int, ...], list[int]] = {}
        for first, second in self.codes[1:].tolist():
            self.children.setdefault((), []).append(first)
            self.children.setdefault((first,), []).append(second)
            self.children[first, second] = [END]
        self.children[()] = sorted(set(self.children[()]))

    def encode(self) -> Tensor:
        """(B, S, D)."""
        found: Tensor = self.model.encoder(
            inputs_embeds=self.source, attention_mask=self.real
        ).last_hidden_state
        return found

    def decoder(self, states: Tensor) -> T5Decoder:
        """Ours over the same weights."""
        scale = DIM**-0.5

        def head(hidden: Tensor) -> Tensor:
            logits: Tensor = self.model.lm_head(hidden * scale)
            return logits

        return T5Decoder(self.model.decoder, self.model.shared.weight, head, states=states, real=self.real)

    def search(self, states: Tensor) -> Tensor:
        """(B, K) items, ours."""
        return beam_search(self.decoder(states), self.trie, num_beams=self.num_beams).items

    def passes(self) -> None:
        """The decoder's share of `search`."""
        decoder = self.decoder(self.states)
        decoder.start()
        decoder.step(self.first_codes(), torch.zeros_like(self.first_codes()))

    def first_codes(self) -> Tensor:
        """(B, K) codes to go on with, others for every user."""
        return self.codes[1 : 1 + NUM_USERS * self.num_beams, 0].view(NUM_USERS, -1)

    def library_passes(self) -> None:
        """The same by the library: a step of one row per user, then one with a row per beam."""
        begin = torch.zeros(NUM_USERS, 1, dtype=torch.int64)
        cache = self.model(
            encoder_outputs=(self.states,), attention_mask=self.real, decoder_input_ids=begin
        ).past_key_values
        cache.batch_repeat_interleave(self.num_beams)
        self.model(
            encoder_outputs=(self.states.repeat_interleave(self.num_beams, 0),),
            attention_mask=self.real.repeat_interleave(self.num_beams, 0),
            decoder_input_ids=self.first_codes().reshape(-1, 1),
            past_key_values=cache,
        )

    def generate(self, allowed: Callable[[int, Tensor], list[int]] | None, *, length: int = 2) -> Tensor:
        """(B, K, length) codes, the library's way."""
        written: Tensor = self.model.generate(
            inputs_embeds=self.source,
            attention_mask=self.real,
            num_beams=self.num_beams,
            num_return_sequences=self.num_beams,
            min_new_tokens=2,
            max_new_tokens=length,
            prefix_allowed_tokens_fn=allowed,
        )
        return written[:, 1:].view(NUM_USERS, self.num_beams, length)

    def allowed(self, _: int, text: Tensor) -> list[int]:
        """What may follow a beam's text, looked up in Python for one beam after another."""
        return self.children[tuple(text[1:].tolist())]


def fastest(work: dict[str, Callable[[], object]]) -> dict[str, float]:
    """CPU seconds of the fastest call of each, called in turn; a first round is not counted."""
    spent: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(1 + REPEATS):
        for name, call in work.items():
            start = time.process_time()
            call()
            spent[name].append(time.process_time() - start)
    return {name: min(times[1:]) for name, times in spent.items()}


def figure(num_beams: int) -> dict[str, Any]:
    """The figure of one number of beams, after a check that all find the same items."""
    request = Request(num_beams)
    items = request.search(request.states)
    same = (request.codes[items] == request.generate(request.allowed)).all(2).float().mean().item()
    assert same > 0.99, (
        f"only {same:.1%} of the items are those of generate: this compares two different things"
    )
    spent = fastest(
        {
            "ours": lambda: request.search(request.encode()),
            "search": lambda: request.search(request.states),
            "passes": request.passes,
            "library_passes": request.library_passes,
            "generate": lambda: request.generate(request.allowed),
            "generate_to_end": lambda: request.generate(request.allowed, length=3),
            "generate_free": lambda: request.generate(None),
        }
    )
    value = NUM_USERS / spent.pop("ours")
    versus = {name: round(NUM_USERS / seconds, 1) for name, seconds in spent.items()}
    return {
        "name": f"decode/beam{num_beams}",
        "value": round(value, 1),
        "unit": "samples/cpu_s",
        "versus": versus,
        "floor_ratio": round(spent["search"] / spent["passes"], 2),
        "times_generate": round(value * spent["generate"] / NUM_USERS, 1),
        "times_generate_to_end": round(value * spent["generate_to_end"] / NUM_USERS, 1),
    }


def main() -> None:
    """Print both figures."""
    torch.set_num_threads(1)
    runtime.keep_freed_memory()
    with torch.inference_mode():
        for num_beams in (20, 50):
            print(json.dumps(figure(num_beams)), flush=True)


if __name__ == "__main__":
    main()
