"""Train scBiGNN models and export them as bundles for the runtime. Needs the extra ``training``."""
