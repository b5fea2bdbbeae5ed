"""What is compared between a student and a teacher: one small file an objective, all with one signature.

An objective pairs a tap of the student with a tap of the teacher, owns the adapter between them, and returns one raw
scalar. Weights, their warm-up and their balance are the distiller's.
"""

from udx.train.objectives.base import AdapterPolicy as AdapterPolicy
from udx.train.objectives.base import Objective as Objective
from udx.train.objectives.base import Path as Path
from udx.train.objectives.config import PAPER_WEIGHTS as PAPER_WEIGHTS
from udx.train.objectives.config import Balance as Balance
from udx.train.objectives.config import DistillationConfig as DistillationConfig
from udx.train.objectives.config import LossWeights as LossWeights
from udx.train.objectives.config import teacher_is_weaker as teacher_is_weaker
from udx.train.objectives.feature import FeatureObjective as FeatureObjective
from udx.train.objectives.relation import RelationObjective as RelationObjective
from udx.train.objectives.response import ResponseObjective as ResponseObjective
