"""CPU models from CPUID dumps: the output of ``cpuid -r`` and the text files of InstLatx64."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ._cpu import CpuModel, cpu, cpus, not_of_relatives, same_pmu
from ._cpuid import BR_CNTR, FEATURE_BITS, VENDOR_WORDS, ZEROS, Cpuid, derive
from ._errors import ScenarioError

Leaves = dict[tuple[int, int], Cpuid]

#: ``0x0000000a 0x00: eax=0x07300404 ebx=…`` of Todd Allen's cpuid, which has no colon after the leaf in older versions.
_CPUID_R = re.compile(
    r"0x([0-9a-f]{8})\s+0x([0-9a-f]{2}):\s+eax=0x([0-9a-f]{8})\s+ebx=0x([0-9a-f]{8})\s+ecx=0x([0-9a-f]{8})"
    r"\s+edx=0x([0-9a-f]{8})(?![0-9a-f])",
    re.IGNORECASE,
)
#: ``CPUID 0000000A: 07300404-00000000-00000000-00000603 [SL 00]``.
_INSTLATX64 = re.compile(
    r"CPUID\s+([0-9a-f]{8}):?\s+([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{8})(?![0-9a-f])"
    r"(?:\s*\[SL\s+([0-9a-f]+)\])?",
    re.IGNORECASE,
)
#: The beginning of a line of either kind.
_BEGINS = re.compile(r"CPUID\s+[0-9a-f]{8}:|0x[0-9a-f]{8}\s+0x[0-9a-f]{2}:", re.IGNORECASE)
#: Leaves of which a model keeps what the dump says, where it does not follow from its fields.
_KEPT = (0xA, 0x1A, 0x23, 0x80000022)
#: Family, model and their extensions; the rest of the signature is stepping, type and reserved.
_FAMILY_MODEL = 0x0FFF_0FF0


def parse_dump(text: str) -> list[Leaves]:
    """The CPUs of a dump, each as its leaves; a CPU begins with leaf 0."""
    found: list[Leaves] = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _CPUID_R.search(line)
        if match:
            leaf, subleaf, *registers = (int(word, 16) for word in match.groups())
        else:
            match = _INSTLATX64.search(line)
            if not match:
                if _BEGINS.search(line):
                    raise ScenarioError(f"line {number} of the CPUID dump is cut or damaged: {line.strip()[:80]!r}")
                continue
            leaf, *registers = (int(word, 16) for word in match.groups()[:5])
            if match[6] is not None:
                subleaf = int(match[6], 16)
            else:  # older files list subleaves in order, without numbers
                subleaf = 0
                while leaf and found and (leaf, subleaf) in found[-1]:
                    subleaf += 1
        if (leaf, subleaf) == (0, 0) or not found:
            found.append({})
        found[-1].setdefault((leaf, subleaf), Cpuid(*registers))
    if not found and len(text.splitlines()) == 1:
        short = text.strip()[:80]
        raise ScenarioError(f"{short!r} is text, and no CPUID dump; for a file pass pathlib.Path({short!r})")
    if not found:
        raise ScenarioError(
            "there is no CPUID dump in it: neither lines of 'cpuid -r' (0x0000000a 0x00: eax=0x07300404 ebx=…) "
            "nor of InstLatx64 (CPUID 0000000A: 07300404-…)"
        )
    return found


@functools.cache
def _presets() -> Mapping[tuple[str, int], tuple[str, ...]]:
    """Names of the presets by vendor, family and model."""
    index: dict[tuple[str, int], tuple[str, ...]] = {}
    for name in cpus():
        model = cpu(name)
        for signature in {value & _FAMILY_MODEL for value in (model.signature, *same_pmu(name))}:
            key = (model.vendor, signature)
            index[key] = (*index.get(key, ()), name)
    return index


def _preset(vendor: str, leaves: Leaves) -> CpuModel:
    signature = leaves[1, 0].eax
    names = _presets().get((vendor, signature & _FAMILY_MODEL), ())
    if len(names) > 1:  # a hybrid part; without leaf 1AH its E-cores are off
        kind = "-e" if leaves.get((0x1A, 0), ZEROS).eax >> 24 == 0x20 else "-p"
        names = tuple(name for name in names if name.endswith(kind))
    if not names:
        raise ScenarioError(
            f"no CPU preset has the signature {signature:#x} of this dump; "
            "say which one to take the rest from: like='sapphirerapids' (vpmu list cpus)"
        )
    base = cpu(names[0])
    if (base.signature ^ signature) & _FAMILY_MODEL:
        return replace(base, quirks=base.quirks - not_of_relatives(base.name))
    return base


def model_from_dump(dump: str | os.PathLike[str], like: str | None, number: int) -> CpuModel:
    """See :meth:`vpmu.CpuModel.from_cpuid`."""
    if isinstance(dump, os.PathLike):
        try:
            with open(dump, encoding="utf-8", errors="replace") as file:
                dump = file.read()
        except OSError as error:
            raise ScenarioError(f"{os.fspath(dump)}: {error.strerror or error}") from None
    if not isinstance(dump, str):
        raise ScenarioError(f"a CPUID dump is text or a path, not {type(dump).__name__}")
    found = parse_dump(dump)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(found):
        raise ScenarioError(f"the dump has {len(found)} CPUs, numbered from 0; there is no CPU {number!r}")
    leaves = found[number]
    for needed in (0x0, 0x1):
        if (needed, 0) not in leaves:
            raise ScenarioError(f"the CPUID dump has no leaf {needed}; dump all leaves (cpuid -r)")
    words = leaves[0, 0][1:]
    vendor = next((name for name, known in VENDOR_WORDS.items() if known == words), None)
    if vendor is None:
        text = b"".join(words[i].to_bytes(4, "little") for i in (0, 2, 1)).decode("latin-1")
        raise ScenarioError(f"the CPUID dump is of a CPU of {text!r}; there are models of Intel and AMD")
    base = cpu(like) if like is not None else _preset(vendor, leaves)
    if base.vendor != vendor:
        raise ScenarioError(f"the CPUID dump is of {vendor}, and {base.name} is of {base.vendor}")
    model = _intel(base, leaves) if vendor == "intel" else _amd(base, leaves)
    overrides = [row for row in base.cpuid_overrides if row[0] not in _KEPT]
    bare = replace(model, cpuid_overrides=tuple(overrides))
    for (leaf, subleaf), registers in sorted(leaves.items()):
        if leaf in _KEPT and registers != derive(bare, leaf, subleaf):
            overrides.append((leaf, subleaf, (registers.eax, registers.ebx, registers.ecx, registers.edx)))
    model = replace(model, signature=leaves[1, 0].eax, cpuid_overrides=tuple(overrides))
    if replace(model, signature=base.signature, cpuid_overrides=base.cpuid_overrides) == cpu(base.name):
        return model
    return replace(model, name=f"{base.name}-cpuid", summary=f"from a CPUID dump; {base.summary}")


def _features(base: CpuModel, leaves: Leaves) -> frozenset[str]:
    """Features that the dump has; those that CPUID does not say, or whose leaf is not in the dump, as in the preset."""
    features = set(base.features)
    for name, (leaf, register, bit) in FEATURE_BITS[base.vendor].items():
        if (leaf, 0) in leaves:
            features.discard(name)
            if leaves[leaf, 0][register] >> bit & 1:
                features.add(name)
    if base.vendor == "intel" and (0x1C, 0) in leaves:
        features.discard("br_cntr")
        if leaves[0x1C, 0].ecx & BR_CNTR:
            features.add("br_cntr")
    return frozenset(features)


def _intel(base: CpuModel, leaves: Leaves) -> CpuModel:
    if (0xA, 0) not in leaves:
        raise ScenarioError("the CPUID dump has no leaf 0AH, so it says nothing of a PMU; dump all leaves (cpuid -r)")
    eax, ebx, ecx, edx = leaves[0xA, 0]
    version, length = eax & 0xFF, eax >> 24
    if not version:
        raise ScenarioError("CPUID leaf 0AH of the dump says version 0: this CPU or virtual machine has no PMU")
    said = {key: value for key, value in leaves.items() if key[0] in (0xA, 0x23)}
    features = _features(base, leaves)
    capabilities = base.perf_capabilities if "pdcm" in features else 0
    halves = {} if "ht_halves_gp" not in base.quirks else {"ht_halves_gp": False}
    for candidate in (base, base.with_quirks(**halves)):
        if all(candidate.cpuid(*key) == value for key, value in said.items()):
            return replace(candidate, features=features, perf_capabilities=capabilities)
    changes: dict[str, Any] = {
        "version": version,
        "gp_mask": (1 << (eax >> 8 & 0xFF)) - 1,
        "gp_width": eax >> 16 & 0xFF,
        "event_vector_length": length,
        "architectural_events": ~ebx & (1 << min(length, 32)) - 1,
        "fixed_mask": ((1 << (edx & 0x1F)) - 1 if version >= 2 else 0) | (ecx if version >= 5 else 0),
        "fixed_width": edx >> 5 & 0xFF if version >= 2 and edx & 0x1F else base.fixed_width,
        "anythread_deprecated": bool(edx >> 15 & 1),
        "features": features,
        "perf_capabilities": capabilities,
        "quirks": base.quirks - {"cpuid_fixed"},
    }
    valid = leaves.get((0x23, 0), ZEROS).eax

    def extended(subleaf: int) -> Cpuid | None:
        return leaves.get((0x23, subleaf)) if valid >> subleaf & 1 else None

    if masks := extended(1):
        changes |= {"gp_mask": masks.eax, "fixed_mask": masks.ebx}
    if acr := extended(2):
        changes["acr"] = tuple(acr)
    if events := extended(3):
        changes["architectural_events"] = events.eax
    if capable := extended(4):
        changes["pebs_caps"] = capable.ebx
    if pebs := extended(5):
        changes["pebs_masks"] = tuple(pebs)
    if "ht_halves_gp" in base.quirks:
        whole = base.core_gp_mask or base.gp_mask
        if changes["gp_mask"] == whole:
            changes["quirks"] -= {"ht_halves_gp"}
    else:
        changes["core_gp_mask"] = changes["gp_mask"]
    return replace(base, **changes)


def _amd(base: CpuModel, leaves: Leaves) -> CpuModel:
    if (0x80000001, 0) not in leaves:
        raise ScenarioError("the CPUID dump has no leaf 80000001H; dump all leaves (cpuid -r)")
    features = _features(base, leaves)
    extended = leaves.get((0x80000022, 0), ZEROS)
    version, df_counters = 1, base.df_counters
    if extended.eax & 1:
        version, counters, df_counters = 2, extended.ebx & 0xF, extended.ebx >> 10 & 0x3F
    else:
        counters = 6 if "perfctr_core" in features else 4
        features -= {"perfmon_v2_freeze"}
    gp_mask = (1 << counters) - 1
    return replace(
        base, version=version, gp_mask=gp_mask, core_gp_mask=gp_mask, df_counters=df_counters, features=features
    )
