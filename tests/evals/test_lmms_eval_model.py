"""Checkpoints as a model of lmms-eval: with lmms-eval itself where it is installed, with the stand-in elsewhere."""

import importlib.util
import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image, ImageFile

from vlm_jax.checkpoints.adapters import save_adapter
from vlm_jax.checkpoints.opening import open_model, open_policy
from vlm_jax.config import own_steps
from vlm_jax.data.assemble import batch_of
from vlm_jax.data.conversation import Turn
from vlm_jax.data.encoding import encode_continuation, encode_conversation, encode_prompt
from vlm_jax.data.images import load_image, prepare
from vlm_jax.errors import InputError
from vlm_jax.evals.answering.continuations import likelihoods
from vlm_jax.evals.lmms.requests import Document, answers, cut, decoding, prompt_of
from vlm_jax.generate.sampling import Sampling
from vlm_jax.models.llava import forward, logits

ROOT = Path(__file__).parents[2]
QUESTIONS = [
    "is there a dog?",
    "Describe the picture. " * 12,
    "what color is the circle?",
    "<image>\nhow many cats are there?",
]
CONTINUATIONS = ["yes", "no there is no red circle to the left of it", "", "a dog and a cat", "two"]


@pytest.fixture(scope="module")
def model():
    return open_model("tiny")


@pytest.fixture(scope="module")
def lora(model):
    return open_policy(model, None)


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 256, (48 + number, 64, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def rows():
    """Nine documents, the fifth without a picture."""
    return [{"number": number, "image": None if number == 4 else picture(number)} for number in range(9)]


def visuals_of(row):
    return [] if row["image"] is None else [row["image"]]


def document(rows, number, visuals=visuals_of):
    return Document("drawn", "test", number, visuals, rows)


@pytest.fixture(scope="module")
def prompts(rows):
    return [
        prompt_of(QUESTIONS[number % 4] if number != 7 else "what is it?", document(rows, number))
        for number in range(len(rows))
    ]


def test_the_image_goes_first(rows):
    seen = prompt_of("is there a dog?", document(rows, 3))
    assert seen.turns == (Turn("human", "<image>\nis there a dog?"),)
    assert seen.id == "drawn/test/3"
    np.testing.assert_array_equal(np.asarray(load_image(seen.image)), np.asarray(rows[3]["image"]))
    marked = prompt_of("what is in <image> here?", document(rows, 3))
    assert marked.turns == (Turn("human", "what is in <image> here?"),)
    assert marked.image == seen.image  # One entry in a pipeline's memory of prepared pictures.
    assert marked.image != prompt_of("", document(rows, 2)).image
    blind = prompt_of("is there a dog?", document(rows, 4))
    assert blind.turns == (Turn("human", "is there a dog?"),)
    assert blind.image is None


@pytest.mark.parametrize("none", [None, [], [None]])
def test_no_visuals_in_every_spelling(none):
    assert prompt_of("why?", document([{}], 0, lambda row: none)).image is None


@pytest.mark.parametrize(
    ("visuals", "context", "found"),
    [
        ([picture(0), picture(1)], "why?", "2 images"),
        (["clip.mp4"], "why?", "a visual of type str"),
        ({"array": [0.0], "sampling_rate": 16000}, "why?", "a visual of type dict"),
        ([picture(0)], "<image> or <image>?", "2 <image> in the question and 1 images"),
        ([], "what is <image>?", "1 <image> in the question and 0 images"),
    ],
    ids=["images", "video", "sound", "markers", "no image"],
)
def test_what_cannot_be_asked_names_the_document(visuals, context, found):
    with pytest.raises(InputError) as error:
        prompt_of(context, document([{}] * 8, 7, lambda row: visuals))
    assert str(error.value).startswith(f"task drawn, split test, document 7: found {found}; expected ")


def test_a_broken_picture_names_its_document(model, lora, rows, tmp_path):
    path = tmp_path / "cut.png"
    picture(0).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    complaint = r"^task drawn, split test, document 0: found an image that cannot be decoded"
    with Image.open(path) as cut:
        prompt = prompt_of("why?", document([{}], 0, lambda row: [cut]))
        with pytest.raises(InputError, match=complaint):
            answers(model, lora, [prompt], [{"max_new_tokens": 2}], batch_size=1)


@pytest.mark.parametrize(
    ("wanted", "sampling", "stops"),
    [
        ({}, Sampling(1024, 0.0), ()),
        ({"until": ["\n\n"], "do_sample": False}, Sampling(1024, 0.0), ("\n\n",)),
        (
            {"until": "ASSISTANT:", "max_new_tokens": 16, "temperature": 0, "top_p": 0},
            Sampling(16, 0.0),
            ("ASSISTANT:",),
        ),
        ({"max_new_tokens": 32768, "temperature": 0.0, "top_p": None, "num_beams": 1}, Sampling(2048, 0.0), ()),
        ({"temperature": 0.2, "top_p": 0.9, "top_k": 5, "until": []}, Sampling(1024, 0.2, 0.9, 5), ()),
        ({"temperature": 0.7, "do_sample": False}, Sampling(1024, 0.0), ()),
        ({"temperature": 0.7, "do_sample": True, "top_p": None}, Sampling(1024, 0.7), ()),
        ({"do_sample": True, "until": None, "image_aspect_ratio": "original"}, Sampling(1024, 1.0), ()),
        ({"temperature": 0.0, "do_sample": True}, Sampling(1024, 0.0), ()),
        ({"num_beams": None, "repetition_penalty": 1.0}, Sampling(1024, 0.0), ()),
    ],
)
def test_generation_arguments(wanted, sampling, stops):
    assert decoding(wanted, 2048) == (sampling, stops)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"num_beams": 3}, "num_beams 3"),
        ({"repetition_penalty": 1.2}, "repetition_penalty 1.2"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p=1.5"),
    ],
)
def test_generation_arguments_that_cannot_be(wanted, found, model, lora, prompts):
    with pytest.raises(InputError, match=rf"^task drawn, split test, document 0: found .*{found}"):
        answers(model, lora, prompts[:1], [wanted], batch_size=1)


@pytest.mark.parametrize(
    ("text", "stops", "left"),
    [
        ("yes\n\nQuestion: b", ("\n\n",), "yes"),
        ("one. two; three", (";", "."), "one"),
        ("one. two; three", (".", ";"), "one"),
        ("yes", ("", "no"), "yes"),
        ("stop here", ("stop",), ""),
        ("as it is ", (), "as it is"),
    ],
)
def test_cut(text, stops, left):
    assert cut(text, stops) == left


def test_answers_keep_their_order_whatever_the_batches(model, lora, prompts):
    """Three sets of arguments side by side, three lengths of prompts, batches that are not full."""
    wanted = [
        ({"max_new_tokens": 6}, {"max_new_tokens": 3}, {"max_new_tokens": 6, "until": ["a"]})[i % 3] for i in range(9)
    ]
    together = answers(model, lora, prompts, wanted, batch_size=4)
    alone = [answers(model, lora, [prompts[i]], [wanted[i]], batch_size=1)[0] for i in range(9)]
    assert together == alone
    assert len(set(together)) > 2
    whole = answers(model, lora, prompts, [{"max_new_tokens": 6}] * 9, batch_size=2)
    assert [whole[i] for i in (0, 3, 6)] == [together[i] for i in (0, 3, 6)]
    assert all(whole[i].startswith(together[i]) for i in (1, 4, 7))
    assert any(len(whole[i]) > len(together[i]) for i in (1, 4, 7))
    assert [cut(whole[i], ("a",)) for i in (2, 5, 8)] == [together[i] for i in (2, 5, 8)]
    assert any("a" in whole[i] for i in (2, 5, 8))


def test_draws_follow_the_seed(model, lora, prompts):
    wanted = [{"max_new_tokens": 8, "temperature": 1.5}] * 9
    first, again, other = (answers(model, lora, prompts, wanted, batch_size=4, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    # The same question several times over, as lmms-eval asks for a vote, is not answered once.
    assert len(set(answers(model, lora, prompts[:1] * 8, wanted[:8], batch_size=8))) > 1


def test_a_continuation_has_the_ids_of_an_answer(model):
    turns = (Turn("human", "<image>\nis there a dog?"),)
    texts = model.tokenizer, model.template, turns
    whole = encode_conversation(*texts[:2], (*turns, Turn("gpt", "no dog")), model.config, 512)
    got = encode_continuation(*texts, "no dog", model.config, 512)
    for name in ("tokens", "image_mask", "loss_mask"):
        np.testing.assert_array_equal(getattr(got, name), getattr(whole, name)[:-1])  # Without the end token.
    assert got.loss_mask.sum() == len(model.tokenizer.tokenize("no dog"))
    prompt = encode_prompt(*texts, model.config, 512)
    empty = encode_continuation(*texts, "", model.config, 512)
    np.testing.assert_array_equal(empty.tokens, prompt.tokens)
    assert not empty.loss_mask.any()
    with pytest.raises(InputError, match=f"a prompt and continuation of {len(got)} positions"):
        encode_continuation(*texts, "no dog", model.config, len(got) - 1)


@pytest.fixture(scope="module")
def written_out(model, lora):
    """One prompt alone, padded on the other side: the sum of log-probabilities in float64, and each token against the
    best."""
    config, size, length = model.config, model.config.vision.image_size, 512
    run = jax.jit(lambda batch: logits(config, model.base, forward(config, model.base, lora, batch).hidden))

    def compute(prompt, text):
        encoded = encode_continuation(model.tokenizer, model.template, prompt.turns, text, config, length)
        image = (
            np.zeros((size, size, 3), np.uint8)
            if prompt.image is None
            else prepare(load_image(prompt.image), own_steps("pad", size))
        )
        scores = np.array(run(batch_of([(encoded, image)], length, "right", config.pad_token_id)), np.float64)[0]
        total, greedy = 0.0, True
        for place in np.flatnonzero(encoded.loss_mask):
            row, token = scores[place - 1], encoded.tokens[place]
            total += row[token] - np.log(np.exp(row - row.max()).sum()) - row.max()
            row[config.image_token_id] = -np.inf
            greedy &= bool(row.argmax() == token)
        return total, greedy

    return compute


def test_likelihoods_are_the_written_out_ones(model, lora, prompts, written_out):
    """Ragged prompts and continuations (two empty), with and without pictures, in batches that are not full; greedy
    answers are known as such, and one more word spoils them."""
    said = answers(model, lora, prompts, [{"max_new_tokens": 3}] * 9, batch_size=4)
    texts = [CONTINUATIONS[i % 5] for i in range(9)] + said + [f"{text} dog cat" for text in said]
    expected = [written_out(prompt, text) for prompt, text in zip(prompts * 3, texts, strict=True)]
    for batch_size in (1, 4):
        got = likelihoods(model, lora, prompts * 3, texts, batch_size=batch_size)
        np.testing.assert_allclose([one.log_prob for one in got], [one for one, _ in expected], rtol=2e-5, atol=2e-5)
        assert [one.is_greedy for one in got] == [one for _, one in expected]
        assert got[2] == got[7] == (0.0, True)
        assert all(one.is_greedy for one in got[9:18])
        assert not any(one.is_greedy for one in got[18:])


def test_a_long_prompt_names_its_document(model, lora, rows):
    prompt = prompt_of("dog " * 3000, document(rows, 4))
    for ask in (
        lambda: answers(model, lora, [prompt], [{}], batch_size=1),
        lambda: likelihoods(model, lora, [prompt], ["yes"], batch_size=1),
    ):
        with pytest.raises(InputError, match=r"^task drawn, split test, document 4: found a prompt of \d+ positions"):
            ask()


def test_nothing_asked(model, lora):
    assert answers(model, lora, [], [], batch_size=2) == []
    assert likelihoods(model, lora, [], [], batch_size=2) == []


def test_the_entry_point_loads_nothing_heavy():
    code = "import sys, vlm_jax.evals.lmms; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "vlm_jax" in loaded
    assert not loaded & {"jax", "flax", "transformers", "torch", "numpy", "PIL", "lmms_eval"}


# From here on the class that lmms-eval makes.


@pytest.fixture(scope="module")
def model_class():
    """``make test-lmms`` brings lmms-eval itself."""
    strict = ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("lmms_eval") is None:
            patch.syspath_prepend(Path(__file__).parent / "lmms_stand_in")
        from vlm_jax.evals.lmms.model import VlmJax

        yield VlmJax
    # The tasks of lmms-eval let Pillow read half a picture, in every test that comes after.
    ImageFile.LOAD_TRUNCATED_IMAGES = strict


@pytest.fixture(scope="module")
def ours(model_class, rows):
    made = model_class.create_from_arg_string("checkpoint=tiny,batch_size=4", {"batch_size": 1, "device": None})
    made.task_dict["drawn"] = {"test": rows}
    return made


def instance(kind, number, context, wanted, visuals=visuals_of):
    from lmms_eval.api.instance import Instance

    arguments = (context, wanted, visuals, number, "drawn", "test")
    metadata = {"task": "drawn", "doc_id": number, "repeats": 1}
    return Instance(request_type=kind, arguments=arguments, idx=0, metadata=metadata)


def test_lmms_eval_finds_the_class(model_class):
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    group = "lmms_eval.models"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, value),) = project["entry-points"][group].items()
    registry = ModelRegistryV2()
    registry.register_manifest(EntryPoint(name, value, group).load()())
    assert registry.get_model_class("vlm_jax") is model_class


def test_requests_are_answered_in_order(ours, model, lora, rows, prompts):
    kwargs = [{"max_new_tokens": 3 + i % 2, "until": ["\n\n"]} for i in range(9)]
    contexts = [prompt.turns[0].text.removeprefix("<image>\n") for prompt in prompts]
    requests = [instance("generate_until", i, contexts[i], kwargs[i]) for i in range(9)]
    got = ours.generate_until(requests)
    assert got == answers(model, lora, prompts, kwargs, batch_size=1)
    assert len(set(got)) > 2
    assert ours.generate_until(requests[::-1]) == got[::-1]
    assert [request.arguments[1] for request in requests] == kwargs  # Nothing is taken out of them.


def test_likelihoods_rank_as_tasks_read_them(ours, model, lora, prompts):
    """A task's continuation may be a text with its delimiter in front, or a function of the document."""
    from lmms_eval.api.instance import unwrap_generation_output

    texts = [CONTINUATIONS[i % 5] for i in range(9)]
    targets = [f" {text}" if i % 2 else (lambda row: CONTINUATIONS[row["number"] % 5]) for i, text in enumerate(texts)]
    contexts = [prompt.turns[0].text.removeprefix("<image>\n") for prompt in prompts]
    requests = [instance("loglikelihood", i, contexts[i], targets[i]) for i in range(9)]
    got = [unwrap_generation_output(result)[0] for result in ours.loglikelihood(requests)]
    expected = likelihoods(model, lora, prompts, texts, batch_size=1)
    np.testing.assert_allclose([cost for cost, _ in got], [-one.log_prob for one in expected], rtol=2e-5, atol=2e-5)
    assert [greedy for _, greedy in got] == [one.is_greedy for one in expected]
    assert sum(cost > 0 for cost, _ in got) == 7  # Two are empty.


def test_choices_share_their_picture(ours):
    """However many choices: opened once to see that it is there, once to look at it, and never kept."""
    opened = []

    def visuals(row):
        opened.append(row["number"])
        return visuals_of(row)

    requests = [instance("loglikelihood", i, "is there a dog?", f" {c}", visuals) for i in (0, 3, 4) for c in "abcd"]
    ours.loglikelihood(requests)
    assert sorted(opened) == [0, 0, 3, 3, 4]


def test_a_task_chooses_the_likeliest(ours, rows):
    """lmms-eval's own rule over our values: the answer that greedy decoding gives wins against a made-up one."""
    from lmms_eval.api.instance import unwrap_generation_output
    from lmms_eval.api.task import ConfigurableTask

    question = "is there a dog?"
    likely = ours.generate_until([instance("generate_until", 0, question, {"max_new_tokens": 1})])[0]
    choices = ["zebra dog left", likely]
    requests = [instance("loglikelihood", 0, question, f" {choice}") for choice in choices]
    results = [unwrap_generation_output(result)[0] for result in ours.loglikelihood(requests)]

    task = object.__new__(ConfigurableTask)
    task._config = type("Config", (), {"process_results": None})()
    task.OUTPUT_TYPE, task._metric_fn_list = "multiple_choice", {"acc": None, "exact_match": None}
    task.multiple_input = task.multiple_target = False
    task.doc_to_choice, task.doc_to_target = (lambda doc: choices), (lambda doc: 1)
    assert task.process_results(rows[0], results) == {"acc": 1.0, "exact_match": 1}


def test_arguments_change_what_is_said(model_class, ours, model, lora, tmp_path):
    """Each by itself: template, aspect, an adapter."""
    drawn = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), lora)
    save_adapter(tmp_path / "adapter", model.config, {"lora": drawn})
    requests = [instance("loglikelihood", i, "is there a dog?", " Yes") for i in (0, 3)]

    def costs(made):
        made.task_dict = ours.task_dict
        return [result.text[0] for result in made.loglikelihood(requests)]

    own = costs(ours)
    np.testing.assert_allclose(costs(model_class(checkpoint="tiny", batch_size="4", seed=3)), own, rtol=1e-6)
    for change in ({"template": "vicuna_v1"}, {"aspect": "square"}, {"adapter": str(tmp_path / "adapter")}):
        assert not np.isclose(costs(model_class(checkpoint="tiny", batch_size=4, **change)), own, rtol=1e-3).any()


def test_several_rounds_are_refused(ours):
    with pytest.raises(NotImplementedError, match=r"^task drawn asks in several rounds"):
        ours.generate_until_multi_round([instance("generate_until_multi_round", 0, "why?", {})])


def test_several_images_are_refused(ours):
    request = instance("generate_until", 5, "why?", {}, lambda row: [row["image"]] * 3)
    with pytest.raises(InputError, match=r"^task drawn, split test, document 5: found 3 images"):
        ours.generate_until([request])


def test_a_request_without_a_document_is_refused(ours):
    request = instance("loglikelihood", 0, "", "yes")
    request.arguments = ("", "yes")  # acc_mutual_info
    with pytest.raises(InputError, match="a request of 2 parts from drawn"):
        ours.loglikelihood([request])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "no checkpoint"),
        ("checkpoint=tiny,pretrained=x,device_map=auto", "model arguments device_map, pretrained; expected some of"),
        ("chekpoint=tiny", r"model arguments chekpoint \(did you mean 'checkpoint'\?\); expected some of"),
        ("checkpoint=tiny,template=vicuna", r"template 'vicuna' \(did you mean 'vicuna_v1'\?\); expected one of own"),
        ("checkpoint=tiny,batch_size=auto", "batch_size 'auto'"),
        ("checkpoint=tiny,batch_size=0", "batch_size 0"),
        ("checkpoint=tiny,batch_size=3,data=2", "a batch of 3 in 2 parts"),
        ("checkpoint=tiny,aspect=anyres", "aspect 'anyres'; expected one of own, pad, square"),
        ("checkpoint=tiny,template=llama_3", "template 'llama_3'"),
        ("checkpoint=nowhere", "nowhere"),
        ("checkpoint=tiny,adapter=nowhere", "nowhere"),
    ],
)
def test_wrong_arguments(model_class, arguments, message):
    with pytest.raises(InputError, match=message):
        model_class.create_from_arg_string(arguments, {"batch_size": 1})


def test_several_processes_are_refused(model_class, monkeypatch):
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "4")
    with pytest.raises(InputError, match="found 4 processes; expected one"):
        model_class(checkpoint="tiny")
