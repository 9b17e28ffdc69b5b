"""The transformers model inside the wrappers that generate by it."""

from __future__ import annotations

import sys
from typing import Any

from accelerate.utils import extract_model_from_parallel, is_compiled_module
from torch import nn


def unwrap_model(model: nn.Module) -> Any:
    """The transformers model inside PEFT's and `torch.compile`'s wrappers, or the model itself;
    adapter layers stay in place.
    """
    peft = sys.modules.get("peft")  # without it, nothing is wrapped by it
    while True:
        if is_compiled_module(model):
            model = extract_model_from_parallel(model, keep_torch_compile=False)
        elif peft is not None and isinstance(model, peft.PeftModel):
            model = model.get_base_model()
        elif peft is not None and isinstance(model, peft.PeftMixedModel):
            model = model.base_model.model
        else:
            return model
