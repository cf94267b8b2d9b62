"""The class that lmms-eval makes; see the package's text."""

import dataclasses
import os
from pathlib import Path
from typing import Any, get_args

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.utils import simple_parse_args_string

from vlm_jax.checkpoints.opening import MeshOptions, asked_as, open_model, open_policy
from vlm_jax.config import Aspect
from vlm_jax.data.conversation import TEMPLATES
from vlm_jax.data.sources import Prompt
from vlm_jax.errors import InputError, did_you_mean, require_parts, require_positive
from vlm_jax.evals.answering.continuations import likelihoods
from vlm_jax.evals.lmms.requests import Document, answers, prompt_of


@dataclasses.dataclass(frozen=True)
class Options:
    """What ``--model_args`` can say; see the package's text."""

    checkpoint: str
    adapter: str | None = None
    batch_size: int = 1
    aspect: str = "own"
    template: str = "own"
    like: str | None = None
    seed: int = 0
    data: int = 1
    fsdp: int = 1
    tensor: int = 1


_NUMBERS = {"batch_size", "seed", "data", "fsdp", "tensor"}


class VlmJax(lmms):
    """A checkpoint, asked by lmms-eval.

    Raises:
        InputError: An argument is unknown or out of its range, the checkpoint or the adapter is broken, or lmms-eval
            was started with several processes.
    """

    def __init__(self, **arguments: Any):
        super().__init__()
        if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
            raise InputError(f"{processes} processes", "one: data=, fsdp= and tensor= lay out all devices of it")
        options = _options(arguments)
        mesh = MeshOptions(options.data, options.fsdp, options.tensor)
        adapter = None if options.adapter is None else Path(options.adapter)
        self._options = options
        self._model = open_model(options.checkpoint, mesh, adapter=adapter, like=options.like)
        self._model = asked_as(self._model, options.template, options.aspect)
        self._lora = open_policy(self._model, adapter)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> "VlmJax":
        """What stands in ``--model_args`` goes before lmms-eval's own options, which always name a batch size."""
        others = {key: value for key, value in (additional_config or {}).items() if value is not None}
        return cls(**(others | simple_parse_args_string(arg_string)))

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers in the requests' order."""
        asked = self._asked(requests)
        prompts, wanted = [prompt for prompt, _, _ in asked], [kwargs or {} for _, kwargs, _ in asked]
        options = self._options
        return answers(self._model, self._lora, prompts, wanted, seed=options.seed, batch_size=options.batch_size)

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """How *un*likely each continuation is, and whether greedy decoding would give it, in the requests' order.

        Minus the sum of the tokens' log-probabilities: tasks of lmms-eval take the choice with the least value
        (``ConfigurableTask.process_results``; its model classes return losses, whatever the base class says). That
        makes ``acc`` and ``acc_norm`` what lm-eval-harness computes; LLaVA's class there has the mean per token, end
        token included. A bare pair would not reach a task: 0.7.3 turns what is no text and no ``GenerationResult``
        into a string on the way.
        """
        asked = self._asked(requests)
        # The one space between question and answer is the template's.
        texts = [_continuation(target, document).removeprefix(" ") for _, target, document in asked]
        prompts = [prompt for prompt, _, _ in asked]
        found = likelihoods(self._model, self._lora, prompts, texts, batch_size=self._options.batch_size)
        return [GenerationResult((-one.log_prob, one.is_greedy)) for one in found]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError(f"{_task(requests)} asks in several rounds; vlm_jax answers one question at a time")

    def _asked(self, requests: list[Instance]) -> list[tuple[Prompt, Any, Document]]:
        """Of each request: the prompt, its second argument, and its document (one for all choices of a question)."""
        documents: dict[Document, Document] = {}
        asked = []
        for request in requests:
            if len(request.args) != 6:
                found = f"a request of {len(request.args)} parts from {request.task_name}"
                raise InputError(found, "question, what is wanted, visuals, document, task and split")
            context, wanted, visuals_of, number, task, split = request.args
            document = Document(task, split, number, visuals_of, self.task_dict[task][split])
            document = documents.setdefault(document, document)
            asked.append((prompt_of(context, document), wanted, document))
        return asked


def _options(arguments: dict[str, Any]) -> Options:
    known = {field.name for field in dataclasses.fields(Options)}
    if unknown := sorted(arguments.keys() - known):
        found = ", ".join(f"{name}{did_you_mean(name, known)}" for name in unknown)
        raise InputError(f"model arguments {found}", f"some of {', '.join(sorted(known))}")
    if "checkpoint" not in arguments:
        raise InputError("no checkpoint among the model arguments", "checkpoint=DIR, or checkpoint=tiny")
    # lmms-eval reads what looks like a number as one, and hands its own batch size over as it was written.
    given = {key: str(value) for key, value in arguments.items()}
    numbers = {name: _number(name, given.pop(name)) for name in list(given) if name in _NUMBERS}
    options = Options(**given, **numbers)
    require_positive(options, "batch_size", "data", "fsdp", "tensor")
    require_parts(options.batch_size, options.data * options.fsdp, "parts (data x fsdp)")
    for name, allowed in (("aspect", ("own", *get_args(Aspect))), ("template", ("own", *TEMPLATES))):
        if (value := getattr(options, name)) not in allowed:
            raise InputError(f"{name} {value!r}{did_you_mean(value, allowed)}", f"one of {', '.join(allowed)}")
    return options


def _number(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InputError(f"{name} {value!r}", f"{name} as a whole number") from None


def _continuation(target: Any, document: Document) -> str:
    return str(target(document.row()) if callable(target) else target)


def _task(requests: list[Instance]) -> str:
    return f"task {requests[0].task_name}" if requests else "a task"
