"""Ordinary and stochastic differential equations: fields, paths, integrators, likelihoods (chapter 4, appendices A to C)."""

from mathcore.dynamics.adaptive import odeint_adaptive
from mathcore.dynamics.fields import divergence, jacobian
from mathcore.dynamics.fokker_planck import (
    cell_average,
    cells,
    finite_volume_step,
    fokker_planck_1d,
    fokker_planck_2d,
    fokker_planck_residual,
    total_mass,
)
from mathcore.dynamics.girsanov import elbo_sde, girsanov_log_ratio, path_kl
from mathcore.dynamics.integrate import (
    SolverDivergedError,
    flow_map,
    integrate_sde,
    integrate_semilinear,
    odeint_fixed,
    picard_iterate,
    stability_function,
)
from mathcore.dynamics.kernels import diffusion_weight, linear_sde_exact_step, reverse_kernel, schedule_from_sde, transition, vdm_loss
from mathcore.dynamics.likelihood import bits_per_dim, decode, encode, log_likelihood_ode
from mathcore.dynamics.paths import brownian_path, brownian_refine, ito_sum, path_noise
from mathcore.dynamics.sde import SDE, forward_family, forward_sde, probability_flow, reverse_sde, semilinear_split
from mathcore.dynamics.transport import (
    log_abs_det_jacobian,
    marginal_velocity,
    pushforward_logpdf,
    velocity_from_density_1d,
    zero_flux_field,
)
