"""Networks: Linen modules behind `Model(init, apply)`, and an adapter for NNX."""
