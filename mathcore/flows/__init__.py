"""Flow-based models of chapter 5: normalizing flows, neural ODEs, flow matching and couplings."""

from mathcore.flows.adjoint import AdjointGradient, adjoint_gradient
from mathcore.flows.couplings import independent_pairs, minibatch_ot_pairs, optimal_assignment
from mathcore.flows.matching import (
    affine_conditional_flow,
    affine_conditional_velocity,
    cfm_loss,
    cfm_terms,
    conditional_velocity,
    general_path_loss,
)
from mathcore.flows.normalizing import ComposeFlow, ContractiveMLP, PlanarFlow, ResidualFlow, flow_log_prob, log_det_series
