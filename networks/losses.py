"""Further losses: the paper's VGG loss, Johnson et al.'s, the luma networks', total variation and one against grids.

fake and real are SR and HR [batch, crop, crop, 3] in [-1, 1], the VGG embeddings [batch, h, w, c]. A function of
losses returns {name: term}. `shifted` rolls what the discriminator and VGG see.
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
    """The squared difference of Y, in [0, 1], for the networks that see only luma.

    reconstructions: DRCN's [batch, crop, crop, n], each compared with Y too (its Eq. 9 to 11); share: their weight in
    the loss, from 0 to 1. SR has the rest.
    """
    fake_y, real_y = (rgb_to_ycbcr((image + 1) / 2)[..., :1] for image in (fake, real))
    mse_loss = tl.cost.mean_squared_error(fake_y, real_y, is_mean=True)
    if reconstructions is None:
        return {"mse_loss": mse_loss}
    recursion_loss = tf.reduce_mean((reconstructions - real_y) ** 2)
    return {"mse_loss": (1 - share) * mse_loss, "recursion_loss": share * recursion_loss}


# Values of TRAIN.loss; train.py has "mse" and "slides" besides. To add one, write its function and its entry here.
FEATURE_LOSSES = {"vgg": vgg_losses, "feature": feature_losses}  # of VGG's features of SR and HR
IMAGE_LOSSES = {"luma": luma_losses}  # of SR and HR; also given DRCN's reconstructions, or None, and their share


def relativistic(logits_real, logits_fake):
    """(How much more real HR looks than SR does on average, how much more SR than HR), as logits [batch, 1].

    The relativistic average GAN (Jolicoeur-Martineau, 2018; in ESRGAN since): both replace the discriminator's logits.
    """
    return logits_real - tf.reduce_mean(logits_fake), logits_fake - tf.reduce_mean(logits_real)


def relativistic_losses(logits_real, logits_fake):
    """SR should look more real than HR, and HR less than SR; the weight is the slides'. Logits are D's, [batch, 1]."""
    real, fake = relativistic(logits_real, logits_fake)
    fake_loss = tl.cost.sigmoid_cross_entropy(fake, tf.ones_like(fake), name="g_fake")
    real_loss = tl.cost.sigmoid_cross_entropy(real, tf.zeros_like(real), name="g_real")
    return {"g_gan_loss": 1e-3 * (fake_loss + real_loss)}


def logit_losses(logits_fake):
    """-logit D = log (1 - D) / D, which the generator minimises in Sønderby et al., 2017 (their Eq. 10).

    With the best discriminator its mean is the KL divergence of SR from HR, which -log D does not minimise. Logits are
    D's, [batch, 1]; the weight is the slides'.
    """
    return {"g_gan_loss": -1e-3 * tf.reduce_mean(logits_fake)}


def total_variation_losses(weight, fake):
    """Absolute differences of neighbours, summed over an image: keeps SRResNet-VGG22 smooth (paper, section 3.4)."""
    return {"tv_loss": weight * tf.reduce_mean(tf.image.total_variation(fake))}


def cells_of(images, size):
    """Images [batch, h, w, 3] cut into cells of size×size pixels: [batch, h / size, w / size, size·size, 3]."""
    h, w = images.shape[1] // size, images.shape[2] // size
    cells = tf.transpose(tf.reshape(images, [-1, h, size, w, size, 3]), [0, 1, 3, 2, 4, 5])
    return tf.reshape(cells, [-1, h, w, size * size, 3])


FINE = 10  # of a grid of 2 pixels, against one of the upsampling's cells


def grid_losses(weight, fake, real, scale):
    """The square of patterns that repeat from cell to cell of the upsampling: a grid, which VGG hardly sees.

    SR - HR is averaged over windows of 8×8 cells, or fewer in a small crop: detail that the network misses averages
    out, a grid does not. With weight 1 the loss against a grid is as strong as the pixel loss. There are two sizes of
    cells. 2·scale pixels, twice the upsampling's, so that a pattern which alternates from cell to cell counts too; and
    2 pixels, those of the last pixel shuffle, whose windows are small enough for a grid that lies along edges alone.
    It covers little of the picture, so it weighs FINE times as much.
    """
    loss = 0.0
    for size, share in ((2 * scale, 1), (2, FINE)):
        cells = cells_of(fake - real, size)
        cells -= tf.reduce_mean(cells, axis=3, keepdims=True)  # without the cell's mean colour
        h, w, pixels, channels = cells.shape[1:]
        cells = tf.reshape(cells, [-1, h, w, pixels * channels])
        means = tf.nn.avg_pool2d(cells, (min(8, h), min(8, w)), 4, "VALID")
        loss += share * tf.reduce_mean(means**2)
    return {"grid_loss": weight * loss}


def noisy(images, deviation, seed, step):
    """The images plus Gaussian noise ("instance noise", Sønderby et al., 2017), for the discriminator.

    Real and generated images then overlap, and the discriminator cannot win by what no generator can do. images:
    [batch, h, w, 3]; deviation: a number or scalar; seed, step: see `shifted`.
    """
    seeds = [seed, tf.cast(step, tf.int32)]
    noise = tf.random.stateless_normal(tf.shape(images), seeds, dtype=images.dtype)
    return images + tf.cast(deviation, images.dtype) * noise


STRIDE = 16  # pixels per value of the discriminator's last convolution and of VGG's pool4 and conv5_4


def shifted(images, seed, step):
    """The images rolled down and right by 0 to 15 random pixels, the same for all images of a step.

    images: [batch, h, w, 3]; seed, step: whole numbers that determine the draw.

    Convolutions with stride, in the discriminator and VGG, give some pixels larger gradients than their neighbours.
    Without the rolling, these are the same pixels of every cell of SR in all updates, which leaves a grid.
    """
    seeds = [seed, tf.cast(step, tf.int32)]
    return tf.roll(images, tf.random.stateless_uniform([2], seeds, 0, STRIDE, tf.int32), axis=(1, 2))
