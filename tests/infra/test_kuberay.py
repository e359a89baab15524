"""The Kubernetes manifests: what Kubernetes and KubeRay take, and that they agree with each other and the lock file."""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray._private.ray_constants import RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S

from rsrnet_platform import spec
from rsrnet_platform.cluster import Node, TrainClusterConfig, check_resources
from rsrnet_platform.errors import UserError
from tests.infra.files import SECRET, dotenv, load, manifests, pins, pod_templates
from tests.infra.kuberay_schema import SCHEMAS

KUBERNETES = "1.32"
RAY = ("RayCluster", "RayJob")


def objects(repository: Path, *kinds: str) -> list[dict[str, Any]]:
    return [each for each in manifests(repository) if each["kind"] in kinds]


def cluster_specs(repository: Path) -> list[dict[str, Any]]:
    """The specs of the clusters: that of the one that stays, then those of the jobs."""
    return [each["spec"].get("rayClusterSpec", each["spec"]) for each in objects(repository, *RAY)]


def containers(repository: Path) -> list[dict[str, Any]]:
    templates = [template for each in manifests(repository) for template in pod_templates(each)]
    return [container for template in templates for container in template["spec"]["containers"]]


class TestWhatTheApiTakes:
    def test_kubernetes_objects_follow_its_schemas(self, repository: Path) -> None:
        checked = [each for each in manifests(repository) if each["kind"] not in RAY]

        for each in checked:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
        assert {each["kind"] for each in checked} >= {"Deployment", "StatefulSet", "Service", "NetworkPolicy"}

    def test_rays_objects_follow_kuberays(self, repository: Path) -> None:
        checked = objects(repository, *RAY)

        for each in checked:
            jsonschema.validate(each, SCHEMAS[each["kind"]])
        assert [each["kind"] for each in checked].count("RayJob") == 2

    def test_a_misspelt_key_of_kuberays_is_found(self, repository: Path) -> None:
        (cluster,) = objects(repository, "RayCluster")
        wrong = copy.deepcopy(cluster)
        wrong["spec"]["workerGroupSpecs"][0]["minReplica"] = 1

        with pytest.raises(jsonschema.ValidationError, match="minReplica"):
            jsonschema.validate(wrong, SCHEMAS["RayCluster"])

    @pytest.mark.parametrize(
        ("section", "key", "value"),
        [
            ("resources", "request", {"cpu": "1"}),
            ("resources", "limits", {"memory": "1 GB"}),
            ("securityContext", "runAsUser", "ray"),
            ("securityContext", "capabilities", {"drop": "ALL"}),
            ("securityContext", "fsGroup", 1000),
        ],
    )
    def test_what_the_autoscaler_may_not_have_is_found(
        self, repository: Path, section: str, key: str, value: Any
    ) -> None:
        (cluster,) = objects(repository, "RayCluster")
        wrong = copy.deepcopy(cluster)
        wrong["spec"]["autoscalerOptions"][section][key] = value

        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMAS["RayCluster"])

    def test_pods_inside_rays_objects_follow_kubernetes_schemas(self, repository: Path) -> None:
        templates = [template for each in objects(repository, *RAY) for template in pod_templates(each)]

        for template in templates:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **template["metadata"]}}
            kubernetes_validate.validate(pod | {"spec": template["spec"]}, KUBERNETES, strict=True)
        assert len(templates) == 3 + 2 * 3

    def test_one_command_applies_everything(self, repository: Path, tmp_path: Path) -> None:
        if shutil.which("kubectl") is None:
            pytest.skip("kubectl is not installed")
        folder = shutil.copytree(
            repository / "infra/kuberay", tmp_path / "kuberay", ignore=lambda *_: [".env"]
        )
        subprocess.run([repository / "infra/make-secrets", folder / ".env"], check=True, capture_output=True)

        built = subprocess.run(
            ["kubectl", "kustomize", folder], capture_output=True, text=True, check=True
        ).stdout

        made = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(built)}
        assert made["RayCluster", "rsrnet"]["metadata"]["namespace"] == "rsrnet"
        assert {*made["Secret", "rsrnet-secrets"]["data"]} == {*dotenv(folder / ".env")}
        assert len(made) == 1 + len([each for each in manifests(repository) if each["kind"] != "RayJob"])


class TestAgreement:
    def test_with_the_lock_file(self, repository: Path) -> None:
        assert {each["rayVersion"] for each in cluster_specs(repository)} == {pins(repository)["ray"]}

    def test_on_secrets_claims_services_and_labels(self, repository: Path, tmp_path: Path) -> None:
        everything = manifests(repository)
        subprocess.run(
            [repository / "infra/make-secrets", tmp_path / ".env"], check=True, capture_output=True
        )
        named = list(values_of(everything, "secretKeyRef"))
        services = {
            each["metadata"]["name"]: each["spec"] for each in everything if each["kind"] == "Service"
        }
        labels = [
            template["metadata"].get("labels", {}) for each in everything for template in pod_templates(each)
        ]
        variables = {
            env["name"]: env["value"]
            for each in containers(repository)
            for env in each.get("env", [])
            if "value" in env
        }

        assert named
        for reference in named:
            assert reference["name"] == "rsrnet-secrets"
            assert reference["key"] in dotenv(tmp_path / ".env")
        assert {each["secretName"] for each in values_of(everything, "authOptions")} == {"rsrnet-secrets"}
        assert "auth_token" in dotenv(tmp_path / ".env")
        assert {each["claimName"] for each in values_of(everything, "persistentVolumeClaim")} == {
            "rsrnet-storage"
        }
        for service in services.values():
            assert service["selector"] in labels
        assert variables["MLFLOW_TRACKING_URI"] == f"http://mlflow:{services['mlflow']['ports'][0]['port']}"
        assert variables["AWS_ENDPOINT_URL"] == f"http://bucket:{services['bucket']['ports'][0]['port']}"
        assert variables["PGHOST"] in services

    def test_of_the_jobs_clusters_with_the_one_that_stays(self, repository: Path) -> None:
        stays, *of_jobs = (copy.deepcopy(each) for each in cluster_specs(repository))
        pools = {group["groupName"]: group for group in stays.pop("workerGroupSpecs")}

        assert len(of_jobs) == 2
        for cluster in of_jobs:
            (group,) = cluster.pop("workerGroupSpecs")
            assert cluster == stays
            assert group["template"] == pools[group["groupName"]]["template"]

    @pytest.mark.parametrize("kind", ["cpu", "gpu"])
    def test_of_a_jobs_command_with_its_cluster(self, repository: Path, kind: str) -> None:
        job = load(repository / f"infra/kuberay/jobs/train-{kind}.yaml")["spec"]
        (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
        program, run, path, *options = shlex.split(job["entrypoint"])

        settings = [
            value for option, value in zip(options[::2], options[1::2], strict=True) if option == "--set"
        ]
        loaded = spec.load(repository / Path(path).relative_to("/home/ray/"), settings)

        assert (program, run) == ("rsrnet", "run")
        assert loaded.cluster.workers == loaded.cluster.workers.__class__(
            group["minReplicas"], group["maxReplicas"], 600
        )
        assert loaded.cluster.accelerator == group["groupName"] == kind
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert int(limits["cpu"]) == loaded.cluster.cpus_per_worker == loaded.data.loader_processes + 1
        assert ("nvidia.com/gpu" in limits) == (kind == "gpu")


class TestThePage:
    @pytest.fixture
    def page(self, repository: Path) -> str:
        return (repository / "infra/kuberay/README.md").read_text(encoding="utf-8")

    def test_its_job_for_the_pool_of_gpus_finds_room_once_the_pool_has_grown(
        self, repository: Path, page: str
    ) -> None:
        (options,) = re.findall(r"submit jobs/train.yaml .*\\\n +(.*accelerator=gpu.*)", page)
        job = spec.load(repository / "jobs/train.yaml", re.findall(r"--set (\S+)", options))
        (cluster,) = objects(repository, "RayCluster")
        (pool,) = (each for each in cluster["spec"]["workerGroupSpecs"] if each["groupName"] == "gpu")
        limits = pool["template"]["spec"]["containers"][0]["resources"]["limits"]
        node = Node(int(limits["cpu"]), int(limits["nvidia.com/gpu"]))

        check_resources(job.cluster, (node,) * pool["maxReplicas"], "the pool")
        assert job.cluster.patience > 0
        with pytest.raises(UserError, match="has none"):
            check_resources(job.cluster, (node,) * pool["minReplicas"], "the pool")

    @pytest.mark.parametrize("kind", ["cpu", "gpu"])
    def test_its_command_sets_every_image_of_a_job(self, repository: Path, page: str, kind: str) -> None:
        (command,) = re.findall(r"^ +(sed .*) infra/kuberay/jobs/train-gpu.yaml \|", page, re.MULTILINE)
        job = repository / f"infra/kuberay/jobs/train-{kind}.yaml"

        made = subprocess.run([*shlex.split(command), job], capture_output=True, text=True, check=True).stdout

        pods = [*pod_templates(yaml.safe_load(made))]
        images = {container["image"] for pod in pods for container in pod["spec"]["containers"]}
        assert len(pods) == 3
        assert all(image.startswith("registry.example/me/rsrnet:") for image in images), images
        assert command in job.read_text(encoding="utf-8")

    def test_its_commands_name_the_container_that_ray_is_in(self, repository: Path, page: str) -> None:
        (cluster,) = objects(repository, "RayCluster")
        head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["name"]

        assert {*re.findall(r"--container (\S+)", page)} == {head}


class TestWhoGetsIn:
    def test_ray_asks_for_a_token(self, repository: Path) -> None:
        assert {each["authOptions"]["mode"] for each in cluster_specs(repository)} == {"token"}

    def test_nothing_is_reached_from_outside(self, repository: Path) -> None:
        assert not objects(repository, "Ingress")
        for service in objects(repository, "Service"):
            assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
        for cluster in cluster_specs(repository):
            assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
            assert not cluster["headGroupSpec"].get("enableIngress")

    def test_secret_values_come_from_the_secret(self, repository: Path) -> None:
        secret = [
            env
            for each in containers(repository)
            for env in each.get("env", [])
            if SECRET.search(env["name"])
        ]

        assert len(secret) >= 8
        assert all("value" not in env and "secretKeyRef" in env["valueFrom"] for env in secret)

    def test_only_those_who_must_reach_a_pod(self, repository: Path) -> None:
        policies = {each["metadata"]["name"]: each["spec"] for each in objects(repository, "NetworkPolicy")}

        assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
        for name in ("postgres", "bucket"):
            (rule,) = policies[name]["ingress"]
            assert rule["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "mlflow"}}}]

    def test_pods_have_no_more_rights_than_they_need(self, repository: Path) -> None:
        templates = [template["spec"] for each in manifests(repository) for template in pod_templates(each)]

        for pod in templates:
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in pod["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


class TestWhatTheyNeed:
    def test_every_container_says_what_it_needs_and_how_it_is(self, repository: Path) -> None:
        for container in containers(repository):
            assert {"cpu", "memory"} <= {*container["resources"]["requests"]}, container["name"]
            assert "memory" in container["resources"]["limits"], container["name"]
            assert re.fullmatch(r"[\w/-]+:(slim|gpu|\d[\w.-]*)", container["image"])
            if container["name"] != "submitter":
                assert {"readinessProbe", "livenessProbe", "startupProbe"} <= {*container}, container["name"]

    def test_shared_memory_holds_the_object_store_and_batches(self, repository: Path) -> None:
        """Ray would put the store on the disk otherwise, and say so in a log alone."""
        groups = [
            group
            for cluster in cluster_specs(repository)
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
        ]

        assert len(groups) == 7
        for group in groups:
            volumes = {each["name"]: each for each in group["template"]["spec"]["volumes"]}
            assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
            assert int(group["rayStartParams"]["object-store-memory"]) <= 0.75 * 2 * 1024**3

    def test_pools_grow_and_shrink(self, repository: Path) -> None:
        for cluster in cluster_specs(repository):
            assert cluster["enableInTreeAutoscaling"] is True
            # Of Ray 2.60; said to KubeRay too, it makes pods that are not started again when they are taken away.
            assert cluster["autoscalerOptions"]["version"] == "v2"
            for group in cluster["workerGroupSpecs"]:
                assert group["minReplicas"] <= group["replicas"] < group["maxReplicas"]

    def test_a_node_is_given_the_time_to_drain(self, repository: Path) -> None:
        for cluster in cluster_specs(repository):
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                seconds = group["template"]["spec"]["terminationGracePeriodSeconds"]
                assert seconds >= RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S + TrainClusterConfig().grace


def values_of(found: Any, key: str) -> Any:
    """Every value of a key, at any depth."""
    if isinstance(found, dict):
        if key in found:
            yield found[key]
        found = list(found.values())
    if isinstance(found, list):
        for value in found:
            yield from values_of(value, key)
