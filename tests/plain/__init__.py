"""The model written out a second time from its published formulas: slow, plain, and sharing no code with `model/`.

An oracle for the parity tests. Every function takes plain tensors, plain dicts of weights under the official names and
callables for networks; nothing here may import `model`, and nothing here is fast.
"""
