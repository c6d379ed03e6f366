"""Does a model fit: where a GPU's memory goes, and what is left for the KV cache."""

from __future__ import annotations

from dataclasses import dataclass, replace

from migrate.errors import UsageError
from migrate.fit import config as configs
from migrate.fit import kv as kvs
from migrate.fit import weights as sizes
from migrate.fit.config import Config
from migrate.fit.headers import Headers
from migrate.fit.kv import BLOCK, Kv
from migrate.fit.quantization import FP8, NF4, Scheme
from migrate.fit.reserve import UNCERTAINTY, Batch, reserve
from migrate.fit.units import GIB, gib
from migrate.fit.weights import Weights

DRIVER = GIB // 2
"""What CUDA does not offer of the memory that nvidia-smi shows: 31.37 of 31.84 GiB on an RTX 5090 (vLLM issue 14452),
44.42 of 44.99 on an L40S (vLLM issue 15815), 79.22 of 79.65 on an H100 (vLLM pull request 10511)."""

UTILIZATION = 0.92
"""vLLM's own `--gpu-memory-utilization` since 0.20."""

_MOST_GPUS = 64
_WHILE_LOADING = {"fp8": FP8, "bitsandbytes": NF4}


@dataclass(frozen=True, slots=True)
class Model:
    """A model on disk, or only its configuration. `scheme` is a quantisation to assume instead of its own."""

    config: Config
    headers: Headers | None = None
    scheme: Scheme | None = None

    @property
    def weights(self) -> Weights:
        return sizes.measure(self.config, self.headers, self.scheme)


@dataclass(frozen=True, slots=True)
class Setting:
    """How vLLM is to be started, on `tensor_parallel` x `pipeline_parallel` cards. `context` 0 is the model's own."""

    context: int = 0
    utilization: float = UTILIZATION
    tensor_parallel: int = 1
    kv_dtype: str = "auto"
    batch: Batch = Batch()
    pipeline_parallel: int = 1

    @property
    def cards(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel


@dataclass(frozen=True, slots=True)
class Fit:
    """Bytes on each GPU; on those of a pipeline's largest stage. `share` is what vLLM may use; `room` is what weights
    and reserve leave of it for the KV cache (negative: not even they fit). `tight`: the reserve's uncertainty decides.
    `reasons` say why it does not fit."""

    vram: int
    share: int
    weights: Weights
    weights_each: int
    reserve: int
    room: int
    kv: Kv
    kv_each: int
    context: int
    own_context: int
    setting: Setting
    reasons: tuple[str, ...]
    tight: bool

    @property
    def fits(self) -> bool:
        return not self.reasons

    @property
    def tokens(self) -> int:
        """Tokens that the KV cache can hold, in whole blocks."""
        return max(0, self.room // (self.kv_each * BLOCK) * BLOCK)

    @property
    def sequences(self) -> float:
        """How many sequences of the full context are cached at once."""
        return self.tokens / self.context

    @property
    def largest_context(self) -> int:
        """The longest context that memory and the model allow."""
        return min(self.tokens, self.own_context)

    @property
    def needed(self) -> int:
        """The least that vLLM must be given on each GPU: weights, reserve and one sequence of the context."""
        return self.weights_each + self.reserve + _blocks(self.context) * self.kv_each


def fit(model: Model, vram: int, setting: Setting | None = None) -> Fit:
    """Whether a model fits GPUs of `vram` bytes each (as nvidia-smi shows them), started with `setting`.

    The weights divide evenly over a tensor-parallel group, and as the layers do over the stages of a pipeline, the
    largest of which has one more than the smallest (vllm/distributed/utils.py, `get_pp_indices`). Raises UsageError for
    a setting that vLLM would not take, and Refused as `config.read` and `weights.measure` do.
    """
    chosen = setting or Setting()
    _check(model.config, chosen)
    weights, kv = model.weights, kvs.measure(model.config, chosen.kv_dtype)
    gpus, stages, layers = chosen.tensor_parallel, chosen.pipeline_parallel, model.config.layers
    each = -(-weights.bytes * -(-layers // stages) // (layers * gpus))
    share = int((vram - DRIVER) * chosen.utilization)
    result = Fit(
        vram=vram,
        share=share,
        weights=weights,
        weights_each=each,
        reserve=(kept := reserve(model.config, vram, chosen.batch, gpus, stages)),
        room=share - each - kept,
        kv=kv,
        kv_each=kv.on_each(gpus, stages),
        context=chosen.context or model.config.context,
        own_context=model.config.context,
        setting=chosen,
        reasons=(),
        tight=False,
    )
    return replace(result, reasons=_reasons(result), tight=abs(result.share - result.needed) < UNCERTAINTY)


def divides(config: Config, gpus: int, scheme: Scheme | None = None) -> bool:
    """Whether vLLM can divide the model over so many GPUs: heads, KV heads, and whole quantisation groups."""
    if config.heads % gpus or (config.kv_heads % gpus and gpus % config.kv_heads):
        return False
    group = scheme.group_size if scheme else 0
    width = config.integer("moe_intermediate_size", "intermediate_size", default=4 * config.hidden)
    return not group or width % (gpus * group) == 0


def _reasons(fit: Fit) -> tuple[str, ...]:
    reasons = []
    if fit.context > fit.own_context:
        reasons.append(f"the model's own context is {fit.own_context:,} tokens, {fit.context:,} are asked for")
    if fit.needed > fit.share:
        cache = gib(_blocks(fit.context) * fit.kv_each)
        parts = f"weights {gib(fit.weights_each)}, reserve {gib(fit.reserve)}, KV cache {cache}"
        reasons.append(f"{parts}: {gib(fit.needed)} on each GPU, of {gib(fit.share)}; {fit.tokens:,} tokens would fit")
    return tuple(reasons)


def _blocks(context: int) -> int:
    return -(-context // BLOCK) * BLOCK


def _check(config: Config, setting: Setting) -> None:
    if not 0 < setting.utilization <= 1:
        raise UsageError(
            f"--utilization {setting.utilization} is not above 0 and at most 1", advice="--utilization 0.92"
        )
    if setting.context < 0:
        raise UsageError(f"--context {setting.context} is not positive", advice="--context 8192")
    gpus = setting.tensor_parallel
    if not 1 <= gpus <= _MOST_GPUS or not divides(config, gpus):
        raise UsageError(
            f"--tensor-parallel {gpus} does not divide the {config.heads} attention heads and {config.kv_heads} KV "
            "heads",
            advice=f"one of {', '.join(str(n) for n in (1, 2, 4, 8, 16) if divides(config, n))}",
        )
    if not 1 <= setting.pipeline_parallel <= min(config.layers, _MOST_GPUS):
        raise UsageError(
            f"pipeline-parallel-size {setting.pipeline_parallel} is not from 1 to the {config.layers} layers",
            advice="pipeline-parallel-size: 1",
        )


def quantised(model: Model, name: str) -> Model:
    """The model as `--quantization NAME` loads it: 16-bit weights of a known architecture become smaller with `fp8` and
    `bitsandbytes` (vllm/model_executor/layers/quantization). Any other name says what the checkpoint already is, and
    changes nothing. Raises Refused as `weights.measure` does.
    """
    scheme = _WHILE_LOADING.get(name.strip().lower())
    is_plain = model.scheme is None and model.config.quantization is None
    if scheme is None or not is_plain or not sizes.countable(model.config) or (model.headers and model.headers.packed):
        return model
    _ = model.weights  # an assumed scheme is counted from config.json, so headers that contradict it would pass
    return replace(model, scheme=scheme)


def of(values: object, headers: Headers | None = None) -> Model:
    """A model from a parsed `config.json`. Raises Refused where it is none of a decoder."""
    return Model(configs.read(values), headers)
