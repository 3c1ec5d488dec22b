from __future__ import annotations

import torch

from recbench.nn.prompts import (
    FIRST,
    INNER,
    UNCOUNTED,
    Template,
    compact,
    item_block,
    number_block,
    slots_of,
    text_words,
    words_of,
)

CODES = torch.tensor([[0, 0], [2, 5], [3, 5], [4, 0]])  # item 3 is written in one code
VOCABULARY = {"after": 20, "comes": 21, "what": 22}


def test_words_and_slots_of_templates() -> None:
    templates = ["what comes after {history}", "{user} what"]
    assert words_of(templates) == ["after", "comes", "what"]
    assert slots_of("{a} x {b}") == ["a", "b"]


def test_absent_tokens_go_to_the_left_and_words_are_numbered_from_one() -> None:
    tokens = torch.tensor([[7, 0, 8, 9, 0, 6]])
    role = torch.tensor([[FIRST, FIRST, INNER, UNCOUNTED, INNER, FIRST]])
    found = compact(tokens, role)
    assert found.tokens.tolist() == [[7, 8, 9, 6]]
    assert found.word.tolist() == [[1, 1, 0, 2]]


def test_a_prompt_of_words_and_items_read_by_hand() -> None:
    template = Template("after {history} comes", text_words(VOCABULARY), counts_words=True)
    found = template.fill({"history": item_block(torch.tensor([[0, 2], [1, 3]]), CODES)})
    assert found.tokens.tolist() == [[0, 20, 3, 5, 21], [20, 2, 5, 4, 21]]
    assert found.word.tolist() == [[0, 1, 2, 2, 3], [1, 2, 2, 3, 4]]


def test_where_only_slots_are_counted_a_template_s_own_words_are_word_0() -> None:
    template = Template("after {history} comes", text_words(VOCABULARY), counts_words=False)
    found = template.fill({"history": item_block(torch.tensor([[2, 1]]), CODES)})
    assert found.tokens.tolist() == [[20, 3, 5, 2, 5, 21]]
    assert found.word.tolist() == [[0, 1, 1, 2, 2, 0]]


def test_more_padding_leaves_a_prompt_as_it_is() -> None:
    template = Template("what {history} after", text_words(VOCABULARY), counts_words=True)
    history = torch.tensor([[1, 2, 3]])
    slots, wider = (
        {"history": item_block(items, CODES)} for items in (history, torch.nn.functional.pad(history, (5, 0)))
    )
    assert torch.equal(template.fill(slots).tokens, template.fill(wider).tokens)


def test_a_row_without_items_is_its_words_alone() -> None:
    template = Template("{history} what", text_words(VOCABULARY), counts_words=True)
    found = template.fill({"history": item_block(torch.zeros(2, 4, dtype=torch.long), CODES)})
    assert found.tokens.tolist() == [[22], [22]]


def test_numbers_are_words_of_digits() -> None:
    block = number_block(torch.tensor([0, 907, 12_345]), num_digits=3, base=100, offset=50)
    assert block.tokens.tolist() == [[50, 50, 50], [50, 59, 57], [51, 73, 95]]
    assert block.role.tolist() == [[FIRST, INNER, INNER]] * 3
