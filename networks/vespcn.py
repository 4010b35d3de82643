"""VESPCN (Caballero et al., 2017): networks that see several frames of a film, and motion compensation.

Frames are Y [batch, h, w, n] in [0, 1], one channel a frame in order of time; SR is the middle one, Y [batch, scale·h,
scale·w, 1]. Where the paper leaves something open, docs/departures.md says what is done. Nothing here imports
TensorFlow.
"""

from typing import NamedTuple

from easydict import EasyDict as edict

from layers.blocks import conv
from layers.colour import rgb_to_ycbcr
from layers.upsampling import bicubic
from layers.warping import warping
from networks import baselines
from networks.colour import in_colour
from utils import LazyModule

keras = LazyModule("keras")
tf = LazyModule("tensorflow")

WIDTH = 24  # feature maps of all layers but the last
REACH = 16  # LR pixels of a flow of 1: from the middle to the border of the paper's crops of 33
CELL = 4  # pixels of a side that have one coarse flow: the strides of its layers
EPSILON = 0.01  # of the Huber loss (the paper's ε)
MOTION, SMOOTH = 0.01, 0.001  # the paper's β and λ in the joint loss
SMOOTH_ALONE = 0.01  # λ where motion compensation is trained by itself
SMALL = 0.1, 0.01  # gains of last layers' first kernels: of what is added to bicubic, and of flows, so near to none


class VideoNetwork(NamedTuple):
    """One of the paper's networks: its number of layers and frames, how they are fused, whether motion is compensated.

    fusion: "early" (all frames in the first layer), "slow" (two neighbours a layer, Figure 2c), "shared" (slow with
    the same weights at all times, which is a 3D convolution, Figure 2d), or "espcn": ESPCN, of one frame.
    """

    layers: int
    frames: int
    fusion: str = "early"
    motion: bool = False


NETWORKS = {
    "ESPCN": VideoNetwork(3, 1, "espcn"),
    "5L-E1": VideoNetwork(5, 1),
    "7L-E1": VideoNetwork(7, 1),
    "9L-E1": VideoNetwork(9, 1),
    "5L-E3": VideoNetwork(5, 3),
    "5L-E5": VideoNetwork(5, 5),
    "7L-E3": VideoNetwork(7, 3),
    "9L-E3": VideoNetwork(9, 3),
    "7L-E5": VideoNetwork(7, 5),
    "7L-S5": VideoNetwork(7, 5, "slow"),
    "7L-3D5": VideoNetwork(7, 5, "shared"),
    "5L-E3-MC": VideoNetwork(5, 3, motion=True),
    "9L-E3-MC": VideoNetwork(9, 3, motion=True),  # VESPCN
}


def build(name, scale, width=WIDTH, skip=True):
    """The Keras model of one of NETWORKS for films of any size.

    skip: whether the layers' result is added to the bicubic image of the middle frame; the paper's networks have none.
    One with motion compensation returns (SR, warped neighbours [batch, h, w, n - 1], their flows [batch, h, w, n - 1,
    2] in pixels); others return SR.
    """
    network = NETWORKS[name]
    frames = keras.Input((None, None, network.frames), name="frames")
    if not network.motion:
        return keras.Model(frames, fused(frames, network, scale, width, skip), name=plain(name))
    compensate = motion_compensation(width)
    middle = network.frames // 2
    current = frames[..., middle : middle + 1]
    neighbours = [frames[..., i : i + 1] for i in range(network.frames) if i != middle]
    warped, flows = zip(*(compensate([current, neighbour]) for neighbour in neighbours), strict=True)
    aligned = keras.layers.Concatenate(name="aligned")([*warped[:middle], current, *warped[middle:]])
    sr = fused(aligned, network, scale, width, skip)
    outputs = (sr, keras.layers.Concatenate(name="warped")(list(warped)), keras.ops.stack(flows, axis=3))
    return keras.Model(frames, outputs, name=plain(name))


def with_colour(network, scale):
    """The Keras model of RGB frames [batch, h, w, 3·n] in [0, 1] to SR RGB of the middle one, in [-1, 1].

    Y by a network of build(), Cb and Cr by bicubic interpolation.
    """
    n = network.inputs[0].shape[-1]
    rgb = keras.Input((None, None, 3 * n), name="rgb")
    frames = [rgb_to_ycbcr(rgb[..., 3 * i : 3 * i + 3]) for i in range(n)]
    outputs = network(keras.layers.Concatenate(name="y")([frame[..., :1] for frame in frames]))
    y = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    return keras.Model(rgb, in_colour(y, frames[n // 2][..., 1:], scale), name=f"{network.name}_in_colour")


def plain(name):
    """A network's name as TensorFlow allows it."""
    return f"net_{name}".replace("-", "_")


def fused(frames, network, scale, width, skip):
    """SR of frames [batch, h, w, n]: what the layers find, and with `skip` the bicubic image of the middle one."""
    found = layered(centred(frames), network, scale, width, SMALL[0] if skip else 1)
    if not skip:
        return found
    middle = network.frames // 2
    coarse = bicubic(frames[..., middle : middle + 1], scale)
    return keras.layers.Add(name="skip", dtype=keras.config.floatx())([found, coarse])


def layered(frames, network, scale, width, gain):
    """What layers over space and time (section 3.1) find in frames [batch, h, w, n]: k3, ReLU, the last one linear.

    gain: of the last one's first kernels.
    """
    n = network.frames
    if network.fusion == "espcn":
        return baselines.espcn(frames, edict(scale=scale, width=64))
    slow = network.fusion != "early"
    times = [frames[..., i : i + 1] for i in range(n)] if slow else [frames]
    for layer in range(1, network.layers):
        if slow and len(times) > 1:
            times = merged(times, layer, width, network.fusion == "shared")
        else:
            times = [inner(width, f"conv{layer}")(times[0])]
    last = {"kernel_initializer": orthogonal(gain), "dtype": keras.config.floatx()}
    return keras.ops.depth_to_space(conv(times[0], scale**2, 3, f"conv{network.layers}", **last), scale)


def centred(y):
    """Y - ½, as layers take it: a border of zeros is then gray, and training starts much better than from Y itself."""
    return keras.layers.Rescaling(1, -0.5, dtype=y.dtype)(y)


def merged(times, layer, width, shared):
    """Maps of n times to those of n - 1: each of two neighbours; by one convolution at all times if `shared`."""
    one = inner(width, f"conv{layer}") if shared else None
    pairs = []
    for i, pair in enumerate(zip(times, times[1:], strict=False)):
        both = keras.layers.Concatenate(name=f"pair{layer}_{i}")(list(pair))
        pairs.append((one or inner(width, f"conv{layer}_{i}"))(both))
    return pairs


def inner(width, name):
    """A layer k3 with ReLU."""
    return keras.layers.Conv2D(
        width, 3, padding="same", activation="relu", kernel_initializer=orthogonal(2**0.5), name=name
    )


def orthogonal(gain):
    """The paper's initial kernels."""
    return keras.initializers.OrthogonalInitializer(gain)


# ---------------------------------------------------------------------------------------------------------------------
# Motion compensation (section 3.2, Figure 3 and Table 1)

COARSE = ((5, 24, 2), (3, 24, 1), (5, 24, 2), (3, 24, 1), (3, 32, 1))  # (kernel, maps, stride); tanh behind the last
FINE = ((5, 24, 2), (3, 24, 1), (3, 24, 1), (3, 24, 1), (3, 8, 1))


def motion_compensation(width=WIDTH):
    """The model that brings a neighbour to the current frame: [Y, Y] [batch, h, w, 1] to (warped Y, flow [batch, h, w,
    2], (x, y) in pixels): warped(p) = neighbour(p + flow(p)).

    A flow for all 4×4 pixels comes first, one for all 2×2 pixels is added, and the neighbour itself is warped by both.
    """
    current, neighbour = (keras.Input((None, None, 1), name=name) for name in ("current", "neighbour"))
    both = centred(keras.layers.Concatenate(name="pair")([current, neighbour]))
    coarse = flow_of(both, COARSE, CELL, width, "coarse")
    near = warping(neighbour, pixels(coarse), "coarse_warp")
    seen = keras.layers.Concatenate(name="seen")([both, coarse, centred(near)])
    flow = keras.layers.Add(name="flow")([coarse, flow_of(seen, FINE, 2, width, "fine")])
    flow = pixels(flow)
    return keras.Model([current, neighbour], (warping(neighbour, flow, "warp"), flow), name="motion")


def pixels(flow):
    """A flow in units of REACH as one in pixels."""
    return keras.layers.Rescaling(REACH, dtype=flow.dtype)(flow)


def flow_of(x, layers, factor, width, name):
    """The flow [batch, h, w, 2] in [-1, 1] that a branch finds in x [batch, h, w, c], at 1/factor of its size."""
    whole = x
    for i, (kernel, maps, stride) in enumerate(layers, 1):
        last = i == len(layers)
        x = conv(
            x,
            maps if last else maps * width // WIDTH,
            kernel,
            f"{name}{i}",
            strides=stride,
            activation="tanh" if last else "relu",
            kernel_initializer=orthogonal(SMALL[1] if last else 2**0.5),
        )
    return cropped(keras.ops.depth_to_space(x, factor), whole, f"{name}_crop")


def cropped(x, like, name):
    """x [batch, H, W, c] without the rows and columns that `like` [batch, h, w, …] lacks at its end."""

    class Crop(keras.layers.Layer):
        def call(self, x, like):
            return x[:, : keras.ops.shape(like)[1], : keras.ops.shape(like)[2]]

        def compute_output_shape(self, x_shape, like_shape):
            return (*like_shape[:3], x_shape[3])

    return Crop(name=name, dtype=x.dtype)(x, like)


# ---------------------------------------------------------------------------------------------------------------------
# Losses (Equations 2 to 5)


def huber(flow):
    """How rough a flow [batch, h, w, 2] is: sqrt(ε + Σ (∂x Δ)² + (∂y Δ)²), the sum over x and y, the mean over pixels.

    Differences are to the pixel to the right and below, of pixels that have both; per frame [batch].
    """
    flow = flow / REACH
    here = flow[:, :-1, :-1]
    dx, dy = flow[:, :-1, 1:] - here, flow[:, 1:, :-1] - here
    return tf.reduce_mean(tf.sqrt(EPSILON + tf.reduce_sum(dx**2 + dy**2, axis=3)), axis=(1, 2))


def motion_losses(current, warped, flows, motion=1.0, smooth=SMOOTH_ALONE):
    """{"motion_loss", "smooth_loss"}: the squared difference of warped neighbours and the current frame; rough flows.

    current: Y [batch, h, w, 1]; warped: [batch, h, w, n]; flows: [batch, h, w, n, 2]; motion, smooth: weights.
    """
    rough = [tf.reduce_mean(huber(flows[:, :, :, i])) for i in range(flows.shape[3])]
    return {
        "motion_loss": motion * tf.reduce_sum(tf.reduce_mean((warped - current) ** 2, axis=(0, 1, 2))),
        "smooth_loss": smooth * tf.add_n(rough),
    }


def joint_losses(sr, hr, current, warped, flows):
    """The loss of VESPCN as a whole (Equation 5): that of SR and, for each neighbour, β and λ times those of motion."""
    mse_loss = tf.reduce_mean((sr - hr) ** 2)
    return {"mse_loss": mse_loss, **motion_losses(current, warped, flows, MOTION, SMOOTH)}
