"""Every figure: arrays and frames in, axes out. No training code and no torch is imported here."""

from ipd_lite.plots.course import *  # noqa: F403
from ipd_lite.plots.mazes import *  # noqa: F403
from ipd_lite.plots.paper import *  # noqa: F403
from ipd_lite.plots.planning import *  # noqa: F403
from ipd_lite.plots.race import *  # noqa: F403
from ipd_lite.plots.runners import *  # noqa: F403
from ipd_lite.plots.scores import *  # noqa: F403
from ipd_lite.plots.stitching import *  # noqa: F403
from ipd_lite.plots.style import *  # noqa: F403
