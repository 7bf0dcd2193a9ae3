"""The models of the GAN on PyTorch."""

from types import SimpleNamespace

import torch
from torch.nn.functional import softplus


class TrainModel(torch.nn.Module):
    def __init__(self, generator, discriminator):
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        noise, images = batch_data
        drawn = self.generator(noise)
        of_images = self.discriminator(images)
        of_drawn = self.discriminator(drawn)
        # Each optimizer changes its own weights only, so that nothing has to be detached.
        losses = {
            "generator": softplus(-of_drawn).mean(),
            "discriminator": softplus(-of_images).mean() + softplus(of_drawn).mean(),
        }
        return losses, len(images)


def make_gan(seed=0):
    """Models, optimizers, and what else the trainer has to know."""
    torch.manual_seed(seed)
    generator = torch.nn.Sequential(
        torch.nn.Linear(16, 64), torch.nn.LeakyReLU(0.2), torch.nn.Linear(64, 64), torch.nn.Tanh()
    )
    discriminator = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.LeakyReLU(0.2), torch.nn.Linear(64, 1))
    return SimpleNamespace(
        generator=generator,
        discriminator=discriminator,
        training_model=TrainModel(generator, discriminator),
        optimizers={
            "generator": torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999)),
            "discriminator": torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999)),
        },
        trainer_arguments={"accelerator": "cpu"},
        draw=lambda noise: generator(torch.from_numpy(noise)).detach().numpy(),
        weights=lambda: [parameter.detach().numpy().copy() for parameter in generator.parameters()],
    )
