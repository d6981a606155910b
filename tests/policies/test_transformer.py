import os
import pickle

import pytest
import torch

from payoff.policies.transformer import CharacterTokenizer, Transformer, load_transformer, save_transformer

ALPHABET = "0123456789+-=;#."


def small(seed=0, vocabulary=9, context=24, **shape):
    torch.manual_seed(seed)
    model = Transformer(vocabulary=vocabulary, context=context, **{"width": 16, "layers": 2, "heads": 2, **shape})
    for parameter in model.parameters():  # far from the even start, so that a wrong position or a leak shows
        torch.nn.init.normal_(parameter, std=0.4)
    return model.requires_grad_(False)


def test_tokenizer_gives_back_what_it_encoded_and_nothing_for_pad():
    tokenizer = CharacterTokenizer(ALPHABET)
    ids = tokenizer.encode("3-7=6;#6.")
    assert tokenizer.decode(ids) == "3-7=6;#6."
    assert tokenizer.decode([*ids, tokenizer.pad]) == "3-7=6;#6."
    assert tokenizer.pad == len(ALPHABET) == tokenizer.vocabulary - 1
    assert [tokenizer.token(i) for i in (0, 10, tokenizer.pad)] == ["0", "+", "<pad>"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CharacterTokenizer(""), "empty"),
        (lambda: CharacterTokenizer("abca"), "'a' more than once"),
        (lambda: CharacterTokenizer("01").encode("0x1"), "'x' .*not one of the characters '01'"),
        (lambda: CharacterTokenizer("01").prompt([{"role": "user", "content": "0"}]), "must be text, got list"),
        (lambda: Transformer(vocabulary=5, context=4, width=10, heads=4), "multiple of heads, got width 10 and heads 4"),
        (lambda: Transformer(vocabulary=1, context=4), "vocabulary must be at least 2, got 1"),
        (lambda: Transformer(vocabulary=5, context=0), "context must be at least 1"),
        (lambda: small()(torch.zeros(1, 25, dtype=torch.long)), "25 tokens are more than the context holds \\(24\\)"),
    ],
)
def test_mistakes_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_the_chain_model_has_412_thousand_parameters_and_a_small_file(tmp_path):
    tokenizer = CharacterTokenizer(ALPHABET)
    model = Transformer(vocabulary=tokenizer.vocabulary, context=84)
    assert sum(p.numel() for p in model.parameters()) == 411_904
    save_transformer(tmp_path / "chain.pt", model, tokenizer, dtype=torch.float16)
    assert os.path.getsize(tmp_path / "chain.pt") < 840_000


def test_no_position_sees_a_later_one():
    model = small()
    tokens = torch.randint(8, (3, 10))
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 8
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_pad_has_probability_zero_whatever_the_weights_and_passes_no_gradient():
    model = small().requires_grad_(True)
    with torch.no_grad():
        model.head.weight[-1] = 50.0
    logits = model(torch.randint(8, (2, 5)))
    probability = logits.softmax(-1)
    assert (probability[..., -1] == 0).all()
    entropy = -(probability * logits.log_softmax(-1)).sum()
    entropy.backward()
    assert torch.isfinite(entropy)
    assert (model.head.weight.grad[-1] == 0).all()
    assert (model.head.weight.grad[:-1] != 0).any()


def test_states_are_what_the_logits_are_read_from():
    model = small()
    logits, states = model.logits_and_states(torch.randint(8, (2, 5)))
    torch.testing.assert_close(states @ model.head.weight[:-1].T, logits[..., :-1])
    assert states.shape == (2, 5, 16)


def test_a_saved_model_gives_the_same_logits(tmp_path):
    model, tokenizer = small(vocabulary=17), CharacterTokenizer(ALPHABET)
    save_transformer(tmp_path / "m.pt", model, tokenizer)
    loaded, words = load_transformer(tmp_path / "m.pt")
    tokens = torch.randint(16, (2, 9))
    assert torch.equal(loaded(tokens), model(tokens))
    assert words.alphabet == ALPHABET
    assert loaded.config == {"vocabulary": 17, "context": 24, "width": 16, "layers": 2, "heads": 2}


def test_half_precision_rounds_the_weights_once_and_loads_as_float32(tmp_path):
    model, tokenizer = small(vocabulary=17), CharacterTokenizer(ALPHABET)
    save_transformer(tmp_path / "m.pt", model, tokenizer, dtype=torch.float16)
    loaded, _ = load_transformer(tmp_path / "m.pt")
    for name, weight in loaded.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, model.state_dict()[name].half().float())


def test_loading_leaves_the_global_generator_alone(tmp_path):
    save_transformer(tmp_path / "m.pt", small(vocabulary=17), CharacterTokenizer(ALPHABET))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_transformer(tmp_path / "m.pt")
    assert torch.equal(torch.rand(3), expected)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "m.pt"
    save_transformer(path, small(vocabulary=17), CharacterTokenizer(ALPHABET))
    before = path.read_bytes()

    def disk_full(content, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_transformer(path, small(1, vocabulary=17), CharacterTokenizer(ALPHABET))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.pt"]


class Touch:
    """A pickle that would run code when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_what_is_no_checkpoint_is_said_in_one_line_and_never_run(tmp_path):
    save_transformer(tmp_path / "good.pt", small(vocabulary=17), CharacterTokenizer(ALPHABET))
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:3000])
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Touch(str(tmp_path / "ran"))))
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    for name in ("text", "empty", "cut", "pickle", "other"):
        with pytest.raises(ValueError, match=f"{name}.pt: not a transformer checkpoint") as caught:
            load_transformer(tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match=r"none.pt: no such checkpoint file"):
        load_transformer(tmp_path / "none.pt")


def test_weights_of_another_shape_are_refused_in_one_line(tmp_path):
    save_transformer(tmp_path / "m.pt", small(vocabulary=17), CharacterTokenizer(ALPHABET))
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    for change in (
        {"config": {**content["config"], "width": 32}},
        {"config": {**content["config"], "depth": 3}},
        {"weights": {}},
        {"alphabet": None},
        {"config": {**content["config"], "heads": 3}},
    ):
        torch.save({**content, **change}, tmp_path / "bad.pt")
        with pytest.raises(ValueError, match=r"bad.pt: the checkpoint does not fit the shape it states") as caught:
            load_transformer(tmp_path / "bad.pt")
        assert "\n" not in str(caught.value)
    torch.save({**content, "alphabet": "01"}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="17 tokens, its alphabet 3 with PAD"):
        load_transformer(tmp_path / "bad.pt")
