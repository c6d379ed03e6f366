"""Phi behind the interface of Triton's vllm_backend (same inputs, outputs and errors), on the python backend.

As there: sampling parameters come as JSON in one input, else as parameters of the request; the temperature is 1.0 and
max_tokens 16 unless given; without `stream` one answer comes, with the prompt in front unless
`exclude_input_in_output`; with `stream` the pieces come one by one, the last one marked as final, and the prompt must
be left out.
"""

import json
from pathlib import Path

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from transformers import AutoModelForCausalLM, AutoTokenizer

DEFAULT_MAX_TOKENS = 16
DEFAULT_TEMPERATURE = 1.0
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args):
        torch.set_num_threads(1)
        config = json.loads(args["model_config"])
        version = Path(args["model_repository"], args["model_version"])
        weights = (version / config["parameters"]["weights"]["string_value"]).resolve()
        self.tokenizer = AutoTokenizer.from_pretrained(weights)
        self.model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()
        self.context = self.model.config.max_position_embeddings

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._answer(request, sender)
            except ValueError as error:
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))), flags=FINAL)

    def _answer(self, request, sender):
        prompt = _scalar(request, "text_input", b"").decode("utf-8")
        stream = bool(_scalar(request, "stream", False))
        exclude_input = bool(_scalar(request, "exclude_input_in_output", stream))
        sampling = json.loads(_scalar(request, "sampling_parameters", request.parameters() or "{}"))
        if stream and not exclude_input:
            raise ValueError("When streaming, `exclude_input_in_output` = False is not allowed.")
        pieces = self._pieces(prompt, sampling, request)
        if not stream:
            text = "".join(piece for piece, _ in pieces)
            sender.send(_response(("" if exclude_input else prompt) + text), flags=FINAL)
            return
        is_last = False
        for piece, is_last in pieces:
            sender.send(_response(piece), flags=FINAL if is_last else 0)
        if not is_last:
            sender.send(flags=FINAL)

    def _pieces(self, prompt, sampling, request):
        """The new text, one piece a token, and whether it is the last; an unfinished character waits for its bytes."""
        ids, sent = [], ""
        for token, is_last in self._tokens(prompt, sampling):
            if request.is_cancelled():
                return
            ids.append(token)
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            if is_last or (len(text) > len(sent) and not text.endswith(UNFINISHED)):
                yield text[len(sent) :], is_last
                sent = text

    @torch.inference_mode()
    def _tokens(self, prompt, sampling):
        max_tokens = int(sampling.get("max_tokens", DEFAULT_MAX_TOKENS))
        temperature = float(sampling.get("temperature", DEFAULT_TEMPERATURE))
        choose = torch.Generator()
        choose.manual_seed(int(sampling["seed"])) if "seed" in sampling else choose.seed()
        ids = self.tokenizer(prompt, return_tensors="pt")["input_ids"]
        if not 0 < ids.shape[1] < self.context:
            raise ValueError(f"the prompt has {ids.shape[1]} tokens, the model takes 1 to {self.context - 1}")
        past, length = None, min(max_tokens, self.context - ids.shape[1])
        for made in range(1, length + 1):
            output = self.model(input_ids=ids, past_key_values=past, use_cache=True)
            past = output.past_key_values
            chosen = _choose(output.logits[0, -1], temperature, choose)
            is_last = made == length or chosen == self.tokenizer.eos_token_id
            yield chosen, is_last
            if is_last:
                return
            ids = torch.tensor([[chosen]])


def _choose(logits, temperature, generator):
    if temperature <= 0:
        return int(logits.argmax())
    return int(torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator))


def _response(text):
    return pb_utils.InferenceResponse(
        output_tensors=[pb_utils.Tensor("text_output", np.array([text.encode("utf-8")], dtype=np.object_))]
    )


def _scalar(request, name, default):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().reshape(-1)[0]
