# %% [markdown]
# # From k-space to image
# A head is measured by 3D radial spokes with eight coils, and reconstructed step by step: density weights, coil maps,
# normal equations, solution. `koosh_models.reconstruct` does the same in one call.

# %%
import torch

from koosh_models import calibrate, evaluate, phantom, reconstruct, simulate, trajectory, with_weights

torch.manual_seed(0)
matrix = (32, 32, 32)
head = phantom("head", matrix)
path = trajectory("radial3d", matrix, acceleration=4)
measured = simulate(head.image, path, mask=head.mask, n_coils=8, noise=0.02)
scan = measured.scan
print(f"{scan.n_readouts} spokes of {scan.readout} samples, {scan.n_coils} coils: k-space {tuple(scan.kspace.shape)}")

# %% [markdown]
# **Density weights.** Spokes are dense in the centre of k-space. The weights say how much of k-space each sample stands for;
# without them an iterative method spends its steps on the centre.

# %%
scan = with_weights(scan)
radius = scan.omega.norm(dim=0)
inner, outer = (float(scan.weights[part].mean()) for part in (radius < 0.3, radius > 2.8))
print(f"mean weight near the centre {inner:.3f}, at the edge {outer:.3f}")

# %% [markdown]
# **Coil maps** from the centre of k-space, where every image is sampled densely enough.

# %%
maps = calibrate(scan)
print(f"one image and the maps explain {maps.quality:.1%} of the calibration data")

# %% [markdown]
# **Gridding** is the weighted adjoint. **CG-SENSE** solves the normal equations $`N x = b`$.

# %%
scores = {}
for method in ("gridding", "cg"):
    found = reconstruct(scan, method, maps)
    scores[method] = evaluate(found.volume, measured.truth, measured.mask)
    print(f"{method:10}", {name: round(value, 3) for name, value in scores[method].items()})
assert scores["cg"]["psnr"] > scores["gridding"]["psnr"]

# %% [markdown]
# **By hand.** The problem is an operator and a right-hand side; any solver will do. Here are five steepest-descent steps.

# %%
from koosh_models.physics.mri import non_cartesian

problem = non_cartesian(scan, maps.maps)
x = torch.zeros_like(problem.b)
for step in range(5):
    residual = problem.b - problem.normal(x)
    x = x + residual * (
        residual.abs().square().sum() / torch.vdot(residual.flatten(), problem.normal(residual).flatten())
    )
    print(f"step {step + 1}: |b - N x| / |b| = {float(residual.norm() / problem.b.norm()):.3f}")
