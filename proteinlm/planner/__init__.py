"""What a run takes, before it starts: memory, work, communication, time and money, and what to change if it cannot fit.

Parameters, FLOPs, and the memory of weights, gradients and optimiser are exact; activations are counted tensor by tensor
as the blocks save them for the backward pass; time rests on what others have measured and is a band. Imports no torch.
"""

from proteinlm.planner.hardware import HARDWARE as HARDWARE
from proteinlm.planner.hardware import Hardware as Hardware
from proteinlm.planner.hardware import gpu as gpu
from proteinlm.planner.hardware import hardware_named as hardware_named
from proteinlm.planner.hardware import processor as processor
from proteinlm.planner.memory import BF16 as BF16
from proteinlm.planner.memory import FP32 as FP32
from proteinlm.planner.memory import Memory as Memory
from proteinlm.planner.memory import activation_bytes as activation_bytes
from proteinlm.planner.memory import block_activation_bytes as block_activation_bytes
from proteinlm.planner.memory import computes_in_bf16 as computes_in_bf16
from proteinlm.planner.memory import gigabytes as gigabytes
from proteinlm.planner.memory import head_activation_bytes as head_activation_bytes
from proteinlm.planner.memory import memory as memory
from proteinlm.planner.memory import parameter_shapes as parameter_shapes
from proteinlm.planner.memory import parameters_per_process as parameters_per_process
from proteinlm.planner.plan import PFAM as PFAM
from proteinlm.planner.plan import Plan as Plan
from proteinlm.planner.plan import Proteins as Proteins
from proteinlm.planner.plan import check as check
from proteinlm.planner.plan import describe as describe
from proteinlm.planner.plan import kernel as kernel
from proteinlm.planner.plan import plan as plan
