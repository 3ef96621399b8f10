"""Asks a running server for log-probabilities: vLLM and SGLang by OpenAI's interface, llama-server.

Token ids go in, so that no tokenizer stands between: what a server answers is for these ids.
"""

from __future__ import annotations

import http.client
import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..common.files import Json, not_too_deep

# After each of these positions of an input (T,), the log-probabilities of tokens by their ids, in
# nats: of all that the engine tells. Of some positions it may tell nothing.
Answers: TypeAlias = list[Mapping[int, float]]
Engine: TypeAlias = Callable[[Sequence[int], Sequence[int]], Answers]

# Seconds to wait for an answer: a long input on a slow machine takes minutes. What a server is, it
# says at once.
PATIENCE, MANNERS = 600, 30

# Of so many of the most likely tokens an engine tells the log-probability.
MOST_LIKELY = 20

# Where a server runs on this machine, no proxy stands before it.
OWN = ("localhost", "127.0.0.1", "::1")

START = "start one, such as `llama-server -m FILE.gguf` or `vllm serve FOLDER`"

# Answers of a server that is one of those known here, all the same: it asks who we are, or is not
# ready yet (llama-server, while it loads).
NO_ENTRY, NOT_READY = (401, 403), (502, 503, 504)


class RefusedError(ValueError):
    """A server answers with a status that is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Server:
    """A running server, of the kind that `find_server` saw.

    Args:
        url: without a path.
        kind: as people call it.
        model: its name for the model, where it asks for one.
        running: what must live as long as it is asked, where it runs in this process.
    """

    url: str
    kind: str
    model: str = ""
    running: object = field(default=None, repr=False, compare=False)

    def __call__(self, ids: Sequence[int], positions: Sequence[int]) -> Answers:
        """Log-probabilities after the given positions of an input."""
        if self.kind == "llama-server":
            # Each input goes on where the last one ended, and is read from its cache.
            return [self._next([int(i) for i in ids[: n + 1]]) for n in positions]
        return self._echoed([int(i) for i in ids], positions)

    def continuation(self, ids: Sequence[int], tokens: int) -> str:
        """What follows an input by the server's own greedy generation, as text.

        Raises:
            ValueError: it reads another number of tokens, or answers with no text.
        """
        asked: Json = {"prompt": [int(i) for i in ids], "temperature": 0.0, "stream": False}
        if self.kind == "llama-server":
            text = self._completion(asked | {"n_predict": tokens}).get("content")
        else:
            asked |= {"model": self.model, "max_tokens": tokens}
            choices = _asked(f"{self.url}/v1/completions", asked).get("choices")
            first = choices[0] if isinstance(choices, list) and choices else None
            text = first.get("text") if isinstance(first, dict) else None
        if not isinstance(text, str):
            raise ValueError(f"{self.url} answers without the text that it generated")
        return text

    def _completion(self, asked: Json) -> Json:
        """llama-server's answer to a prompt, of which it must have read every token."""
        ids = asked["prompt"]
        answer = _asked(f"{self.url}/completion", asked)
        read = answer.get("tokens_evaluated", len(ids))
        if read != len(ids) or (answer.get("truncated") and asked["n_predict"] == 1):
            raise ValueError(
                f"{self.url} read {read:,} tokens of {len(ids):,}: its context is too short; start "
                "it with a larger -c, which is divided by --parallel"
            )
        return answer

    def ids_of(self, text: str) -> list[int] | None:
        """A text's token ids without any that are added; None where the server does not tell."""
        body: Json = {"content": text, "prompt": text, "add_special_tokens": False}
        try:
            ids = _asked(
                f"{self.url}/tokenize", body | ({"model": self.model} if self.model else {})
            )
        except (OSError, ValueError):  # not every server has it
            return None
        found = ids.get("tokens")
        return found if isinstance(found, list) else None

    def _next(self, ids: list[int]) -> Mapping[int, float]:
        """The most likely tokens after an input, as llama-server has them before it samples."""
        asked: Json = {"prompt": ids, "n_predict": 1, "n_probs": MOST_LIKELY, "cache_prompt": True}
        answer = self._completion(asked | {"temperature": 0.0, "stream": False})
        if (
            answer.get("content", "").endswith("\ufffd")
            and "completion_probabilities" not in answer
        ):
            return {}  # half a character came out, of which it tells nothing
        try:
            (first, *_) = answer["completion_probabilities"]
            return {int(t["id"]): float(t["logprob"]) for t in first["top_logprobs"]}
        except (KeyError, TypeError, ValueError):
            raise _no_log_probabilities(self, "n_probs") from None

    def _echoed(self, ids: list[int], positions: Sequence[int]) -> Answers:
        """The log-probability of each token of the input, which OpenAI's interface echoes."""
        asked: Json = {"prompt": ids, "max_tokens": 1, "echo": True, "logprobs": 1}
        answer = _asked(
            f"{self.url}/v1/completions", asked | {"model": self.model, "temperature": 0.0}
        )
        try:
            values = answer["choices"][0]["logprobs"]["token_logprobs"]
            given = [float("nan" if value is None else value) for value in values]
        except (KeyError, TypeError, IndexError, ValueError):
            raise _no_log_probabilities(self, "echo and logprobs") from None
        if len(given) < len(ids):
            raise ValueError(
                f"{self.url} gives {len(given):,} log-probabilities for {len(ids):,} tokens: it "
                "cuts inputs, or does not echo them; start it with a longer context "
                "(vLLM: --max-model-len)"
            )
        found: Answers = [{ids[n + 1]: given[n + 1]} for n in positions if n + 1 < len(ids)]
        if any(math.isnan(value) for each in found for value in each.values()):
            raise _no_log_probabilities(self, "echo and logprobs")
        return found


def find_server(url: str) -> Server:
    """The server at an address.

    Args:
        url: such as "http://localhost:8000"; a path of "/v1" may follow.

    Raises:
        ValueError: no such address, or a server that cannot be asked.
        ConnectionError: nothing answers there.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
        raise ValueError(f"the address {url!r} is none: write it as http://localhost:8000")
    url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
    if "default_generation_settings" in _told(f"{url}/props"):
        return Server(url, "llama-server")
    if "version" in _told(f"{url}/api/version"):
        raise ValueError(
            f"{url} is Ollama, which takes texts and no token ids, so that nobody knows what it "
            "read: serve the same GGUF file by llama-server, whose code it runs, and ask that"
        )
    listed = _told(f"{url}/v1/models").get("data")
    names = [m["id"] for m in listed if "id" in m] if isinstance(listed, list) else []
    if not names:
        raise ValueError(
            f"{url} is no server that is known here: it answers neither /v1/models, as vLLM and "
            "SGLang do, nor /props, as llama-server does"
        )
    return Server(url, "OpenAI-style server", names[0])


def _has_port(parts: urllib.parse.SplitResult) -> bool:
    """Whether its port is none, or one that there is: sockets take a larger one modulo 65,536."""
    try:
        return parts.port != 0
    except ValueError:
        return False


def _told(url: str) -> Json:
    """What a server says at an address; nothing where it has none.

    Raises:
        ConnectionError: nobody answers.
        ValueError: it lets nobody in, or is not ready.
    """
    try:
        return _asked(url)
    except RefusedError as error:
        if error.status in NO_ENTRY:
            raise ValueError(
                f"{error}: it asks for a key, and none is sent; start it without one (--api-key)"
            ) from None
        if error.status in NOT_READY:
            raise ValueError(f"{error}: it is not ready yet; ask again in a while") from None
        return {}
    except ValueError:
        return {}


def _asked(url: str, body: Json | None = None) -> Json:
    """A server's answer to a question.

    Raises:
        ConnectionError: nobody answers.
        ValueError: it refuses, or answers with no JSON object.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    own = urllib.parse.urlsplit(url).hostname in OWN
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if own else []))
    try:
        patience = PATIENCE if data else MANNERS
        with opener.open(request, timeout=patience) as response, not_too_deep():
            answer = json.loads(response.read())
    except urllib.error.HTTPError as error:
        words = " ".join(error.read(1000).decode(errors="replace").split())
        message = f"{url} refuses (status {error.code}): {words or error.reason}"
        raise RefusedError(error.code, message) from None
    except http.client.HTTPException as error:
        raise ValueError(
            f"{url} breaks off before it has answered ({error or type(error).__name__}): what the "
            "server printed may say why"
        ) from None
    except ValueError:
        answer = None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(f"no server answers at {url} ({reason}): {START}") from None
    if not isinstance(answer, dict):
        raise ValueError(f"{url} answers with something else than JSON")
    return answer


def _no_log_probabilities(server: Server, asked: str) -> ValueError:
    return ValueError(
        f"{server.url} returned no log-probabilities of the input, which {asked} ask for: a newer "
        "version of it may, or the engine can be asked in this process (docs/serving.md)"
    )
