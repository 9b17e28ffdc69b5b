"""Arguments of `generate` for the tests that try them one by one."""

from models import prompts

from s2t_ext import S2TConfig

IDLE = S2TConfig(trigger="entropy", threshold=1e3)
ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)


def complete(arguments: dict) -> dict:
    inputs = prompts(True)
    arguments = {"input_ids": inputs.ids, "attention_mask": inputs.mask, **arguments}
    if not {"max_length", "max_new_tokens", "generation_config"} & set(arguments):
        arguments["max_new_tokens"] = 10
    if "generation_config" not in arguments:
        arguments["do_sample"] = False
    return arguments
