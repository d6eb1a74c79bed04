"""IPD (arXiv 2603.04289), small enough to read: values, world model, imagination, distillation.

Import the stage you need (`from ipd_lite import iql`); nothing heavy is loaded here.
"""

__version__ = "0.1.0"
