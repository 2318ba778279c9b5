"""The command line of one Arm machine in QEMU, and free ports for it.

Knows QEMU's words. Starts nothing: vm.py does.
"""

from __future__ import annotations

import shlex
import socket
import sys
from pathlib import Path

from .probe_kvm import QEMU

# What the shapes look like to the kernel. AmpereOne: i8mm and bf16 but no SVE; Altra is a Neoverse N1.
# pauth-impdef: QEMU's default pointer authentication algorithm costs a third of the emulated speed.
CPUS = {"a2": "max,sve=off,pauth-impdef=on", "a1": "neoverse-n1", "host": "host"}
ACCELERATORS = {"kvm": "kvm", "tcg": "tcg,thread=multi,tb-size=1024"}
METADATA = ("nocloud", "oracle")
MAC = "52:54:00:12:34:56"
ORACLE_NET = "net=169.254.0.0/16"  # QEMU serves addresses of the machine's own network only


def free_ports(count: int) -> list[int]:
    """Return so many different TCP ports that are free on loopback now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def qemu_command(
    workdir: Path,
    firmware: Path,
    *,
    cpu: str,
    accelerator: str,
    cores: int,
    memory_mb: int,
    ssh_port: int,
    http_port: int,
    metadata: str,
    console: Path,
) -> list[str]:
    """Return the command line of one machine whose files (disk.qcow2, seed/) are in workdir.

    The disk hangs on virtio-scsi, as a paravirtualized boot volume does in Oracle Cloud. `-bios` keeps no UEFI
    variables: the machine has to start from the fallback path EFI/BOOT/BOOTAA64.EFI, like a new instance made from an
    imported image. The seed is a folder that QEMU shows as a FAT disk, so no tool has to pack it; Oracle's metadata
    are a script that QEMU runs for each connection to their address, and the asset tag tells cloud-init to ask there.
    """
    gic = ",gic-version=host" if accelerator == "kvm" else ""
    network = f"user,id=net,hostfwd=tcp:127.0.0.1:{ssh_port}-:22,hostfwd=tcp:127.0.0.1:{http_port}-:80"
    if metadata == "oracle":
        imds = shlex.join([sys.executable, str(Path(__file__).with_name("imds.py")), str(workdir / "seed")])
        network += f",{ORACLE_NET},guestfwd=tcp:169.254.169.254:80-cmd:{imds}"
        source = ["-smbios", "type=3,asset=OracleCloud.com"]
    else:
        seed = f"if=none,id=seed,readonly=on,format=raw,file.driver=vvfat,file.label=CIDATA,file.dir={workdir / 'seed'}"
        source = ["-drive", seed, "-device", "virtio-blk-pci,drive=seed"]
    return [
        *(QEMU, "-machine", f"virt{gic}", "-accel", ACCELERATORS[accelerator], "-cpu", CPUS[cpu]),
        *("-smp", str(cores), "-m", str(memory_mb), "-bios", str(firmware)),
        *("-device", "virtio-scsi-pci"),
        *("-drive", f"if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,file={workdir / 'disk.qcow2'}"),
        *("-device", "scsi-hd,drive=disk,bootindex=0"),
        *source,
        *("-netdev", network, "-device", f"virtio-net-pci,netdev=net,mac={MAC},romfile="),
        *("-device", "virtio-rng-pci"),
        *("-display", "none", "-monitor", "none", "-parallel", "none", "-serial", f"file:{console}"),
    ]
