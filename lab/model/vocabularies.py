"""The tokenizers of the lab's Qwen2 and Llama: two families whose tokens have nothing in common with Phi's.

Source of the structure: tokenizer.json of Qwen/Qwen2-0.5B-Instruct and of TinyLlama/TinyLlama-1.1B-Chat-v1.0.
"""

from __future__ import annotations

import json
import string

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_SPECIAL = ("<unk>", "<s>", "</s>")
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def qwen2(documents: list[str], size: int, context: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with Qwen2's words; the special tokens end the vocabulary, and nothing is put before a text."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(documents, trainer)
    bpe.add_special_tokens(list(QWEN2_SPECIAL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def llama(documents: list[str], size: int, context: int) -> PreTrainedTokenizerFast:
    """BPE over characters with visible spaces and byte fallback, as SentencePiece makes it; texts begin with BOS."""
    bpe = Tokenizer(_with_bytes(_merges_of_characters(documents, size - 256)))
    bpe.normalizer = _visible_spaces()
    bpe.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bpe.add_special_tokens(list(LLAMA_SPECIAL))
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", LLAMA_SPECIAL.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def _merges_of_characters(documents: list[str], size: int) -> Tokenizer:
    """A plain BPE of printable ASCII; whatever it has not seen, line ends among them, is left to the bytes."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.normalizer = _visible_spaces()
    bpe.pre_tokenizer = pre_tokenizers.Split(Regex(f"{SPACE}+[^{SPACE}]*|[^{SPACE}]+"), "isolated")
    known = set(string.printable.strip()) | {" "}
    lines = ("".join(filter(known.__contains__, line)) for text in documents for line in text.splitlines())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(LLAMA_SPECIAL), show_progress=False)
    bpe.train_from_iterator(filter(None, lines), trainer)
    return bpe


def _with_bytes(trained: Tokenizer) -> models.BPE:
    """The same merges with the 256 byte tokens between the special tokens and the characters."""
    found = json.loads(trained.to_str())["model"]
    learned = sorted(found["vocab"], key=found["vocab"].get)[len(LLAMA_SPECIAL) :]
    tokens = [*LLAMA_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
    merges = [tuple(pair) for pair in found["merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def _visible_spaces() -> normalizers.Sequence:
    return normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
