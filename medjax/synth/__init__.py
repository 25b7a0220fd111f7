"""Label map to image: `draw(key)` then `apply(parameters, label)`, on the device, 2D and 3D."""
