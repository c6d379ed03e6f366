"""Train the lab's small language model: a Phi of 4 layers on the text of Python's standard library.

    python train.py OUT_DIR

Every machine has the text, so nothing is downloaded. Documents are short (one function each) and end in EOS, which
makes greedy answers stop by themselves often enough to test it. The same seed on the same number of threads gives the
same weights.
"""

from __future__ import annotations

import ast
import json
import random
import sys
import sysconfig
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

SEED = 20240924
THREADS = 2
STEPS = 220
BATCH = 12
BLOCK = 128
LEARNING_RATE = 3e-3
VOCABULARY = 2048
DOCUMENT_CHARACTERS = range(60, 450)
EVALUATION_PROMPTS = 100
EVALUATION_TOKENS = 64
END = "<|endoftext|>"


def main(out: Path) -> None:
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(THREADS)
    started = time.monotonic()
    documents = short_documents(Path(sysconfig.get_paths()["stdlib"]))
    tokenizer = train_tokenizer(documents)
    tokens = join_documents(documents, tokenizer)
    print(f"{len(documents)} documents, {len(tokens)} tokens", flush=True)
    model = new_model(tokenizer)
    loss = train(model, tokens)
    eos_rate = measure_eos_rate(model, tokenizer, documents)
    save(model, tokenizer, out)
    record = {
        "architecture": "PhiForCausalLM",
        "documents": len(documents),
        "tokens": len(tokens),
        "steps": STEPS,
        "seed": SEED,
        "loss": round(loss, 4),
        "eos_rate": eos_rate,
        "eos_rate_prompts": EVALUATION_PROMPTS,
        "eos_rate_max_tokens": EVALUATION_TOKENS,
        "training_s": round(time.monotonic() - started, 1),
        "torch": torch.__version__,
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record), flush=True)


def short_documents(library: Path) -> list[str]:
    """Every function of the standard library of a fitting length, as text, without repeats, in a fixed random order."""
    documents: dict[str, None] = {}
    for path in sorted(library.glob("*.py")) + sorted(library.glob("[a-z]*/*.py")):
        if {"test", "tests", "lib2to3", "idlelib", "dist-packages", "site-packages", "__pycache__"} & set(path.parts):
            continue
        for text in functions(path.read_text(encoding="utf-8", errors="replace")):
            if len(text) in DOCUMENT_CHARACTERS:
                documents[text] = None
    shuffled = list(documents)
    random.Random(SEED).shuffle(shuffled)
    return shuffled


def functions(source: str) -> list[str]:
    """The text of every function in a module, moved to the left margin."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    found = []
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            indent = node.col_offset
            body = [line[indent:] for line in lines[node.lineno - 1 : node.end_lineno]]
            found.append("\n".join(body))
    return found


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2 and Phi-2 have it: no BOS is added, BOS and EOS are the same token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def join_documents(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    ids: list[int] = []
    for encoded in tokenizer(documents, add_special_tokens=False)["input_ids"]:
        ids.extend(encoded)
        ids.append(tokenizer.eos_token_id)
    return torch.tensor(ids)


def new_model(tokenizer: PreTrainedTokenizerFast) -> PhiForCausalLM:
    return PhiForCausalLM(
        PhiConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attention_dropout=0.0,
            dtype="float32",
        )
    )


def train(model: PhiForCausalLM, tokens: torch.Tensor) -> float:
    """Train on random blocks; returns the mean loss of the last tenth of the steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1)
    choose = torch.Generator().manual_seed(SEED)
    model.train()
    losses: list[float] = []
    for step in range(STEPS):
        starts = torch.randint(len(tokens) - BLOCK, (BATCH,), generator=choose)
        batch = torch.stack([tokens[start : start + BLOCK] for start in starts.tolist()])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 20 == 0:
            print(f"step {step}/{STEPS} loss {losses[-1]:.3f}", flush=True)
    last = losses[-max(1, STEPS // 10) :]
    return sum(last) / len(last)


@torch.inference_mode()
def measure_eos_rate(model: PhiForCausalLM, tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> float:
    """The share of greedy answers that end by themselves, on the first lines of documents."""
    model.eval()
    stopped = 0
    for document in documents[:EVALUATION_PROMPTS]:
        ids = tokenizer(document.splitlines()[0], return_tensors="pt")["input_ids"]
        answer = model.generate(ids, max_new_tokens=EVALUATION_TOKENS, do_sample=False, pad_token_id=0)
        stopped += int(answer[0, -1].item() == tokenizer.eos_token_id)
    return stopped / EVALUATION_PROMPTS


def save(model: PhiForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
