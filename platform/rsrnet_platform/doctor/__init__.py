"""``rsrnet doctor``: whether this machine, the cluster, the store and the data are fit for a job."""
