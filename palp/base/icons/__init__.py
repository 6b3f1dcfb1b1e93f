"""The embedded base `icons`: a picture world rendered from one font, and the model trained on it."""
