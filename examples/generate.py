"""Streams an answer decoded with Select-to-Think, then says which tokens the selector changed."""

import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer

import s2t_ext
from s2t_ext.demo import ASSETS

PROMPT = (
    "Iris has 10 gears at the dam . one finds 8 . two acquires 8 . "
    "three obtains 5 . four trashes 11 . five gives 7 . six procures 10 . how many now ?"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=ASSETS / "student")
    parser.add_argument("--selector", default="s2t_ext/demo")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--max-new-tokens", type=int, default=56)
    options = parser.parse_args()

    model = AutoModelForCausalLM.from_pretrained(options.model)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    selector = s2t_ext.Selector.from_pretrained(options.selector, model)
    changes = []

    def note(event: s2t_ext.StepEvent) -> None:
        if event.changed[0]:
            before, after = tokenizer.convert_ids_to_tokens([event.ordinary[0], event.tokens[0]])
            changes.append(f"step {event.step}: {after} instead of {before}")

    s2t_ext.generate(
        model,
        tokenizer(options.prompt, return_tensors="pt"),
        selector=selector,
        max_new_tokens=options.max_new_tokens,
        streamer=TextStreamer(tokenizer, skip_special_tokens=True),
        on_step=note,
    )
    print("\n".join(changes) or "nothing changed")


if __name__ == "__main__":
    main()
