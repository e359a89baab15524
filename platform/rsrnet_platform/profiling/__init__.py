"""``rsrnet profile``: where the time of a training job's steps goes."""
