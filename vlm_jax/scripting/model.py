"""``vlm_jax.load`` and what it returns."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Array, Float, Float32

from vlm_jax.arrays import Batch, EvalBatch, Params
from vlm_jax.checkpoints.opening import MeshOptions, Model, open_model, open_role, policy_of
from vlm_jax.checkpoints.reading import Like
from vlm_jax.checkpoints.reward_view import VIEW_FILE, TrainedView, read_trained_view
from vlm_jax.data.assemble import placed
from vlm_jax.data.encoding import encode_answer
from vlm_jax.data.pipelines import image_continuations, image_prompts, judged_answers, prompt_lengths
from vlm_jax.data.sources import Prompt
from vlm_jax.errors import InputError
from vlm_jax.generate.answers import answer
from vlm_jax.generate.sampling import Sampling
from vlm_jax.interpret.edit_at import At, EditAt
from vlm_jax.models.llava import Capture, Site
from vlm_jax.parallel.memory import require_answering, require_reading
from vlm_jax.ranges import LARGEST_SEED, check_ranges
from vlm_jax.scripting import passes
from vlm_jax.scripting.rows import Picture, aligned, prompts, texts
from vlm_jax.scripting.states import States, unpadded

DType = Literal["float32", "bfloat16"]
Attention = Literal["auto", "xla", "cudnn", "splash"]
Pictures = Picture | Sequence[Picture]
Texts = str | Sequence[str]


def load(
    checkpoint: str | Path,
    adapter: str | Path | None = None,
    *,
    dtype: DType | None = None,
    attention: Attention = "auto",
    mesh: MeshOptions | Mapping[str, int] | None = None,
    preset: str | None = None,
    like: Like | None = None,
) -> "Vlm":
    """Open a checkpoint, and an adapter over it, for a script.

    Args:
        checkpoint: Folder in transformers' LLaVA layout or of ``vlm-jax convert``, or ``tiny``.
        adapter: Folder of an adapter, as ``vlm-jax sft``, ``reward`` and ``ppo`` write it. One with a head is a reward
            model: it scores and does not answer.
        dtype: Arithmetic of the activations; left out: the checkpoint's own. Weights keep their type.
        attention: What computes attention: left to the platform, or "xla", "cudnn" (GPUs) or "splash" (TPUs).
        mesh: Layout of the devices, ``{"data": 1, "fsdp": 1, "tensor": 1}``; left out: one device.
        preset: A name of ``config.PRESETS`` that the checkpoint must agree with.
        like: "transformers" reads pictures and prompts as its processor makes them from the checkpoint's own files,
            "llava" as LLaVA's training had them; left out: as the adapter was trained, else as the checkpoint says,
            which is mostly "llava".

    Raises:
        InputError: A file is missing or broken, the preset is another model, an argument is of no known kind, or there
            are too few devices.
    """
    if dtype is not None and dtype not in get_args(DType):
        raise InputError(f"dtype {dtype!r}", " or ".join(get_args(DType)))
    if attention not in get_args(Attention):
        raise InputError(f"attention {attention!r}", " or ".join(get_args(Attention)))
    if not isinstance(checkpoint, str | Path) or not isinstance(adapter, str | Path | None):
        raise InputError(f"checkpoint {checkpoint!r:.60} and adapter {adapter!r:.60}", "names of folders")
    folder = None if adapter is None else Path(adapter)
    model = open_model(str(checkpoint), _mesh_options(mesh), preset, folder, dtype, attention, like=like)
    role = open_role(model, folder)
    view = read_trained_view(folder) if folder is not None and "head" in role else None
    return Vlm(str(checkpoint), model, role, folder, view)


@dataclasses.dataclass(frozen=True, eq=False)
class Vlm:
    """A vision-language model in one role, ready to be asked. Nothing about it changes.

    In every call an image is a PIL image, a path, the bytes of a file, uint8 pixels [h, w, 3] or [h, w], or None; a
    list has one entry for each row, and what is no list counts for all rows. Batches are filled up to a power of two,
    ``batch_size`` at most, and texts to one of a few lengths, so that few shapes are compiled, and each of them once.

    Raises:
        InputError: In every call: lists differ in length, an image cannot be read, a text is too long, a figure is out
            of its range, or this model does not do what is asked. Where one row is at fault, it is named.

    Attributes:
        checkpoint: Its folder, or ``tiny``.
        model: What it holds: config, weights, tokenizer, template; and the mesh.
        role: ``{"lora"}``, and ``"head"`` where it scores; on the mesh.
        adapter: Where the role was read from.
        view: What a reward model reads beside the answer; None for others, and where its training left no word of it.
        change: The edit that every pass runs with.
    """

    checkpoint: str
    model: Model = dataclasses.field(repr=False)
    role: Params = dataclasses.field(repr=False)
    adapter: Path | None = None
    view: TrainedView | None = None
    change: EditAt | None = None

    def answer(
        self,
        images: Pictures,
        questions: Texts,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        batch_size: int = 16,
        max_length: int | None = None,
    ) -> list[str]:
        """What the model says to each question.

        Args:
            images, questions: See the class.
            max_new_tokens: Limit of an answer.
            temperature: 0 always takes the most likely token.
            top_p: Draw from the most likely tokens that reach this probability.
            top_k: Draw from this many most likely tokens; 0 from all.
            seed: Of the draws, which depend on the batch and the row's place in it as well.
            batch_size: Most rows at a time.
            max_length: Most positions that a prompt may take, image included; left out: image + 2048.
        """
        _require(int, max_new_tokens=max_new_tokens, top_k=top_k, seed=seed, batch_size=batch_size)
        _require(float, temperature=temperature, top_p=top_p)
        if not 0 <= seed <= LARGEST_SEED:
            raise InputError(f"seed {seed}", f"0 to {LARGEST_SEED}")
        lora, sampling = policy_of(self.role, self.adapter), Sampling(max_new_tokens, temperature, top_p, top_k)
        records = self._prompts(aligned(images=images, questions=questions))
        if not records:
            return []
        rows, lengths = self._shape(batch_size, len(records), max_length)
        require_answering(self.model, rows, min(lengths), max_new_tokens)
        batches = self._batches(image_prompts, batch_size, records, max_length=max_length)
        return list(answer(self.model, lora, batches, sampling, seed, edit=self.change))

    def log_probs(
        self, images: Pictures, questions: Texts, answers: Texts, *, batch_size: int = 16
    ) -> list[Float32[np.ndarray, " r"]]:
        """How likely each answer is: the natural logarithm of each token's probability given all before it.

        Returns:
            For each row float32 [r], the end token last; :meth:`tokens` spells them. Their sum is the answer's
            log-probability (at temperature 1).
        """
        if answers is None:
            raise InputError("no answers", "one for each row")
        rows = self._answered(images, questions, answers, batch_size, passes.answer_log_probs)
        return [log_probs[batch.loss_mask[1:]] for batch, log_probs in rows]

    def tokens(self, answers: Texts) -> list[list[str]]:
        """How the tokens of each answer are spelled, the end token last."""
        model = self.model
        return [
            model.tokenizer.convert_ids_to_tokens(encode_answer(model.tokenizer, model.template, row, model.config))
            for row in texts("answers", aligned(answers=answers)["answers"])
        ]

    def states(
        self,
        images: Pictures,
        questions: Texts,
        answers: Texts | None = None,
        *,
        layers: Sequence[int],
        sites: Sequence[Site] = ("residual",),
        batch_size: int = 16,
    ) -> list[States]:
        """Hidden states while the model reads each question, and the answer where one is given.

        Args:
            images, questions, answers: See the class; without answers the text ends where one would begin.
            layers: Blocks counted from 1; 0 is what the first block reads.
            sites: ``residual`` is a block's output, ``attention`` and ``mlp`` what the block added (0 at layer 0).
            batch_size: Most rows at a time.
        """
        if not isinstance(sites, Sequence):
            raise InputError(f"sites {sites!r:.60}", f"a list of some of {', '.join(get_args(Site))}")
        capture = Capture(self._layers(layers, first=0), tuple(sites))
        if not capture.sites or (odd := set(capture.sites) - set(get_args(Site))):
            raise InputError(f"sites {sorted(odd) if capture.sites else 'of none'}", ", ".join(get_args(Site)))
        rows = self._answered(images, questions, answers, batch_size, passes.captured_states, capture)
        return [unpadded(self.model.tokenizer, capture.layers, *row) for row in rows]

    def scores(
        self,
        images: Pictures,
        questions: Texts,
        answers: Texts,
        facts: Sequence[Sequence[str] | None] | None = None,
        *,
        batch_size: int = 16,
    ) -> Float32[np.ndarray, " n"]:
        """A reward model's score of each answer, read as in its training: the same evaluation turn, view and use of
        facts. An answer is never cut (training cuts at its ``--max-length``).

        Args:
            images, questions, answers: See the class.
            facts: For each row the sentences about its image, in the order in which they are read. Wanted where the
                training had facts, for every row with an image, and refused where it had none.
            batch_size: Most rows at a time.

        Returns:
            float32 [n]; a difference d between two answers means that the first is preferred with probability
            sigmoid(d).
        """
        columns = aligned(images=images, questions=questions, answers=answers, facts=facts)
        records, said = self._prompts(columns), texts("answers", columns["answers"])
        scores = np.zeros(len(records), np.float32)
        for found in self.score_batches(records, said, batch_size=batch_size):
            scores[list(found)] = list(found.values())
        return scores

    def score_batches(
        self,
        records: Sequence[Prompt],
        answers: Sequence[str],
        *,
        batch_size: int = 16,
        skip: Callable[[Sequence[int]], bool] = lambda records: False,
    ) -> Iterator[dict[int, float]]:
        """:meth:`scores` of records with their facts, batch after batch: each answer's score by its place.

        Args:
            records, answers: A question and an answer to it, row by row.
            batch_size: Most rows at a time.
            skip: Told the places of a batch; true leaves the batch out, which changes no other's scores.
        """
        view = self._reward_view()
        for record in records:
            if bool(record.facts) != (view.facts and record.image is not None):
                found = "facts" if record.facts else "no facts"
                trained = f"{'facts about every image' if view.facts else 'none'}, as in the reward model's training"
                with placed(record):
                    raise InputError(found, trained)
        if not records:
            return
        read = {"reward_prompt": view.prompt, "resolution": view.resolution}
        batches = self._batches(judged_answers, batch_size, records, answers, **read)
        compute = passes.judged_scores(self.model.config, self.change)
        for rows in passes.batches_by_row(self.model, self.role, batches, compute, skip):
            yield {place: float(score) for place, (_, score) in rows.items()}

    def edit(
        self,
        apply: Callable[[Float[Array, "b t d"]], Float[Array, "b t d"]],
        *,
        layers: Sequence[int],
        at: At = "all",
    ) -> "Vlm":
        """A model that differs in this: what some blocks put out is replaced while it reads and while it writes.

        Args:
            apply: States [b, t, d] in the activations' type -> what replaces them; pure jax.numpy.
            layers: Blocks counted from 1.
            at: ``image`` positions, ``text`` (all others; an answer's own tokens are text) or ``all``.
        """
        if self.change is not None:
            raise InputError("a model that is edited already", "one edit: a function may do several things")
        if not callable(apply) or at not in get_args(At):
            raise InputError(f"apply {apply!r:.60} at {at!r}", f"a function, at {', '.join(get_args(At))}")
        return dataclasses.replace(self, change=EditAt(apply, self._layers(layers, first=1), at))

    def _prompts(self, columns: Mapping[str, list[Any]]) -> list[Prompt]:
        return prompts(columns, as_transformers=self.model.config.as_transformers is not None)

    def _answered(
        self, images: Pictures, questions: Texts, answers: Texts | None, batch_size: int, compute: Callable, *more: Any
    ) -> list[tuple[Batch, Any]]:
        """``passes.by_row`` over prompts, with whole answers behind them where there are any."""
        lora = policy_of(self.role, self.adapter)
        columns = aligned(images=images, questions=questions, answers=answers)
        records = self._prompts(columns)
        if not records:
            return []
        if answers is None:
            batches = self._batches(image_prompts, batch_size, records)
        else:
            said = texts("answers", columns["answers"])
            batches = self._batches(image_continuations, batch_size, records, said, end=True)
        return passes.by_row(self.model, lora, batches, compute(self.model.config, self.change, *more))

    def _batches(
        self,
        pipeline: Callable,
        batch_size: int,
        records: Sequence[Prompt],
        *more: Any,
        max_length: int | None = None,
        **options: Any,
    ) -> Iterable[EvalBatch]:
        """Batches of a pipeline of ``data.pipelines`` that has every record once."""
        model, (rows, lengths) = self.model, self._shape(batch_size, len(records), max_length)
        require_reading(model, rows, min(lengths))
        return pipeline(records, *more, model.tokenizer, model.config, model.template, rows, lengths, **options)

    def _shape(self, batch_size: Any, records: int, max_length: Any) -> tuple[int, list[int]]:
        """Rows of a batch, and the lengths that texts are filled up to."""
        _require(int, batch_size=batch_size, **({} if max_length is None else {"max_length": max_length}))
        if batch_size < 1 or (max_length is not None and max_length < 1):
            raise InputError(f"batch_size {batch_size}, max_length {max_length}", "numbers above 0")
        parts = self.model.mesh.shape["data"] * self.model.mesh.shape["fsdp"]
        filled = -(-(1 << (records - 1).bit_length()) // parts) * parts
        return min(batch_size, filled), prompt_lengths(self.model.config, max_length)

    def _layers(self, layers: Any, first: int) -> tuple[int, ...]:
        last = self.model.config.language.layers
        known = range(first, last + 1)
        if not isinstance(layers, Sequence) or not layers or any(layer not in known for layer in layers):
            raise InputError(f"layers {layers!r:.60}", f"a list of some of {first} to {last}")
        return tuple(layers)

    def _reward_view(self) -> TrainedView:
        if "head" not in self.role:
            raise InputError("a model without a reward head", "adapter= of a reward model, to score answers")
        if self.view is None:
            raise InputError(f"no {VIEW_FILE}", "what vlm-jax reward writes beside its adapter", file=str(self.adapter))
        return self.view


def _require(kind: type, **numbers: Any) -> None:
    """Raises an :class:`InputError` where one is no number of a kind; NumPy's count, truth values do not."""
    kinds = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise InputError(f"{name} {value!r:.60}", "a whole number" if kind is int else "a number")


def _mesh_options(mesh: Any) -> MeshOptions:
    if mesh is None or isinstance(mesh, MeshOptions):
        options = mesh or MeshOptions()
    else:
        known = [field.name for field in dataclasses.fields(MeshOptions)]
        if not isinstance(mesh, Mapping):
            raise InputError(f"mesh {mesh!r:.60}", f"a mapping of some of {', '.join(known)} to numbers")
        if odd := sorted(mesh.keys() - set(known)):
            raise InputError(f"mesh axes {', '.join(map(str, odd))}", f"some of {', '.join(known)}")
        _require(int, **mesh)
        options = MeshOptions(**mesh)
    check_ranges(options)
    return options
