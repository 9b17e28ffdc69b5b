"""A llama.cpp server on loopback, run in an environment of its own (see test_real_server.py).

python llama_server.py MODEL.gguf PORT
"""

import sys
import threading

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.n_ctx = 1024
parameters.n_parallel = 1  # the same numbers for the same question
parameters.cache_prompt = False
parameters.hostnames = ["127.0.0.1"]
parameters.port = int(sys.argv[2])
parameters.cpuparams.n_threads = 1
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
threading.Event().wait()
