"""Samplers as tables of coefficients (chapter 9): one file per family, one loop that runs them all.

times = grids.uniform_lambda(schedule, 20)
table = ddim(schedule, times, prediction="noise")
x_0 = table.run(model, x_T)
"""

from mathcore.solvers import grids
from mathcore.solvers.adaptive import AdaptiveRun, dpm_solver_adaptive
from mathcore.solvers.builder import Builder, Combination, Node, Output, State
from mathcore.solvers.ddim import ancestral, ddim, euler_maruyama
from mathcore.solvers.deis import deis
from mathcore.solvers.dpm_solver import dpm_solver, dpm_solver_pp
from mathcore.solvers.dpm_solver_v3 import dpm_solver_v3
from mathcore.solvers.edm import edm_heun
from mathcore.solvers.euler import euler, heun, rk4
from mathcore.solvers.exponential_rk import exponential_euler, exponential_heun
from mathcore.solvers.fixed_nfe import dpm_solver_fast
from mathcore.solvers.implicit import ImplicitTable, implicit_trapezoid
from mathcore.solvers.paradigms import ParallelResult, ParallelSampler, Round, paradigms
from mathcore.solvers.predictor_corrector import predictor_corrector
from mathcore.solvers.reference import reference
from mathcore.solvers.rows import Step
from mathcore.solvers.table import SolverTable
from mathcore.solvers.unipc import unipc
from mathcore.solvers.v3_statistics import V3Statistics, constant_statistics, estimate_statistics
