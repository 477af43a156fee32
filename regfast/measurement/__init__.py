"""Any trained networks, measured: geometry, calibration and robustness, in the result files of a study and a paper."""

from regfast.measurement.config import MeasureConfig, sized_measurement
from regfast.measurement.images import Images, open_images
from regfast.measurement.networks import Network, open_networks
from regfast.measurement.run import MeasureResult, measure, run_measure

__all__ = [
    "Images",
    "MeasureConfig",
    "MeasureResult",
    "Network",
    "measure",
    "open_images",
    "open_networks",
    "run_measure",
    "sized_measurement",
]
