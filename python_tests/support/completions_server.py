"""A completions server on loopback for tests: answers from a tiny model, and fails on demand."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch


class CompletionsServer:
    """An OpenAI-compatible server around a causal language model.

    Args:
        model: Answers; prompts are token ids.
        echo: "right", "missing" (ignores the parameter), "refused" (status 400), "broken"
            (status 500) or "shifted" (gives every token its successor's value, as one released
            server does).
        style: "lists" (OpenAI's) or "content" (llama.cpp's).
        most: Longest list of likeliest tokens it gives.
        names_ids: Whether it gives the ids of `logprob_token_ids` instead of the likeliest, and
            refuses those outside the vocabulary, as vLLM does.

    Attributes:
        faults: One per request, taken in order: None answers; "refuse" closes the connection,
            "slow" answers late, "drip" byte by byte, "text" is not JSON, "empty" has no choices,
            "bare" has no log-probabilities, "busy" is status 503, "bad" status 400, "half" breaks
            off in the middle.
        bodies: Requests received.
    """

    def __init__(self, model, echo="right", style="lists", most=1000, names_ids=False):
        self.model, self.echo, self.style, self.most = model, echo, style, most
        self.names_ids = names_ids
        self.faults: list[str | None] = []
        self.bodies: list[dict] = []
        self.dies_after: int | None = None
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def running(self, port=0):
        """Yields the server's URL."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802
                outer.handle(self)

            def log_message(self, *arguments):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def handle(self, handler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.bodies.append(body)
            fault = self.faults.pop(0) if self.faults else None
            if self.dies_after is not None and len(self.bodies) > self.dies_after:
                fault = "refuse"
        named = body.get("logprob_token_ids") if self.names_ids else None
        status, content = 400, b'{"error": "ids outside the vocabulary"}'
        if max(named or [0]) < self.model.config.vocab_size:
            status, content = 200, json.dumps(self.answer(body, named)).encode()
        if body.get("echo") and self.echo == "refused":
            status, content = 400, b'{"error": "echo is not supported"}'
        if body.get("echo") and self.echo == "broken":
            status, content = 500, b'{"error": "internal"}'
        if fault == "refuse":
            handler.connection.close()
            return
        if fault == "slow":
            time.sleep(1.0)
        content = {
            "text": b"<html>oh no</html>",
            "empty": b'{"choices": []}',
            "bare": b'{"choices": [{"text": "x", "logprobs": null}]}',
            "bad": b'{"error": "no such model"}',
        }.get(fault, content)
        status = {"busy": 503, "bad": 400}.get(fault, status)
        with contextlib.suppress(OSError):  # the client may have given up
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            if fault == "half":
                handler.wfile.write(content[: len(content) // 2])
                handler.connection.close()
                return
            if fault == "drip":
                for byte in content:
                    handler.wfile.write(bytes([byte]))
                    time.sleep(0.05)
                return
            handler.wfile.write(content)

    @torch.no_grad()
    def answer(self, body: dict, named: list[int] | None = None) -> dict:
        ids = body["prompt"]
        with self.lock:
            logprobs = self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        generated = int(logprobs[-1].argmax())
        tokens, rows = [*ids, generated], [None, *logprobs]
        if not body.get("echo") or self.echo == "missing":
            tokens, rows = tokens[-1:], rows[-1:]
        if body.get("echo") and self.echo == "shifted":
            rows = [*rows[1:], rows[-1]]
        count = min(body["logprobs"], self.most, logprobs.shape[1])
        logprobs = self.logprobs(tokens, rows, count, named)
        return {"choices": [{"text": "", "logprobs": logprobs}]}

    def logprobs(self, tokens, rows, count, named=None) -> dict:
        chosen = [
            None if row is None else float(row[t]) for t, row in zip(tokens, rows, strict=True)
        ]
        tops = [[] if row is None else self.top(row, count) for row in rows]
        if named is not None:
            tops = [[(token, float(rows[-1][token])) for token in {*named, tokens[-1]}]]
        if self.style == "content":
            columns = zip(tokens, chosen, tops, strict=True)
            return {
                "content": [
                    {
                        **{"id": t, "token": f"<{t}>", "logprob": value},
                        "top_logprobs": [
                            {"id": i, "token": f"<{i}>", "logprob": v} for i, v in top
                        ],
                    }
                    for t, value, top in columns
                ]
            }
        return {
            "tokens": [f"token_id:{t}" for t in tokens],
            "token_logprobs": chosen,
            "top_logprobs": [{f"token_id:{i}": v for i, v in top} or None for top in tops],
        }

    @staticmethod
    def top(row, count) -> list[tuple[int, float]]:
        best = row.topk(count)
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
