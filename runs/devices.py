"""How a run is computed: precision, copies of the network on several GPUs or machines, XLA or the plain graph."""

import json
import os
import zlib

import numpy as np

import utils
from utils import LazyModule, UserError

keras = LazyModule("keras")
tf = LazyModule("tensorflow")

TENSOR_CORES = (7, 0)  # GPUs of this compute capability or a higher one have them


def workers():
    """(index of this worker process, how many there are) from `TF_CONFIG`; (0, 1) without it.

    Raises UserError if TF_CONFIG describes anything but workers. Does not load TensorFlow.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return 0, 1
    try:
        settings = json.loads(text)
        addresses, task = settings["cluster"]["worker"], settings["task"]
        index = int(task["index"])
        if set(settings["cluster"]) != {"worker"} or task["type"] != "worker" or not 0 <= index < len(addresses):
            raise ValueError("there must be only workers, and the task must be one of them")
    except (ValueError, KeyError, TypeError) as error:
        example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
        raise UserError(f"TF_CONFIG must be like {example} ({error!r})") from None
    return index, len(addresses)


def is_chief():
    """Whether this process is the one that writes: the first worker, or the only one."""
    return workers()[0] == 0


def choose_strategy(replicas):
    """The tf.distribute strategy for this machine; call it before any other function of TensorFlow.

    replicas: copies of the network in this process; 0 means one per GPU. Without a GPU several replicas share the CPU:
    a way to test them that saves no time. Raises UserError.
    """
    gpus = tf.config.list_physical_devices("GPU")
    replicas = replicas or max(len(gpus), 1)
    if gpus and replicas > len(gpus):
        raise UserError(f"TRAIN.replicas is {replicas}, but there are {len(gpus)} GPUs")
    if gpus:  # TensorFlow takes the memory of all GPUs that it sees
        tf.config.set_visible_devices(gpus[:replicas], "GPU")
    if workers()[1] > 1:
        if not gpus and replicas > 1:
            raise UserError("with several workers a CPU has one replica: leave out --replicas")
        return tf.distribute.MultiWorkerMirroredStrategy()
    if replicas == 1:
        return tf.distribute.get_strategy()
    if not gpus:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    kind = "GPU" if gpus else "CPU"
    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(replicas)])


def choose_precision(name):
    """Set Keras's policy for all layers that are built after this and return its name.

    name: "auto" (mixed_float16 if every GPU has tensor cores, else float32), "float32", "mixed_float16",
    "mixed_bfloat16" or "float64" (for comparisons). Images, losses and weights are float32 in the mixed ones.
    """
    if name == "auto":
        capabilities = [
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
            for gpu in tf.config.list_physical_devices("GPU")
        ]
        name = "mixed_float16" if capabilities and min(capabilities) >= TENSOR_CORES else "float32"
    keras.config.set_floatx("float64" if name == "float64" else "float32")
    keras.config.set_dtype_policy(name)
    return name


def check_shares(settings, strategy):
    """Raise UserError if a batch cannot be split equally among the replicas; settings: the TRAIN section."""
    replicas = strategy.num_replicas_in_sync
    if settings.batch % replicas:
        raise UserError(
            f"a batch of {settings.batch} cannot be split equally among {replicas} replicas: choose another --batch"
        )


def check_agreement(strategy, facts):
    """Raise UserError, naming what differs, unless all workers have the same facts, {name: what json.dumps takes}.

    Each worker finds its photographs, feature network and precision by itself, and their gradients are averaged.
    """
    if workers()[1] == 1:
        return
    ours = [zlib.crc32(json.dumps(value, sort_keys=True).encode()) for value in facts.values()]
    theirs = strategy.gather(strategy.run(lambda: tf.constant([ours], tf.int64)), axis=0).numpy()
    if different := [name for name, values in zip(facts, theirs.T, strict=True) if len(set(values)) > 1]:
        raise UserError(f"the workers differ in {' and '.join(different)}: start all of them alike")


def distribute(strategy, *arrays):
    """This worker's arrays [n, …] as tensors; with several replicas, each array is split equally among them."""
    if strategy.num_replicas_in_sync == 1:
        return [tf.constant(array) for array in arrays]
    here = strategy.num_replicas_in_sync // workers()[1]

    def share(array):
        pieces = np.split(array, here)
        values = strategy.experimental_distribute_values_from_function
        return values(lambda context: tf.constant(pieces[context.replica_id_in_sync_group % here]))

    return [share(array) for array in arrays]


def use_xla(wanted, strategy):
    """Whether XLA compiles the update: TensorFlow cannot do that with several replicas."""
    return wanted and strategy.num_replicas_in_sync == 1


def synchronise(network):
    """Make the batch norms of a network compute their statistics over all replicas."""
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def describe(strategy, precision, xla):
    """One line for the log: devices, precision, replicas, compiler."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    index, count = workers()
    names = ", ".join(sorted({device.name.split("device:")[1] for device in devices}))
    parts = [f"worker {index + 1} of {count}" if count > 1 else "", names, precision]
    if strategy.num_replicas_in_sync > 1:
        parts.append(f"{strategy.num_replicas_in_sync} replicas on the plain graph: XLA cannot compile several")
    else:
        parts.append("compiled by XLA, for which the first update takes a minute" if xla else "plain graph")
    return "on " + ", ".join(filter(None, parts))


def explained(error, run):
    """An error of TensorFlow as a UserError if the user can remedy it; else the error itself."""
    if "No space left" in str(error):
        return UserError(f"the disk is full ({utils.short(error)}); make room, then continue with --resume {run.name}")
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return UserError(
            f"there is not enough memory for an update of {run.config.TRAIN.batch} crops: choose a smaller --batch; "
            f"what {run.name} has done is saved ({utils.short(error)})"
        )
    if workers()[1] > 1:
        return UserError(
            f"the other workers cannot be reached: start all of them again with --resume {run.name} "
            f"({utils.short(error)})"
        )
    return error


# Core-seconds of an update (batch 16, the paper's networks), measured on an AMD EPYC: for a first estimate.
CORE_SECONDS = {"srresnet": 3.2, "srgan": 14.0}


def estimate(jobs, done=0):
    """Without a GPU, print how long the jobs, [store.Run], will take if that is more than a few hours.

    done: steps that the last of them has done.
    """
    if tf.config.list_physical_devices("GPU"):
        return
    cores = os.cpu_count()
    hours = 0.0
    for run in jobs:
        if run.config.MODEL.network != "srresnet":  # other networks have not been measured
            return
        work = run.config.TRAIN.batch / 16 * (run.config.DATA.crop / 96) ** 2 * CORE_SECONDS[run.mode] / cores
        hours += work * (run.config.TRAIN.steps - (done if run is jobs[-1] else 0)) / 3600
    if hours > 6:
        left = run.config.TRAIN.steps - done
        print(
            f"\n  No GPU was found: on these {cores} cores this will take about {hours / 24:.1f} days. "
            f"--steps {done + max(int(left / hours), 1):,} would take about an hour.\n"
        )
