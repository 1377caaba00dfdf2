"""Several processes as one program: how they find each other, share the input, stop and fail."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unityvideo_jax.errors import UserError
from unityvideo_jax.parallel.rules import AxisRules, num_parts

PORT = 8476
# Seconds after which a silent process counts as dead; UNITYVIDEO_HEARTBEAT overrides it.
HEARTBEAT = "60"
LOST_PEER = 75  # exit status: the same command, run again everywhere, resumes


def arguments(environ: Mapping[str, str]) -> dict[str, object] | None:
    """Arguments of `jax.distributed.initialize` in this environment; None for a single process.

    In this order:
      UNITYVIDEO_HOSTS=a,b,c: one process per host, the first of them coordinating, on port 8476
        unless it says another (`a:9000,b,c`). UNITYVIDEO_PROCESS_ID is this one's place in the
        list, and can be left out if the hosts are named as they call themselves.
      JAX_COORDINATOR_ADDRESS=host:port with UNITYVIDEO_NUM_PROCESSES and UNITYVIDEO_PROCESS_ID
        or, in an indexed Kubernetes job, JOB_COMPLETION_INDEX.
      SLURM with more than one task, and TPU pods (with the variable that GKE sets, or
        UNITYVIDEO_HOSTS=auto): JAX finds the rest.

    Raises:
      UserError: variables that are missing, or that contradict each other.
    """
    hosts = environ.get("UNITYVIDEO_HOSTS", "")
    number = environ.get("UNITYVIDEO_PROCESS_ID", environ.get("JOB_COMPLETION_INDEX"))
    if hosts == "auto":
        return {}
    if hosts:
        names = hosts.split(",")
        index = _place(names) if number is None else _whole("UNITYVIDEO_PROCESS_ID", number)
        coordinator = names[0] if ":" in names[0] else f"{names[0]}:{PORT}"
        return _checked(coordinator, len(names), index)
    if "JAX_COORDINATOR_ADDRESS" in environ:
        count = environ.get("UNITYVIDEO_NUM_PROCESSES")
        if count is None or number is None:
            raise UserError(
                "JAX_COORDINATOR_ADDRESS is set: set UNITYVIDEO_NUM_PROCESSES and "
                "UNITYVIDEO_PROCESS_ID too, or unset it to train in a single process"
            )
        return _checked(
            environ["JAX_COORDINATOR_ADDRESS"],
            _whole("UNITYVIDEO_NUM_PROCESSES", count),
            _whole("UNITYVIDEO_PROCESS_ID", number),
        )
    if int(environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environ:
        return {}
    if "," in environ.get("TPU_WORKER_HOSTNAMES", "") or "MEGASCALE_NUM_SLICES" in environ:
        return {}
    return None


def _whole(name: str, value: str) -> int:
    if not value.isdigit():
        raise UserError(f"{name}={value!r} must be a whole number")
    return int(value)


def _place(names: Sequence[str]) -> int:
    own = {socket.gethostname(), socket.getfqdn()}
    places = [n for n, name in enumerate(names) if name.split(":")[0] in own]
    if len(places) != 1:
        raise UserError(
            f"UNITYVIDEO_HOSTS={','.join(names)}: {len(places)} of them are this host "
            f"({', '.join(sorted(own))}); set UNITYVIDEO_PROCESS_ID to its place in the list"
        )
    return places[0]


def _checked(coordinator: str, count: int, index: int) -> dict[str, object]:
    if not 0 <= index < count:
        raise UserError(
            f"UNITYVIDEO_PROCESS_ID={index} must be below the number of processes, {count}"
        )
    return dict(coordinator_address=coordinator, num_processes=count, process_id=index)


def initialize() -> None:
    """Joins the other processes of this job, if there are others; before JAX is used.

    Raises:
      UserError: see `arguments`; or the others cannot be reached.
    """
    found = arguments(os.environ)
    if found is None:
        return
    heartbeat = _whole("UNITYVIDEO_HEARTBEAT", os.environ.get("UNITYVIDEO_HEARTBEAT", HEARTBEAT))
    try:
        jax.distributed.initialize(**found, heartbeat_timeout_seconds=heartbeat)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot join the job's other processes ({str(error).splitlines()[0]}); see that all "
            "were started, with the same coordinator, and that it can be reached"
        ) from error


def feed_share(mesh: Mesh) -> tuple[int, int]:
    """Returns the share of each global batch that this process feeds, and the number of shares.

    Processes whose devices hold the same samples, since they split tokens or heads among them, feed
    the same share.

    Raises:
      UserError: a mesh that spreads the samples of a process unevenly.
    """
    layout = NamedSharding(mesh, AxisRules().spec(("batch",)))
    count = num_parts(("slice", "data", "fsdp"), mesh)
    held: dict[int, set[int]] = {}
    for device, (part,) in layout.devices_indices_map((count,)).items():
        held.setdefault(device.process_index, set()).add(part.start or 0)
    shares = sorted({tuple(sorted(parts)) for parts in held.values()})
    if sum(len(share) for share in shares) != count or len({len(s) for s in shares}) > 1:
        raise UserError(
            f"config.mesh: {dict(mesh.shape)} gives the {len(held)} processes samples that overlap "
            "in part; choose context x tensor so that it divides the devices of a process, or is a "
            "multiple of them"
        )
    return shares.index(tuple(sorted(held[jax.process_index()]))), len(shares)


def is_first() -> bool:
    """Whether this process is the one that writes the files of which a run has one."""
    return jax.process_index() == 0


class Vote:
    """All processes stop, and save, at the same step, whichever of them was asked to.

    The votes of a step are read at the next, so that nobody waits for the step to finish.
    """

    def __init__(self, mesh: Mesh):
        self._layout = NamedSharding(mesh, PartitionSpec(tuple(mesh.axis_names)))
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._any = jax.jit(lambda votes: jnp.any(votes, axis=0), out_shardings=everywhere)
        self._local = len(mesh.local_devices)
        self._cast: jax.Array | None = None

    def __call__(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether to stop and whether to save now: the same in every process, one call late.

        Args:
          stop: this process was asked to stop.
          save: it is time to save; of this only the first process's word counts, since clocks of
            different hosts differ.
        """
        if jax.process_count() == 1:
            return stop, save
        votes = np.tile([stop, save and is_first()], (self._local, 1))
        before = self._cast
        self._cast = self._any(jax.make_array_from_process_local_data(self._layout, votes))
        if before is None:
            return False, False
        stops, saves = jax.device_get(before).tolist()
        return stops, saves


class Board:
    """A line of text per process of the job, which all can read even while the devices hang.

    It is in the key-value store of JAX's coordination service, which has connections and threads of
    its own.

    Args:
      name: of this board.
    """

    def __init__(self, name: str):
        self._client, self._name = distributed.global_state.client, f"unityvideo/{name}/"
        self._own = ""

    def post(self, text: str) -> None:
        """Puts this process's line in place of its last one; lost if the service is gone."""
        self._own = text
        if self._client is not None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                key = f"{self._name}{jax.process_index()}"
                self._client.key_value_set(key, text, allow_overwrite=True)

    def read(self) -> dict[int, str]:
        """The last line of each process that has posted any; of this one alone without service."""
        found: Sequence[tuple[str, str]] = ()
        if self._client is not None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                found = self._client.key_value_dir_get(self._name)
        lines = {int(key.rpartition("/")[2]): text for key, text in found}
        return lines | {jax.process_index(): self._own}


@contextlib.contextmanager
def stops_without_peers() -> Iterator[None]:
    """Ends the process at once, with one line, when a collective or barrier breaks: a peer is gone.

    What waits for the others on the way out would wait for ever. A process that waits for something
    else ends by JAX's own heartbeat, with a message of its own.
    """
    try:
        yield
    except Exception as error:
        # Orbax calls what broke its barrier a timeout, of that cause.
        broken = error.__cause__ if isinstance(error, TimeoutError) else error
        if jax.process_count() == 1 or not isinstance(broken, jax.errors.JaxRuntimeError):
            raise
        reason = str(broken).strip().splitlines()[0]
        print(
            f"error: process {jax.process_index()} lost contact with another process of the job "
            f"({reason[:160]}); the last checkpoint stands: start all processes again to continue",
            file=sys.stderr,
            flush=True,
        )
        os._exit(LOST_PEER)


@contextlib.contextmanager
def leaves_at_once() -> Iterator[None]:
    """Ends a process that meets a user's error, though the others still wait for it."""
    try:
        yield
    except UserError as error:
        if jax.process_count() == 1:
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)


@contextlib.contextmanager
def first_only(context: contextlib.AbstractContextManager) -> Iterator[None]:
    """Enters `context` in the first process; the others continue once it has been entered."""
    with context if is_first() else contextlib.nullcontext():
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("first process is ready")
        yield
