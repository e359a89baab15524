"""The paper's ablation study (section 4.4) as it prints it: Tables 2 and 3, by the rows of ``ABLATIONS``."""

from __future__ import annotations

from rsrnet.evaluation.published import TABLE_1, Scores

FULL = "full"
"""The row that the others are compared with."""

LABELS: dict[str, str] = {
    "unet": "UNet",
    "rsr": "UNet + RSR",
    "similarity_only": "only similarity map",
    "simple_average": "simple average",
    "without_gru": "w/o GRU",
    "without_msm": "w/o MSM",
    "without_fc": "w/o F_c",
    "without_weighted_upsample": "w/o weighted upsample",
    FULL: "full",
}
"""What the paper calls the rows of Table 2, in its order; the last five are those of Table 3."""

TABLE_2: dict[str, Scores] = {
    "unet": Scores(0.7835, 0.7130, 0.6599),
    "rsr": Scores(0.8053, 0.7426, 0.6972),
    "similarity_only": Scores(0.7724, 0.6973, 0.6455),
    "simple_average": Scores(0.8082, 0.7431, 0.6969),
    "without_gru": Scores(0.8166, 0.7564, 0.7052),
    "without_msm": Scores(0.8062, 0.7451, 0.6981),
    "without_fc": Scores(0.8108, 0.7440, 0.6993),
    "without_weighted_upsample": Scores(0.8124, 0.7515, 0.7057),
    FULL: TABLE_1["All"],
}
"""M_fnl over all test images; in the first three rows that is M_dec."""

TABLE_3: dict[str, dict[str, Scores]] = {
    "without_gru": {
        "m_rsr": Scores(0.8129, 0.7495, 0.7021),
        "m_dec": Scores(0.7788, 0.7526, 0.7038),
        "m_fnl": Scores(0.8166, 0.7564, 0.7052),
    },
    "without_msm": {
        "m_rsr": Scores(0.8027, 0.7398, 0.6892),
        "m_dec": Scores(0.7557, 0.7400, 0.6915),
        "m_fnl": Scores(0.8062, 0.7451, 0.6981),
    },
    "without_fc": {
        "m_rsr": Scores(0.8074, 0.7392, 0.6911),
        "m_dec": Scores(0.7679, 0.7413, 0.6958),
        "m_fnl": Scores(0.8108, 0.7440, 0.6993),
    },
    "without_weighted_upsample": {
        "m_rsr": Scores(0.8057, 0.7423, 0.6926),
        "m_dec": Scores(0.7681, 0.7486, 0.7020),
        "m_fnl": Scores(0.8124, 0.7517, 0.7057),
    },
    FULL: {
        "m_rsr": Scores(0.8219, 0.7547, 0.7062),
        "m_dec": Scores(0.7832, 0.7591, 0.7142),
        "m_fnl": TABLE_1["All"],
    },
}
"""Each mask over all test images. The F1 of M_fnl without weighted upsampling is 0.7515 in Table 2."""


def masks_of(row: str) -> tuple[str, ...]:
    """The masks that the network of a row has: without the RSR module there is no M_rsr."""
    return ("m_dec", "m_fnl") if row == "unet" else ("m_rsr", "m_dec", "m_fnl")
