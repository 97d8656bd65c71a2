"""The benchmark suite: every case beside its peers, in one process, in turn, and only with right results."""
