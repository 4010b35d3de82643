"""The layers of all networks. Importing this sets Keras's backend to TensorFlow, before Keras is imported."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's messages about a missing GPU look like errors
