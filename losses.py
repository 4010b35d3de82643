"""The losses beside the slides' own: the paper's VGG loss, Johnson et al.'s, and that of the networks on luma.

And where the discriminator and VGG look (`shifted`).

fake and real are [batch, crop, crop, 3] in [-1, 1], the VGG embeddings [batch, h, w, c]. Each gives its terms by name.
"""

from layers import rgb_to_ycbcr
from utils import LazyModule

tf = LazyModule("tensorflow")
tl = LazyModule("tensorlayer")


def vgg_losses(vgg_predict_emb, vgg_target_emb):
    """The paper's VGG loss (Eq. 5): features over 12.75, a mean over pixels, a sum over channels."""
    channels = vgg_predict_emb.shape[-1]
    vgg_loss = channels * tl.cost.mean_squared_error(vgg_predict_emb / 12.75, vgg_target_emb / 12.75, is_mean=True)
    return {"vgg_loss": vgg_loss}


def feature_losses(vgg_predict_emb, vgg_target_emb):
    """Johnson et al.'s feature reconstruction loss (their Eq. 2): a mean over channels and pixels."""
    return {"vgg_loss": tl.cost.mean_squared_error(vgg_predict_emb, vgg_target_emb, is_mean=True)}


def luma_losses(fake, real, reconstructions=None, share=0.0):
    """Of the networks that know luma alone: the squared difference of Y, which is within [0, 1].

    reconstructions: DRCN's [batch, crop, crop, n] in Y, each supervised as well (its Eq. 9 to 11): they take `share` of
    the loss, the result the rest.
    """
    fake_y, real_y = (rgb_to_ycbcr((image + 1) / 2)[..., :1] for image in (fake, real))
    mse_loss = tl.cost.mean_squared_error(fake_y, real_y, is_mean=True)
    if reconstructions is None:
        return {"mse_loss": mse_loss}
    recursion_loss = tf.reduce_mean((reconstructions - real_y) ** 2)
    return {"mse_loss": (1 - share) * mse_loss, "recursion_loss": share * recursion_loss}


def total_variation_losses(weight, fake):
    """Differences of neighbours, summed over an image: they keep SRResNet-VGG22 smooth (paper, section 3.4)."""
    return {"tv_loss": weight * tf.reduce_mean(tf.image.total_variation(fake))}


def grid_losses(weight, fake, real, scale):
    """What repeats from cell to cell of the upsampling, squared: a grid, which VGG hardly minds and D is slow to see.

    SR - HR, cut into cells of scale×scale pixels, is averaged over windows of 4×4 cells. What a network cannot know
    averages out there, and a grid does not. A weight of one is as strong as the pixel loss is against a grid.
    """
    h, w = fake.shape[1] // scale, fake.shape[2] // scale
    cells = tf.reshape(fake - real, [-1, h, scale, w, scale, 3])
    cells = tf.reshape(tf.transpose(cells, [0, 1, 3, 2, 4, 5]), [-1, h, w, scale * scale, 3])
    cells -= tf.reduce_mean(cells, axis=3, keepdims=True)  # the cell's colour is no part of a pattern
    cells = tf.reshape(cells, [-1, h, w, scale * scale * 3])
    return {"grid_loss": weight * tf.reduce_mean(tf.nn.avg_pool2d(cells, min(4, h, w), 4, "VALID") ** 2)}


def shifted(images, scale, seed, step):
    """The images rolled by 0 to scale - 1 pixels down and right, drawn anew for each step, alike for all of a step.

    images: [batch, h, w, 3]; scale: the upsampling factor; seed, step: whole numbers, which the draw depends on alone.

    Seen from the pixels, each stride of the discriminator and of VGG weighs some of them more than their neighbours.
    Where the picture stands still these are the same ones of every scale×scale cell of SR in all updates, and what
    gathers there is a grid.
    """
    seeds = [seed, tf.cast(step, tf.int32)]
    return tf.roll(images, tf.random.stateless_uniform([2], seeds, 0, scale, tf.int32), axis=(1, 2))
