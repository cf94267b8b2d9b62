"""LLaVA-Bench (COCO and in-the-wild): how good are a model's answers beside GPT-4's? A judge scores both from 1 to 10.

  vlm-jax eval llava-bench --questions qa90_questions.jsonl --references qa90_gpt4_answer.jsonl \\
      --context caps_boxes_coco2014_val_80.jsonl --answers answers.jsonl --output llava_bench.json \\
      --judge https://api.openai.com/v1 --judge-model gpt-4o-2024-11-20
  vlm-jax eval llava-bench --questions qa90_questions.jsonl --references qa90_gpt4_answer.jsonl \\
      --answers answers.jsonl --output llava_bench.json --judge replay:review.jsonl

Judgements are kept, and the same command goes on from where it was. Scores depend on the judge and on its rules:
published figures come from LLaVA's own rule.json (--rules) and from GPT-4 versions that are gone.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.commands.eval.answering import Answering
from vlm_jax.commands.eval.judging import Judged, judge_all, open_judge, with_judge
from vlm_jax.commands.eval.scoring import check_spoken, conclude, image_file, picture

if TYPE_CHECKING:
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.llava_bench.scorer import Context, Question
    from vlm_jax.evals.statistics.tally import Scored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Judged):
    """What the command takes.

    Attributes:
        questions: JSON lines of question_id, image, text and category.
        references: GPT-4's answers, JSON lines of question_id and text.
        context: Captions and boxes (COCO) or descriptions (in-the-wild) of the images; only a replay of LLaVA's reviews
            needs none.
        mode: How judgements are read: `official` as LLaVA's script does, `robust` in any spelling.
        rules: LLaVA's rule.json, or one like it, instead of our rules.
        image_name: An image's file by its name in the questions; with COCO's own files COCO_val2014_{}.
    """

    questions: Path
    references: Path
    context: Path | None = None
    mode: Literal["official", "robust"] = "official"
    rules: Path | None = None
    image_name: str = "{}"
    answering: Annotated[Answering, tyro.conf.arg(name="")] = Answering(max_new_tokens=1024)


def run(options: Options) -> None:
    from vlm_jax.evals.answering.answer_files import Pairing, answers_to, read_answers
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.llava_bench import scorer as llava_bench
    from vlm_jax.evals.llava_bench.rules import SYSTEM, read_rules

    questions = llava_bench.read_questions(options.questions)
    texts = {one.id: one.text for one in questions}
    pairing = Pairing(("question_id",), texts)
    references = answers_to(list(texts), read_answers(options.references, pairing), options.references, texts)
    pairing = pairing._replace(chosen=options.id_key)
    contexts, rules = _contexts(options, questions), read_rules(options.rules)
    judge = open_judge(options)
    # A rule that is missing shall not be missed after hours of answering.
    llava_bench.requests(questions, references, [""] * len(questions), contexts, rules)

    def score(path: Path) -> "Scored":
        answers = answers_to(list(texts), read_answers(path, pairing), path, texts)
        check_spoken(answers, path, options)
        requests = llava_bench.requests(questions, references, answers, contexts, rules)
        judgements, said = judge_all(judge, options, requests, to_ask, [SYSTEM, rules])
        return with_judge(llava_bench.score(questions, answers, judgements, options.mode), said)

    def to_ask(images: Path | None) -> "Sequence[ImageQuestion]":
        files = [image_file(options.image_name, one.image) for one in questions]
        return [
            ImageQuestion(one.id, one.text, picture(images, file, options))
            for one, file in zip(questions, files, strict=True)
        ]

    conclude("LLaVA-Bench", options.mode, options, score, to_ask)


def _contexts(options: Options, questions: "Sequence[Question]") -> "dict[str, Context]":
    from vlm_jax.errors import InputError
    from vlm_jax.evals.llava_bench.scorer import read_contexts

    if options.context is None:
        if not options.judging.judge.startswith("replay:"):
            raise InputError("no --context", "what stands for the images that a judge cannot see")
        return {}
    contexts = read_contexts(options.context)
    if lost := [one.image for one in questions if one.image not in contexts]:
        raise InputError(f"nothing about {lost[0]}", "a row for each image of the questions", file=str(options.context))
    return contexts
