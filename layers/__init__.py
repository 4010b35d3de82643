"""What networks are made of. Keras runs on TensorFlow: both are told so here, before they are first imported."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # on a machine without a GPU its start-up lines look like errors
