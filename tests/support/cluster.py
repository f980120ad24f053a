"""A real SLURM on this machine, for tests: two nodes on the loopback interface, one with GPUs.

Needs root and Debian's or Ubuntu's packages slurmctld, slurmd, slurm-client and munge; no systemd,
no accelerator: the GPUs are device files that exist everywhere.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ETC = Path("/etc/slurm")  # the executor's job steps drop SLURM_CONF, so it cannot be elsewhere
MARK = "# written by tandem-defense's tests"
SLURM_CONF = """{mark}
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=26817
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge/socket
CredType=cred/munge
StateSaveLocation={state}/controller
SlurmdSpoolDir={state}/%n
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_min_interval=100000,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
MinJobAge=600
KillWait=5
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=26818 CPUs=4 RealMemory=24000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=26819 CPUs=4 RealMemory=24000 Gres=gpu:2
PartitionName=cpu Nodes=n1 Default=YES MaxTime=1-0 State=UP
PartitionName=gpu Nodes=n2 MaxTime=1-0 State=UP
"""
GRES_CONF = "AutoDetect=off\nNodeName=n2 Name=gpu File=/dev/null,/dev/zero\n"


def missing() -> list[str]:
    """What this machine lacks to run the cluster; empty where it can."""
    found = [p for p in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(p)]
    return found + ([] if os.geteuid() == 0 else ["root's rights"])


def wait_for(condition: Callable, what: str, seconds: float = 60) -> object:
    """The first true value of `condition()`; TimeoutError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)
    return value


def command(*words: str) -> str:
    """What a command prints, whether it fails or not."""
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


class Cluster:
    """SLURM while the block runs; its state is in a folder of its own that goes with it."""

    def __init__(self):
        self.state = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.state.chmod(0o755)  # munged refuses a folder that others cannot enter
        self.processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "Cluster":
        conf = ETC / "slurm.conf"
        if conf.exists() and not conf.read_text().startswith(MARK):
            raise RuntimeError(f"{conf} is another cluster's: run these tests on a free machine")
        ETC.mkdir(exist_ok=True)
        host = socket.gethostname().split(".")[0]
        conf.write_text(SLURM_CONF.format(mark=MARK, host=host, state=self.state))
        (ETC / "gres.conf").write_text(GRES_CONF)
        for folder in ("munge", "controller", "n1", "n2"):
            (self.state / folder).mkdir(parents=True)
        key = self.state / "munge/key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        try:
            self._start_all(key)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_all(self, key: Path) -> None:
        munge = self.state / "munge"
        files = {"key-file": key, "socket": munge / "socket", "pid-file": munge / "pid"}
        files |= {"log-file": munge / "log", "seed-file": munge / "seed"}
        self._start("munged", "munged", "-F", *[f"--{k}={v}" for k, v in files.items()])
        wait_for((munge / "socket").exists, "munged")
        self._start("slurmctld", "slurmctld", "-D")
        wait_for(lambda: " is UP" in command("scontrol", "ping"), "slurmctld")
        for node in ("n1", "n2"):
            self.start_node(node)

    def _start(self, name: str, *words: str) -> None:
        with (self.state / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def start_node(self, node: str) -> None:
        """Start a node's daemon and wait until it takes jobs."""
        self._start(node, "slurmd", "-D", "-N", node)
        wait_for(lambda: self.node_state(node) in ("idle", "mixed"), f"{node} to be idle")

    def node_state(self, node: str) -> str:
        """SLURM's short word for it: idle, mixed, down …"""
        return command("sinfo", "-hN", "-n", node, "-o", "%T")

    def jobs(self) -> list[str]:
        """Ids of the jobs that run."""
        return command("squeue", "-h", "-t", "running", "-o", "%i").split()

    def crash_node(self, node: str) -> None:
        """What a power cut does: daemon, job steps and jobs are gone at once, SLURM says down."""
        daemon = psutil.Process(self.processes.pop(node).pid)
        steps = [
            process
            for process in psutil.process_iter(["name", "cmdline"])
            if "slurmstepd" in " ".join(process.info["cmdline"] or [process.info["name"]])
        ]
        for process in [daemon, *(c for s in steps for c in [s, *s.children(recursive=True)])]:
            process.kill()
        daemon.wait()
        command("scontrol", "update", f"nodename={node}", "state=down", "reason=crashed")

    def cancel_all(self) -> None:
        """Cancel every job and wait until none is left."""
        command("scancel", "--user=root")
        wait_for(lambda: not command("squeue", "-h"), "the queue to be empty")

    def __exit__(self, *_) -> None:
        if "slurmctld" in self.processes:
            self.cancel_all()
        for process in reversed(self.processes.values()):
            process.terminate()
            process.wait(30)
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).unlink()
        shutil.rmtree(self.state)
