"""What is sent: prompts in a seeded order, never the same text twice in a run, with media where the task takes some."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ming_eval.errors import UsageError
from ming_eval.load.conversations import Conversations, History, Layout
from ming_eval.load.lengths import Lengths, parse_lengths
from ming_eval.load.plan import Level, LoadPlan
from ming_eval.load.synthetic import Vocabulary, guessed_vocabulary
from ming_eval.load.token_ids import TokenIds
from ming_eval.load.trace import TraceRow, read_trace
from ming_eval.types import Message, Part, Request, Task, Text

if TYPE_CHECKING:
    from ming_eval.load.datasets import Source

PROMPT_SETS: dict[str, tuple[str, str]] = {  # name: (file below `suites`, what is in it)
    "chat": ("chat/prompts.jsonl", "general questions of 6 to 150 words, most in English"),
    "image": ("chat/image.jsonl", "questions that fit any picture"),
    "audio": ("chat/audio.jsonl", "questions that fit any recording"),
    "video": ("chat/video.jsonl", "questions that fit any clip"),
    "speech": ("chat/speech.jsonl", "requests that are answered aloud in a sentence or two"),
}
_SET_OF_INPUT = {"I": "image", "A": "audio", "V": "video"}

_NONCES = 10**9
_NONCE_STRIDE = (
    618_033_989  # prime to 10**9, so every index has its own nonce; near 10**9 / golden ratio: leading digits differ
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One bundled question."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class PointWork:
    """The requests of one point: the same ones for every backend. No text occurs twice, warm-up included.

    `repeat` counts the passes over the points from 1. With `layout` the measured requests are turns of conversations,
    each without the turns before it, which `conversations` puts in front of it.
    """

    level: Level
    warmup: Sequence[Request]
    measured: Sequence[Request]
    repeat: int = 1
    layout: Layout | None = None
    conversations: Conversations | None = None


def load_prompts(name: str) -> tuple[Prompt, ...]:
    """The bundled prompt set called `name`, in file order.

    Raises:
        UsageError: there is none.
    """
    if name not in PROMPT_SETS:
        raise UsageError(f"unknown prompt set {name!r}: choose one of {', '.join(PROMPT_SETS)}")
    path, _ = PROMPT_SETS[name]
    lines = resources.files("suites").joinpath(path).read_text(encoding="utf-8").splitlines()
    return tuple(Prompt(**json.loads(line)) for line in lines)


class Texts:
    """Prompt texts by number, in an order drawn from `seed`: every prompt comes once in each round of all of them.

    Text i is the same whatever was asked for before it. With `nonce` each begins with a number that no other text of
    the run has, so that a server's prefix cache finds nothing behind the chat template; without it, prompts repeat from
    the second round on.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int, *, nonce: bool = True) -> None:
        self._prompts = prompts
        self._seed = seed
        self._first_nonce = random.Random(f"nonce {seed}").randrange(_NONCES) if nonce else None
        self._order: tuple[int, Sequence[Prompt]] = (-1, ())  # the round that was used last

    def __getitem__(self, index: int) -> str:
        nonce = self.nonce(index)
        return self.words(index) if nonce is None else f"{nonce} {self.words(index)}"

    def nonce(self, index: int) -> str | None:
        """The number in front of text i."""
        if self._first_nonce is None:
            return None
        return f"{(self._first_nonce + index * _NONCE_STRIDE) % _NONCES:09d}"

    def words(self, index: int) -> str:
        """Text i without its number."""
        number, place = divmod(index, len(self._prompts))
        if self._order[0] != number:
            order = random.Random(f"order {self._seed} {number}").sample(self._prompts, len(self._prompts))
            self._order = number, order
        return self._order[1][place].text


class Requests(Sequence[Request]):
    """A stretch of the run's requests, made when they are asked for: a point may have room for a million."""

    def __init__(self, make: Callable[[int], Request], count: int) -> None:
        self._make = make
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Request: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Request]: ...

    def __getitem__(self, index: int | slice) -> Request | Sequence[Request]:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._count))]
        return self._make(range(self._count)[index])


class DrawnTexts:
    """Texts by number, of drawn lengths; text i depends on nothing but the seed and the vocabulary."""

    def __init__(self, vocabulary: Vocabulary, lengths: Lengths, seed: int) -> None:
        self._vocabulary = vocabulary
        self._lengths = lengths
        self._seed = seed

    def __getitem__(self, index: int) -> str:
        return self.words(index)

    def nonce(self, index: int) -> str | None:
        """None: drawn words differ from the first one on."""
        del index
        return None

    def words(self, index: int) -> str:
        """Text i."""
        rng = random.Random(f"text {self._seed} {index}")
        return self._vocabulary.text(self._lengths.draw(rng), rng)


class DrawnIds:
    """Prompts in token ids by number, of drawn lengths; prompt i depends on nothing but the seed and the vocabulary."""

    def __init__(self, vocabulary: TokenIds, lengths: Lengths, seed: int) -> None:
        self._vocabulary = vocabulary
        self._lengths = lengths
        self._seed = seed

    def __getitem__(self, index: int) -> tuple[int, ...]:
        rng = random.Random(f"ids {self._seed} {index}")
        return self._vocabulary.draw(self._lengths.draw(rng), rng)


def plan_points(
    plan: LoadPlan, prompts: Sequence[Prompt], vocabulary: Vocabulary | TokenIds | None = None
) -> Iterator[PointWork]:
    """The requests of each point of `plan` in the order of visits, a function of the arguments alone.

    `prompts` are for text to text; other tasks have sets of their own. `vocabulary` is there when the plan asks for
    lengths of the prompts: token ids where it draws those.
    """
    rows = read_trace(Path(plan.trace)) if plan.trace is not None else ()
    writers = {task: _Writer(plan, task, prompts, vocabulary) for task in plan.tasks}
    starts = dict(zip(plan.levels(), _starts(plan), strict=True))
    for repeat in range(1, plan.repeats + 1):
        for level in plan.ordered_levels():
            num_warmup, count = plan.num_warmup(level), plan.num_requests(level)
            start = starts[level] + (repeat - 1) * (num_warmup + count)
            label = level.label if repeat == 1 else f"{level.label}-pass{repeat}"
            layout = plan.layout(level, repeat)
            make = _maker(f"{label}-", writers[level.task], start + num_warmup, plan, rows, layout)
            yield PointWork(
                level,
                Requests(_maker(f"{label}-warmup-", writers[level.task], start, plan), num_warmup),
                Requests(make, count),
                repeat,
                layout,
                None if layout is None else _conversations(plan, make, vocabulary, prompts),
            )


def _starts(plan: LoadPlan) -> Iterator[int]:
    """The number of each point's first text; it does not depend on the order of visits, nor on points behind it."""
    return accumulate(
        (plan.repeats * (plan.num_warmup(level) + plan.num_requests(level)) for level in plan.levels()[:-1]), initial=0
    )


class _Writer:
    """User turns of one task by number: media, words, and in front of both the nonce."""

    def __init__(
        self, plan: LoadPlan, task: Task, prompts: Sequence[Prompt], vocabulary: Vocabulary | TokenIds | None
    ) -> None:
        self._plan = plan
        self.task = task
        own = _SET_OF_INPUT.get(task.value[0], "speech" if task is Task.T2S else None)
        own_prompts = prompts if own is None else load_prompts(own)
        self._texts: Texts | DrawnTexts = Texts(own_prompts, plan.seed, nonce=plan.nonce)
        self._ids: DrawnIds | None = None
        if plan.input_tokens is not None:
            assert vocabulary is not None
            lengths = parse_lengths(plan.input_tokens, "--input-tokens")
            if isinstance(vocabulary, TokenIds):
                self._ids = DrawnIds(vocabulary, lengths, plan.seed)
            else:
                self._texts = DrawnTexts(vocabulary, lengths, plan.seed)
        self._asks_text_only = plan.dataset is None and task.value[0] == "T"

    def ids(self, index: int) -> tuple[int, ...] | None:
        """The whole prompt in token ids; None where it is made of messages."""
        return None if self._ids is None else self._ids[index]

    def parts(self, index: int, *, is_later_turn: bool) -> tuple[Part, ...]:
        """Later turns bring no media, and need no nonce: the conversation before them has one."""
        if is_later_turn:
            return (Text(self._texts.words(index)),)
        if self._asks_text_only:
            return (Text(self._texts[index]),)
        ask, nonce = self._source.ask(index), self._texts.nonce(index)
        text = self._texts.words(index) if ask.text is None else ask.text
        if not ask.media:
            return (Text(text if nonce is None else f"{nonce} {text}"),)
        # In front of the media, or a prefix cache would know those that come again.
        return (*(() if nonce is None else (Text(nonce),)), *ask.media, Text(text))

    @cached_property
    def _source(self) -> Source:
        from ming_eval.load.datasets import find_source  # reads suites; text alone need not pay for it

        plan = self._plan
        return find_source(self.task, plan.dataset, plan.dataset_dir, plan.media, plan.seed, _num_texts(plan))


def prepare_sources(plan: LoadPlan) -> list[str]:
    """Open the data sets of a plan before anything is measured; what there is to say of them.

    Raises:
        UsageError: a package is missing.
        DataError: the data is not there or not what it should be.
    """
    if plan.dataset is None:
        return []
    from ming_eval.load.datasets import find_source

    needed, lines = _num_texts(plan), []
    for task in plan.tasks:
        source = find_source(task, plan.dataset, plan.dataset_dir, plan.media, plan.seed, needed)
        source.ask(0)
        lines.append(f"{task}: {source.about}")
        if source.count is not None and plan.is_counted and source.count < needed:
            lines.append(f"  {needed} requests use them more than once: what the server keeps of media may help it")
    return lines


def _num_texts(plan: LoadPlan) -> int:
    return sum(plan.repeats * (plan.num_warmup(level) + plan.num_requests(level)) for level in plan.levels())


def _maker(
    prefix: str,
    writer: _Writer,
    start: int,
    plan: LoadPlan,
    rows: Sequence[TraceRow] = (),
    layout: Layout | None = None,
) -> Callable[[int], Request]:
    """Request i of a stretch; a trace's own text and length win where it has them."""

    lengths = parse_lengths(plan.output_tokens or str(plan.max_tokens), "--output-tokens")

    def make(index: int) -> Request:
        turn = None if layout is None else layout.turn(index)
        ids = writer.ids(start + index)
        messages: tuple[Message, ...] = ()
        if ids is None:
            parts = writer.parts(start + index, is_later_turn=turn is not None and turn.number > 1)
            messages = (Message("user", parts),)
        request = Request(
            id=f"{prefix}{index}",
            messages=messages,
            task=writer.task,
            # Drawn by number: request i is as long on every system.
            max_tokens=lengths.draw(random.Random(f"length {plan.seed} {start + index}")),
            temperature=plan.temperature,
            seed=_seed(plan, start + index),
            ignore_eos=plan.ignore_eos,
            extra=_logprobs(plan) | dict(plan.extra),
            turn=turn,
            prompt_ids=ids,
        )
        return _as_recorded(request, rows[index]) if rows else request

    return make


def _seed(plan: LoadPlan, number: int) -> int:
    """What text i of the run is drawn with, on every system; 31 bits, which every server takes."""
    return random.Random(f"seed {plan.seed} {number}").getrandbits(31) if plan.seed_per_request else plan.seed


def _logprobs(plan: LoadPlan) -> dict[str, Any]:
    return {} if plan.logprobs is None else {"logprobs": True, "top_logprobs": plan.logprobs}


def _conversations(
    plan: LoadPlan, make: Callable[[int], Request], vocabulary: Vocabulary | TokenIds | None, prompts: Sequence[Prompt]
) -> Conversations:
    if plan.history is History.REPLIES:
        return Conversations(make, plan.think_s)
    assert not isinstance(vocabulary, TokenIds), "conversations are chats"
    words = vocabulary or guessed_vocabulary(prompt.text for prompt in prompts)

    def scripted(index: int) -> str:
        return words.text(make(index).max_tokens or plan.max_tokens, random.Random(f"answer {plan.seed} {index}"))

    return Conversations(make, plan.think_s, scripted)


def _as_recorded(request: Request, row: TraceRow) -> Request:
    request = replace(request, max_tokens=row.output_tokens or request.max_tokens)
    if row.text is None:
        return request
    return replace(request, messages=(Message("user", (Text(row.text),)),), prompt_ids=None)
