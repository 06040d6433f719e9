"""A scheduler of every family that has a table."""

from diffusers import schedulers

FAMILIES = {
    "ddpm": schedulers.DDPMScheduler(),
    "ddim, clipped": schedulers.DDIMScheduler(timestep_spacing="trailing"),
    "ddim, v": schedulers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
    "dpm 2m": schedulers.DPMSolverMultistepScheduler(solver_order=2),
    "dpm 2m sde": schedulers.DPMSolverMultistepScheduler(
        solver_order=2, algorithm_type="sde-dpmsolver++", use_karras_sigmas=True
    ),
    "dpm single": schedulers.DPMSolverSinglestepScheduler(),
    "euler": schedulers.EulerDiscreteScheduler(),
    "euler ancestral": schedulers.EulerAncestralDiscreteScheduler(),
    "lcm": schedulers.LCMScheduler(),
    "deis": schedulers.DEISMultistepScheduler(),
    "unipc": schedulers.UniPCMultistepScheduler(),
    "pndm": schedulers.PNDMScheduler(skip_prk_steps=True),
    "heun": schedulers.HeunDiscreteScheduler(),
    "flow": schedulers.FlowMatchEulerDiscreteScheduler(),
    "vp sde": schedulers.ScoreSdeVpScheduler(),
    "ve sde": schedulers.ScoreSdeVeScheduler(sigma_max=20.0),
}
