"""What stands between a benchmark and whoever judges: the store, replays, and the judges that need no network."""

import dataclasses
import json
import resource
import signal
import sys
import threading

import pytest
from PIL import Image

from vlm_jax.checkpoints.opening import MeshOptions
from vlm_jax.errors import InputError
from vlm_jax.evals.judges import checkpoint as checkpoint_judge
from vlm_jax.evals.judges.cache import CachedJudge
from vlm_jax.evals.judges.chat_api import ChatApiJudge
from vlm_jax.evals.judges.checkpoint import CheckpointJudge
from vlm_jax.evals.judges.interface import Judge, Judgement, JudgeRequest, priced, totals, unnoticed
from vlm_jax.evals.judges.replay import ReplayJudge
from vlm_jax.evals.judges.scene_rule import SceneJudge
from vlm_jax.files import hold
from vlm_jax.scenes.questions import questions
from vlm_jax.scenes.truth import score
from vlm_jax.scenes.world import generator_for, scene


class Counting:
    """Says how often it was asked, and gives up after ``last``."""

    reads_prompts = True

    def __init__(self, model="one", last=1000):
        self.identity, self.last, self.asked = {"kind": "test", "model": model}, last, []

    def __call__(self, requests, finished=unnoticed):
        said = []
        for place, request in enumerate(requests):
            if len(self.asked) >= self.last:
                raise InputError("no more", "patience")
            self.asked.append(request.id)
            said.append(Judgement(f"{request.user} is number {len(self.asked)}", "m", 10, 2))
            finished(place, said[-1])
        return said


def asked(count, **changes):
    return [JudgeRequest(id=f"q{i}", user=f"Question {i}", **changes) for i in range(count)]


def texts(judgements):
    return [one.text for one in judgements]


def test_rows_with_one_score_are_ratings(tmp_path):
    path = tmp_path / "judged.jsonl"
    path.write_text('{"question_id": "q0", "score": 5}\n{"question_id": "q1", "score": "3.0"}\n')
    assert texts(ReplayJudge(path)(asked(2))) == ["Rating: 5", "Rating: 3"]


def test_every_judge_has_the_interface(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question_id": 1, "tuple": [1, 2]}\n')
    for judge in (SceneJudge({}), ReplayJudge(tmp_path / "a.jsonl"), CachedJudge(Counting(), tmp_path)):
        assert isinstance(judge, Judge)
    assert isinstance(CheckpointJudge("tiny", 2, MeshOptions()), Judge)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match=r"pip install 'vlm-jax\[judge\]'"):
        ChatApiJudge("http://127.0.0.1:9/v1", "judge")


def test_a_second_run_costs_nothing(tmp_path):
    first, second = Counting(), Counting()
    before = CachedJudge(first, tmp_path)(asked(4))
    told = {}
    after = CachedJudge(second, tmp_path)(asked(4), told.__setitem__)
    assert second.asked == []
    assert texts(after) == texts(before) == [f"Question {i} is number {i + 1}" for i in range(4)]
    assert [told[place] for place in range(4)] == after
    assert not any(one.cached for one in before)
    assert all(one.cached for one in after)
    rows = [json.loads(line) for line in (tmp_path / "judgements.jsonl").read_text().splitlines()]
    assert rows[1] | {"key": ""} == {
        "key": "",
        "id": "q1",
        "judge": {"kind": "test", "model": "one"},
        "messages": [{"role": "user", "content": "Question 1"}],
        "image": None,
        "temperature": 0.0,
        "max_tokens": None,
        "text": "Question 1 is number 2",
        "model": "m",
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "finish": None,
    }


def test_judgements_are_kept_by_all_that_makes_them_differ(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    base = JudgeRequest(id="a", user="What?")
    changes = [
        {"user": "Who?"}, {"system": "Be fair."}, {"temperature": 0.5}, {"max_tokens": 9}, {"image": tmp_path / "a.png"}
    ]  # fmt: skip
    CachedJudge(Counting(), tmp_path)([base])
    for change in changes:
        judge = Counting()
        CachedJudge(judge, tmp_path)([dataclasses.replace(base, **change)])
        assert judge.asked == ["a"], change
    other = Counting("another")
    CachedJudge(other, tmp_path)([base])
    assert other.asked == ["a"]
    # The sample's name says nothing to a judge.
    same = Counting()
    CachedJudge(same, tmp_path)([dataclasses.replace(base, id="b", answer="x")])
    assert same.asked == []
    # Nor does an image's name; its content does.
    Image.new("RGB", (2, 2)).save(tmp_path / "b.png")
    CachedJudge(same, tmp_path)([dataclasses.replace(base, image=tmp_path / "b.png")])
    assert same.asked == []
    Image.new("RGB", (2, 2), "red").save(tmp_path / "b.png")
    CachedJudge(same, tmp_path)([dataclasses.replace(base, image=tmp_path / "b.png")])
    assert same.asked == ["a"]


def test_the_same_request_twice_is_asked_once(tmp_path):
    judge, told = Counting(), []
    twice = [JudgeRequest(id=name, user="What?") for name in "ab"]
    found = CachedJudge(judge, tmp_path)(twice, lambda place, one: told.append(place))
    assert judge.asked == ["a"]
    assert texts(found) == ["What? is number 1"] * 2
    assert told == [0, 1]
    assert totals(found)["prompt_tokens"] == 10
    assert totals(found)["made_now"] == 1


def test_a_failure_keeps_what_was_finished(tmp_path):
    with pytest.raises(InputError) as error:
        CachedJudge(Counting(last=3), tmp_path / "kept")(asked(5))
    expected = f"found no more; 3 of 5 judgements are kept in {tmp_path / 'kept'}; expected patience"
    assert str(error.value) == expected
    judge = Counting()
    assert [one.cached for one in CachedJudge(judge, tmp_path / "kept")(asked(5))] == [True] * 3 + [False] * 2
    assert judge.asked == ["q3", "q4"]


def test_silence_is_not_kept(tmp_path):
    class Silent(Counting):
        def __call__(self, requests, finished):
            for place, _ in enumerate(requests):
                finished(place, Judgement(" "))
            return [Judgement(" ")] * len(requests)

    assert texts(CachedJudge(Silent("one"), tmp_path)(asked(2))) == [" ", " "]
    assert not (tmp_path / "judgements.jsonl").exists()
    judge = Counting("one")
    CachedJudge(judge, tmp_path)(asked(2))
    assert judge.asked == ["q0", "q1"]


@pytest.mark.parametrize("begun", ["opened", "written"])
def test_nobody_takes_half_a_line_for_a_cut(begun, tmp_path):
    """Whoever opens the folder or writes to it waits until a line that is being written is whole."""
    judge = CachedJudge(Counting(), tmp_path)
    judge(asked(1))
    work = (lambda: CachedJudge(Counting(), tmp_path)) if begun == "opened" else (lambda: judge(asked(2)))
    other = threading.Thread(target=work)
    with (tmp_path / "judgements.jsonl").open("ab", buffering=0) as file:
        hold(file)
        file.write(b'{"key": "x", "te')
        other.start()
        other.join(0.2)
        assert other.is_alive()
        file.write(b'xt": "whole"}\n')
    other.join()
    rows = [json.loads(line) for line in (tmp_path / "judgements.jsonl").read_text().splitlines()]
    assert rows[1] == {"key": "x", "text": "whole"}
    assert len(rows) == (2 if begun == "opened" else 3)


def test_of_two_judgements_the_first_stands(tmp_path):
    """Of two runs that began together, and of each when it is run again."""
    one, two = Counting("same"), Counting("same")
    two.asked.append("something else")
    first, second = CachedJudge(one, tmp_path), CachedJudge(two, tmp_path)
    said = texts(first(asked(1)))
    late = second(asked(1))
    assert texts(late) == said == ["Question 0 is number 1"]
    assert (late[0].cached, late[0].prompt_tokens) == (False, 10)
    assert texts(CachedJudge(Counting("same"), tmp_path)(asked(1))) == said
    assert texts(ReplayJudge(tmp_path / "judgements.jsonl")(asked(1))) == said


def test_a_full_disk_leaves_whole_lines(tmp_path):
    judge, limit = CachedJudge(Counting(), tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "judgements.jsonl"
    judge(asked(2))
    before, handler = path.read_bytes(), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limit[1]))
    try:
        with pytest.raises(OSError, match=r"judgements\.jsonl"):
            judge(asked(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert len(judge(asked(4))) == len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("cut", [1, 40, 10**6])
def test_a_kill_in_the_middle_of_a_line(cut, tmp_path):
    """The line is lost, and nothing that stands before it or comes after it."""
    CachedJudge(Counting(), tmp_path)(asked(3))
    path = tmp_path / "judgements.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:2]) + whole[2][: min(cut, len(whole[2]) - 1)])
    judge = Counting()
    found = CachedJudge(judge, tmp_path)(asked(3))
    assert judge.asked == ["q2"]
    assert texts(found)[:2] == ["Question 0 is number 1", "Question 1 is number 2"]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["q0", "q1", "q2"]


def test_a_kill_before_the_first_line_was_whole(tmp_path):
    (tmp_path / "judgements.jsonl").write_bytes(b'{"key": "ab')
    assert len(CachedJudge(Counting(), tmp_path)(asked(2))) == 2
    assert len(CachedJudge(Counting(last=0), tmp_path)(asked(2))) == 2


def test_a_store_that_an_editor_has_saved(tmp_path):
    CachedJudge(Counting(), tmp_path)(asked(2))
    path = tmp_path / "judgements.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\n"))
    judge = Counting()
    CachedJudge(judge, tmp_path)(asked(3))
    assert judge.asked == ["q2"]


def test_a_store_that_somebody_broke(tmp_path):
    CachedJudge(Counting(), tmp_path)(asked(2))
    path = tmp_path / "judgements.jsonl"
    path.write_text("{\n" + path.read_text())
    with pytest.raises(InputError, match=r"judgements\.jsonl, row 1: found malformed JSON"):
        CachedJudge(Counting(), tmp_path)


def test_two_runs_share_a_folder(tmp_path):
    one, two = CachedJudge(Counting("one"), tmp_path), CachedJudge(Counting("two"), tmp_path)
    one(asked(2))
    two(asked(2))
    one(asked(4))
    judge = Counting("one")
    CachedJudge(judge, tmp_path)(asked(4))
    assert judge.asked == []
    assert len((tmp_path / "judgements.jsonl").read_text().splitlines()) == 6


def test_texts_of_every_kind_come_back(tmp_path):
    odd = 'Zoë said:\n"5"\u2028\x85\x00 \U0001f600 ' + "long " * 20000
    before = CachedJudge(Counting(), tmp_path)([JudgeRequest(id="a", user=odd)])
    assert texts(before) == [f"{odd} is number 1"]
    assert texts(CachedJudge(Counting(last=0), tmp_path)([JudgeRequest(id="a", user=odd)])) == texts(before)
    assert texts(ReplayJudge(tmp_path / "judgements.jsonl")([JudgeRequest(id="a", user=odd)])) == texts(before)


def test_prices_and_sums():
    judgements = [
        Judgement("a", "gpt-x", 1000, 200), Judgement("b", "gpt-x", 3000, 100, cached=True),
        Judgement("c", "", None, None, "length"),
    ]  # fmt: skip
    assert totals(judgements) == {
        "models": ["gpt-x"],
        "judgements": 3,
        "made_now": 2,
        "prompt_tokens": 4000,
        "completion_tokens": 300,
        "cut": 1,
    }
    paid = priced(judgements, (2.0, 10.0))
    assert [one.cost for one in paid] == [pytest.approx(0.004), pytest.approx(0.007), None]
    assert totals(paid)["cost"] == pytest.approx(0.011)
    assert totals(paid)["cost_now"] == pytest.approx(0.004)
    assert priced(judgements, None) == judgements


def replay(tmp_path, rows):
    path = tmp_path / "saved.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return ReplayJudge(path)


def completion(text):
    return {"model": "gpt-4-0314", "choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 7}}


def test_replay_of_chat_completions_goes_by_place(tmp_path):
    judge = replay(tmp_path, [completion("Rating: 1"), completion("Rating: 2")])
    found = judge(asked(2))
    assert found[1] == Judgement("Rating: 2", "gpt-4-0314", 7, None, cached=True)
    assert texts(found) == ["Rating: 1", "Rating: 2"]
    with pytest.raises(InputError, match="found 2 chat completions; expected one for each of the 3 questions"):
        judge(asked(3))


def test_replay_of_reviews_goes_by_id(tmp_path):
    rows = [
        {"id": 1, "question_id": 7, "content": "8 7\nGood.", "tuple": [8.0, 7.0], "category": "conv"},
        {"id": 2, "question_id": "x", "tuple": [6, 5.5]},
    ]
    judge = replay(tmp_path, rows)
    by_id = [JudgeRequest(id=name, user="") for name in ("x", "7")]
    assert texts(judge(by_id)) == ["6 5.5", "8 7\nGood."]
    with pytest.raises(InputError, match="no judgement of 8"):
        judge([JudgeRequest(id="8", user="")])


def test_replay_of_ours_goes_by_what_was_asked(tmp_path):
    requests = asked(3)
    made = CachedJudge(Counting(), tmp_path)(requests)
    judge = ReplayJudge(tmp_path / "judgements.jsonl")
    assert judge.reads_prompts
    renamed = [dataclasses.replace(one, id=f"other {one.id}") for one in requests]
    assert judge(renamed[::-1]) == [dataclasses.replace(one, cached=True) for one in made][::-1]
    for change in ({"user": "Another answer"}, {"temperature": 1.0}):
        with pytest.raises(InputError, match="no judgement of q0"):
            judge([dataclasses.replace(requests[0], **change)])


def test_replay_of_two_judges_is_no_replay(tmp_path):
    CachedJudge(Counting("one"), tmp_path)(asked(1))
    late = Counting("two")
    late.asked = ["before"]
    CachedJudge(late, tmp_path)(asked(1))
    with pytest.raises(InputError, match="row 2: found another judgement of what was judged before"):
        ReplayJudge(tmp_path / "judgements.jsonl")


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([{"choices": []}], "row 1: found a completion without choices"),
        ([completion("a"), {"error": "x"}], "row 2: found a completion without choices"),
        ([{"question_id": 1}], "row 1: found no 'tuple'"),
        ([{"question_id": 1, "tuple": "8 7"}], "row 1: found tuple '8 7'"),
        ([{"question_id": 1, "tuple": [8, None]}], "row 1: found tuple"),
        ([{"question_id": 1, "content": 5}], "row 1: found content of type int"),
        ([{"content": "8 7"}], "row 1: found no 'question_id'"),
        (
            [{"question_id": 1, "content": "8 7"}, {"question_id": 1, "content": "7 8"}],
            "row 2: found another judgement",
        ),
        ([{"messages": [], "text": "a"}], "row 1: found no 'image'"),
        ([], "found no rows"),
    ],
)
def test_files_that_hold_no_judgements(tmp_path, rows, found):
    with pytest.raises(InputError, match=found):
        replay(tmp_path, rows)


def test_replay_reads_what_windows_wrote(tmp_path):
    path = tmp_path / "review.jsonl"
    path.write_bytes(
        "\ufeff".encode() + b'{"question_id": 1, "content": "8 7"}\r\n{"question_id": 2, "tuple": [1, 2]}\r\n'
    )
    assert texts(ReplayJudge(path)([JudgeRequest(id=name, user="") for name in "12"])) == ["8 7", "1 2"]
    path.write_text('{"question_id": 1, "tuple": [NaN, 1]}')
    with pytest.raises(InputError, match="row 1: found NaN"):
        ReplayJudge(path)


def test_the_rule_rates_as_it_always_does():
    here = scene("test", 3)
    asked_of = {str(i): (one, here) for i, one in enumerate(questions(here, generator_for(here, "mmhal")))}
    answers = ["Yes.", "There is a red boat.", "I see nothing.", ""]
    for name, (question, _) in asked_of.items():
        for answer in [*answers, question.answer]:
            (judgement,) = SceneJudge(asked_of)([JudgeRequest(id=name, user="", answer=answer)])
            assert judgement.text.endswith(f"\nRating: {score(question, answer, here).rating}")
    with pytest.raises(InputError, match="question 99"):
        SceneJudge(asked_of)([JudgeRequest(id="99", user="")])


@pytest.fixture
def without_weights(monkeypatch):
    """A checkpoint that is never opened and answers with what it reads."""
    seen = []

    class Empty:
        config = type("Config", (), {"vision": type("Vision", (), {"patches": 9})})
        tokenizer = template = None

    def image_prompts(records, *rest):
        seen.extend(records)
        return [list(range(len(records)))]

    def answer_batches(model, lora, batches, sampling):
        for batch in batches:
            yield {number: f"{sampling.temperature} {sampling.max_new_tokens}" for number in reversed(batch)}

    monkeypatch.setattr(checkpoint_judge, "open_model", lambda *arguments: Empty)
    monkeypatch.setattr(checkpoint_judge, "open_policy", lambda *arguments: {})
    monkeypatch.setattr(checkpoint_judge, "image_prompts", image_prompts)
    monkeypatch.setattr(checkpoint_judge, "answer_batches", answer_batches)
    monkeypatch.setattr(checkpoint_judge, "require_answering", lambda *arguments: None)
    return seen


def test_a_checkpoint_is_asked_in_its_own_form(without_weights, tmp_path):
    requests = [
        JudgeRequest(id="a", user="Which?", system="Be fair.", max_tokens=5),
        JudgeRequest(id="b", user="An answer with <image> in it"),
        JudgeRequest(id="c", user="Look.", image=tmp_path / "a.png", max_tokens=5),
    ]
    told = {}
    found = CheckpointJudge("tiny", 4, MeshOptions())(requests, told.__setitem__)
    assert texts(found) == ["0.0 5", "0.0 1024", "0.0 5"]
    assert [told[place] for place in range(3)] == found
    shown = {record.id: (record.turns[0].text, record.image) for record in without_weights}
    assert shown == {
        "a": ("Be fair.\n\nWhich?", None),
        "b": ("An answer with image in it", None),
        "c": ("<image>\nLook.", tmp_path / "a.png"),
    }


def test_a_checkpoint_is_known_by_its_weights():
    identity = CheckpointJudge("tiny", 4, MeshOptions()).identity
    assert identity["kind"] == "checkpoint"
    assert len(identity["weights_sha256"]) == 64
