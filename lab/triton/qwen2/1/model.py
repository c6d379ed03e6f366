"""Qwen2 with LoRA adapters, behind phi2_stream's interface and with vllm_backend's settings files.

model.json gives the weights and the context (float32 is used whatever it says: this host has no GPU), multi_lora.json
the adapters by name. A request names one as `lora_name` among its sampling parameters.
"""

import copy
import importlib.util
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

MODELS = Path(__file__).resolve().parents[2]
PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"

_spec = importlib.util.spec_from_file_location("phi2_stream", MODELS / "phi2_stream" / "1" / "model.py")
_phi2_stream = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_phi2_stream)


class TritonPythonModel(_phi2_stream.TritonPythonModel):
    def initialize(self, args):
        torch.set_num_threads(1)
        version = Path(args["model_repository"], args["model_version"])
        engine = json.loads((version / "model.json").read_text())
        self.tokenizer = AutoTokenizer.from_pretrained(engine["model"])
        base = AutoModelForCausalLM.from_pretrained(engine["model"], dtype=torch.float32).eval()
        self.context = min(base.config.max_position_embeddings, engine["max_model_len"])
        self.models = {None: base}
        if str(engine.get("enable_lora")).lower() == "true":
            adapters = json.loads((version / "multi_lora.json").read_text())
            self.models |= {name: _with_adapter(base, Path(path)) for name, path in adapters.items()}

    def _tokens(self, prompt, sampling):
        name = sampling.get("lora_name")
        if name not in self.models:
            known = ", ".join(sorted(filter(None, self.models)))
            raise ValueError(f"there is no LoRA adapter {name}; known: {known}")
        self.model = self.models[name]
        yield from super()._tokens(prompt, sampling)


def _with_adapter(base, path):
    """A copy of the model with W + alpha/r * B A in the place of every W that the adapter changes."""
    config = json.loads((path / "adapter_config.json").read_text())
    factors = load_file(path / "adapter_model.safetensors")
    model = copy.deepcopy(base)
    weights = model.state_dict()
    for key in factors:
        if key.endswith(A):
            name = key.removeprefix(PREFIX).removesuffix(A)
            change = factors[f"{PREFIX}{name}{B}"] @ factors[key]
            weights[f"{name}.weight"] += config["lora_alpha"] / config["r"] * change
    return model
