"""MMHal-Bench: how informative are open answers, and how many of them hallucinate? A judge rates each from 0 to 6.

  vlm-jax eval mmhal --questions mmhal-bench_answer_template.json --answers answers.jsonl --output mmhal.json \\
      --judge https://api.openai.com/v1 --judge-model gpt-4o-2024-11-20
  vlm-jax eval mmhal --questions mmhal-bench_answer_template.json --answers filled_in.json --output mmhal.json \\
      --judge replay:saved_evaluation.json

Answers are LLaVA's JSON lines with ids from 0 in the order of the questions, or the template with model_answer filled
in. A drawn world's questions may be judged by the rule that knows the truth, --judge scenes:WORLD.

Judgements are kept, and the same command goes on from where it was. Ratings depend on the judge and on its rubric:
published figures come from the benchmark's own rubric (--template-file) and from GPT-4 versions that are gone.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.commands.eval.answering import Answering
from vlm_jax.commands.eval.judging import Judged, judge_all, open_judge, with_judge
from vlm_jax.commands.eval.scoring import check_spoken, conclude, picture

if TYPE_CHECKING:
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.judges.interface import Judge
    from vlm_jax.evals.mmhal.scorer import Question
    from vlm_jax.evals.statistics.tally import Scored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Judged):
    """What the command takes.

    Attributes:
        questions: The benchmark's template, or a drawn world's mmhal_*.json; images go by the last part of image_src.
        mode: How judgements are read: `official` as the benchmark's script does, `robust` in any spelling.
        template_file: Rubric instead of ours, with {image_contents}, {question}, {reference} and {response} in it.
    """

    questions: Path
    mode: Literal["official", "robust"] = "official"
    template_file: Path | None = None
    answering: Annotated[Answering, tyro.conf.arg(name="")] = Answering(max_new_tokens=1024)


def run(options: Options) -> None:
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.mmhal import scorer as mmhal
    from vlm_jax.evals.mmhal.rubric import read_template

    questions = mmhal.read_questions(options.questions)
    template = read_template(options.template_file)
    judge = open_judge(options, {"scenes": lambda world: _scene_judge(Path(world), questions)})

    def score(path: Path) -> "Scored":
        answers = mmhal.read_answers(path, questions, options.id_key)
        check_spoken(answers, path, options)
        texts, said = judge_all(judge, options, mmhal.requests(questions, answers, template), to_ask, template)
        return with_judge(mmhal.score_judgements(questions, answers, texts, options.mode), said)

    def to_ask(images: Path | None) -> "Sequence[ImageQuestion]":
        return [ImageQuestion(one.id, one.text, picture(images, one.image, options)) for one in questions]

    conclude("MMHal-Bench", options.mode, options, score, to_ask)


def _scene_judge(world: Path, questions: "Sequence[Question]") -> "Judge":
    from vlm_jax.errors import InputError
    from vlm_jax.evals.judges.scene_rule import SceneJudge
    from vlm_jax.scenes.files import read_scenes
    from vlm_jax.scenes.questions import Question as SceneQuestion

    scenes = read_scenes(world)
    if any(one.truth is None or one.image not in scenes for one in questions):
        raise InputError("questions about other images", "a drawn world's mmhal_*.json", file=str(world))
    return SceneJudge(
        {one.id: (SceneQuestion(one.type, one.text, one.reference, one.truth), scenes[one.image]) for one in questions}
    )
