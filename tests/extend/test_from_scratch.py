"""A model from nothing, against stock Llamas and against this package's own parts used by hand."""

import copy
import itertools
import re

import numpy as np
import pytest
import torch
import transformers

from longrope_lab.extend import learning
from longrope_lab.extend.from_scratch import LongRoPEModel
from longrope_lab.extend.given_texts import other_texts
from longrope_lab.extend.learning import gained
from longrope_lab.models.generation import generate
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.searches import Budget, Gradient, SearchSpace, search
from longrope_lab.texts.corpora import load_corpus
from longrope_lab.texts.tokens import Document

WINDOW = 16
TARGET = 40
SIZES = {"d_model": 32, "n_heads": 2, "num_layers": 2, "base_length": WINDOW}
IDS = torch.randint(0, 4096, (2, 100), generator=torch.Generator().manual_seed(1))
QUICK = Gradient(steps=2, validate_every=1)
TEXT = "In the beginning was the word,\nand the word was long. " * 20


class Searching(LongRoPEModel):
    """It searches without training first: random weights are enough for most of these tests."""

    def extend_context(self, *args, **options):
        return super().extend_context(*args, **{"untrained": "search"} | options)


@pytest.fixture
def model():
    return Searching(**SIZES)


@pytest.fixture(scope="module")
def _extended():
    model = Searching(**SIZES)
    return model, model.extend_context(IDS[0], TARGET, method=QUICK)


@pytest.fixture
def extended(_extended):
    """A model of the test's own that was extended, and what the search returned."""
    return copy.deepcopy(_extended[0]), _extended[1]


def stock(model, **fields):
    """A LlamaModel of transformers with the same weights."""
    config = transformers.LlamaConfig(
        vocab_size=4096,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=WINDOW,
        **fields,
    )
    theirs = transformers.LlamaModel(config)
    theirs.load_state_dict(model.lm.model.state_dict())
    return theirs


# --- a fresh model --------------------------------------------------------------------------------


def test_a_fresh_model_is_a_stock_llama(model):
    hidden = model(IDS[:, :WINDOW])
    assert hidden.shape == (2, WINDOW, 32)
    assert torch.equal(hidden, stock(model)(IDS[:, :WINDOW]).last_hidden_state)
    assert (model.scaling, model.max_length) == (None, WINDOW)


def test_the_sizes_of_the_docstring():
    """The sizes of the example, made on a device without memory."""
    with torch.device("meta"):
        model = Searching(d_model=512, n_heads=8, num_layers=6, base_length=4096)
    config = model.lm.config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (
        512,
        6,
        1408,
    )
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, 8, 64)
    assert (config.vocab_size, config.max_position_embeddings, model.max_length) == (
        4096,
        4096,
        4096,
    )


def test_defaults_can_be_chosen():
    model = Searching(**SIZES, vocab_size=50, intermediate_size=7, base=500.0)
    assert model.lm.get_input_embeddings().weight.shape == (50, 32)
    assert model.lm.model.layers[0].mlp.up_proj.weight.shape == (7, 32)
    assert rope_spec(model.lm).base == 500.0
    assert rope_spec(model.lm).rotary_dim == 16


def test_a_seed_gives_the_weights_and_leaves_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models = [Searching(**SIZES, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    first, same, other = (m(IDS[:, :5]) for m in models)
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


def test_embeddings_instead_of_ids(model, extended):
    for each in (model, extended[0]):
        ids = IDS[:, : each.max_length]
        embeddings = each.lm.get_input_embeddings()(ids)
        assert torch.equal(each(embeddings), each(ids))
    assert torch.equal(model(IDS[:, :5].int()), model(IDS[:, :5]))


def test_gradients_reach_weights_and_embeddings(extended):
    model, _ = extended
    embeddings = torch.randn(1, TARGET, 32, requires_grad=True)
    model(embeddings).square().mean().backward()
    assert embeddings.grad.abs().min() > 0
    assert all(p.grad.abs().max() > 0 for p in model.lm.model.layers.parameters())


def test_training_brings_the_loss_down(extended):
    """Beyond base_length too, with the scaling in place."""
    model, _ = extended
    ids = IDS[:1, :TARGET]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(15):
        loss = model.lm(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_other_dtypes_keep_the_scaling(extended):
    """The positions are float64 in both, so half precision costs its own rounding and no more."""
    model, _ = extended
    exact = model(IDS[:, :TARGET])
    half = model.to(torch.bfloat16)(IDS[:, :TARGET])
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().mean() < 0.02 * exact.abs().mean()


# --- extending ------------------------------------------------------------------------------------


def test_the_scaling_found_acts_on_every_position(extended):
    model, found = extended
    assert model.scaling == found.best
    assert model.max_length == found.best.target_length == TARGET
    assert (found.best.factors > 1).any()
    theirs = Searching(**SIZES)  # the same weights, by the seed
    with apply_scaling(theirs.lm, found.best):
        expected = theirs.lm.model(IDS[:, :TARGET]).last_hidden_state
    assert torch.equal(model(IDS[:, :TARGET]), expected)
    # And against transformers' own scaled Llama, to the rounding of its float32 angles.
    factors = found.best.factors.tolist()
    rope = {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "rope_theta": 10_000.0,
    }
    rope |= {
        "original_max_position_embeddings": WINDOW,
        "attention_factor": found.best.attention_factor,
    }
    assert found.best.start_tokens == 0
    torch.testing.assert_close(
        expected, stock(model, rope_parameters=rope)(IDS[:, :TARGET])[0], atol=1e-5, rtol=0
    )


def test_the_search_is_lab_search(model):
    """The same call by hand finds the same, with the same options."""
    options = {
        "space": SearchSpace(rope_spec(model.lm), TARGET, start_tokens=(4,)),
        "budget": Budget(candidates=3),
    }
    found = model.extend_context(IDS[0], TARGET, method="random", seed=7, documents=2, **options)
    docs = documents_of(IDS[0, :TARGET], IDS[0, TARGET : 2 * TARGET])
    theirs = search(Searching(**SIZES).lm, docs, TARGET, "random", seed=7, **options)
    assert found.history.equals(theirs.history)
    assert len(found.history) == 3
    assert model.scaling == theirs.best
    assert model.scaling.start_tokens == 4


def documents_of(*rows):
    return [Document(str(i), row.numpy()) for i, row in enumerate(rows)]


def test_a_second_call_starts_anew(extended):
    model, first = extended
    again = model.extend_context(IDS[0], 60, method=QUICK)
    alone = Searching(**SIZES)
    assert again.best == alone.extend_context(IDS[0], 60, method=QUICK).best
    assert model.scaling == again.best != first.best
    assert torch.equal(model(IDS[:, :60]), alone(IDS[:, :60]))
    model.extend_context(IDS[0], TARGET, method=QUICK)  # back to less
    assert model.scaling == first.best
    with pytest.raises(ValueError, match="60 tokens and the window is 40"):
        model(IDS[:, :60])


def test_a_failed_search_leaves_what_was_there(extended):
    model, found = extended
    before = model(IDS[:, :TARGET])
    with pytest.raises(ValueError, match="unknown search method"):
        model.extend_context(IDS[0], 60, method="guess")
    assert model.scaling == found.best
    assert torch.equal(model(IDS[:, :TARGET]), before)


def test_a_scaling_can_be_assigned_and_taken_out(model):
    short = model(IDS[:, :WINDOW])
    yarn = rope_scaling(rope_spec(model.lm), "yarn", 32)
    model.scaling = yarn
    assert (model.scaling, model.max_length) == (yarn, 32)
    assert not torch.allclose(model(IDS[:, :WINDOW]), short)
    other = rope_spec(Searching(**SIZES, base=500.0).lm)
    longer = rope_spec(Searching(**SIZES | {"base_length": 20}).lm)
    with pytest.raises(
        ValueError, match="this scaling is for rotary_dim 16, base 500; the model has"
    ):
        model.scaling = rope_scaling(other, "pi", 32)
    with pytest.raises(ValueError, match="extends a window of 20 tokens, and base_length is 16"):
        model.scaling = rope_scaling(longer, "pi", 32)
    assert model.scaling == yarn
    model.scaling = None
    assert torch.equal(model(IDS[:, :WINDOW]), short)
    assert "forward" not in vars(model.lm.model.rotary_emb)


# --- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["ids", "list", "tensor", "text", "file", "path", "folder", "one long line"]
)
def test_every_kind_of_data_gives_the_same_search(kind, model, tokenizer, tmp_path):
    text = TEXT.replace("\n", " ") * 2 if kind == "one long line" else TEXT
    ids = np.array(tokenizer(text)["input_ids"])
    (tmp_path / "texts").mkdir()
    path = tmp_path / "texts" / "book.txt"
    path.write_text(text)
    data = {
        "ids": ids,
        "list": ids.tolist(),
        "tensor": torch.from_numpy(ids),
        "text": text,
        "one long line": text,
    }
    data |= {"file": str(path), "path": path, "folder": path.parent}
    found = model.extend_context(data[kind], TARGET, method=QUICK)
    expected = search(Searching(**SIZES).lm, documents_of(torch.from_numpy(ids)), TARGET, QUICK)
    assert found.best == expected.best
    assert found.history.equals(expected.history)


def test_documents_of_a_corpus(model, tokenizer, tmp_path):
    """As many files as were asked for, the short one left out."""
    texts = [TEXT, "too short", TEXT[200:], TEXT[500:]]
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text)
    found = model.extend_context(tmp_path, TARGET, documents=2, method=QUICK)
    docs = documents_of(*(torch.tensor(tokenizer(texts[i])["input_ids"]) for i in (0, 2)))
    assert found.history.equals(search(Searching(**SIZES).lm, docs, TARGET, QUICK).history)


def test_a_tokenizer_of_ones_own(model):
    class Letters:
        name_or_path, vocab_size = "letters", 256

        def __call__(self, text, verbose=True):
            return {"input_ids": list(text.encode())}

    found = model.extend_context(TEXT, TARGET, tokenizer=Letters(), method=QUICK)
    letters = torch.tensor(list(TEXT.encode()))
    assert found.history.equals(
        Searching(**SIZES).extend_context(letters, TARGET, method=QUICK).history
    )


def test_a_packaged_corpus(model, tokenizer):
    found = model.extend_context("python", TARGET, method=QUICK)
    (doc,) = load_corpus("python", tokenizer, split="validation", min_tokens=TARGET, limit=1)
    assert found.history.equals(search(Searching(**SIZES).lm, [doc], TARGET, QUICK).history)


# --- saving and copying ---------------------------------------------------------------------------


def test_a_state_dict_holds_the_scaling(extended, tmp_path):
    model, found = extended
    expected = model(IDS[:, :TARGET])
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = Searching(**SIZES, seed=9)
    again.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert again.scaling == found.best
    assert torch.equal(again(IDS[:, :TARGET]), expected)
    again.load_state_dict(Searching(**SIZES).state_dict())  # of a model that was not extended
    assert again.scaling is None
    assert torch.equal(again(IDS[:, :WINDOW]), Searching(**SIZES)(IDS[:, :WINDOW]))


def test_a_state_dict_of_another_window_is_refused(extended):
    other = Searching(**SIZES | {"base_length": 20})
    with pytest.raises(ValueError, match="of a model with base_length=16, and this has 20"):
        other.load_state_dict(extended[0].state_dict())


def test_a_copy_goes_its_own_way(extended):
    model, found = extended
    copied = copy.deepcopy(model)
    expected = model(IDS[:, :TARGET])
    assert torch.equal(copied(IDS[:, :TARGET]), expected)
    copied.scaling = None
    for p in copied.parameters():
        p.data.zero_()
    assert model.scaling == found.best
    assert torch.equal(model(IDS[:, :TARGET]), expected)


def test_the_model_inside_goes_into_the_other_rooms(extended):
    model, found = extended
    ids = IDS[:, :10]
    out = generate(model.lm, ids, model.scaling, max_new_tokens=20, do_sample=False)
    assert torch.equal(
        model.lm.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=0), out
    )
    best = model.lm.lm_head(model(out)).argmax(-1)
    assert torch.equal(best[:, 9:-1], out[:, 10:])
    assert model.scaling == found.best


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"d_model": 30, "n_heads": 4},
            "d_model 30 is no multiple of n_heads 4: each head takes an equal share",
        ),
        (
            {"d_model": 30, "n_heads": 2},
            "d_model 30 over n_heads 2 is an odd head dimension of 15: .* must be even",
        ),
        ({"d_model": 0}, "d_model is 0: it must be a whole number from 1"),
        ({"n_heads": -2}, "n_heads is -2"),
        ({"num_layers": 1.5}, r"num_layers is 1\.5"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"intermediate_size": 0}, "intermediate_size is 0"),
        ({"base_length": 1}, "a window has at least 2 tokens"),
        ({"base": 1.0}, "base is 1"),
    ],
)
def test_sizes_that_make_no_model(sizes, message):
    with pytest.raises(ValueError, match=message):
        Searching(**SIZES | sizes)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            IDS[:, : WINDOW + 1],
            r"inputs have 17 tokens and the window is 16: .*target_length=17",
        ),
        (torch.zeros(1, WINDOW + 1, 32), "inputs have 17 tokens and the window is 16"),
        (
            torch.zeros(1, 5, 31),
            r"shape \(1, 5, 31\): give token ids .* or embeddings \(B, T, 32\)",
        ),
        (torch.zeros(5, 32), r"torch\.float32 of shape \(5, 32\)"),
        (IDS[0, :5], r"torch\.int64 of shape \(5,\)"),
        (IDS[:, :0], r"shape \(2, 0\).* at least one token"),
        (torch.zeros(1, 0, 32), r"shape \(1, 0, 32\)"),
        (
            torch.tensor([[1, 4096]]),
            "token id 4096 is outside the model's vocabulary of 4096: .* vocab_size=len",
        ),
        (torch.tensor([[-1, 5]]), "token id -1 is outside"),
    ],
)
def test_inputs_that_do_not_fit(inputs, message, model):
    with pytest.raises(ValueError, match=message):
        model(inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_length": WINDOW - 1}, "target_length 15 is shorter than the window of 16 tokens"),
        ({"target_length": 20.5}, r"target_length is 20\.5"),
        (
            {"target_length": 101},
            "data have 100 tokens, and 1 of 101 are needed .*, 1 more: .* a smaller target_length$",
        ),
        (
            {"documents": 3},
            "data have 100 tokens, and 3 of 40 are needed .* smaller target_length or documents",
        ),
        ({"documents": 0}, "documents is 0: it counts"),
        ({"data": "a\nb c"}, "data have [1-9] tokens, and 1 of 40"),
        ({"data": ""}, "data have 0 tokens, and 1 of 40"),
        (
            {"data": IDS},
            r"data are torch\.int64 of shape \(2, 100\): token ids are one row of whole numbers",
        ),
        ({"data": [0.5] * 100}, r"data are torch\.float32"),
        ({"data": None}, "data is None: it must be a text, a path, a number, or a list or array"),
        (
            {"data": ["some", "texts"]},
            r"data is \['some', 'texts'\]: it must be a text, a path, a number, or a list",
        ),
        ({"data": IDS[0] + 4000}, r"token id \d+ is outside the model's vocabulary of 4096"),
    ],
)
def test_data_that_cannot_be_searched_on(arguments, message, model):
    asked = {"data": IDS[0], "target_length": TARGET, "method": QUICK} | arguments
    with pytest.raises(ValueError, match=message):
        model.extend_context(asked.pop("data"), **asked)
    assert model.scaling is None


def test_a_file_that_is_missing_or_too_short(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no corpus at .*none\.txt") as raised:
        model.extend_context(str(tmp_path / "none.txt"), TARGET)
    assert "is taken for a path or a name" in raised.value.__notes__[0]
    path = tmp_path / "short.txt"
    path.write_text("a few words")
    with pytest.raises(
        ValueError, match=r"0 of the 1 documents of .* have 40 tokens or more, and 1 were"
    ):
        model.extend_context(path, TARGET)


# --- a model that guesses -------------------------------------------------------------------------

# Every token follows from the one before it, so that a few steps teach it something.
COUNTING = np.arange(4000) % 50
SMALL = SIZES | {"vocab_size": 64}


def test_a_model_that_guesses_is_trained_first_and_what_it_gained_is_printed(capsys):
    model = LongRoPEModel(**SMALL).eval()
    before = copy.deepcopy(model.lm.state_dict())
    found = model.extend_context(COUNTING, TARGET, method=QUICK, seconds=8, budget=Budget(9))
    said = capsys.readouterr().out.splitlines()
    pattern = (
        r"This model guesses: (\S+) nats .* a guess, ln of 64 tokens, is 4\.16\. It is trained"
    )
    guess = re.match(pattern, said[0])
    assert abs(float(guess[1]) - np.log(64)) < 0.2
    trained = re.match(
        r"Trained on ([\d,]+) tokens in ([\d,]+) steps, by segments of 16: (\S+) nats", said[1]
    )
    assert int(trained[1].replace(",", "")) == 16 * int(trained[2].replace(",", ""))
    assert float(trained[3]) < 0.95 * np.log(64)
    gained = re.match(
        r"Perplexity at 40 tokens of the text searched on: (\S+) without a scaling, (\S+) with",
        said[2],
    )
    # By transformers' own loss.
    ids = torch.from_numpy(COUNTING[:TARGET])[None]
    with torch.no_grad():
        by_hand = [stock_loss(model, ids, scaling) for scaling in (None, found.best)]
    assert np.log([float(gained[1]), float(gained[2])]) == pytest.approx(by_hand, abs=2e-3)
    after = model.lm.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert model.scaling == found.best and not model.lm.training


def stock_loss(model, ids, scaling):
    model.scaling = scaling
    return model.lm(input_ids=ids, labels=ids).loss.item()


def test_a_model_that_guesses_can_be_refused(capsys):
    model = LongRoPEModel(**SMALL)
    before = copy.deepcopy(model.lm.state_dict())
    with pytest.raises(ValueError, match=r"this model guesses: 4\.\d+ nats per token .*'train'"):
        model.extend_context(COUNTING, TARGET, untrained="refuse")
    assert all(torch.equal(before[name], value) for name, value in model.lm.state_dict().items())
    assert model.scaling is None and capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="unknown untrained 'tarin': did you mean 'train'"):
        model.extend_context(COUNTING, TARGET, untrained="tarin")


def test_a_machine_that_is_busy_trains_no_fewer_steps_than_learning_takes(capsys):
    """As if no step fitted into the time."""
    model = LongRoPEModel(**SMALL)
    model.extend_context(COUNTING, TARGET, method=QUICK, seconds=1e-9, budget=Budget(1))
    trained = re.search(r"in (\d+) steps, by segments of 16: (\S+) nats", capsys.readouterr().out)
    assert int(trained[1]) == 30 and float(trained[2]) < 0.95 * np.log(64)


def test_what_cannot_be_learnt_is_not_searched_on():
    """Tokens drawn at random, for which a guess is the best there is."""
    model = LongRoPEModel(**SIZES)
    with pytest.raises(
        ValueError, match=r"after .* steps, .* this model still guesses: 8\.\d+ nats"
    ):
        model.extend_context(IDS[0], TARGET, seconds=1)
    assert model.scaling is None


def test_a_model_that_has_learnt_is_not_trained(capsys):
    model = LongRoPEModel(**SMALL)
    model.extend_context(COUNTING, TARGET, method=QUICK, seconds=8, budget=Budget(1))
    model.scaling = None
    before = copy.deepcopy(model.lm.state_dict())
    capsys.readouterr()
    model.extend_context(COUNTING, TARGET, method=QUICK, untrained="refuse")
    assert capsys.readouterr().out.startswith("Perplexity at 40 tokens")
    assert all(torch.equal(before[name], value) for name, value in model.lm.state_dict().items())


def test_what_is_trained_on_is_not_what_is_searched_on(tmp_path, tokenizer):
    """Of a corpus the other documents, of ids what follows; all again where nothing else is."""
    (ids,) = other_texts(np.arange(200), documents_of(torch.arange(TARGET)), TARGET, None)
    assert ids.ids.tolist() == list(range(TARGET, 200))
    only = documents_of(torch.arange(TARGET))
    assert other_texts(np.arange(TARGET + 3), only, TARGET, None) == only
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(TEXT)
    searched = [Document("1", np.arange(TARGET))]
    assert [doc.title for doc in other_texts(tmp_path, searched, TARGET, tokenizer)] == ["0", "2"]


@pytest.mark.parametrize(("before", "after", "gains"), [(5.0, 4.5, True), (5.0, 4.995, False)])
def test_a_gain_within_a_hundredth_is_called_none(before, after, gains):
    words = list(gained(before, after, 100))
    assert len(words) == (1 if gains else 2) and words[0].startswith("Perplexity at 100 tokens")


def test_the_time_is_the_trainings_end(monkeypatch):
    """By a clock of our own, that goes on by a second at each look."""
    clock = itertools.count()
    monkeypatch.setattr(learning.time, "monotonic", lambda: float(next(clock)))
    model = LongRoPEModel(**SMALL | {"base_length": 600})
    docs = [Document("all", COUNTING)]
    # Two looks per step at least.
    done = learning.train_for(model.lm, docs, 600, 120, seed=0)
    assert learning.LEAST_STEPS < done.steps <= 60 and done.lengths == (512, 600)
    assert learning.train_for(model.lm, docs, 600, 1e-9, seed=0).steps == learning.LEAST_STEPS
