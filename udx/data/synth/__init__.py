"""The synthetic world: streets, traffic and sensors, written as a nuScenes dataroot of version ``v1.0-synth``."""

from udx.data.synth.tables import VERSION as VERSION
from udx.data.synth.world import WorldSpec as WorldSpec
from udx.data.synth.world import write_world as write_world
