"""Before: one PyTorch script, and all patients in one place. `hospitals.py` is the same model as a task."""

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

bunch = load_breast_cancer()
scale = torch.tensor(bunch.data.max(axis=0), dtype=torch.float32)
inputs = torch.tensor(bunch.data, dtype=torch.float32) / scale
targets = torch.tensor(bunch.target)
held_out = torch.arange(len(inputs)) % 6 == 5

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))
optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
train = torch.utils.data.TensorDataset(inputs[~held_out], targets[~held_out])
for _ in range(30):
    for some, answers in torch.utils.data.DataLoader(train, batch_size=32, shuffle=True):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(some), answers).backward()
        optimiser.step()

right = (model(inputs[held_out]).argmax(dim=1) == targets[held_out]).float().mean()
print(f"accuracy {right:.1%} on {int(held_out.sum())} held-out patients")
