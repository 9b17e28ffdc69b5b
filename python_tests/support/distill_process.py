"""One of several processes that distil together: `python distill_process.py DATA OUTPUT CONFIG`,
with the configuration as JSON and what `accelerate launch` sets in the environment.
"""

import json
import sys

from collecting import make_model

from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.train import distill

if __name__ == "__main__":
    data, output, config = sys.argv[1:]
    distill(make_model(1), Collection(data), output, DistillConfig(**json.loads(config)))
