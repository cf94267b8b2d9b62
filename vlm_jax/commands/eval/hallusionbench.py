"""HallusionBench: yes/no questions about figures and their edited twins.

  vlm-jax eval hallusionbench --data HallusionBench.json --answers judged/ --output hallusionbench.json
  vlm-jax eval hallusionbench --data HallusionBench.json --mode rule --checkpoint DIR --images hallusion_bench \\
      --output hallusionbench.json

The official way takes verdicts of a language model: hand in the files that the official script's judge wrote
(hallusion_output_vd_model.json and hallusion_output_vs_model.json, in one folder or joined). The rule reads yes or no
from an answer and needs no judge; its figures are not the published ones.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.commands.eval.answering import Answering
from vlm_jax.commands.eval.scoring import Scoring, check_spoken, conclude, picture

if TYPE_CHECKING:
    from vlm_jax.evals.answering.questions import ImageQuestion, Suffix
    from vlm_jax.evals.statistics.tally import Scored


_NOT_WHOLE = "not the whole benchmark, as in VLMEvalKit and lmms-eval"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Scoring):
    """What the command takes.

    Attributes:
        data: `HallusionBench.json`.
        answers: HallusionBench's rows with a `model_prediction`, LLaVA's lines with ids such as VD_illusion_0_1_0
            (category, subcategory, set, figure, question), VLMEvalKit's table or lmms-eval's log: a file, or a folder
            of them. The last two ask the questions with a figure alone.
        mode: `official` the verdicts that stand beside the answers, `rule` yes or no as VLMEvalKit reads them.
        verdict_key: Where a verdict stands: 0 wrong, 1 right, 2 unclear; in VLMEvalKit's judged tables `score`.
    """

    data: Path
    answers: Path | None = None
    mode: Literal["official", "rule"] = "official"
    verdict_key: str = "gpt4v_output_gpt_check"
    answering: Annotated[Answering, tyro.conf.arg(name="")] = Answering(max_new_tokens=16)

    def usual_suffix(self) -> "Suffix":
        return "short"


def run(options: Options) -> None:
    from vlm_jax.errors import InputError
    from vlm_jax.evals.answering.answer_files import answers_to
    from vlm_jax.evals.answering.questions import ImageQuestion
    from vlm_jax.evals.hallusionbench import scorer as hallusionbench
    from vlm_jax.evals.hallusionbench.files import answered_of, read_judged, read_questions, values_for

    if options.answering.checkpoint is not None and options.mode == "official":
        raise InputError("--mode official for answers that nobody has judged", "--mode rule")
    questions = read_questions(options.data)

    def score(path: Path) -> "Scored":
        judged = read_judged(path, options.verdict_key, questions, options.id_key)
        asked = answered_of(questions, judged.answers)
        texts = {one.id: one.text for one in asked}
        answers = answers_to(list(texts), judged.answers, path, texts)
        check_spoken(answers, path, options)
        verdicts = None
        if options.mode == "official":
            what = f"verdict ({options.verdict_key})"
            verdicts = values_for(texts, judged.verdicts, path, what, "one on each answer, or --mode rule")
        same = values_for(texts, judged.same, path, "second judgement (same)") if judged.same else None
        scored = hallusionbench.score(answers, asked, options.mode, verdicts, same)
        left = f"{len(questions) - len(asked)} questions without a figure were not asked: {_NOT_WHOLE}"
        return dataclasses.replace(scored, remarks=(*([left] if len(asked) < len(questions) else []), *scored.remarks))

    def to_ask(images: Path | None) -> "Sequence[ImageQuestion]":
        return [ImageQuestion(one.id, one.text, one.image and picture(images, one.image, options)) for one in questions]

    conclude("HallusionBench", options.mode, options, score, to_ask)
