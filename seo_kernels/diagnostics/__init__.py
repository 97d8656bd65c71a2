"""What looks at gradients: the verification of every op, by dtype and device."""
