"""Files that the kernels of boards have, as their documentation lays them out, for readers of sensors.

- Jetson Orin Nano, Jetson Linux 36: Jetson Linux Developer Guide, "Power Management", "Thermal Management", "Clocks".
- Raspberry Pi 5: its documentation on ``vcgencmd`` and on the frequency of the processor; kernel 6.6.
- Pixel 7 (Tensor G2): Android Open Source Project, kernel 5.10; two, two and four cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CPU = "sys/devices/system/cpu"
THERMAL = "sys/class/thermal"


def write(root: Path, files: Mapping[str, str]) -> Path:
    """Return ``root``, with these files below it, each with a line end as the kernel writes it."""
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n", encoding="utf-8")
    return root


def cores(count: int, policies: Mapping[int, tuple[str, str, int, int, int]]) -> dict[str, str]:
    """Files of cpufreq; a policy by its first core: cores, governor, and least, present and highest clock in kHz."""
    files: dict[str, str] = {}
    for first, (members, governor, least, now, most) in policies.items():
        low, _, high = members.partition("-")
        told = {
            "related_cpus": " ".join(map(str, range(int(low), int(high or low) + 1))),
            "scaling_governor": governor,
            "scaling_available_governors": f"performance powersave {governor}",
            "scaling_cur_freq": str(now),
            "scaling_min_freq": str(least),
            "scaling_max_freq": str(most),
            "cpuinfo_max_freq": str(most),
        }
        places = [f"{CPU}/cpufreq/policy{first}"]
        places += [f"{CPU}/cpu{core}/cpufreq" for core in range(int(low), int(high or low) + 1)]
        files |= {f"{place}/{name}": value for place in places for name, value in told.items()}
    return files | {f"{CPU}/cpu{core}/online": "1" for core in range(count)}


def zones(**millidegrees: str) -> dict[str, str]:
    """Files of thermal zones."""
    files = {}
    for number, (kind, told) in enumerate(millidegrees.items()):
        files[f"{THERMAL}/thermal_zone{number}/type"] = kind.replace("_", "-")
        files[f"{THERMAL}/thermal_zone{number}/temp"] = told
    return files


def cooling(**states: str) -> dict[str, str]:
    """Files of cooling devices."""
    files = {}
    for number, (kind, state) in enumerate(states.items()):
        files[f"{THERMAL}/cooling_device{number}/type"] = kind.replace("_", "-")
        files[f"{THERMAL}/cooling_device{number}/cur_state"] = state
    return files


def jetson_orin(root: Path) -> Path:
    """Return ``root`` as on a Jetson Orin Nano in its mode of 15 W: two sensors sleep, and nothing is throttled."""
    monitor, clocks = "sys/class/hwmon/hwmon1", ("schedutil", 115_200, 729_600, 1_510_400)
    rails = {"VDD_IN": (5_024, 1_200), "VDD_CPU_GPU_CV": (5_024, 400), "VDD_SOC": (5_016, 304)}
    files = {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd aes asimdhp asimddp uscat ilrcpc\nCPU part\t: 0xd42",
        "var/lib/nvpmodel/status": "pmode:0000",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=7W >\n",
        "sys/class/devfreq/17000000.gpu/cur_freq": "306000000",
        "sys/class/devfreq/15340000.vic/cur_freq": "115200000",
        "sys/kernel/debug/bpmp/debug/clk/emc/rate": "2133000000",
        "sys/class/hwmon/hwmon0/name": "soctherm_oc",
        "sys/class/hwmon/hwmon0/oc1_event_cnt": "0",
        "sys/class/hwmon/hwmon0/oc3_event_cnt": "2",
        f"{monitor}/name": "ina3221",
        **{f"{monitor}/in{n}_label": name for n, name in enumerate(rails, 1)},
        **{f"{monitor}/in{n}_input": str(volts) for n, (volts, _) in enumerate(rails.values(), 1)},
        **{f"{monitor}/curr{n}_input": str(amperes) for n, (_, amperes) in enumerate(rails.values(), 1)},
        f"{monitor}/in7_label": "sum of shunt voltages",
        f"{monitor}/in7_input": "10",
        f"{monitor}/curr7_input": "10",
        **cores(6, {0: ("0-3", *clocks), 4: ("4-5", *clocks)}),
        **zones(cpu_thermal="48468", gpu_thermal="47125", cv0_thermal="-256000", tj_thermal="48593"),
        **cooling(pwm_fan="2", cpufreq_cpu0="0", cpu_throttle_alert="0", gpu_throttle_alert="0", hot_surface_alert="0"),
    }  # fmt: skip
    return write(root, files)


def raspberry_pi_5(root: Path) -> Path:
    """Return ``root`` as on a Raspberry Pi 5 that was throttled since it started, and that its fan cools."""
    files = {
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32 asimdhp cpuid asimdrdm asimddp",
        "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "50000",
        "sys/class/hwmon/hwmon0/name": "cpu_thermal",
        "sys/class/hwmon/hwmon0/temp1_input": "48312",
        "sys/class/hwmon/hwmon2/name": "rpi_volt",
        "sys/class/hwmon/hwmon2/in0_lcrit_alarm": "0",
        "sys/class/devfreq/1002000000.v3d/cur_freq": "910000000",
        **cores(4, {0: ("0-3", "ondemand", 1_500_000, 2_400_000, 2_400_000)}),
        **zones(cpu_thermal="48312"),
        **cooling(pwm_fan="1"),
    }
    return write(root, files)


def pixel_7(root: Path) -> Path:
    """Return ``root`` as on a Pixel 7 on its battery: three clusters, one of them held back for heat."""
    capacities = [124] * 4 + [427] * 2 + [1024] * 2
    battery = "sys/class/power_supply/battery"
    files = {
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd aes asimdhp asimddp",
        **{f"{CPU}/cpu{core}/cpu_capacity": str(capacity) for core, capacity in enumerate(capacities)},
        **cores(
            8,
            {
                0: ("0-3", "sched_pixel", 300_000, 1_803_000, 1_803_000),
                4: ("4-5", "sched_pixel", 400_000, 1_491_000, 2_348_000),
                6: ("6-7", "sched_pixel", 500_000, 1_106_000, 2_850_000),
            },
        ),
        **zones(BIG="61000", MID="57000", LITTLE="52000", G3D="50000", battery="33100"),
        **cooling(thermal_cpufreq_0="0", thermal_cpufreq_1="0", thermal_cpufreq_2="3", thermal_gpufreq_0="0"),
        f"{battery}/type": "Battery",
        f"{battery}/status": "Discharging",
        f"{battery}/voltage_now": "4100000",
        f"{battery}/current_now": "-512000",
    }
    return write(root, files)


def server(root: Path) -> Path:
    """Return ``root`` as on a server of x86 with RAPL, whose cores have turbo clocks of their own."""
    powercap, turbo = "sys/class/powercap", {0: 3_700_000, 1: 3_900_000}
    files = {
        "proc/cpuinfo": "model name\t: Xeon 9\ncpu MHz\t\t: 2100.5\nflags\t\t: fpu fma avx2 avx512_vnni sse",
        f"{powercap}/intel-rapl:0/name": "package-0",
        f"{powercap}/intel-rapl:0/energy_uj": "262140000000",
        f"{powercap}/intel-rapl:0/max_energy_range_uj": "262143328850",
        f"{powercap}/intel-rapl:0:0/name": "core",
        f"{powercap}/intel-rapl:0:0/energy_uj": "1000000",
        f"{powercap}/intel-rapl:0:0/max_energy_range_uj": "262143328850",
        f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "5",
        f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "0",
        "sys/devices/system/cpu/cpu0/microcode/version": "0x1",
        **cores(2, {core: (f"{core}", "performance", 800_000, 3_500_000, most) for core, most in turbo.items()}),
        **zones(x86_pkg_temp="55000"),
        **cooling(Processor="0", intel_powerclamp="-1"),
    }  # fmt: skip
    return write(root, files)
