"""Packed scoring and cached writing against plain full passes, for our own transformer and for Llama's relatives."""

import copy

import pytest
import torch

from payoff.policies.decoder import Writing, pack, score
from payoff.policies.llama import as_decoder
from payoff.policies.transformer import Transformer

CONTEXT = 24


def own():
    torch.manual_seed(0)
    model = Transformer(vocabulary=9, context=CONTEXT, width=16, layers=2, heads=2)
    for parameter in model.parameters():  # far from the even start, so that a wrong position or a leak shows
        torch.nn.init.normal_(parameter, std=0.4)
    return model.double(), lambda tokens: model.logits_and_states(tokens)


def hub(kind, **more):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 9, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-3,
    }  # fmt: skip
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**(sizes | more))
    network = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    network = network.double()

    def plain(tokens):
        out = network(input_ids=tokens, use_cache=False, output_hidden_states=True)
        return out.logits, out.hidden_states[-1]

    return network, plain


ROPE = {"rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
MAKES = {
    "own": own,
    "llama": lambda: hub("Llama", attention_bias=True, mlp_bias=True),
    "llama, tied, own head size": lambda: hub("Llama", tie_word_embeddings=True, head_dim=6),
    "llama 3": lambda: hub(
        "Llama", rope_parameters={"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ROPE}
    ),
    "yarn": lambda: hub("Llama", rope_parameters={"rope_type": "yarn", **ROPE}),
    "mistral": lambda: hub("Mistral", sliding_window=None),
    "qwen 2": lambda: hub("Qwen2"),
    "qwen 3": lambda: hub("Qwen3", head_dim=4),
}


@pytest.fixture(params=sorted(MAKES))
def made(request):
    """(the network's pieces, a function that gives logits and states by one plain pass over padded rows)."""
    network, plain = MAKES[request.param]()
    decoder = network if isinstance(network, Transformer) else as_decoder(network)
    assert decoder is not None
    return decoder, plain


SHARED = [[1, 2, 3], [4], [1, 2, 3], [5, 6, 7, 1, 0, 2], [1, 2, 3], [4]]  # prompts of six rows: three distinct ones
COUNT = torch.tensor([5, 0, 2, 7, 5, 1])


def rows_of(own):
    return [[*prompt, *own[i, :n].tolist()] for i, (prompt, n) in enumerate(zip(SHARED, COUNT.tolist(), strict=True))]


def packed_rows():
    torch.manual_seed(1)
    own = torch.randint(8, (6, 7))
    asked = torch.arange(8) <= COUNT[:, None]
    asked[3, 2:5] = False  # the policy did not act everywhere
    return own, asked, pack(SHARED, own, COUNT, asked)


def test_a_shared_beginning_is_there_once_and_every_row_can_be_read_back():
    own, _, packed = packed_rows()
    assert len(packed.tokens) == (3 + 1 + 6) + int(COUNT.sum())
    for row, expected in zip(packed.rows.tolist(), rows_of(own), strict=True):
        assert row[: len(expected)] == expected
    places = packed.grid.flatten()[packed.source]
    assert torch.equal(places, torch.arange(len(packed.tokens)))  # each token's own place holds it
    assert torch.equal(packed.positions, packed.source % packed.grid.shape[1])


def test_scores_are_those_of_each_row_alone(made):
    decoder, plain = made
    own, asked, packed = packed_rows()
    logits, states = score(decoder, packed)
    expected_logits, expected_states = [], []
    for i, row in enumerate(rows_of(own)):
        with torch.no_grad():
            full_logits, full_states = plain(torch.tensor([row]))
        wanted = asked[i].nonzero()[:, 0] + len(SHARED[i]) - 1
        expected_logits.append(full_logits[0, wanted])
        expected_states.append(full_states[0, wanted])
    torch.testing.assert_close(logits, torch.cat(expected_logits), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(states, torch.cat(expected_states), atol=1e-9, rtol=1e-9)


def test_gradients_are_those_of_padded_rows(made):
    decoder, plain = made
    own, asked, packed = packed_rows()
    parameters = [p for p in parameters_of(decoder) if p.requires_grad]
    torch.manual_seed(2)
    pull = torch.randn(int(asked.sum()), 9, dtype=torch.float64)
    mine = torch.autograd.grad((score(decoder, packed)[0].clamp(min=-50) * pull).sum(), parameters, allow_unused=True)
    parts = []
    for i, row in enumerate(rows_of(own)):
        wanted = asked[i].nonzero()[:, 0] + len(SHARED[i]) - 1
        parts.append(plain(torch.tensor([row]))[0][0, wanted])
    theirs = torch.autograd.grad((torch.cat(parts).clamp(min=-50) * pull).sum(), parameters, allow_unused=True)
    for a, b in zip(mine, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)  # Llama's norms are computed in float32, whatever the model is


@pytest.mark.parametrize("contexts", [[[1, 2, 3], [4, 5, 6]], [[1], [4, 5, 6, 7, 0, 2], [3, 3, 3]]], ids=["even", "uneven"])
def test_writing_gives_the_logits_of_a_full_pass_whoever_leaves(made, contexts):
    decoder, plain = made
    device = torch.device("cpu")
    torch.manual_seed(3)
    writing = Writing(decoder, contexts, 2, 12, device)
    rows = [list(context) for context in contexts for _ in range(2)]
    leaving = {2: [0, 3, 2] if len(rows) == 4 else [0, 5, 2, 3], 5: [2, 1], 7: [1, 1, 0]}
    for t in range(10):
        expected = torch.cat([plain(torch.tensor([row]))[0][:, -1] for row in rows]).detach()
        torch.testing.assert_close(writing.logits, expected, atol=1e-9, rtol=1e-9)
        if t in leaving:
            writing.keep(torch.tensor(leaving[t]))
            rows = [list(rows[i]) for i in leaving[t]]
            expected = expected[leaving[t]]
            torch.testing.assert_close(writing.logits, expected, atol=1e-9, rtol=1e-9)
        tokens = torch.randint(8, (len(rows),))
        writing.step(tokens)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.append(token)


def test_writing_leaves_no_gradient_and_changes_no_weight(made):
    decoder, _ = made
    before = copy.deepcopy([p.detach() for p in parameters_of(decoder)])
    writing = Writing(decoder, [[1, 2]], 1, 3, torch.device("cpu"))
    writing.step(torch.tensor([3]))
    assert not writing.logits.requires_grad
    for old, new in zip(before, parameters_of(decoder), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize(
    "make",
    [
        lambda: hub("GPTNeoX"),
        lambda: hub("Mistral", sliding_window=4),
        lambda: hub("Qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=0),
        lambda: hub("Llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}),
    ],
    ids=["another architecture", "a window", "a window, Qwen", "a rotation that changes with the length"],
)
def test_what_cannot_be_run_by_its_pieces_is_run_as_it_is(make):
    assert as_decoder(make()[0]) is None


def parameters_of(decoder):
    if isinstance(decoder, Transformer):
        return list(decoder.parameters())
    return [*decoder.inner.parameters(), *(p for p in decoder.head.parameters() if p is not decoder.inner.embed_tokens.weight)]
