"""mlpug on Keras 3: ``model.fit`` runs the loop, on TensorFlow or on JAX."""
