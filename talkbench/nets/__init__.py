"""Networks of the metrics, written from their descriptions with the parameter names of the released checkpoints.

Pure PyTorch: no file is read here, and no metric is computed. The only package of the core that may import torch at
module level; runners import it when they start.
"""
