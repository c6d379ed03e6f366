"""Phi on Triton's python backend: a prompt in, its continuation out; greedy unless a temperature is given.

Asked for log-probabilities, it also returns the ids of the new tokens and the log-probability of each.
"""

import json
from pathlib import Path

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from transformers import AutoModelForCausalLM, AutoTokenizer

DEFAULT_MAX_TOKENS = 16


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
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        try:
            prompt = _scalar(request, "text_input", b"").decode("utf-8")
            max_tokens = int(_scalar(request, "max_tokens", DEFAULT_MAX_TOKENS))
            temperature = float(_scalar(request, "temperature", 0.0))
            if max_tokens < 1:
                raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
            ids, log_probs = self._generate(prompt, max_tokens, temperature)
        except ValueError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        tensors = [pb_utils.Tensor("text_output", np.array([text.encode("utf-8")], dtype=np.object_))]
        if bool(_scalar(request, "return_log_probs", False)):
            tensors.append(pb_utils.Tensor("output_ids", np.array(ids, dtype=np.int32)))
            tensors.append(pb_utils.Tensor("log_probs", np.array(log_probs, dtype=np.float32)))
        return pb_utils.InferenceResponse(output_tensors=tensors)

    @torch.inference_mode()
    def _generate(self, prompt, max_tokens, temperature):
        ids = self.tokenizer(prompt, return_tensors="pt")["input_ids"]
        if ids.shape[1] == 0:
            raise ValueError("text_input is empty")
        if ids.shape[1] >= self.context:
            raise ValueError(f"text_input has {ids.shape[1]} tokens, the model takes {self.context - 1}")
        past, new_ids, log_probs = None, [], []
        for _ in range(min(max_tokens, self.context - ids.shape[1])):
            output = self.model(input_ids=ids, past_key_values=past, use_cache=True)
            past = output.past_key_values
            scores = torch.log_softmax(output.logits[0, -1], dim=-1)
            chosen = _choose(scores, temperature)
            new_ids.append(chosen)
            log_probs.append(scores[chosen].item())
            if chosen == self.tokenizer.eos_token_id:
                break
            ids = torch.tensor([[chosen]])
        return new_ids, log_probs


def _choose(scores, temperature):
    if temperature <= 0:
        return int(scores.argmax())
    return int(torch.multinomial(torch.softmax(scores / temperature, dim=-1), 1))


def _scalar(request, name, default):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().reshape(-1)[0]
