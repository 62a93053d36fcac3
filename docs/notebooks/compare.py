# %% [markdown]
# # Compare reconstructions
# The same 3D radial scan by gridding, CG-SENSE, L1-wavelet and the packaged network: scores against the truth, and what each
# leaves of the data.

# %%
import torch

from koosh_models import calibrate, evaluate, phantom, reconstruct, simulate, trajectory, weights, with_weights
from koosh_models.residual import residual
from koosh_models.scan import Geometry

matrix = (40, 40, 40)
head = phantom("head", matrix, seed=3)
path = trajectory("radial3d", matrix, acceleration=8)
place = Geometry(matrix, (200.0, 200.0, 200.0))
measured = simulate(head.image, path, mask=head.mask, n_coils=8, noise=0.02, seed=3, geometry=place)
scan = with_weights(measured.scan)
maps = calibrate(scan)

# %% [markdown]
# A network may be used for a scan when its card says so. If it says no, the reason is a sentence.

# %%
network, card = weights.load("radial3d")
why_not = card.refuses(scan)
methods = ["gridding", "cg", "l1"] + ([] if why_not else ["unrolled"])
print(f"{card.name}, {card.parameters} weights:", why_not or "takes this scan")

# %%
rows = []
for method in methods:
    found = reconstruct(scan, method, maps)
    scores = evaluate(found.volume, measured.truth, measured.mask)
    left = residual(scan, maps, found.volume)
    rows.append((method, scores["psnr"], scores["ssim"], left.total, found.seconds["solve"]))
    print(
        f"{method:10} {scores['psnr']:6.2f} dB  SSIM {scores['ssim']:.4f}  residual {left.total:.3f}  {rows[-1][-1]:.1f} s"
    )

# %% [markdown]
# A smaller residual is not a better image: CG explains more and more of the noise as it goes on. That is why it is stopped
# early, and why a prior (wavelets, a network) helps.

# %%
best = max(rows, key=lambda row: row[1])[0]
print("highest PSNR:", best)
assert best != "gridding"
assert all(torch.isfinite(torch.tensor(row[1:])).all() for row in rows)
