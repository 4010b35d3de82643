"""The losses beside the slides' own: the paper's VGG loss, Johnson et al.'s, and that of the networks on luma.

And where the discriminator and VGG look (`shifted`).

fake and real are [batch, crop, crop, 3] in [-1, 1], the VGG embeddings [batch, h, w, c]. Each gives its terms by name.
"""

from layers.colour import rgb_to_ycbcr
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


def cells_of(images, size):
    """[batch, h / size, w / size, size·size, 3]: images [batch, h, w, 3] cut into cells of size×size pixels."""
    h, w = images.shape[1] // size, images.shape[2] // size
    cells = tf.transpose(tf.reshape(images, [-1, h, size, w, size, 3]), [0, 1, 3, 2, 4, 5])
    return tf.reshape(cells, [-1, h, w, size * size, 3])


def grid_losses(weight, fake, real, scale):
    """What repeats from cell to cell of the upsampling, squared: a grid, which VGG hardly minds and D is slow to see.

    SR - HR is averaged over windows of 8×8 cells, or all that there are. What a network cannot know averages out
    there, and a grid does not. A weight of one is as strong as the pixel loss is against a grid. The cells are twice as
    large as those of the upsampling, and so a pattern that alternates from one to the next repeats as well.
    """
    cells = cells_of(fake - real, 2 * scale)
    cells -= tf.reduce_mean(cells, axis=3, keepdims=True)  # the cell's colour is no part of a pattern
    h, w, pixels, channels = cells.shape[1:]
    cells = tf.reshape(cells, [-1, h, w, pixels * channels])
    means = tf.nn.avg_pool2d(cells, (min(8, h), min(8, w)), 4, "VALID")
    return {"grid_loss": weight * tf.reduce_mean(means**2)}


STRIDE = 16  # pixels to one position, where the discriminator and VGG's pool4 and conv5_4 have come to


def shifted(images, seed, step):
    """The images rolled by 0 to 15 pixels down and right, drawn anew for each step, alike for all of a step.

    images: [batch, h, w, 3]; seed, step: whole numbers, which the draw depends on alone.

    Seen from the pixels, each stride of the discriminator and of VGG weighs some of them more than their neighbours.
    Where the picture stands still these are the same ones of every cell of SR in all updates, and what gathers there is
    a grid.
    """
    seeds = [seed, tf.cast(step, tf.int32)]
    return tf.roll(images, tf.random.stateless_uniform([2], seeds, 0, STRIDE, tf.int32), axis=(1, 2))
