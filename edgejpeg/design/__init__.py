"""Quantization-table design: statistics, distortion, OptS, OptD, DeepN-JPEG, reverse water-filling, rate control.

Everything here needs numpy alone. Arrays are 8x8 and row-major, ``(3, 8, 8)`` for Y, Cb, Cr.
"""

from __future__ import annotations

from edgejpeg.design.control import Match as Match
from edgejpeg.design.control import RateModel as RateModel
from edgejpeg.design.control import ScaleModel as ScaleModel
from edgejpeg.design.control import WaterLevelModel as WaterLevelModel
from edgejpeg.design.control import find_water_level as find_water_level
from edgejpeg.design.control import ladder_slope as ladder_slope
from edgejpeg.design.control import laplace_entropy as laplace_entropy
from edgejpeg.design.control import level_for_budget as level_for_budget
from edgejpeg.design.control import level_of_equal_slope as level_of_equal_slope
from edgejpeg.design.control import scale_one_by_one as scale_one_by_one
from edgejpeg.design.control import scale_tables as scale_tables
from edgejpeg.design.deepn import DeepNMapping as DeepNMapping
from edgejpeg.design.deepn import deepn_tables as deepn_tables
from edgejpeg.design.distortion import dead_zone_threshold as dead_zone_threshold
from edgejpeg.design.distortion import inverse_normalised_distortion as inverse_normalised_distortion
from edgejpeg.design.distortion import laplace_distortion as laplace_distortion
from edgejpeg.design.distortion import largest_step as largest_step
from edgejpeg.design.distortion import normalised_laplace_distortion as normalised_laplace_distortion
from edgejpeg.design.distortion import normalised_rounding_distortion as normalised_rounding_distortion
from edgejpeg.design.distortion import quantization_error as quantization_error
from edgejpeg.design.distortion import rounding_distortion as rounding_distortion
from edgejpeg.design.distortion import sensitivity_weighted_error as sensitivity_weighted_error
from edgejpeg.design.opts import chroma_table as chroma_table
from edgejpeg.design.opts import design_gray_table as design_gray_table
from edgejpeg.design.opts import design_tables as design_tables
from edgejpeg.design.opts import luma_table as luma_table
from edgejpeg.design.opts import normalised_water_level as normalised_water_level
from edgejpeg.design.opts import optd_tables as optd_tables
from edgejpeg.design.opts import raw_water_level as raw_water_level
from edgejpeg.design.statistics import Statistics as Statistics
from edgejpeg.design.statistics import StatisticsAccumulator as StatisticsAccumulator
from edgejpeg.design.statistics import block_statistics as block_statistics
from edgejpeg.design.statistics import image_blocks as image_blocks
from edgejpeg.design.statistics import image_statistics as image_statistics
from edgejpeg.design.waterfill import reverse_water_level as reverse_water_level
