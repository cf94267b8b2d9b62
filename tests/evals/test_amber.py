"""AMBER against its script's own figures on the real annotations, where those are at hand, and counts by hand."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from shared_data import golden, shared_file

from vlm_jax.cli import main
from vlm_jax.commands.eval import amber as command
from vlm_jax.errors import InputError
from vlm_jax.evals.amber import discriminative as amber_discriminative
from vlm_jax.evals.amber import generative as amber_generative
from vlm_jax.evals.amber import scorer as amber
from vlm_jax.evals.amber.generative import Lexicon, describe
from vlm_jax.evals.amber.nouns import lemma, nouns
from vlm_jax.evals.amber.scorer import Item

GROUPS = ("all", "existence", "attribute", "state", "number", "action", "relation")
ASSOCIATIONS = {
    "tree": ["forest", "bush"],
    "person": ["people", "man"],
    "sea": ["water"],
    "dog": [],
    "boat": ["ship"],
    "sky": [],
    "light": [],
    "forest": ["tree"],
}
LEXICON = Lexicon(ASSOCIATIONS, frozenset({"light"}))


@pytest.fixture(scope="module")
def real():
    printed = golden("amber_official_inference_py")
    return amber.read_annotations(shared_file("amber/annotations.json")), {
        case["case"]: case["printed"] for case in printed
    }


def questions_of(items):
    return [item for item in items if item.kind != amber.GENERATIVE]


def descriptions_of(items):
    return [item for item in items if item.kind == amber.GENERATIVE]


def drawn(items):
    rng = random.Random(0)
    return [rng.choice(["Yes", "No"]) for _ in items]


CONSTANT = {
    "all_No": lambda items: ["No"] * len(items),
    "all_Yes": lambda items: ["Yes"] * len(items),
    "random_seed0_choice_YesNo_in_id_order": drawn,
    "oracle": lambda items: [item.label.capitalize() for item in items],
    "lowercase_oracle": lambda items: [item.label for item in items],
}


@pytest.mark.parametrize("case", CONSTANT)
def test_questions_equal_the_script(real, case):
    items, printed = questions_of(real[0]), real[1][case]
    scored = amber.score(CONSTANT[case](items), items)
    table = scored.tables["yes/no questions"]
    found = [str(float(table[group][name])) for group in GROUPS for name in amber_discriminative.FIGURES]
    assert found == [value for _, value in printed]
    assert [scored.metrics[name] for name in amber_discriminative.FIGURES] == [float(value) for _, value in printed[:4]]
    assert scored.unparsed == (14216 if case == "lowercase_oracle" else 0)


def test_baselines_equal_the_script(real):
    items = questions_of(real[0])
    scored = amber.score(CONSTANT["oracle"](items), items)
    for word, case in (("no", "all_No"), ("yes", "all_Yes")):
        found = [scored.baselines[f"all {word}"][name] for name in amber_discriminative.FIGURES]
        assert found == [float(value) for _, value in real[1][case][:4]]


DESCRIBED = {
    "gen_truth_words(stubbed NLP)": lambda item: item.truth,
    "gen_hallu_words(stubbed NLP)": lambda item: item.lures,
    "gen_2truth_1hallu(stubbed NLP)": lambda item: [*item.truth[:2], *item.lures[:1]],
}


def stub(text):
    """What stood in for NLTK when the script's figures were recorded: words of letters, without a plural's s."""
    words = re.findall(r"\w+", text)
    return [word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word for word in words]


@pytest.mark.parametrize("case", DESCRIBED)
def test_descriptions_equal_the_script(real, case):
    items = descriptions_of(real[0])
    lexicon = amber_generative.read_lexicon(shared_file("amber/relation.json"), shared_file("amber/safe_words.txt"))
    assert len(lexicon.vocabulary) == 418
    assert len(lexicon.safe) == 9
    texts = [" ".join(DESCRIBED[case](item)) for item in items]
    scored = amber.score(texts, items, lexicon, extract=stub)
    assert [str(scored.metrics[name]) for name in ("chair", "cover", "hal", "cog")] == [v for _, v in real[1][case]]


def test_what_the_real_files_hold(real):
    kinds = [item.kind for item in real[0]]
    found = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    assert found == {
        "generative": 1004,
        "state": 4764,
        "number": 2072,
        "action": 792,
        "existence": 4924,
        "relation": 1664,
    }
    assert sum(item.label == "no" for item in real[0]) == 4924 + (4764 + 2072 + 792) // 2 + 689


@pytest.mark.parametrize(
    ("answer", "official", "first"),
    [
        ("Yes", "yes", "yes"),
        ("No", "no", "no"),
        ("no", None, "no"),
        ("YES", None, "yes"),
        ("No.", None, "no"),
        ("No, there is not.", None, "no"),
        (" **Yes**", None, "yes"),
        ("There is no dog.", None, None),
        ("Not at all", None, None),
        ("", None, None),
        ("1", None, None),
    ],
)
def test_reading_yes_and_no(answer, official, first):
    assert amber_discriminative.parse(answer) == official
    assert amber_discriminative.parse(answer, "first-word") == first


def question(number, kind, label):
    return Item(str(number), kind, label, (), ())


def test_questions_by_hand():
    """Of the questions whose answer is no, two of four are found; of three answers of no, two are right."""
    items = [question(i, "existence", "no") for i in range(2)] + [question(2, "state", "no")]
    items += [question(3, "number", "yes"), question(4, "action", "yes"), question(5, "relation", "no")]
    answers = ["No", "Yes", "no", "No", "Yes", "No"]
    scored = amber.score(answers, items)
    # Right: 0, 4, 5. Denominators are 6.001, 3.001 and 4.001.
    assert scored.metrics["accuracy"] == 50.0
    assert scored.metrics["precision"] == 66.6
    assert scored.metrics["recall"] == 50.0
    assert scored.metrics["f1"] == round(100 * 2 * 0.666 * 0.5 / (0.666 + 0.5 + 1e-4), 1)
    table = scored.tables["yes/no questions"]
    assert table["existence"] == {"accuracy": 50.0, "precision": 99.9, "recall": 50.0, "f1": 66.6, "questions": 2}
    assert table["attribute"]["accuracy"] == 33.3
    assert table["attribute"]["precision"] == 0.0
    assert table["relation"]["recall"] == 99.9
    assert scored.unparsed == 1
    assert "1 of 6 yes/no answers" in scored.remarks[0]
    assert [row["said"] for row in scored.per_sample] == ["no", "yes", None, "no", "yes", "no"]


def test_f1_is_made_of_rounded_figures():
    # 887 of 1000 and 887 of 1103: precision 88.7, recall 80.4 (80.417 before rounding), F1 84.3 and not 84.4.
    items = [question(i, "relation", "no" if i < 1103 else "yes") for i in range(1216)]
    answers = ["No"] * 887 + ["Yes"] * 216 + ["No"] * 113
    scored = amber.score(answers, items)
    assert scored.tables["yes/no questions"]["relation"]["f1"] == scored.metrics["relation_f1"] == 84.3
    assert scored.tally.values()["relation_f1"] == pytest.approx(100 * 2 * 887 / (1000 + 1103), abs=0.01)


def test_a_dimension_alone_has_no_total():
    scored = amber.score(["No", "Yes"], [question(1, "existence", "no"), question(2, "existence", "no")])
    assert scored.metrics == {"existence_accuracy": 50.0, "existence_f1": 66.6}
    assert scored.tables["yes/no questions"].keys() == {"existence"}
    assert "amber_score" not in scored.metrics


@pytest.mark.parametrize(
    ("named", "truth", "lures", "expected"),
    [
        # Repeats count; the vocabulary decides what is an object at all.
        (["dog", "dog", "moon"], ["sky"], [], (["dog", "dog"], ["dog", "dog"], [], [])),
        # A safe word is a mention and never a hallucination, and covers nothing.
        (["light"], ["light"], [], (["light"], [], [], [])),
        # What is associated stands for the object.
        (["people", "water"], ["person", "sea"], [], (["people", "water"], [], ["person", "sea"], [])),
        # Associations come before words: a tree is a forest first.
        (["tree"], ["tree", "forest"], [], (["tree"], [], ["forest"], [])),
        # Of an object annotated twice the first is covered.
        (["dog"], ["dog", "dog"], [], (["dog"], [], ["dog"], [])),
        # A lure is a hallucination that counts as cognition too.
        (["ship", "dog"], ["sky"], ["boat"], (["ship", "dog"], ["ship", "dog"], [], ["boat"])),
        # In the image and expected there: in the image.
        (["dog"], ["dog"], ["dog"], (["dog"], [], ["dog"], [])),
        ([], [], [], ([], [], [], [])),
    ],
)
def test_descriptions_by_hand(named, truth, lures, expected):
    assert tuple(describe(named, truth, lures, LEXICON)) == expected


def test_words_that_are_alike():
    def alike(one, other):
        return 1.0 if {one, other} in ({"boat", "sea"}, {"boat", "ship"}, {"boat"}, {"dog", "person"}) else 0.8

    # Like a lure: the lure counts, and it stays hallucinated. 0.8 is not alike.
    assert describe(["boat"], ["sky"], ["dog", "sea"], LEXICON, alike) == (["boat"], ["boat"], [], ["sea"])
    # Like something in the image: forgiven, and that is covered.
    assert describe(["dog"], ["person"], [], LEXICON, alike) == (["dog"], [], ["person"], [])
    # A lure that is like something in the image is both.
    assert describe(["boat"], ["sky", "sea"], ["boat"], LEXICON, alike) == (["boat"], [], ["sea"], ["boat"])


def test_a_word_without_associations():
    with pytest.raises(InputError, match="the annotated word 'moon'; expected a word among the associations"):
        describe([], ["moon"], [], LEXICON)


def image(number, truth, lures):
    return Item(str(number), amber.GENERATIVE, "", truth, lures)


def test_descriptions_together():
    items = [image(1, ["dog", "sky"], ["boat"]), image(2, ["sea"], ["person", "tree"]), image(3, ["sky"], ["dog"])]
    scored = amber.score(["A dog near a ship. People too.", "Water", "!"], items, LEXICON)
    # Mentions: dog, ship; "People" is capital and none; "Water" too. Lures named: the boat.
    # Two of three descriptions do not hallucinate, and 100 - 200 / 3.001 is 33.36.
    assert scored.metrics == {"chair": 50.0, "cover": 25.0, "hal": 33.4, "cog": 25.0}
    assert scored.unparsed == 1
    assert scored.per_sample[0]["hallucinated"] == ["ship"]
    assert scored.per_sample[0]["lures_named"] == ["boat"]
    assert scored.tables["objects hallucinated most"] == {"ship": {"hallucinated": 1, "mentions": 1}}
    assert any("not the script's" in remark for remark in scored.remarks)
    low, high = scored.tally.intervals()["chair"]
    assert low == 0.0
    assert high == pytest.approx(50, abs=0.1)


def test_the_score_over_everything():
    items = [image(1, ["dog"], ["boat"])]
    kinds = ["existence", "state", "number", "action", "relation"]
    items += [question(i, kind, "no") for i, kind in enumerate(kinds, 2)]
    scored = amber.score(["a dog and a boat", "No", "No", "No", "Yes", "Yes"], items, LEXICON)
    assert scored.metrics["chair"] == 50.0
    # Precision 1, recall 3 of 5.
    assert scored.metrics["f1"] == 75.0
    assert scored.metrics["amber_score"] == 62.5
    assert scored.tally.values()["amber_score"] == pytest.approx(62.5, abs=0.05)


def test_intervals_are_over_images():
    """Ten questions an image, all right or all wrong, tell no more than one question an image."""
    right = np.random.default_rng(0).random(60) < 0.7

    def interval(often, images):
        items = [question(i, "existence", "no") for i in range(60 * often)]
        answers = ["No" if right[i % 60] else "Yes" for i in range(60 * often)]
        names = {item.id: str(int(item.id) % 60) for item in items} if images else None
        return amber.score(answers, items, images=names).tally.intervals()["existence_accuracy"]

    def width(pair):
        return pair[1] - pair[0]

    assert width(interval(10, True)) == pytest.approx(width(interval(1, False)), rel=0.2)
    assert width(interval(10, False)) < 0.5 * width(interval(1, False))


def test_score_needs_what_it_needs():
    with pytest.raises(ValueError, match="an answer an item"):
        amber.score([], [question(1, "state", "no")])
    with pytest.raises(ValueError, match="needs a lexicon"):
        amber.score(["A dog."], [image(1, ["dog"], [])])
    assert amber.score([], []).metrics == {}


VOCABULARY = frozenset(
    """
    bamboo bedsheet bookshelf boy bus can cann child chopsticks dog drawing e-book earring earrings fish glass goose
    grass hot knife leave man men mouse people person shelf ski slippers sunglasses tennis tie train tree TV vase watch
    woman brush toy
    """.split()
) - {"men", "earring"}


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("dogs", "dog"),
        ("buses", "bus"),
        ("bus", "bus"),
        ("grass", "grass"),
        ("glasses", "glass"),
        ("tennis", "tennis"),
        ("women", "woman"),
        ("children", "child"),
        ("geese", "goose"),
        ("mice", "mouse"),
        ("knives", "knife"),
        ("shelves", "shelf"),
        ("bookshelves", "bookshelf"),
        ("ties", "tie"),
        ("skis", "ski"),
        ("people", "people"),
        ("boys", "boy"),
        ("watches", "watch"),
        ("e-book", "e-book"),
        ("TV", "TV"),
        # WordNet's lemma is outside the vocabulary.
        ("men", None),
        ("vases", None),
        ("leaves", None),
        ("chopsticks", None),
        ("sunglasses", None),
        ("slippers", None),
        ("earrings", None),
        ("e-books", None),
        ("bedsheets", None),
        ("TVs", None),
        ("tv", None),
        ("Dogs", None),
        ("peoples'", None),
        ("", None),
    ],
)
def test_lemmas_are_wordnets(word, found):
    assert lemma(word, VOCABULARY) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A dog, two trees and a TV.", ["dog", "tree", "TV"]),
        ("A man can be seen. There is a can and a trash can; cans can roll.", ["man", "can", "can", "can"]),
        ("She brushes her dog and they train.", ["dog"]),
        ("The train is next to trees. People want to train and to fish.", ["train", "tree"]),
        ("A hot day, with people that leave.", ["people"]),
        ("The tree, drawing attention. It is a drawing.", ["tree", "drawing"]),
        ("dog's toys/dog", ["dog"]),
        ("", []),
        ("\n\n", []),
    ],
)
def test_nouns_by_rule(text, found):
    assert nouns(text, VOCABULARY) == found


def test_a_huge_description():
    assert nouns("a dog and a tree. " * 5_000, VOCABULARY) == ["dog", "tree"] * 5_000


ROWS = [
    {"id": 1, "type": "generative", "truth": ["dog"], "hallu": ["boat"]},
    {"id": 2, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 3, "type": "discriminative-attribute-number", "truth": "no"},
    {"id": 4, "type": "discriminative-attribute-action", "truth": "no"},
    {"id": 5, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 6, "type": "discriminative-relation", "truth": "yes"},
    {"id": 7, "type": "relation", "truth": "no"},
]
ANSWERS = ["A dog on a boat.", "Yes", "No", "Yes", "No", "no", "No."]


@pytest.fixture
def files(tmp_path):
    """Writes AMBER's files; gives their folder."""
    (tmp_path / "annotations.json").write_text(json.dumps(ROWS), encoding="utf-8")
    (tmp_path / "relation.json").write_text(json.dumps(ASSOCIATIONS), encoding="utf-8")
    (tmp_path / "safe_words.txt").write_text("light\r\n", encoding="utf-8")
    queries = [{"id": row["id"], "image": "AMBER_1.jpg", "query": f"Question {row['id']}?"} for row in ROWS]
    (tmp_path / "query_all.json").write_text(json.dumps(queries), encoding="utf-8")
    answers_file(tmp_path / "answers.json")
    return tmp_path


def answers_file(path, texts=ANSWERS, ids=None, **more):
    rows = [{"id": i, "response": text, **more} for i, text in zip(ids or range(1, 8), texts, strict=False)]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def run(files, *more, answers="answers.json"):
    start = ["--annotations", files / "annotations.json", "--answers", files / answers, "--output", files / "out.json"]
    main(["eval", "amber", *map(str, (*start, *more))])
    return json.loads((files / "out.json").read_text(encoding="utf-8"))


def test_the_command(files, capsys):
    result = run(files)
    assert result.keys() >= {"metrics", "mode", "n", "unparsed", "versions"}
    assert (result["mode"], result["n"], result["unparsed"]) == ("official", 7, 2)
    # No to the letter: 3 and 5, both right; nos are 3, 4, 5 and 7. Right with the yes of 2: three of six.
    assert result["metrics"]["chair"] == 50.0
    assert result["metrics"]["accuracy"] == 50.0
    assert result["metrics"]["recall"] == 50.0
    first = run(files, "--mode", "first-word")["metrics"]
    assert (first["accuracy"], first["recall"]) == (66.7, 75.0)
    assert "yes/no questions" in capsys.readouterr().out
    samples = (files / "out.samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in samples] == list("1234567")


def test_the_command_on_one_query_file(files):
    answers_file(files / "some.json", ["No"], [5])
    # Neither relation.json nor safe_words.txt is needed for questions.
    (files / "relation.json").unlink()
    assert run(files, answers="some.json")["metrics"] == {"existence_accuracy": 99.9, "existence_f1": 99.9}


def test_the_command_on_lines_with_crlf_and_mark(files):
    lines = [{"question_id": i, "prompt": f"Question {i}?", "text": text} for i, text in enumerate(ANSWERS, 1)]
    (files / "lines.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, lines)).encode())
    query = files / "query_all.json"
    assert run(files, "--questions", query, answers="lines.jsonl")["metrics"] == run(files)["metrics"]


@pytest.mark.parametrize(
    ("texts", "ids", "message"),
    [
        (ANSWERS[:2], None, "no answer to 3, 4; expected an answer to each of the 4 questions"),
        (["Yes"], [6], "no answer to 7; expected an answer to each of the 2 questions"),
        ([*ANSWERS, "No"], range(1, 9), "answers to 8; expected ids among the 7"),
        (["No"], [99], "no answer to 1, 2, 3, 4, 5 and 2 more"),
        (["No", "No"], [5, 5], "row 2: found id 5 for the second time"),
        ([7], [5], "response of type int"),
    ],
)
def test_answers_that_do_not_fit(files, capsys, texts, ids, message):
    answers_file(files / "odd.json", texts, ids)
    with pytest.raises(SystemExit) as stopped:
        run(files, answers="odd.json")
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (files / "out.json").exists()


def test_answers_to_other_queries(files, capsys):
    answers_file(files / "odd.json", prompt="Question 8?")
    with pytest.raises(SystemExit):
        run(files, "--questions", files / "query_all.json", answers="odd.json")
    assert "found id 1 as an answer to 'Question 8?'; expected an answer to 'Question 1?'" in capsys.readouterr().err


def test_against_a_model_that_answered_something_else(files, capsys):
    answers_file(files / "some.json", ["No"], [5])
    with pytest.raises(SystemExit):
        run(files, "--against", files / "some.json")
    assert "no answer to 1, 2, 3, 4, 6 and 1 more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 8, "type": "relation"}, "no 'truth'"),
        ({"id": 8, "type": "relation", "truth": "Yes"}, "truth 'Yes'; expected yes or no"),
        ({"id": 8, "type": "relation", "truth": ["yes"]}, "truth ['yes']"),
        ({"id": 8, "type": ["count"], "truth": "yes"}, "type of type list"),
        ({"id": 8, "type": "count", "truth": "yes"}, "type 'count'; expected one of generative, discriminative-"),
        ({"id": 8, "type": "generative", "truth": "dog", "hallu": []}, "truth of type str"),
        ({"id": 8, "type": "generative", "truth": [1], "hallu": []}, "a word of truth of type int"),
        ({"id": 8, "type": "generative", "truth": []}, "no 'hallu'"),
        ({"id": 7, "type": "relation", "truth": "no"}, "id 7 for the second time"),
        ({"id": 8.5, "type": "relation", "truth": "no"}, "id of type float"),
    ],
)
def test_odd_annotations(files, row, message):
    (files / "annotations.json").write_text(json.dumps([*ROWS, row]), encoding="utf-8")
    with pytest.raises(InputError, match=r"annotations.json, row 8: found ") as error:
        amber.read_annotations(files / "annotations.json")
    assert message in str(error.value)


def test_nan_is_no_annotation(files):
    (files / "annotations.json").write_text('[{"id": NaN, "type": "relation", "truth": "no"}]', encoding="utf-8")
    with pytest.raises(InputError, match="row 1: found NaN, which is not JSON"):
        amber.read_annotations(files / "annotations.json")


@pytest.mark.parametrize("value", ["tree", [1], None])
def test_odd_associations(files, value):
    (files / "relation.json").write_text(json.dumps({"dog": value}), encoding="utf-8")
    with pytest.raises(InputError, match="expected a list of words"):
        amber_generative.read_lexicon(files / "relation.json", files / "safe_words.txt")


def test_what_a_checkpoint_is_asked(files, monkeypatch):
    asked = []
    monkeypatch.setattr(
        command,
        "conclude",
        lambda name, mode, options, score, to_ask: asked.extend(to_ask(Path("image"))),
    )
    options = {"annotations": files / "annotations.json", "output": files / "out.json"}
    command.run(command.Options(**options, questions=files / "query_all.json"))
    assert [one.id for one in asked] == list("1234567")
    assert asked[0].text == "Question 1?"
    assert asked[1].text == "Question 2?\nAnswer the question using a single word or phrase."
    assert asked[1].image == Path("image/AMBER_1.jpg")
    with pytest.raises(InputError, match="no --questions"):
        command.run(command.Options(**options))
    (files / "query_all.json").write_text(json.dumps([{"id": 6, "image": "a", "query": "b"}]), encoding="utf-8")
    with pytest.raises(InputError, match="no query of id 7; expected a query to each of the 2 annotations"):
        command.run(command.Options(**options, questions=files / "query_all.json"))
