"""What KubeRay 1.7 takes as a RayCluster and a RayJob, as a JSON schema that knows no other names.

Source of the names, types and choices: `raycluster_types.go` and `rayjob_types.go` of ray-project/kuberay
(ray-operator/apis/ray/v1), from which KubeRay's CRDs are generated; of inner types that nothing here uses the fields
are left out. Pod templates and containers are Kubernetes' own: :func:`tests.infra.files.pod_templates` finds them.
"""

from __future__ import annotations

from typing import Any


def _fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*required],
        "additionalProperties": False,
    }


def _choice(*values: str) -> dict[str, Any]:
    return {"enum": [*values]}


TEXT = {"type": "string"}
TRUTH = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
WORDS = {"type": "object", "additionalProperties": TEXT}
OBJECT = {"type": "object"}
LIST = {"type": "array"}
NAMES = {"type": "array", "items": TEXT}

AUTH = _fields(enableK8sTokenAuth=TRUTH, secretName=TEXT, mode=_choice("disabled", "token"))

QUANTITIES = {
    "type": "object",
    "additionalProperties": {
        "type": ["integer", "string"],
        "pattern": r"^[+-]?(\d+\.?\d*|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?$",
    },
}
"""Amounts of resources by name, as Kubernetes writes them: `250m`, `1Gi`."""

PROFILE = _fields(("type",), type=_choice("RuntimeDefault", "Unconfined", "Localhost"), localhostProfile=TEXT)

SECURITY = _fields(
    allowPrivilegeEscalation=TRUTH,
    appArmorProfile=PROFILE,
    capabilities=_fields(add=NAMES, drop=NAMES),
    privileged=TRUTH,
    procMount=TEXT,
    readOnlyRootFilesystem=TRUTH,
    runAsGroup=COUNT,
    runAsNonRoot=TRUTH,
    runAsUser=COUNT,
    seLinuxOptions=_fields(level=TEXT, role=TEXT, type=TEXT, user=TEXT),
    seccompProfile=PROFILE,
)
"""Of a container on Linux."""

AUTOSCALER = _fields(
    resources=_fields(limits=QUANTITIES, requests=QUANTITIES),
    image=TEXT,
    imagePullPolicy=TEXT,
    securityContext=SECURITY,
    idleTimeoutSeconds=COUNT,
    upscalingMode=_choice("Default", "Aggressive", "Conservative"),
    version=_choice("v1", "v2"),
    env=LIST,
    envFrom=LIST,
    volumeMounts=LIST,
    command=LIST,
    args=LIST,
)

HEAD = _fields(
    ("template",),
    template=OBJECT,
    headService=OBJECT,
    enableIngress=TRUTH,
    ingressOptions=OBJECT,
    resources=WORDS,
    labels=WORDS,
    rayStartParams=WORDS,
    serviceType=_choice("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
)

WORKERS = _fields(
    ("groupName", "template"),
    suspend=TRUTH,
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=COUNT,
    priority={"type": "integer"},
    resources=WORDS,
    labels=WORDS,
    rayStartParams=WORDS,
    template=OBJECT,
    scaleStrategy=_fields(workersToDelete=LIST),
    numOfHosts=COUNT,
)

CLUSTER = _fields(
    ("headGroupSpec",),
    upgradeStrategy=_fields(type=_choice("Recreate", "None")),
    authOptions=AUTH,
    suspend=TRUTH,
    managedBy=_choice("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    autoscalerOptions=AUTOSCALER,
    headServiceAnnotations=WORDS,
    enableInTreeAutoscaling=TRUTH,
    gcsFaultToleranceOptions=OBJECT,
    historyServerOptions=OBJECT,
    networkPolicy=OBJECT,
    tlsOptions=_fields(enabled=TRUTH),
    headGroupSpec=HEAD,
    rayVersion=TEXT,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)

JOB = _fields(
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    preRunningDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=COUNT,
    rayClusterSpec=CLUSTER,
    submitterPodTemplate=OBJECT,
    metadata=WORDS,
    clusterSelector=WORDS,
    submitterConfig=_fields(backoffLimit=COUNT),
    managedBy=_choice("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    deletionStrategy=OBJECT,
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    submissionMode=_choice("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    entrypointResources=TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    ttlSecondsAfterFinished=COUNT,
    shutdownAfterJobFinishes=TRUTH,
    suspend=TRUTH,
)


def _kind(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {
        "type": "object",
        "properties": dict.fromkeys(("name", "generateName", "namespace"), TEXT) | {"labels": WORDS},
        "additionalProperties": False,
        "oneOf": [{"required": ["name"]}, {"required": ["generateName"]}],
    }
    return _fields(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


SCHEMAS = {"RayCluster": _kind("RayCluster", CLUSTER), "RayJob": _kind("RayJob", JOB)}
"""Of the objects that KubeRay's operator takes."""
