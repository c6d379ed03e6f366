"""Llama on Triton's python backend: a batch of prompts in, their continuations out, one after the other."""

import json

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from transformers import AutoModelForCausalLM, AutoTokenizer


class TritonPythonModel:
    def initialize(self, args):
        torch.set_num_threads(1)
        settings = json.loads(args["model_config"])["parameters"]
        weights = settings["model_dir"]["string_value"]
        self.default_max_tokens = int(settings["default_max_tokens"]["string_value"])
        self.tokenizer = AutoTokenizer.from_pretrained(weights)
        self.model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        prompts = _column(request, "text_input")
        limits = _column(request, "max_tokens") or [self.default_max_tokens] * len(prompts)
        temperatures = _column(request, "temperature") or [0.0] * len(prompts)
        try:
            texts = [self._continue(*row) for row in zip(prompts, limits, temperatures, strict=True)]
        except ValueError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        answers = np.array([[text.encode("utf-8")] for text in texts], dtype=np.object_)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("text_output", answers)])

    def _continue(self, prompt, max_tokens, temperature):
        prompt_ids = self.tokenizer(prompt.decode("utf-8"))["input_ids"]
        room = self.model.config.max_position_embeddings - len(prompt_ids)
        if room < 1:
            raise ValueError(f"text_input has {len(prompt_ids)} tokens, the model takes {len(prompt_ids) + room - 1}")
        new_ids = list(self._tokens(prompt_ids, min(int(max_tokens), room), temperature))
        # Decoded alone, the new tokens would lose the space in front of the first word.
        before = self.tokenizer.decode(prompt_ids, skip_special_tokens=True)
        return self.tokenizer.decode(prompt_ids + new_ids, skip_special_tokens=True)[len(before) :]

    @torch.inference_mode()
    def _tokens(self, prompt_ids, max_tokens, temperature):
        ids, past = torch.tensor([prompt_ids]), None
        for _ in range(max_tokens):
            output = self.model(input_ids=ids, past_key_values=past, use_cache=True)
            past = output.past_key_values
            chosen = _choose(output.logits[0, -1], temperature)
            if chosen == self.tokenizer.eos_token_id:
                return
            yield chosen
            ids = torch.tensor([[chosen]])


def _choose(logits, temperature):
    if temperature <= 0:
        return int(logits.argmax())
    return int(torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1))


def _column(request, name):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else tensor.as_numpy().reshape(-1).tolist()
