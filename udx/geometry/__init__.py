"""Value objects of the BEV frame: grids, boxes, camera rigs, pooling plans. numpy only.

BEV frame: the ego vehicle's frame at the LIDAR_TOP timestamp; x forward, y left, z up, metres.
"""

from udx.geometry.boxes import BOX_CONVENTION as BOX_CONVENTION
from udx.geometry.boxes import BOX_SIZE as BOX_SIZE
from udx.geometry.boxes import CLASSES as CLASSES
from udx.geometry.grid import BevGrid as BevGrid
from udx.geometry.pooling import Frustum as Frustum
from udx.geometry.pooling import PoolingPlan as PoolingPlan
from udx.geometry.pooling import pooling_plan as pooling_plan
from udx.geometry.rig import CameraRig as CameraRig
