"""The public call, the autograd pair and the fake kernel of each op.

Nothing is imported here, since ``reference`` and the ops share ``ops.arguments``: import the op's own module.
"""
