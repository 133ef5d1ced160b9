"""Replies to instructions that can be checked: strict on the reply as it is, loose without its wrapping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ming_eval.errors import DataError
from ming_eval.evals.item import Instruction, Item, Outcome, Reason, Reply, Score, unparsed
from ming_eval.evals.scoring.instructions import CHECKS
from ming_eval.evals.scoring.prepare import without_reasoning
from ming_eval.evals.scoring.refusal import reason_of

INSTRUCTION_STRICT, PROMPT_LOOSE, INSTRUCTION_LOOSE = "instruction_strict", "prompt_loose", "instruction_loose"


def score_instructions(item: Item, reply: Reply) -> Score:
    """Right when the reply follows every instruction to the letter; the three other metrics go into the tallies."""
    text = without_reasoning(reply.text)
    instructions = instructions_of(item)
    if text is None or not text.strip():
        missing = unparsed(Reason.TRUNCATED if text is None else reason_of("", reply))
        return Score(missing.outcome, reason=missing.reason, tallies=_tallies([False] * len(instructions), None))
    strict = [_follows(text, each) for each in instructions]
    loose = [any(_follows(variant, each) for variant in _variants(text)) for each in instructions]
    outcome = Outcome.CORRECT if all(strict) else Outcome.WRONG
    missed = ", ".join(each.id for each, is_met in zip(instructions, strict, strict=True) if not is_met)
    return Score(outcome, float(all(strict)), "strict", extracted=missed or None, tallies=_tallies(strict, loose))


def instructions_of(item: Item) -> tuple[Instruction, ...]:
    """The item's instructions.

    Raises:
        DataError: one of them is not known here.
    """
    instructions = cast(tuple[Instruction, ...], item.answer)
    for each in instructions:
        if each.id not in CHECKS:
            raise DataError(f"item {item.id}: no check for the instruction {each.id!r}")
    return instructions


def _follows(text: str, instruction: Instruction) -> bool:
    try:
        return bool(text.strip()) and CHECKS[instruction.id](text, instruction.arguments)
    except KeyError as exc:
        raise DataError(f"instruction {instruction.id} lacks the argument {exc.args[0]!r}") from exc


def _variants(text: str) -> Sequence[str]:
    """The reply without its first line, its last line, both, or none of them; each also without stars."""
    lines = text.split("\n")
    cuts = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cuts, *(cut.replace("*", "") for cut in cuts)]


def _tallies(strict: Sequence[bool], loose: Sequence[bool] | None) -> dict[str, tuple[float, float]]:
    loose = strict if loose is None else loose
    return {
        INSTRUCTION_STRICT: (float(sum(strict)), float(len(strict))),
        PROMPT_LOOSE: (float(all(loose)), 1.0),
        INSTRUCTION_LOOSE: (float(sum(loose)), float(len(loose))),
    }
