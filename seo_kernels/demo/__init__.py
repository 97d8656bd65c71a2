"""The demonstration: a byte-level transformer with local, relative attention learns real text on the CPU."""
