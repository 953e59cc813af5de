"""A Slurm cluster of one node in a folder: munge, slurmctld, slurmd, and slurmdbd on MariaDB for sacct.

Needs root and Debian's packages slurm-wlm, slurmdbd, munge and mariadb-server; nothing of the system's own
configuration is read or written, and only what was started here is stopped.
"""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "sbatch", "sacct")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
DEADLINE_S = 60
CPUS = 4

CONTROL = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2,sched_min_interval=0
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge.socket
GresTypes=gpu
MpiDefault=none
ReturnToService=2
SlurmctldPort={control_port}
SlurmdPort={daemon_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=16000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
ACCOUNTING = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
"""


def why_not() -> str:
    """Return why no cluster can be started here; empty if it can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        return (
            f"not installed: {', '.join(missing)} (apt-get install slurm-wlm slurmdbd munge mariadb-server)"
        )
    return "" if os.geteuid() == 0 else "a cluster of one's own needs root"


class Cluster:
    """One node with four CPUs and two graphics cards that exist in name only.

    Parameters
    ----------
    folder : Path
        Short, as it holds sockets.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start everything; raises with the logs' names when it does not come up."""
        self._configure()
        self._start_database()
        ends = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log"}
        ends["seed-file"] = "seed"
        files = [f"--{option}={self.folder}/munge.{end}" for option, end in ends.items()]
        self._start("munged", "--foreground", "--force", *files)
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munge")
        self._start("slurmdbd", "-D")
        self._wait(lambda: self.run("sacctmgr", "-i", "list", "cluster").returncode == 0, "slurmdbd")
        self.run("sacctmgr", "-i", "add", "cluster", "test")
        self._start("slurmctld", "-D", "-i")
        self._start("slurmd", "-D")
        self._wait(lambda: "idle" in self.run("sinfo", "-h", "-o", "%T").stdout, "the node")

    def stop(self) -> None:
        """Stop what was started, in reverse order."""
        self.run("scancel", "--user=root")
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, *command: object, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command of Slurm."""
        return subprocess.run(
            [str(part) for part in command],
            capture_output=True, text=True, check=False, **({"env": self.environment} | options),
        )  # fmt: skip

    def submit(self, *arguments: object, **options: object) -> str:
        """Submit a batch script and return its job."""
        done = self.run("sbatch", "--parsable", *arguments, **options)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip().split(";")[0]

    def wait_for(self, job: str, seconds: float) -> dict[str, str]:
        """Wait until a job has left the queue; return the state of every task."""
        deadline = time.monotonic() + seconds
        while self.run("squeue", "-h", "-j", job).stdout.strip():
            if time.monotonic() > deadline:
                raise TimeoutError(self.run("squeue", "-a").stdout)
            time.sleep(0.5)
        time.sleep(1)  # accounting lags behind the queue
        rows = self.sacct(job, "JobID,State").splitlines()
        return dict(row.split("|")[:2] for row in rows if "." not in row.split("|")[0])

    def sacct(self, job: str, fields: str) -> str:
        """Return accounting as lines of fields."""
        return self.run("sacct", "-n", "-P", "-j", job, "-o", fields).stdout

    def _configure(self) -> None:
        values = {"folder": self.folder, "host": socket.gethostname().split(".")[0], "cpus": CPUS}
        values |= {name: _free_port() for name in ("dbd_port", "control_port", "daemon_port")}
        for name in ("state", "spool", "db"):
            (self.folder / name).mkdir()
        (self.folder / "slurm.conf").write_text(CONTROL.format(**values))
        (self.folder / "gres.conf").write_text("Name=gpu Count=2 File=/dev/null,/dev/zero\n")
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        database = self.folder / "slurmdbd.conf"
        database.write_text(ACCOUNTING.format(**values))
        database.chmod(0o600)
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o400)

    def _start_database(self) -> None:
        data = f"--datadir={self.folder}/db"
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", "--user=root", data, "--skip-test-db",
             "--auth-root-authentication-method=normal"],
            env=self.environment, capture_output=True, check=True,
        )  # fmt: skip
        self.socket = self.folder / "db.sock"
        self._start("mariadbd", "--no-defaults", "--user=root", data, f"--socket={self.socket}",
                    "--skip-networking", f"--pid-file={self.folder}/db.pid", "--innodb-buffer-pool-size=32M",
                    "--innodb-flush-log-at-trx-commit=0")  # fmt: skip
        self._wait(self.socket.exists, "MariaDB")
        # slurmdbd's client looks for the socket in MySQL's configuration or this variable.
        self.environment["MYSQL_UNIX_PORT"] = str(self.socket)

    def _start(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("wb") as log:
            process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)

    def _wait(self, is_there, what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not is_there():
            if time.monotonic() > deadline:
                self.stop()
                logs = {path.name: path.read_text()[-500:] for path in self.folder.glob("*.log")}
                raise RuntimeError(f"{what} did not come up: {logs}")
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
