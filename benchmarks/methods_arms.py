"""What ``methods.py`` compares: arms as (method, settings), and pairs of them that are asked about."""

from __future__ import annotations

from typing import Any

KL: dict[str, Any] = {"feat_loss": "kl_channel"}
NORMAL: dict[str, Any] = {**KL, "normalise": True}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, {})
        for name in (
            "function_matching",
            "kd",
            "dkd",
            "dist",
            "fitnet",
            "at",
            "sp",
            "rkd",
            "pkt",
            "reviewkd",
            "srrl",
            "vkd",
            "nuclear",
            "mimic",
            "dist+mimic",
        )
    },
    "fdbd, gamma floor 0.5": ("fdbd", {"gamma_floor": 0.5}),
    "fdbd, stage3": ("fdbd", {"tap": "stage3"}),
    "fdbd, warm-up 0.2": ("fdbd", {"warmup_share": 0.2}),
    "fdbd, 2 steps": ("fdbd", {"denoise_steps": 2}),
    "fdbd, latent 32": ("fdbd", {"ae_channels": 32}),
    "fdbd, latent 128": ("fdbd", {"ae_channels": 128}),
    "fdbd, first phase of 20 epochs": ("fdbd", {"phase1_epochs": 20}),
    "fdbd, first phase of 140 epochs": ("fdbd", {"phase1_epochs": 140}),
    "fdbd, squared error of normalised latents": ("fdbd", {"normalise": True}),
    "fdbd, logits too": ("fdbd", {"branches": ("feat", "logit")}),
    "diffkd": ("diffkd", {}),
    "simkd": ("simkd", {}),
    "fdbd": ("fdbd", {}),
    "fdbd, no denoiser": ("fdbd", {"denoiser": False}),
    "fdbd, as published": ("fdbd", KL),
    "dist+fdbd": ("dist+fdbd", {}),
    "dist+fdbd, no denoiser": ("dist+fdbd", {"fdbd": {"denoiser": False}}),
    "kd, standardised": ("kd", {"temperature": 2, "standardize": True, "weights": {"ce": 0.1, "kd": 9}}),
    **{
        f"kd, T {t:g}, labels {share:g}": ("kd", {"temperature": t, "alpha": share})
        for t in (1.0, 2.0, 4.0)
        for share in (0.1, 0.3, 0.5)
    },
    "kd, standardised, weights 1": ("kd", {"temperature": 2, "standardize": True}),
    **{f"fdbd, MSE {n}": ("fdbd", {"mse_scale": n}) for n in (1, 30, 100)},
    "fdbd, MSE 30, no denoiser": ("fdbd", {"mse_scale": 30, "denoiser": False}),
    "dist+fdbd, MSE 30": ("dist+fdbd", {"fdbd": {"mse_scale": 30}}),
    **{f"fdbd, KL, weight {n}": ("fdbd", {**KL, "weights": {"diffkd": n}}) for n in (5, 15, 50, 200)},
    "fdbd, KL, no denoiser": ("fdbd", {**KL, "denoiser": False}),
    "fdbd, KL, weight 15, no denoiser": ("fdbd", {**KL, "weights": {"diffkd": 15}, "denoiser": False}),
    "fdbd, KL over positions": ("fdbd", {"feat_loss": "kl_spatial", "temperature": 4}),
    "fdbd, normalised": ("fdbd", NORMAL),
    "fdbd, normalised, no denoiser": ("fdbd", {**NORMAL, "denoiser": False}),
    **{f"fdbd, normalised, weight {n}": ("fdbd", {**NORMAL, "weights": {"diffkd": n}}) for n in (3, 10)},
    "fdbd, normalised, gamma floor 0.5": ("fdbd", {**NORMAL, "gamma_floor": 0.5}),
    "fdbd, normalised, stage3": ("fdbd", {**NORMAL, "tap": "stage3"}),
    "fdbd, normalised, warm-up": ("fdbd", {**NORMAL, "warmup_share": 0.2}),
    "fdbd, normalised, 2 steps": ("fdbd", {**NORMAL, "denoise_steps": 2}),
    "fdbd, normalised, latent 32": ("fdbd", {**NORMAL, "ae_channels": 32}),
    "fdbd, normalised, longer first phase": ("fdbd", {**NORMAL, "phase1_epochs": 140}),
    "fdbd, normalised, logits too": ("fdbd", {**NORMAL, "branches": ("feat", "logit")}),
    "fdbd, KL, and kd": ("fdbd+kd", {"fdbd": KL, "kd": {"alpha": 0.1}}),
    "dist+fdbd, KL": ("dist+fdbd", {"fdbd": KL}),
    "dist+fdbd, normalised": ("dist+fdbd", {"fdbd": NORMAL}),
}
CORE = (
    *("kd", "dkd", "dist", "fitnet", "at", "sp", "rkd", "pkt", "reviewkd", "srrl", "vkd", "nuclear", "mimic"),
    *("diffkd", "fdbd", "fdbd, no denoiser", "dist+fdbd, no denoiser", "dist+mimic"),
)
"""What is compared where no arms are named; ``function_matching`` wants hundreds of epochs and mixed images."""
PAIRS = (
    ("fdbd", "dist"),
    ("kd", "dist"),
    ("kd", "kd, T 4, labels 0.1"),
    ("fdbd", "fdbd, no denoiser"),
    ("dist+fdbd", "dist"),
    ("dist+fdbd", "dist+fdbd, no denoiser"),
    ("dist+fdbd, no denoiser", "dist"),
    ("dist+mimic", "dist"),
    ("dist+mimic", "dist+fdbd, no denoiser"),
)
