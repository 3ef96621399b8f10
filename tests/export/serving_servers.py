"""Small servers that answer as vLLM or llama-server do, with stock transformers behind them."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch


@torch.no_grad()
def log_probs(model, ids):
    """(T, V) of a stock model."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)


def openai(model, ids_of=None):
    """What vLLM answers: prompts are echoed with the log-probability of each of their tokens."""

    def completions(body):
        ids = body["prompt"]
        if len(ids) >= model.config.max_position_embeddings:
            return 400, {"error": "the prompt is longer than the maximum model length"}
        assert body["echo"] and body["logprobs"] and body["model"] == "tiny"
        rows = log_probs(model, ids)
        values = [rows[n, token].item() for n, token in enumerate(ids[1:])]
        told = [None, *values, rows[-1].max().item()]
        return 200, {"choices": [{"logprobs": {"token_logprobs": told}}]}

    answers = {
        "/v1/models": lambda _: (200, {"data": [{"id": "tiny"}]}),
        "/v1/completions": completions,
    }
    if ids_of is not None:
        answers["/tokenize"] = lambda body: (200, {"tokens": ids_of(body["prompt"])})
    return answers


def llama_server(model, ids_of=None):
    """What llama-server answers: the most likely tokens after a prompt."""

    def completion(body):
        row = log_probs(model, body["prompt"])[-1]
        best = row.topk(body["n_probs"])
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        told = {"top_logprobs": [{"id": token, "logprob": value} for token, value in pairs]}
        read = {"tokens_evaluated": len(body["prompt"]), "truncated": False}
        return 200, {"completion_probabilities": [told], **read}

    answers = {
        "/props": lambda _: (200, {"default_generation_settings": {}}),
        "/completion": completion,
    }
    if ids_of is not None:
        answers["/tokenize"] = lambda body: (200, {"tokens": ids_of(body["content"])})
    return answers


@contextlib.contextmanager
def serving(answers):
    """Its address, while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(None)

        def do_POST(self):
            self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def answer(self, body):
            known = answers.get(self.path, lambda _: (404, {"error": "not found"}))
            status, told = known(body)
            data = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
