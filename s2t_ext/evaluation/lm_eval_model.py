"""Any task of lm-evaluation-harness with Select-to-Think decoding (the `lm-eval` extra).

    python -m s2t_ext.evaluation.lm_eval_model run --model s2t \
        --model_args pretrained=MODEL,selector=SELECTOR --tasks TASK

takes every option of `lm_eval`. Tasks that generate decode this way; tasks that compare
log-likelihoods do not decode, and are the plain model's.
"""

from __future__ import annotations

from typing import Any

try:
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ImportError as error:
    needed = "lm_eval_model: lm-eval must be installed (pip install 's2t_ext[lm-eval]')"
    if __name__ == "__main__":
        raise SystemExit(f"error: {needed}") from None
    raise ImportError(needed) from error

from s2t_ext.config import S2TConfig
from s2t_ext.generation import patch
from s2t_ext.selectors.selector import Selector
from s2t_ext.teachers.base import Teacher


@register_model("s2t")
class S2TLM(HFLM):
    """`HFLM` whose model's own `generate` decodes with Select-to-Think.

    Args:
        pretrained: As of `HFLM`, with all its other arguments.
        selector: Folder or repository; its decoding options are the defaults.
        teacher: Folder or repository of a teacher, for select=teacher or takeover and trigger=kl.
        k: Replaces the option of `S2TConfig`.
        trigger: Likewise.
        threshold: Likewise.
        select: Likewise.
        proposer: Likewise.
        s2t_seed: Key of the random numbers: the first row uses s2t_seed, every later one, of
            whatever batch, the next integer. So repeats of a request are different samples.
    """

    def __init__(
        self,
        pretrained: Any,
        *,
        selector: str | None = None,
        teacher: str | None = None,
        k: int | None = None,
        trigger: str | None = None,
        threshold: float | None = None,
        select: str | None = None,
        proposer: str | None = None,
        s2t_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(pretrained=pretrained, **options)
        model = self.model
        chosen = Selector.from_pretrained(selector, model) if selector else None
        given = dict(k=k, trigger=trigger, threshold=threshold, select=select, proposer=proposer)
        base = (chosen.decoding if chosen is not None else None) or S2TConfig()
        self._s2t = (
            base.with_options(**{n: v for n, v in given.items() if v is not None}),
            chosen,
            None if teacher is None else _load_teacher(teacher, model),
        )
        self._next_seed = s2t_seed
        patch(model, *self._s2t, seed=s2t_seed)

    def _model_generate(self, context: Any, *args: Any, **options: Any) -> Any:
        """`HFLM`'s, with seeds that no earlier row has had."""
        patch(self.model, *self._s2t, seed=self._next_seed)
        self._next_seed += context.shape[0]
        return super()._model_generate(context, *args, **options)


def _load_teacher(path: str, student: Any) -> Teacher:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=student.dtype)
    return Teacher.from_model(model.to(student.device))


def main() -> None:
    """`lm_eval` with the model "s2t" registered."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
