# %% [markdown]
# # Train a small network
# Three stages of small convolutions for 2D radial scans, trained block by block: the gradient is that of plain
# backpropagation, and autograd holds one tile's graph.

# %%
import torch

from koosh_models import evaluate, phantom, simulate, trajectory, with_weights
from koosh_models.baselines.classical import cg_sense
from koosh_models.networks import Dims, build
from koosh_models.physics.mri import non_cartesian
from koosh_models.strategies import Backprop, Blockwise

torch.manual_seed(0)
matrix = (32, 32)
path = trajectory("radial2d", matrix, acceleration=3)


def case(name, seed):
    """A problem and what its image should be."""
    body = phantom(name, matrix, seed)
    measured = simulate(body.image, path, mask=body.mask, n_coils=4, noise=0.12, seed=seed)
    # the simulation's own maps: those estimated from a scan have a phase of their own, which the truth would need as well
    return non_cartesian(with_weights(measured.scan), measured.maps), measured


training = [case("head", seed) for seed in range(8)]
problem, measured = case("head", 100)

# %% [markdown]
# Memory before anything runs. `Blockwise` holds the images between stages and one tile's graph. On images as small as these the
# halo is most of a tile; the gain comes with volumes.

# %%
network = build(Dims(ndim=2, stages=3, features=16, layers=3, consistency="cg", lam=0.5, cg_steps=6))
strategy = Blockwise(budget=1 << 20)
print(f"plain backpropagation {Backprop().memory(network, problem) >> 10} KiB")
print(f"block by block        {strategy.memory(network, problem) >> 10} KiB")

# %%
before = evaluate(network(problem).detach(), measured.truth, measured.mask)["psnr"]
optimizer = torch.optim.Adam(strategy.phases(network)[0], lr=5e-3)
losses = []
for _ in range(12):
    total = 0.0
    for one, known in training:
        optimizer.zero_grad()
        total += sum(strategy.step(network, one, known.truth))
        optimizer.step()
    losses.append(total / len(training))
print("loss", [round(value, 4) for value in losses[::3]])

# %% [markdown]
# Beside what it has to beat, on a head that it has not seen.

# %%
after = evaluate(network(problem).detach(), measured.truth, measured.mask)["psnr"]
classical = evaluate(cg_sense(problem).image, measured.truth, measured.mask)["psnr"]
print(f"network before {before:.2f} dB, after {after:.2f} dB; CG-SENSE {classical:.2f} dB")
assert losses[-1] < losses[0]
assert after > before
