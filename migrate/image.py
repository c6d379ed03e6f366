"""Which image vLLM comes from, and why: `image_strategy` official, nightly or source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate import image_source, knowledge
from migrate.errors import SettingsError
from migrate.facts import driver_to_be
from migrate.image_source import capabilities
from migrate.knowledge import Finding, Severity
from migrate.plan import Step
from migrate.settings import Settings

Facts = Mapping[str, Any]
KEPT = "/var/lib/migrate/images"
_GIB = 1024**3
# Room that a strategy takes beside the image itself: compiled objects and layers of the build, or the saved copy.
_BUILD, _PYTHON_ALONE, _COPY = 80 * _GIB, 10 * _GIB, 20 * _GIB
_SM_120 = "12.0"


def chosen(settings: Settings, facts: Facts) -> Settings:
    """The settings with the image that the host will run. `facts["vllm_image"]` is that of `asked(settings)`.

    Raises SettingsError or Refused where strategy, image and host do not fit each other.
    """
    if settings.image.strategy == "nightly" and (release := knowledge.version_of(settings.vllm.image)):
        raise SettingsError(
            f"vllm_image: {settings.vllm.image} is release {release}, which upstream keeps",
            advice="image_strategy: official; or vllm_image: vllm/vllm-openai:nightly",
        )
    if settings.image.strategy != "source":
        return settings
    base = f"{settings.image.base.partition('@')[0]}@{_digest(facts)}"
    return image_source.chosen(settings, facts, base)


def asked(settings: Settings) -> tuple[str, str]:
    """The setting and the reference that the registry is asked for: the image, or what it is built on."""
    if settings.image.strategy == "source":
        return "image_base", settings.image.base
    return "vllm_image", settings.vllm.image


def planned_digest(settings: Settings, facts: Facts) -> str:
    """The digest that the plan pins; none for an image that is not built yet, whose tag follows its inputs, and none
    where vLLM runs without one."""
    has_none = settings.image.strategy == "source" or settings.vllm.runtime == "process"
    return "" if has_none else _digest(facts)


def reference(settings: Settings, digest: str) -> str:
    """What pulls, runs and checks the image: name@sha256, or the tag of the build; "" where there is no image."""
    if settings.image.strategy == "source":
        return settings.vllm.image
    return by_digest(settings.vllm.image, digest) if digest else ""


def by_digest(name: str, digest: str) -> str:
    """`registry/name@sha256:…` for a reference with or without a tag."""
    head, _, last = name.split("@", 1)[0].rpartition("/")
    bare = last.split(":", 1)[0]
    return f"{head}/{bare}@{digest}" if head else f"{bare}@{digest}"


def why(settings: Settings, facts: Facts) -> str:
    """Why this image, for this driver and these cards, in a line."""
    image = settings.image
    if image.strategy == "source":
        return "; ".join(filter(None, (_built(settings), _covers(facts), _patched(settings))))
    version = knowledge.version_of(settings.vllm.image)
    known = knowledge.image(version, knowledge.variant_of(settings.vllm.image)) if version else None
    if known is None:
        return f"{image.strategy}: pulled by digest; no release in its tag, so the table does not know what it holds"
    parts = [f"{image.strategy}: pulled by digest", _covers(facts), _driver(known, facts)]
    return "; ".join(filter(None, (*parts, f"torch {known.torch}, NCCL {known.nccl}")))


def findings(settings: Settings, facts: Facts) -> list[Finding]:
    """Cards that the image has no code for, and a moving tag of which no copy is kept."""
    strategy, reference = settings.image.strategy, settings.vllm.image
    if strategy == "source" or settings.vllm.runtime == "process":
        return []
    version, variant = knowledge.version_of(reference), knowledge.variant_of(reference)
    found = [one for card in capabilities(facts) for one in knowledge.check_capability(version, card, variant)]
    tag = reference.partition("@")[0].rpartition("/")[2].partition(":")[2]
    if strategy == "official" and "nightly" in tag:
        problem = "upstream keeps the last 14 nightlies: the digest of this plan will be gone"
        other = "image_strategy: nightly, which keeps a copy"
        found.append(Finding("vllm_image", "image", problem, other, "push-nightly-builds.sh", Severity.REVIEW))
    return found


def steps(settings: Settings, facts: Facts, before: str) -> list[Step]:
    """What `stage` does to have the image on the host."""
    image, storage = settings.image, settings.vllm.runtime
    if image.strategy == "source":
        archs = f" for {image.arch_list}" if image.target_device == "cuda" else ""
        after = f"built{archs}, {image.max_jobs} jobs"
        busy = "the host's processors are busy meanwhile"
        return [Step("image", settings.vllm.image, before, after, why(settings, facts), busy)]
    name = f"{settings.vllm.image} ({_digest(facts)[:19]})"
    pulled = Step("image", name, before, "present", f"{why(settings, facts)}; into {storage}'s storage")
    if image.strategy == "official":
        return [pulled]
    told = "upstream keeps the last 14 nightlies"
    if image.keep_registry:
        return [pulled, Step("image", f"{image.keep_registry} (a registry)", before, "a copy, under a dated tag", told)]
    return [pulled, Step("file", KEPT, before, "a copy, under a dated name", told)]


def driver_floor(settings: Settings) -> dict[str, int]:
    """The oldest driver branch that runs the image's CUDA, as check `gpu_driver` takes it; nothing where unknown."""
    version = knowledge.version_of(settings.vllm.image)
    known = knowledge.image(version, knowledge.variant_of(settings.vllm.image)) if version else None
    return {"gpu_driver_min_major": knowledge.load().drivers[int(known.cuda.partition(".")[0])]} if known else {}


def kept(settings: Settings, digest: str, created: str) -> dict[str, str]:
    """The copy of a nightly: the dated tag, and the file where no registry is named; `created` is the plan's moment."""
    if settings.image.strategy != "nightly" or not digest:
        return {}
    name = settings.vllm.image.split("@", 1)[0]
    repository = by_digest(name, "").rstrip("@")
    tag = f"nightly-{created[:10].replace('-', '')}-{digest.partition(':')[2][:12]}"
    if settings.image.keep_registry:
        return {"repository": settings.image.keep_registry, "tag": tag, "file": ""}
    file = f"{KEPT}/{repository.rpartition('/')[2]}-{tag}.tar"
    return {"repository": repository, "tag": tag, "file": file}


def room(settings: Settings) -> dict[str, int]:
    """Folder -> bytes that the strategy needs there beside what every image needs."""
    if settings.image.strategy == "source":
        return {"/var/lib/docker": _BUILD if settings.image.target_device == "cuda" else _PYTHON_ALONE}
    keeps_file = settings.image.strategy == "nightly" and not settings.image.keep_registry
    return {"/var/lib/migrate": _COPY} if keeps_file else {}


def seconds(settings: Settings) -> int:
    """How much longer `stage` takes with this strategy."""
    return image_source.seconds(settings) if settings.image.strategy == "source" else 0


def _digest(facts: Facts) -> str:
    return str((facts.get("vllm_image") or {}).get("digest") or "")


def _built(settings: Settings) -> str:
    image = settings.image
    return f"source: vLLM {image.vllm_version} on {image.base.partition('@')[0]}, torch {image.torch}"


def _covers(facts: Facts) -> str:
    cards = capabilities(facts)
    if not cards:
        return "no card on the host to choose it for"
    first = min(row.releases.since for row in knowledge.load().images if row.sm_120 and row.releases.since)
    if any(card.startswith("12.") for card in cards):
        return f"official images cover sm_120 since {first}"
    return f"official images cover {', '.join('sm_' + card.replace('.', '') for card in cards)}"


def _patched(settings: Settings) -> str:
    names = image_source.patches(settings)
    return f"patched: {', '.join(names)}" if names else ""


def _driver(known: knowledge.Image, facts: Facts) -> str:
    needed = knowledge.load().drivers[int(known.cuda.partition(".")[0])]
    driver = driver_to_be(facts)
    return f"CUDA {known.cuda} needs driver {needed}" + (f", the host has {driver}" if driver else "")
