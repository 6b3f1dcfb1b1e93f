"""The embedded base `icons`: a picture world rendered from one font, and the model trained on it."""

GUIDANCE = 2.5  # classifier-free guidance scale that it draws best with: more of it adds grain
