"The smallest networks, which tests train."

NETWORKS = dict(
    ebm_channels=8,
    ebm_channel_mult=[1],
    ebm_n_blocks=1,
    init_channels=8,
    init_channel_mult=[1],
    init_n_blocks=1,
)
