"""A tiny interpreter that owns a PMU: count its instructions, and take a PMI every 100 of them."""

import vpmu

IA32_PERFEVTSEL0 = 0x186
IA32_A_PMC0 = 0x4C1
IA32_PERF_GLOBAL_OVF_CTRL = 0x390
LVTPC = 0x834
PERIOD = 100


def arm(pmu: vpmu.Pmu) -> None:
    """Let the counter overflow after PERIOD instructions."""
    pmu.wrmsr(IA32_A_PMC0, (1 << 48) - PERIOD)
    pmu.wrmsr(LVTPC, 0x400)  # NMI, unmasked


def main() -> None:
    """Run a loop of 10 instructions, 1,000 times."""
    pmu = vpmu.Pmu(vpmu.cpu("sapphirerapids"))
    pmu.wrmsr(IA32_PERFEVTSEL0, 0x5300C0)  # instructions, USR, OS, INT, EN
    arm(pmu)
    samples = 0
    for _ in range(1000):
        pmu.count({"instructions": 10, "branches": 1}, cycles=15, cpl=3)
        if pmu.take_pmi() is not None:
            samples += 1
            pmu.wrmsr(IA32_PERF_GLOBAL_OVF_CTRL, 1)
            arm(pmu)
    print(f"{samples} samples of {PERIOD} instructions")
    assert samples == 100


if __name__ == "__main__":
    main()
