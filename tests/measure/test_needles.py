"""Prompts to the token, answers as a reader would mark them, and one real retrieval."""

import re
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import ending, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from longrope_lab.measure import needles
from longrope_lab.measure.needle_prompts import ANSWER_TOKENS, passkey_prompt, passkey_sequence
from longrope_lab.measure.needles import COLUMNS, passkey
from longrope_lab.measure.stats import accuracy_summary
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.schedule import RopeSchedule
from longrope_lab.texts.corpora import load_corpus
from longrope_lab.texts.needle_wordings import ASKED, BEGUN, FILLER, KEY, TASK
from longrope_lab.texts.tokens import Document


def key_in(text):
    (key,) = set(re.findall(r"The pass key is (\d{5})\. Remember it\. (\d{5}) is", text))
    assert key[0] == key[1]
    return key[0]


class Reader:
    """A model that reads the key out of the prompt's text, and answers as `say(key)` puts it."""

    device = torch.device("cpu")

    def __init__(self, tokenizer, say):
        self.tokenizer, self.say, self.prompts = tokenizer, say, []
        self.generation_config = GenerationConfig()

    def get_input_embeddings(self):
        return torch.nn.Embedding(len(self.tokenizer), 1)

    def generate(self, ids, attention_mask, max_new_tokens):
        assert attention_mask.shape == ids.shape
        rows = []
        for row in ids.tolist():
            text = self.tokenizer.decode(row)
            self.prompts.append(text)
            answer = self.tokenizer(self.say(key_in(text)))["input_ids"]
            rows.append(row + answer + [self.tokenizer.eos_token_id] * (20 - len(answer)))
        return torch.tensor(rows)


# --- prompts --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    length=st.integers(130, 3000),
    depth=st.floats(0, 1),
    seed=st.integers(0, 99),
    book=st.booleans(),
)
def test_prompts_to_the_token(tokenizer, length, depth, seed, book):
    text = (
        np.arange(1000, 1000 + length) if book else None
    )  # ids of no prompt's words in this order
    ids, key = passkey_sequence(tokenizer, length, depth, np.random.default_rng(seed), text)
    assert len(ids) == length - 8
    assert 10_000 <= int(key) <= 99_999
    parts = [
        tokenizer(part)["input_ids"] for part in (TASK, KEY.format(key=key), f"{ASKED} {BEGUN}")
    ]
    room = len(ids) - sum(map(len, parts))
    before = round(depth * room)
    filler = (
        list(text[:room]) if book else (tokenizer(FILLER)["input_ids"] * (room // 20 + 1))[:room]
    )
    assert ids == [*parts[0], *filler[:before], *parts[1], *filler[before:], *parts[2]]


def test_the_papers_prompt_as_text(tokenizer):
    ids, key = passkey_sequence(tokenizer, 400, 0.5, np.random.default_rng(0))
    text = tokenizer.decode(ids)
    assert text.startswith(
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize "
        "it."
    )
    assert text.endswith("\nWhat is the pass key? The pass key is")
    assert text.count(f"The pass key is {key}. Remember it. {key} is the pass key.") == 1
    sentences = (
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
    )
    assert text.count(sentences) >= 8
    assert abs(text.index(key) / len(text) - 0.5) < 0.1
    for depth, where in ((0.0, 0.3), (1.0, 0.7)):
        ids, key = passkey_sequence(tokenizer, 400, depth, np.random.default_rng(0))
        text = tokenizer.decode(ids)
        assert (text.index(key) / len(text) < where) == (depth == 0.0)


def test_the_answer_has_room(tokenizer):
    assert all(
        len(tokenizer(f" {key}.")["input_ids"]) <= ANSWER_TOKENS for key in (10_000, 54_321, 99_999)
    )


def test_special_tokens_open_the_prompt_and_stay_out_of_its_middle():
    class WithBos:
        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": [0] * add_special_tokens + [1 + ord(c) % 100 for c in text]}

    ids, _ = passkey_sequence(WithBos(), 1000, 0.5, np.random.default_rng(0))
    assert ids[0] == 0
    assert ids.count(0) == 1


def test_keys_differ_and_a_seed_repeats_them(tokenizer):
    reader = Reader(tokenizer, "{}".format)
    tables = [
        passkey(reader, tokenizer, [150, 200], [0.0, 1.0], trials=5, seed=seed)
        for seed in (3, 3, 4)
    ]
    assert tables[0].equals(tables[1])
    assert len(set(tables[0]["expected"])) == 20
    assert not set(tables[0]["expected"]) & set(tables[2]["expected"])
    alone = passkey(
        reader, tokenizer, [200], [1.0], trials=5, seed=3
    )  # a cell's keys do not hang on the others
    assert (
        alone["expected"].tolist()
        == tables[0].query("length == 200 and depth == 1.0")["expected"].tolist()
    )


def test_all_scalings_get_the_same_prompts(tokenizer):
    model = tiny_model(vocab_size=len(tokenizer))
    spec = rope_spec(model)
    scalings = {
        "stock": None,
        "pi": rope_scaling(spec, "pi", 512),
        "ntk": rope_scaling(spec, "ntk", 512),
    }
    prompts = []
    model.register_forward_pre_hook(
        lambda _, args, kw: prompts.append(kw["input_ids"].tolist()), with_kwargs=True
    )
    table = passkey(model, tokenizer, [150], [0.0, 1.0], trials=2, scalings=scalings)
    first = [
        rows for rows in prompts if len(rows[0]) > 1
    ]  # the others are single tokens over the cache
    assert first[0] == first[1] == first[2]
    assert table["scaling"].tolist() == ["stock"] * 4 + ["pi"] * 4 + ["ntk"] * 4
    assert table["expected"].tolist() == table["expected"].tolist()[:4] * 3


def test_book_filler_starts_at_random_places(tokenizer):
    ids = np.array(tokenizer(" ".join(f"w{i}" for i in range(4000)))["input_ids"])
    books = [Document("one", ids[: len(ids) // 2]), Document("two", ids[len(ids) // 2 :])]
    reader = Reader(tokenizer, "{}".format)
    table = passkey(reader, tokenizer, [300], [0.5], trials=12, filler=books)
    assert table["correct"].all()
    starts = [int(re.search(r"there\.\n.*?w(\d+) ", text)[1]) for text in reader.prompts]
    assert len(set(starts)) == 12
    assert any(start < 2000 for start in starts)
    assert any(start > 2000 for start in starts)
    assert all("The grass" not in text for text in reader.prompts)
    filler = reader.prompts[0].split("there.\n")[1].split("\nThe pass key")[0]
    assert filler in tokenizer.decode(ids)  # running text, not a shuffle


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("say", "correct"),
    [
        (" {}", True),
        (" {}.", True),
        ("\n{} is", True),
        (" hm: {}, I", True),
        (" {}6", False),
        (" 6{}", False),
        (" 7 {}", False),
        (" {:.4}", False),
        (" unknown", False),
        ("", False),
    ],
)
def test_marking(tokenizer, say, correct):
    table = passkey(Reader(tokenizer, say.format), tokenizer, [150], [0.5], trials=3)
    assert list(table) == COLUMNS
    assert table["correct"].tolist() == [correct] * 3
    assert table["answer"].tolist() == [say.format(key).strip() for key in table["expected"]]


@pytest.mark.parametrize(
    ("say", "contains"),
    [
        (" {}", True),
        (" the 5-digit number {}.", True),
        (" **{}**", True),
        (" {0[0]}{0[1]},{0[2]}{0[3]}{0[4]}", True),
        (" {0[0]} {0[1]} {0[2]} {0[3]} {0[4]}", True),
        (" 7 {}", True),
        (" 6{}", True),  # RULER's rule: it stands there
        (" 6{0[0]} {0[1]}{0[2]}{0[3]}{0[4]}", False),  # apart, and of a longer number
        (" {0[0]}{0[1]}, {0[2]}{0[3]}{0[4]}", False),  # two numbers
        (" {0:.4}", False),
        (" unknown", False),
    ],
)
def test_marking_by_what_an_answer_contains(tokenizer, say, contains):
    table = passkey(Reader(tokenizer, say.format), tokenizer, [150], [0.5], 3, answer_tokens=20)
    assert table["contains"].tolist() == [contains] * 3
    summary = accuracy_summary(table, judged="contains")
    assert summary["accuracy"].item() == contains


def test_a_row_for_each_trial_in_order(tokenizer):
    """Also where they are answered in several batches: each answer belongs to its own prompt."""
    reader = Reader(tokenizer, " {}".format)
    with mock.patch.object(
        needles, "BATCH_TOKENS", 450
    ):  # 3 prompts of 150 at a time, 2 of 200, 1 of 500
        table = passkey(
            reader,
            tokenizer,
            [200, 150, 500],
            [1.0, 0.0],
            trials=4,
            scalings={"a": None, "b": None},
        )
    expected = [
        (s, n, d, t) for s in "ab" for n in (200, 150, 500) for d in (1.0, 0.0) for t in range(4)
    ]
    assert list(table[COLUMNS[:4]].itertuples(index=False, name=None)) == expected
    assert table["correct"].all()


def test_batches_are_bounded(tokenizer):
    sizes = []
    reader = Reader(tokenizer, " {}".format)
    answer = reader.generate
    reader.generate = lambda ids, **options: (
        sizes.append(tuple(ids.shape)),
        answer(ids, **options),
    )[1]
    passkey(reader, tokenizer, [4096, 9000], [0.5], trials=3)
    assert sizes == [(2, 4088), (1, 4088), (1, 8992), (1, 8992), (1, 8992)]


def greedy(model, tokenizer, prompt):
    """The most likely continuation, with no cache."""
    ids = torch.tensor([prompt])
    for _ in range(ANSWER_TOKENS):
        with torch.no_grad():
            best = model(ids).logits[0, -1].argmax()
        if best == tokenizer.eos_token_id:
            break
        ids = torch.cat((ids, best.view(1, 1)), 1)
    return tokenizer.decode(ids[0, len(prompt) :]).strip()


def test_answers_are_greedy_whatever_the_models_generation_config_says(tokenizer):
    """A repetition penalty in it would forbid the digits of the prompt."""
    model = tiny_model(vocab_size=len(tokenizer))
    own = GenerationConfig(
        do_sample=True,
        temperature=9.0,
        repetition_penalty=50.0,
        no_repeat_ngram_size=1,
        num_beams=2,
        min_new_tokens=7,
    )
    model.generation_config = own
    table = passkey(model, tokenizer, [150], [0.0, 0.5], trials=2)
    cells = [(depth, trial) for depth in (0.0, 0.5) for trial in range(2)]
    prompts = [passkey_prompt(tokenizer, 150, *cell, None, 0)[0] for cell in cells]
    assert table["answer"].tolist() == [greedy(model, tokenizer, prompt) for prompt in prompts]
    assert model.generation_config is own


def test_a_schedule_is_fixed_to_the_prompts_length(tokenizer):
    """The border lies inside the answer: prompt and answer get one set, that of both together."""
    model = tiny_model(vocab_size=len(tokenizer))
    spec = rope_spec(model)
    schedule = RopeSchedule.by_length(
        [RopeScaling(spec, np.ones(8), 146), rope_scaling(spec, "pi", 512)]
    )
    table = passkey(model, tokenizer, [150, 140], [0.5], trials=2, scalings={"s": schedule})
    with apply_scaling(model, schedule.at(150)):
        prompts = [passkey_prompt(tokenizer, 150, 0.5, trial, None, 0)[0] for trial in range(2)]
        assert table["answer"].tolist()[:2] == [
            greedy(model, tokenizer, prompt) for prompt in prompts
        ]
    stock = passkey(model, tokenizer, [150, 140], [0.5], trials=2)["answer"].tolist()
    assert stock[2:] == table["answer"].tolist()[2:]
    assert stock[:2] != table["answer"].tolist()[:2]


def test_a_tokenizer_without_a_padding_token(tokenizer):
    given_to = {}

    def generate(ids, attention_mask, max_new_tokens):
        given_to.update(model.generation_config.to_dict() | {"max_new_tokens": max_new_tokens})
        return ids

    cpu = torch.device("cpu")
    model = SimpleNamespace(device=cpu, generate=generate, generation_config=None)
    model.get_input_embeddings = lambda: torch.nn.Embedding(7, 1)
    bare = SimpleNamespace(
        eos_token_id=2, pad_token_id=None, batch_decode=lambda rows, skip_special_tokens: [""]
    )
    needles.answers_to(model, bare, [[5, 6]], None, ANSWER_TOKENS)
    assert (given_to["pad_token_id"], given_to["eos_token_id"], given_to["max_new_tokens"]) == (
        2,
        2,
        ANSWER_TOKENS,
    )


@pytest.mark.parametrize("filler", ["paper", "book"])
def test_the_lab_model_inside_its_window(lab, filler):
    model, tokenizer = lab
    books = (
        load_corpus("kjv", tokenizer, split="validation", min_tokens=2000, limit=1)
        if filler == "book"
        else None
    )
    table = passkey(model, tokenizer, [256], [0.0, 0.5, 1.0], trials=7, filler=books)
    assert table["correct"].mean() >= 0.95


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trials": 0}, "trials is 0: it must be a whole number from 1"),
        ({"trials": 1.5}, "trials is 1.5: it must be a whole number from 1"),
        ({"trials": float("nan")}, "trials is nan: it must be a whole number from 1"),
        ({"lengths": []}, "at least one length and one depth; got 0 lengths and 1 depths"),
        ({"depths": []}, "at least one length and one depth; got 1 lengths and 0 depths"),
        ({"depths": [0.5, 1.5]}, r"depth is 1\.5: it is a share of the text, from 0\.0"),
        ({"depths": [-0.1]}, r"depth is -0\.1"),
        ({"depths": [float("nan")]}, "depth is nan"),
        (
            {"lengths": [150, 40]},
            r"length 40 has no room for a passkey prompt: with this tokenizer it takes at least "
            r"\d+",
        ),
        ({"lengths": [3]}, "length 3 has no room"),
        ({"lengths": [-3]}, "length is -3: it must be a whole number from 1"),
        ({"lengths": [150.5]}, "length is 150.5: it must be a whole number from 1"),
        ({"filler": []}, "filler is an empty list"),
        (
            {"filler": [Document("Short", np.arange(149))]},
            "filler document 'Short' has 149 tokens and a prompt may need 150: load it with "
            "min_tokens=150",
        ),
    ],
)
def test_what_cannot_be_asked(tokenizer, arguments, message):
    with pytest.raises(ValueError, match=message):
        passkey(None, tokenizer, **{"lengths": [150], "depths": [0.5], "trials": 1} | arguments)


def test_the_least_length_is_what_the_error_says(tokenizer):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no room") as raised:
        passkey_sequence(tokenizer, 40, 0.5, rng)
    least = int(str(raised.value).split()[-1])
    assert len(passkey_sequence(tokenizer, least, 0.5, rng)[0]) == least - 8
    with pytest.raises(ValueError, match="no room"):
        passkey_sequence(tokenizer, least - 1, 0.5, rng)


def test_sequence_errors(tokenizer):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"depth is 2: it is a share"):
        passkey_sequence(tokenizer, 200, 2, rng)
    with pytest.raises(
        ValueError, match=r"the filler has 5 tokens: a prompt of length 200 needs \d+"
    ):
        passkey_sequence(tokenizer, 200, 0.5, rng, np.arange(5))


def test_scalings_need_names(lab):
    model, tokenizer = lab
    scaling = rope_scaling(rope_spec(model), "pi", 1024)
    with pytest.raises(ValueError, match="scalings is a RopeScaling: name them"):
        passkey(model, tokenizer, [256], scalings=scaling)


def test_progress_counts_the_tokens_of_the_prompts(tokenizer, monkeypatch):
    """Two prompts of 100 tokens are answered together, as many times as there are of them."""
    seen = []

    def progress(items, what, sizes):
        seen.extend(sizes)
        return items

    monkeypatch.setattr(needles, "progress", progress)
    monkeypatch.setattr(needles, "BATCH_TOKENS", 250)
    passkey(Reader(tokenizer, str), tokenizer, [100, 200], depths=[0.5], trials=3)
    assert seen == [200, 100, 200, 200, 200]


# --- special tokens, chats ------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["$A {0}", "{0} $A {0}"])
def test_a_tokenizer_that_ends_each_text_ends_no_prompt(tokenizer, template):
    """Nor does a document end inside one, which such a tokenizer ended when it was loaded."""
    ends = ending(tokenizer, template)
    end = tokenizer.eos_token_id
    rngs = (np.random.default_rng(3) for _ in range(2))
    plain, key = passkey_sequence(tokenizer, 200, 0.5, next(rngs))
    ids, same = passkey_sequence(ends, 200 + template.startswith("{"), 0.5, next(rngs))
    assert same == key and [i for i in ids if i != end] == plain
    assert [n for n, i in enumerate(ids) if i == end] == [0] * template.startswith("{")
    book = Document("book", np.array([end, *range(1000, 1200), end]))
    for trial in range(5):
        ids, _ = passkey_prompt(ends, 200, 0.5, trial, [book])
        assert end not in ids[1:]


TEMPLATE = (
    "{% for m in messages %}<|endoftext|>[{{ m.role }}] {{ m.content | trim }} [over]{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture
def chatting(tokenizer):
    """A tokenizer with a chat template, and an end of its own after each text."""
    other = ending(tokenizer, "$A {0}")
    other.chat_template = TEMPLATE
    return other


def test_a_chat_is_what_the_template_makes_of_the_whole_message(chatting):
    """With the filler in it, and the answer begun; to the token."""
    for length, depth, room in ((300, 0.0, 8), (301, 0.7, 30)):
        ids, key = passkey_prompt(chatting, length, depth, chat=True, answer_tokens=room)
        assert len(ids) == length - room
        text = chatting.decode(ids)
        assert text.count(key) == 2 and text.count("[user]") == 1
        message = text.partition("[user] ")[2].partition(" [over]")[0]
        assert message.startswith(TASK) and message.endswith("\nWhat is the pass key?")
        told = chatting.apply_chat_template(
            [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
        )
        assert text == told + "The pass key is"


def test_a_chat_is_answered_and_its_turn_ends(chatting):
    """By the model's own end of a turn, too, which the tokenizer knows nothing of."""
    reader = Reader(chatting, " the number {}. Anything else?".format)
    reader.generation_config = GenerationConfig(eos_token_id=[5, 6])
    given_to = []
    answer = reader.generate

    def generate(ids, max_new_tokens, **options):
        given_to.append((reader.generation_config.eos_token_id, max_new_tokens))
        return answer(ids, max_new_tokens=max_new_tokens, **options)

    reader.generate = generate
    table = passkey(reader, chatting, [300], [0.5], 2, chat=True, answer_tokens=40)
    assert table["contains"].all() and table["correct"].all()
    assert [(set(ends), n) for ends, n in given_to] == [({chatting.eos_token_id, 5, 6}, 40)]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"the tokenizer has no chat template.* leave out chat=True"),
        ("{{ raise_exception('no user') }}", r"chat template cannot be used \(no user\)"),
        ("{{ messages[0].role }}", "gives a message back 0 times, and once is needed"),
        ("{{ 2 * messages[0].content }}", "gives a message back 2 times"),
    ],
)
def test_a_chat_without_a_template_for_it(chatting, template, message):
    chatting.chat_template = template
    with pytest.raises(ValueError, match=message):
        passkey(None, chatting, [300], chat=True)


def test_a_filler_of_another_vocabulary(tokenizer):
    model = tiny_model(vocab_size=len(tokenizer))
    book = Document("book", np.full(200, len(tokenizer)))
    with pytest.raises(ValueError, match=rf"token id {len(tokenizer)} is outside the model's"):
        passkey(model, tokenizer, [150], [0.5], 1, filler=[book])


def test_a_length_named_twice_is_asked_once_and_a_trial_is_a_number(tokenizer, lab):
    table = needles.passkey(*lab, [150, 150], [0.5], 1)
    assert table["length"].tolist() == [150]
    for trial in (-1, 1.5):
        with pytest.raises(ValueError, match=f"trial is {trial}: it must be a whole number"):
            passkey_prompt(tokenizer, 150, 0.5, trial)
