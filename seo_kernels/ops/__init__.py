"""The public call, the autograd pair and the fake kernel of each op.

Nothing is imported here: ``reference`` and ``ops`` share ``arguments``, and each module of ``ops`` names what it needs.
"""
