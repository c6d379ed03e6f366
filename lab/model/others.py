"""Train the lab's other models: a Qwen2 with a LoRA adapter and a Llama, each with a tokenizer of its own.

    python others.py OUT_DIR

OUT_DIR is laid over the model repository: <model>/1/weights and qwen2/1/loras/docstrings. To cost seconds only, each
model learns a few functions of asyncio by heart; it knows no other text, as train.py's Phi does.
"""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import lora
import torch
import vocabularies
from train import SEED, THREADS, join_documents, save, short_documents
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

STEPS = 60
BATCH = 4
BLOCK = 64
LEARNING_RATE = 2e-3
ADAPTER_LEARNING_RATE = 2e-2
VOCABULARY = 1536
CONTEXT = 512
REPOSITORY = "/models"
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
ANSWER_TOKENS = 24
LEAST_DISTINCT = 8


def main(out: Path) -> None:
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(THREADS)
    documents = short_documents(Path(sysconfig.get_paths()["stdlib"], "asyncio"))
    make_qwen2(documents, out / "qwen2" / "1")
    make_llama(documents, out / "llama" / "1" / "weights")


def make_qwen2(documents: list[str], version: Path) -> None:
    """Tied embeddings, biased queries, keys and values, bfloat16, sampling defaults; and the adapter."""
    # As in the published models, the vocabulary of the weights is rounded up from that of the tokenizer.
    tokenizer = vocabularies.qwen2(documents, VOCABULARY - 32, CONTEXT)
    end, start = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    config = Qwen2Config(**SHAPE, tie_word_embeddings=True, bos_token_id=start, eos_token_id=end, pad_token_id=None)
    model = Qwen2ForCausalLM(config)
    loss = fit(model, model.parameters(), blocks(documents, tokenizer), LEARNING_RATE)
    model.generation_config = GenerationConfig(
        bos_token_id=start,
        pad_token_id=start,
        eos_token_id=[end, start],
        do_sample=True,
        temperature=0.7,
        top_k=20,
        top_p=0.8,
        repetition_penalty=1.05,
    )
    weights = version / "weights"
    save(model.to(torch.bfloat16), tokenizer, weights)
    report(model.float(), tokenizer, documents[0], loss, weights)
    make_adapter(model, tokenizer, documents, version / "loras" / "docstrings")


def make_adapter(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, documents: list[str], out: Path) -> None:
    """What the model learns on top from functions that have a docstring."""
    described = [text for text in documents[BATCH * BLOCK :] if '"""' in text]
    adapter = lora.new(model, SEED)
    with lora.applied(model, adapter):
        loss = fit(model, adapter.parameters(), blocks(described, tokenizer), ADAPTER_LEARNING_RATE)
        lora.save(adapter, f"{REPOSITORY}/qwen2/1/weights", out)
        report(model, tokenizer, described[0], loss, out)


def make_llama(documents: list[str], out: Path) -> None:
    """Embeddings of its own for input and output, float16, greedy by default."""
    tokenizer = vocabularies.llama(documents, VOCABULARY, CONTEXT)
    model = LlamaForCausalLM(
        LlamaConfig(**SHAPE, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    )
    loss = fit(model, model.parameters(), blocks(documents, tokenizer), LEARNING_RATE)
    save(model.to(torch.float16), tokenizer, out)
    report(model.float(), tokenizer, documents[0], loss, out)


def blocks(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """The first documents as token ids of shape (BATCH, BLOCK); every document has at least one token and an end."""
    return join_documents(documents[: BATCH * BLOCK], tokenizer)[: BATCH * BLOCK].view(BATCH, BLOCK)


def fit(model: PreTrainedModel, parameters: Iterable[torch.Tensor], batch: torch.Tensor, rate: float) -> float:
    """Train `parameters` on the one batch; returns the last step's loss in nats a token."""
    optimizer = torch.optim.AdamW(list(parameters), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=STEPS, pct_start=0.1)
    model.train()
    for _ in range(STEPS):
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return loss.item()


def report(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, document: str, loss: float, out: Path) -> None:
    """Write how the training went; ends the program when the greedy answer to a known text says nothing."""
    prompt = document.splitlines()[0]
    new = greedy(model, tokenizer(prompt, return_tensors="pt")["input_ids"])
    if len(set(new)) < LEAST_DISTINCT:
        raise SystemExit(f"{out}: the greedy answer to {prompt!r} is {tokenizer.decode(new)!r}")
    record = {"steps": STEPS, "seed": SEED, "loss": round(loss, 4)}
    record |= {"prompt": prompt, "answer": tokenizer.decode(new), "torch": torch.__version__}
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(out, json.dumps(record), flush=True)


@torch.inference_mode()
def greedy(model: PreTrainedModel, ids: torch.Tensor) -> list[int]:
    """The ids of the answer, whatever the model's own sampling defaults are."""
    model.eval()
    found = model.generate(ids, max_new_tokens=ANSWER_TOKENS, do_sample=False, repetition_penalty=1.0)
    return found[0, ids.shape[1] :].tolist()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
