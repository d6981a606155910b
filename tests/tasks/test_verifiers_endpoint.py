"""The policy behind a local address: what is asked by plain HTTP and how it is answered; verifiers 0.4 where it is installed."""

import asyncio
import importlib.util
import json
import sys
import threading
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
import torch

from payoff.policies.embedded import transformer
from payoff.tasks.turns import verifiers_environments
from payoff.tasks.turns.policy_endpoint import BrokenConversationError, PolicyEndpoint
from payoff.tasks.turns.verifiers_environments import AskedEpisode, NoReplyError, VerifiersTask
from payoff.tasks.turns.verifiers_tasksets import TasksetHost, episode_reward
from payoff.trajectories import StopReason, outcome


def newer():
    try:
        return importlib.util.find_spec("verifiers.v1.clients") is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module")
def endpoint():
    endpoint = PolicyEndpoint()
    yield endpoint
    endpoint.close()


def post(url, body, token, **headers):
    """(status, what came back) of a request to the model."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url + "/chat/completions", data, {"Authorization": f"Bearer {token}", **headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read().decode()
            return answer.status, text if answer.headers["Content-Type"] == "text/event-stream" else json.loads(text)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]["message"]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def test_a_conversation_goes_on_from_what_was_said_whole_or_streamed(endpoint):
    asked = []

    def answer(messages):
        asked.append(len(messages))
        return f" reply {len(asked)}\n"

    with endpoint.conversation(answer) as talk:
        first = [{"role": "system", "content": "be brief"}, user([{"type": "text", "text": "a"}])]
        status, told = post(talk.url, {"model": "m", "messages": first, "temperature": 0.3}, endpoint.token)
        assert (status, told["model"], told["choices"][0]["finish_reason"]) == (200, "m", "stop")
        assert told["choices"][0]["message"] == assistant(" reply 1\n")
        # the answer was lost: the same question again is no new one, and so it is not asked
        assert post(talk.url, {"messages": first}, endpoint.token, **{"x-stainless-retry-count": "1"})[0] == 200
        assert asked == [2]
        second = [*first, assistant("reply 1"), {"role": "tool", "content": "7"}, user("b")]  # programs may strip a reply
        status, told = post(talk.url, {"messages": second, "stream": True}, endpoint.token)
        lines = told.split("\n\n")
        assert json.loads(lines[0].removeprefix("data: "))["choices"][0]["delta"] == assistant(" reply 2\n")
        assert lines[1] == "data: [DONE]"
        assert asked == [2, 5]
        assert talk.failure is None


@pytest.mark.parametrize(
    ("next", "why"),
    [
        ([user("z"), assistant("yes"), user("b")], "changes what was said before"),
        ([user("a"), assistant("no"), user("b")], "changes the reply"),
        ([user("a"), assistant("yes")], "something new"),
        ([user("a")], "something new"),
        ([user("a"), assistant("yes"), user("b"), assistant("c"), user("d")], "something new"),
    ],
)
def test_a_program_that_rewrites_its_past_is_refused_and_the_rollout_knows_why(endpoint, next, why):
    with endpoint.conversation(lambda messages: "yes") as talk:
        assert post(talk.url, {"messages": [user("a")]}, endpoint.token)[0] == 200
        status, told = post(talk.url, {"messages": next}, endpoint.token)
        assert status == 409
        assert why in told
        assert why in str(talk.failure)


def test_a_second_question_while_one_waits_is_refused_and_the_first_is_answered(endpoint):
    waiting, go = threading.Event(), threading.Event()

    def answer(messages):
        waiting.set()
        go.wait(10)
        return "late"

    with endpoint.conversation(answer) as talk:
        told = []
        first = threading.Thread(target=lambda: told.append(post(talk.url, {"messages": [user("a")]}, endpoint.token)))
        first.start()
        waiting.wait(10)
        assert post(talk.url, {"messages": [user("b")]}, endpoint.token)[0] == 409
        go.set()
        first.join(10)
        assert told[0][1]["choices"][0]["message"]["content"] == "late"


def test_faults_have_their_status(endpoint):
    def over(messages):
        raise NoReplyError("the rollout was cancelled")

    with endpoint.conversation(over) as talk:
        question = {"messages": [user("a")]}
        assert post(talk.url, question, "guessed")[0] == 401
        assert post(talk.url, question, "")[0] == 401
        for wrong in (b"{", {"messages": "a"}, {}, {"messages": ["a"]}, {**question, "n": 2}, [], b"\xff"):
            assert post(talk.url, wrong, endpoint.token)[0] == 400
        assert post(talk.url + "/embeddings", question, endpoint.token)[0] == 404
        assert post(talk.url, {"messages": []}, endpoint.token)[0] == 409
        status, told = post(talk.url, question, endpoint.token)
        assert (status, told) == (503, "the policy answers no more: NoReplyError")
        request = urllib.request.Request(talk.url + "/models", None, {"Authorization": f"Bearer {endpoint.token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert [model["id"] for model in json.load(answer)["data"]] == ["payoff"]
        url = talk.url
    assert post(url, question, endpoint.token) == (410, "this rollout is over")


# --- an environment of 0.4, its calls restated: run_episode is a program that asks at the address it is given


class Env:
    """Asks two questions by HTTP; the second reply must be the task's number."""

    def __init__(self, rewrites=False, roles=1):
        self.taskset = [SimpleNamespace(data=Data(k)) for k in range(4)]
        self.rewrites, self.roles, self.token = rewrites, roles, ""

    def serving(self):
        class Serving:
            async def __aenter__(self): ...
            async def __aexit__(self, *_): ...

        return Serving()

    async def run_episode(self, task, context):
        import os

        token = os.environ[context.client.api_key_var]
        ask = lambda messages: asyncio.to_thread(post, context.client.base_url, {"messages": messages}, token)
        talk = [user(f"guess {task.data.number}")]
        reply = (await ask(talk))[1]["choices"][0]["message"]["content"]
        talk = [user("other") if self.rewrites else talk[0], assistant(reply), user("again")]
        status, told = await ask(talk)
        last = told["choices"][0]["message"]["content"].strip() if status == 200 else ""
        agent = SimpleNamespace(trainable=True)
        trace = SimpleNamespace(agent=agent, reward=float(last == str(task.data.number)), ok=True, errors=[])
        return SimpleNamespace(traces=[trace] * self.roles, errors=[], ok=True)


class Data:
    def __init__(self, number):
        self.number = number
        self.answer = str(number)

    def model_dump(self, **_):
        return {"number": self.number, "prompt": "what the harness makes of it is asked"}


@pytest.fixture
def package(monkeypatch):
    kept = lambda **given: SimpleNamespace(**given)
    made, real = SimpleNamespace(EvalClientConfig=kept, ModelContext=kept), importlib.import_module
    replaced = lambda name: made if name == "verifiers.v1" else real(name)
    monkeypatch.setattr("payoff.tasks.turns.verifiers_tasksets.importlib.import_module", replaced)


def closing(task):
    if isinstance(task.loaded._made, TasksetHost):
        task.loaded._made.close()


def test_rollouts_with_a_program_at_the_address_keep_their_tokens_and_end_with_its_reward(package):
    task = VerifiersTask(Env, held_out=1, deadline=20, turns=3, together=4, chat=False)
    starts = task.starts(2, torch.Generator().manual_seed(0))
    assert [start.fields["prompt"] for start in starts] == [f"guess {start.fields['number']}\n" for start in starts]
    assert [start.fields["number"] for start in task.held_out_starts(5)] == [3]
    letters = "".join(sorted(set("guess again0123\n ")))
    policy = transformer(alphabet=letters, width=8, layers=1, heads=1, context=64, max_tokens=24, stop=(), step_separator=None)
    traj = policy.rollout(starts, 3, torch.Generator().manual_seed(1)).check()
    for row, item in enumerate(traj.items):
        assert item["failure"] == ""
        own = traj.actions[row][traj.mask[row]].tolist()
        assert policy.tokenizer.decode(own) == "".join(item["steps"])
        if len(item["turns"]) == 2:
            assert item["turns"][0]["observed"] == "again"
        finished = int(traj.stop[row]) == StopReason.finished
        assert item["outcome"] == (float(item["response"].strip() == item["reference"]) if finished else None)
    # tokens that were sampled are evaluated as they are
    again = policy.evaluate(traj).logp
    torch.testing.assert_close(again[traj.mask], traj.logp["old"][traj.mask], rtol=1e-4, atol=1e-4)
    closing(task)


def test_what_cannot_be_followed_or_has_several_roles_is_an_error_with_its_reason(package):
    for options, why in (({"rewrites": True}, "changes what was said before"), ({"roles": 2}, "this one has 2")):
        task = VerifiersTask(Env, options=options, held_out=1, deadline=20)
        episode = task.held_out_starts(1)[0].environment.begin()
        with pytest.raises((BrokenConversationError, RuntimeError), match=why):  # at the second question, and at the end
            [episode.respond(text) for text in ("1", "2")]
        closing(task)


def test_a_rollout_that_is_given_up_lets_its_program_go(package):
    task = VerifiersTask(Env, held_out=1, deadline=20)
    host = task.loaded()
    before = set(threading.enumerate())
    episode = task.held_out_starts(1)[0].environment.begin()
    episode.close()
    episode._thread.join(10)
    for _ in range(100):
        left = [thread for thread in set(threading.enumerate()) - before if "process_request_thread" in thread.name]
        if not left:
            break
        left[0].join(0.1)
    assert not episode._thread.is_alive()
    assert not left  # nobody waits at the address
    assert not host.endpoint._talks
    closing(task)


def test_an_episode_with_an_error_or_a_loop_without_a_question_is_no_verdict():
    error = SimpleNamespace(type="TaskError", message="no judge")
    trace = SimpleNamespace(agent=None, reward=1.0, ok=False, errors=[error])
    with pytest.raises(RuntimeError, match="TaskError: no judge"):
        episode_reward(SimpleNamespace(traces=[trace], errors=[], ok=False))

    async def silent(ask):
        return 1.0

    with pytest.raises(NoReplyError, match="without asking"):
        AskedEpisode(silent, 5)


def test_a_release_with_neither_interface_is_named(monkeypatch):
    monkeypatch.setattr(verifiers_environments, "require", lambda *_: SimpleNamespace(__version__="9.9"))
    monkeypatch.setattr(verifiers_environments.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"verifiers 9\.9 has neither load_environment"):
        VerifiersTask("some-name").starts(1, torch.Generator())


# --- verifiers 0.4 itself

TASKSET = '''
import asyncio, json, urllib.request
import verifiers.v1 as vf
from verifiers.v1.runtimes import ProgramResult


class Data(vf.TaskData):
    number: int
    answer: str


class Guess(vf.Task[Data, vf.State, vf.TaskConfig]):
    @vf.reward
    async def right(self, trace):
        return float(trace.last_reply.strip() == self.data.answer)


class Guesses(vf.Taskset[Guess, vf.TasksetConfig]):
    def load(self):
        for k in range(4):
            yield Guess(Data(prompt=f"guess {k}", number=k, answer=str(k)), self.config.task)


class Harness(vf.Harness[vf.HarnessConfig]):
    """Asks twice, in the program's own process in place of a script."""

    EXECUTES_CODE = NEEDS_CONTAINER = False

    async def launch(self, ctx, trace, runtime, endpoint, secret, mcp_urls, data, tool_interception_url=None):
        def ask(messages):
            body = json.dumps({"model": ctx.model, "messages": messages, "stream": len(messages) > 1}).encode()
            headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
            with urllib.request.urlopen(urllib.request.Request(endpoint + "/chat/completions", body, headers), timeout=20) as told:
                return told.read().decode()

        talk = [{"role": "user", "content": data.prompt}]
        reply = json.loads(await asyncio.to_thread(ask, talk))["choices"][0]["message"]["content"]
        await asyncio.to_thread(ask, [*talk, {"role": "assistant", "content": reply}, {"role": "user", "content": "again"}])
        return ProgramResult(exit_code=0, stdout="", stderr="")


__all__ = ["Guesses", "Harness"]
'''


@pytest.mark.skipif(not newer(), reason="verifiers 0.4 is not installed")
def test_a_taskset_of_verifiers_is_rolled_out_and_scored_by_its_own_rewards(tmp_path, monkeypatch):
    (tmp_path / "payoff_test_guesses.py").write_text(TASKSET)
    monkeypatch.syspath_prepend(str(tmp_path))
    task = VerifiersTask("payoff_test_guesses", held_out=1, deadline=60, turns=3, together=4, chat=False)
    starts = task.starts(3, torch.Generator().manual_seed(0))
    assert sorted(start.fields["prompt"] for start in starts) == ["guess 0\n", "guess 1\n", "guess 2\n"]
    first = starts[0]
    episode = first.environment.begin()
    assert episode.respond("7").observation == "again"
    last = episode.respond(first.fields["reference"])
    assert (last.reward, last.stop, episode.outcome) == (1.0, StopReason.finished, 1.0)
    letters = "".join(sorted(set("guess again0123\n ")))
    policy = transformer(alphabet=letters, width=8, layers=1, heads=1, context=64, max_tokens=24, stop=(), step_separator=None)
    traj = policy.rollout(starts, 2, torch.Generator().manual_seed(1)).check()
    assert [item["failure"] for item in traj.items] == [""] * 6
    value, known = outcome(task.truth(traj), traj)
    finished = traj.stop == int(StopReason.finished)
    assert torch.equal(known, finished)
    for row in finished.nonzero()[:, 0].tolist():
        assert float(value[row]) == float(traj.items[row]["response"].strip() == traj.items[row]["reference"])
    task.loaded._made.close()
    with pytest.raises(ValueError, match="the harness 'bash' of 'agent' lets the policy run code"):
        VerifiersTask("payoff_test_guesses", options={"agent": {"harness": {"id": "bash"}}}).held_out_starts(1)
    sys.modules.pop("payoff_test_guesses", None)
