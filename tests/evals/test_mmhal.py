"""MMHal-Bench: the official script's numbers, its files, its traps; and the whole command with every kind of judge."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_server import ChatServer, completion
from PIL import Image
from shared_data import golden, shared_file

from vlm_jax.cli import main
from vlm_jax.errors import InputError
from vlm_jax.evals.mmhal import scorer as mmhal
from vlm_jax.evals.mmhal.rubric import RUBRIC, fill, read_template
from vlm_jax.scenes.files import write_world


def record(place, **changes):
    return {
        "question_type": mmhal.TYPES[place % 8],
        "question_topic": "animal",
        "image_id": f"{place:x}",
        "image_src": f"https://host/8/{place:03d}_o.jpg",
        "image_content": ["Dog", "Boat"],
        "question": f"What about {place}?",
        "gt_answer": f"Reference {place}.",
        "model_answer": "",
        **changes,
    }


def saved(tmp_path, rows, name="questions.json"):
    path = tmp_path / name
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return path


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def answered(count):
    return lines({"question_id": i, "prompt": f"What about {i}?", "text": f"Answer {i}"} for i in range(count))


# --- What a judgement says


def test_parse_equals_the_original():
    cases = golden("mmhal_parse")
    assert len(cases) > 4
    assert [mmhal.parse(case["text"]) or 0 for case in cases] == [case["score"] for case in cases]


@pytest.mark.parametrize(
    ("text", "official", "robust"),
    [
        ("Good.\nRating: 5", 5, 5),
        ("RATING: 0", 0, 0),
        ("rating: 3, not informative", 3, 3),
        ("Rating: 6\nRating: 6", 6, 6),
        ("Rating: 4\nRating: 5", None, None),
        ("Rating: 10", 1, None),
        ("Rating: 4.5", 4, None),
        ("Rating: 2-3", 2, None),
        ("Rating: 3 or 4", 3, None),
        ("Rating: 3 or Rating: 4", None, None),
        ("Rating: 4. A rating of 5 would need more.", 4, 4),
        ("Rating: 4/5", 4, None),
        ("Rating: 4/6", 4, 4),
        ("Rating: 4 out of 6", 4, 4),
        ("Rating: 5.", 5, 5),
        ("Rating:5", None, 5),
        ("**Rating:** 2", None, 2),
        ("Rating: **2**", None, 2),
        ("- Rating = 1", None, 1),
        ('{"rating": 4}', None, 4),
        ("### Rating\n\n5", None, 5),
        ("My rating is 3.", None, 3),
        ("Final rating - 6", None, 6),
        ("I give it a rating of 2.", None, 2),
        # What it gives stands in a line of its own, whatever else it speaks of.
        ("A rating of 6 would need more.\nRating: 5", 5, 5),
        ("Were there a dog: rating: 6.\nRating: 5", None, 5),
        ("Rating: 7", None, None),
        ("The answer is informative.", None, None),
        ("A low rating.\n\n1. It names a dog.", None, None),
        ("", None, None),
    ],
)
def test_parse(text, official, robust):
    assert mmhal.parse(text) == official
    assert mmhal.parse(text, "robust") == robust


def test_judges_that_ramble_are_read_in_no_time():
    start = time.monotonic()
    for piece in ("\n", " ", "rating", "rating: ", "1.", "8 ", "assistant 1 ", "-", "_", "9", "Rating\n", "out of "):
        for mode in mmhal.MODES:
            mmhal.parse(piece * 100_000, mode)
    assert time.monotonic() - start < 20


# --- Figures


def questions(count):
    return [
        mmhal.Question(str(i), mmhal.TYPES[i % 8], f"{i}.jpg", ("Dog",), f"What {i}?", "Nothing.", None)
        for i in range(count)
    ]


def test_figures_by_hand():
    judgements = ["Rating: 6", "Rating: 2", "Rating: 3", "Rating: 0", "no idea", "Rating: 5", "Rating: 1", "Rating:4"]
    found = mmhal.score_judgements(questions(8), [f"a{i}" for i in range(8)], judgements)
    # 6 2 3 0 0 5 1 0: what the script cannot read is 0.
    assert found.metrics["score"] == pytest.approx(17 / 8)
    assert found.metrics["hallucination_rate"] == pytest.approx(5 / 8)
    # Steps above 0 or 3: 3 2 0 0 0 2 1 0.
    assert found.metrics["informativeness"] == pytest.approx(8 / 8 / 3 * 100)
    assert found.unparsed == 2
    assert found.tables["by type"]["attribute"]["score"] == 6
    assert found.tables["by type"]["other"] == {
        "score": 0, "hallucination_rate": 1, "informativeness": 0, "answers": 1
    }  # fmt: skip
    assert found.per_sample[7]["rating"] == 0
    assert any("2 judgements" in remark for remark in found.remarks)
    for name, value in found.metrics.items():
        low, high = found.tally.intervals()[name]
        assert low <= value <= high

    robust = mmhal.score_judgements(questions(8), [""] * 8, judgements, "robust")
    # 6 2 3 0 - 5 1 4.
    assert robust.metrics["score"] == pytest.approx(21 / 7)
    assert robust.metrics["hallucination_rate"] == pytest.approx(3 / 7)
    assert robust.unparsed == 1
    assert robust.tables["by type"]["relation"]["answers"] == 1
    assert robust.per_sample[4]["rating"] is None


def test_nothing_read_is_no_division_by_zero():
    found = mmhal.score_judgements(questions(8), [""] * 8, ["?"] * 8, "robust")
    assert found.metrics == {"score": 0, "hallucination_rate": 0, "informativeness": 0}
    assert found.unparsed == 8


def test_lists_that_do_not_fit():
    with pytest.raises(ValueError, match="length"):
        mmhal.score_judgements(questions(8), [""] * 8, ["Rating: 5"] * 7)


# --- Files


def test_the_real_template():
    template = shared_file("mmhal/mmhal-bench_answer_template.json")
    found = mmhal.read_questions(template)
    assert len(found) == mmhal.QUESTIONS
    assert len({one.image for one in found}) == 96
    assert found[0].image == "7206072054_c53d53b97d_o.jpg"
    assert found[2].contents == ("Vase", "Houseplant", "Stool", "Coffee table", "Flower")
    # Nobody filled it in: the command refuses to score that.
    assert mmhal.read_answers(template, found) == [""] * 96


def test_both_kinds_of_answers(tmp_path):
    asked = mmhal.read_questions(saved(tmp_path, [record(i) for i in range(16)]))
    expected = [f"Answer {i}" for i in range(16)]
    filled = [record(i, model_answer=f"Answer {i}") for i in range(16)]
    assert mmhal.read_answers(saved(tmp_path, filled, "filled.json"), asked) == expected
    assert mmhal.read_answers(saved(tmp_path, answered(16), "lines.jsonl"), asked) == expected
    backwards = "".join(answered(16).splitlines(keepends=True)[::-1])
    windows = "\ufeff" + backwards.replace("\n", "\r\n")
    assert mmhal.read_answers(saved(tmp_path, windows, "windows.jsonl"), asked) == expected
    # One empty answer is an answer, and a long one too.
    filled[3]["model_answer"], filled[4]["model_answer"] = "", "long " * 50000
    found = mmhal.read_answers(saved(tmp_path, filled, "odd.json"), asked)
    assert (found[3], len(found[4])) == ("", 250000)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda rows: rows[:15], "found 15 rows; expected a row for each of the 16 questions"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "row 1: found the question 'What about 1"),
        (lambda rows: [{**rows[0], "model_answer": 5}, *rows[1:]], "row 1: found model_answer of type int"),
        (lambda rows: [rows[0], {"question": "What about 1?"}, *rows[2:]], "row 2: found no 'model_answer'"),
        (lambda rows: answered(15), "found no answer to 15"),
        (lambda rows: answered(17), "found answers to 16"),
        (lambda rows: answered(16) + answered(1), "row 17: found question_id 0 for the second time"),
        (lambda rows: answered(16).replace("about 3?", "about x?"), "row 4: found id 3 as an answer to"),
        (lambda rows: answered(16).replace('"text": "Answer 2"', '"text": NaN'), "row 3: found NaN"),
        (lambda rows: "", "found no rows"),
    ],
)
def test_answers_to_something_else(tmp_path, change, found):
    asked = mmhal.read_questions(saved(tmp_path, [record(i) for i in range(16)]))
    rows = [record(i, model_answer=f"Answer {i}") for i in range(16)]
    with pytest.raises(InputError) as error:
        mmhal.read_answers(saved(tmp_path, change(rows), "answers.json"), asked)
    assert found in str(error.value)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([record(0), record(2)], "row 2: found question_type 'comparison'; expected 'adversarial'"),
        ([record(0, image_content="Dog")], "row 1: found image_content of type str"),
        ([record(0, image_content=["Dog", 5])], "row 1: found image_content of type int"),
        ([record(0, gt_answer=None)], "row 1: found gt_answer of type NoneType"),
        ([{"question": "What?"}], "row 1: found no 'question_type'"),
        ([], "found no rows"),
    ],
)
def test_questions_that_are_none(tmp_path, rows, found):
    with pytest.raises(InputError) as error:
        mmhal.read_questions(saved(tmp_path, rows))
    assert found in str(error.value)


# --- What the judge is told


def test_the_prompt():
    asked = [mmhal.Question("0", "attribute", "a.jpg", ("Dog", "Hot {question}"), "What?", "A dog.", None)]
    template = "{image_contents}|{question}|{reference}|{response}|{other}"
    (request,) = mmhal.requests(asked, ["It is {reference}."], template)
    # Texts are put in, not read again.
    assert request.user == "Dog, Hot {question}|What?|A dog.|It is {reference}.|{other}"
    assert request.messages == [{"role": "user", "content": request.user}]
    assert (request.temperature, request.max_tokens, request.answer) == (0.0, None, "It is {reference}.")


def test_our_rubric_asks_for_what_both_rules_read():
    filled = fill(RUBRIC, image_contents="Dog", question="What?", reference="A dog.", response="A cat.")
    assert all(text in filled for text in ("\nDog\n", "\nWhat?\n", "\nA dog.\n", "\nA cat.\n"))
    assert "{" not in filled
    assert all(f"\n{rating} - " in filled for rating in range(7))
    # A judge that repeats the rubric has not rated.
    assert mmhal.parse(filled) is None


def test_a_template_of_ones_own(tmp_path):
    path = saved(tmp_path, '{"a": {question}} {image_contents} {reference} {response}', "mine.txt")
    assert fill(read_template(path), question="q", image_contents="c", reference="r", response="a") == '{"a": q} c r a'
    with pytest.raises(InputError, match=r"a template without \{reference\}, \{response\}"):
        read_template(saved(tmp_path, "{question} {image_contents} {}", "mine.txt"))


# --- The command


@pytest.fixture
def command(tmp_path):
    """Runs the command on 16 questions; returns what it wrote."""
    asked = saved(tmp_path, [record(i) for i in range(16)])
    given = saved(tmp_path, answered(16), "answers.jsonl")

    def run(*options):
        arguments = ["--questions", asked, "--answers", given, "--output", tmp_path / "out.json", *options]
        main(["eval", "mmhal", *map(str, arguments)])
        return json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))

    return run


def test_a_saved_evaluation_through_the_command(command, tmp_path, capsys):
    rows = [completion(f"Fine.\nRating: {i % 7}", model="gpt-4-0314") for i in range(15)] + [completion("Hm.")]
    result = command("--judge", f"replay:{saved(tmp_path, rows, 'evaluation.json')}")
    ratings = [*(i % 7 for i in range(15)), 0]
    assert result["metrics"]["score"] == pytest.approx(sum(ratings) / 16)
    assert (result["mode"], result["n"], result["unparsed"]) == ("official", 16, 1)
    assert result["judge"] == {
        "kind": "replay",
        "file": "evaluation.json",
        "models": ["gpt-4-0314", "judge-2"],
        "judgements": 16,
        "made_now": 0,
        "prompt_tokens": 1600,
        "completion_tokens": 160,
        "cut": 0,
    }
    assert "versions" in result
    assert "Judge: gpt-4-0314, judge-2 from evaluation.json" in capsys.readouterr().out
    samples = [json.loads(line) for line in (tmp_path / "out.samples.jsonl").read_text().splitlines()]
    assert samples[9]["judgement"] == "Fine.\nRating: 2"
    assert samples[9]["answer"] == "Answer 9"
    assert not (tmp_path / "out.judgements").exists()


def test_judgements_that_fit_no_other_answers(command, tmp_path, capsys):
    saved_file = saved(tmp_path, [completion()] * 16, "evaluation.json")
    with pytest.raises(SystemExit) as stopped:
        command("--judge", f"replay:{saved_file}", "--against", tmp_path / "answers.jsonl")
    assert stopped.value.code == 2
    assert "do not say which answers they are of" in capsys.readouterr().err


def test_options_that_a_replay_does_not_look_at(command, tmp_path, capsys):
    saved_file = saved(tmp_path, [completion()] * 16, "evaluation.json")
    with pytest.raises(SystemExit):
        command("--judge", f"replay:{saved_file}", "--judge-model", "gpt", "--judge-concurrency", "3")
    assert "found --judge-model, --judge-concurrency with --judge replay:..." in capsys.readouterr().err


def test_saved_judgements_are_not_written_over(command, tmp_path, capsys):
    saved_file = saved(tmp_path, [completion()] * 16, "out.json")
    before = saved_file.read_bytes()
    with pytest.raises(SystemExit):
        command("--judge", f"replay:{saved_file}")
    assert f"found --judge {saved_file}, which would be written over" in capsys.readouterr().err
    assert saved_file.read_bytes() == before


def api(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")


def rated(number, body):
    """A server's judge that likes even numbers."""
    place = int(body["messages"][-1]["content"].split("Answer ")[1].split()[0])
    return completion(f"Rating: {5 if place % 2 == 0 else 1}")


def test_a_judge_behind_a_url(command, tmp_path, monkeypatch, capsys):
    api(monkeypatch)
    with ChatServer(rated) as server:
        options = ["--judge", server.url, "--judge-model", "judge-2", "--judge-key", "JUDGE_KEY"]
        result = command(*options, "--judge-prices", "1", "10")
        assert len(server.bodies) == 16
        assert result["metrics"] == {
            "score": 3.0, "hallucination_rate": 0.5, "informativeness": pytest.approx(50.0)
        }  # fmt: skip
        judge = result["judge"]
        assert (judge["url"], judge["model"], judge["made_now"]) == (server.url, "judge-2", 16)
        assert (judge["temperature"], judge["max_tokens"], judge["sees_image"]) == (0.0, None, False)
        assert judge["cost"] == judge["cost_now"] == pytest.approx(16 * (100 * 1 + 10 * 10) / 1e6)
        # Again: the same figures for nothing.
        again = command(*options, "--judge-prices", "1", "10")
        assert len(server.bodies) == 16
        assert again["metrics"] == result["metrics"]
        assert (again["judge"]["made_now"], again["judge"]["cost_now"]) == (0, 0.0)
        assert again["judge"]["cost"] == judge["cost"]
        # Another model's answers are other requests; half of them are the same answers.
        others = answered(16).replace("Answer 1", "Answer 2")
        compared = command(*options, "--against", saved(tmp_path, others, "others.jsonl"))
        assert len(server.bodies) == 16 + 7
        assert compared["comparison"]["score"]["after"] == 3.0
        # Another wording is another question, and a limit or a temperature too.
        template = saved(tmp_path, "{image_contents}{question}{reference}{response} ", "mine.txt")
        other = command(*options, "--template-file", template, "--judge-temperature", "1", "--judge-max-tokens", "50")
        assert other["judge"]["wording_sha256"] != judge["wording_sha256"]
        assert (server.bodies[-1]["temperature"], server.bodies[-1]["max_tokens"]) == (1.0, 50)
    out = capsys.readouterr().out
    assert "1600 + 160 tokens" in out
    assert "of which 0.00 now" in out
    everything = "".join(path.read_text() for path in tmp_path.rglob("*.json*"))
    assert "sk-secret" not in everything + out

    # What was kept can be replayed without the server, also from another place.
    kept = tmp_path / "out.judgements" / "judgements.jsonl"
    replayed = command("--judge", f"replay:{kept}", "--against", tmp_path / "others.jsonl")
    assert replayed["metrics"] == result["metrics"]
    assert replayed["comparison"] == compared["comparison"]


def test_a_judge_that_sees(command, tmp_path, monkeypatch):
    api(monkeypatch)
    for place in range(16):
        Image.new("RGB", (2, 2), (place, 0, 0)).save(tmp_path / f"{place:03d}_o.jpg", "PNG")
    with ChatServer(lambda number, body: completion()) as server:
        options = ["--judge", server.url, "--judge-model", "m", "--judge-concurrency", "1"]
        result = command(*options, "--judge-image", "--images", tmp_path)
    assert result["judge"]["sees_image"]
    shown = [body["messages"][0]["content"][0]["image_url"]["url"] for body in server.bodies]
    # What it is, whatever it is called.
    png = base64.b64encode((tmp_path / "001_o.jpg").read_bytes()).decode()
    assert shown[1] == f"data:image/png;base64,{png}"
    assert len(set(shown)) == 16


def test_a_run_that_was_killed_goes_on(tmp_path, monkeypatch):
    api(monkeypatch)
    asked = saved(tmp_path, [record(i) for i in range(16)])
    given = saved(tmp_path, answered(16), "answers.jsonl")
    code = "import sys; from vlm_jax.cli import main; main(sys.argv[1:])"
    kept = tmp_path / "out.judgements" / "judgements.jsonl"
    with ChatServer(lambda number, body: rated(number, body) if number < 6 else {"delay": 30}) as server:
        arguments = ["eval", "mmhal", "--questions", asked, "--answers", given, "--output", tmp_path / "out.json"]
        arguments += ["--judge", server.url, "--judge-model", "m", "--judge-concurrency", "2"]
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while len(server.bodies) < 8 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(server.bodies) == 8
        assert len(kept.read_text().splitlines()) == 6
        server.script = rated
        main(list(map(str, arguments)))
        # The two that were on their way, and those that nobody had asked for.
        assert len(server.bodies) == 8 + 10
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["n"], result["metrics"]["score"], result["judge"]["made_now"]) == (16, 3.0, 10)


def test_a_judge_that_fails_says_what_is_kept(command, tmp_path, monkeypatch, capsys):
    api(monkeypatch)

    def script(number, body):
        return rated(number, body) if number < 5 else {"status": 401, "body": {"error": {"message": "no credit"}}}

    with ChatServer(script) as server, pytest.raises(SystemExit) as stopped:
        command("--judge", server.url, "--judge-model", "m", "--judge-concurrency", "1")
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vlm-jax eval mmhal: found HTTP 401 (no credit) from the judge m")
    assert f"5 of 16 judgements are kept in {tmp_path / 'out.judgements'}" in line
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--judge", "gpt-4"], "--judge 'gpt-4'; expected a URL, replay:..., checkpoint:..., scenes:..."),
        (["--judge", "http://127.0.0.1:9/v1"], "no --judge-model"),
        (["--judge", "replay:gone.json"], "gone.json: found no such file"),
        (["--judge", "checkpoint:gone"], "gone: found no such file or folder"),
        (["--judge", "checkpoint:tiny", "--judge-image"], "--judge-image without --images"),
        (["--judge", "checkpoint:tiny", "--judge-concurrency", "0"], "--judge-concurrency 0; expected"),
        (["--judge", "checkpoint:tiny", "--judge-temperature=-1"], "--judge-temperature -1.0; expected"),
        (["--judge", "scenes:gone"], "found no scenes.json"),
    ],
)
def test_judges_that_are_none(command, options, found, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(*options)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert found in line


def test_a_drawn_world_is_judged_by_its_truth(tmp_path):
    world = tmp_path / "world"
    write_world(world, {"test": 40})
    asked = mmhal.read_questions(world / "mmhal_test.json")
    right = [one.reference for one in asked]
    given = saved(tmp_path, lines({"question_id": i, "text": text} for i, text in enumerate(right)), "answers.jsonl")
    arguments = ["--questions", world / "mmhal_test.json", "--answers", given, "--output", tmp_path / "out.json"]
    main(["eval", "mmhal", *map(str, arguments), "--judge", f"scenes:{world}"])
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["n"] == len(asked) > 24
    assert (result["unparsed"], result["metrics"]["hallucination_rate"]) == (0, 0.0)
    assert result["metrics"]["score"] >= 5
    assert result["judge"]["kind"] == "rule"
    assert "wording_sha256" not in result["judge"]
    assert f"{len(asked)} questions, the benchmark has 96" in result["remarks"]


def test_a_checkpoint_judges(tmp_path, capsys):
    world = tmp_path / "world"
    write_world(world, {"test": 12})
    rows = json.loads((world / "mmhal_test.json").read_text())[:8]
    arguments = [
        "--questions", saved(tmp_path, rows), "--images", world / "images", "--output", tmp_path / "out.json",
        "--answers", saved(tmp_path, [{**row, "model_answer": "There is a boat."} for row in rows], "answers.json"),
        "--judge", "checkpoint:tiny", "--judge-max-tokens", "4", "--judge-image",
        "--template-file", saved(tmp_path, "{image_contents} {question} {reference} {response}", "mine.txt"),
    ]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main(["eval", "mmhal", *map(str, arguments)])
    # It was never taught to judge.
    assert stopped.value.code == 2
    assert "found 8 judgements, none of which can be read" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
    before = (tmp_path / "out.judgements" / "judgements.jsonl").read_text()
    assert all(json.loads(line)["text"] for line in before.splitlines())
    with pytest.raises(SystemExit):
        main(["eval", "mmhal", *map(str, arguments)])
    assert "8 judgements, 0 of them made now" in capsys.readouterr().out
    assert (tmp_path / "out.judgements" / "judgements.jsonl").read_text() == before
