"""What is compared between a student and a teacher: one small file an objective, all with one signature.

An objective pairs a tap of the student with a tap of the teacher, owns the adapter between them, and returns one raw
scalar. Weights, their warm-up and their balance are the distiller's. Every module of this package is imported, so that
a new objective is one new file: its ``ObjectiveConfig`` can be named in a configuration by its ``kind``.
"""

import importlib
import pkgutil

from udx.train.objectives.base import AdapterPolicy as AdapterPolicy
from udx.train.objectives.base import Lesson as Lesson
from udx.train.objectives.base import Objective as Objective
from udx.train.objectives.base import ObjectiveConfig as ObjectiveConfig
from udx.train.objectives.base import Objects as Objects
from udx.train.objectives.base import Pair as Pair

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
