"""What packaging/ holds agrees with the program: units, manifests, samples, scripts."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from unit_files import UnitFile

from logging_service.server import EXIT_BAD_CONFIGURATION
from servicebus.cli.exit_codes import ExitCode
from servicebus.configuration import Configuration, load_logging
from servicebus.observability.health import document_of
from servicebus.observability.http_listener import PageRequest
from servicebus.observability.pages import Pages

CHECKOUT = Path(__file__).parents[2]
PACKAGING = CHECKOUT / "packaging"
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))
SCRIPTS = [CHECKOUT / "bin/deb", CHECKOUT / "bin/dist", *(PACKAGING / "debian").glob("p*")]
INSTALLED = distribution("servicebus-failover")
OF_DEVELOPERS = {"test", "manual", "dist", "bench", "examples", "check"}
"""Extras that no user of the package needs."""
DEFAULTS = Configuration({"hosts": ["mq-a"], "secret_token": "s" * 20, "metrics": {}})
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze, of systemd")


@pytest.fixture(autouse=True)
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("secret", "password"):
        (tmp_path / name).write_text("s" * 20)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))


def manifests() -> list[dict[str, Any]]:
    files = sorted((PACKAGING / "kubernetes").glob("*.yaml"))
    return [each for file in files if file.name != "agent.yaml" for each in yaml.safe_load_all(file.read_text())]


def manifest(kind: str) -> dict[str, Any]:
    (found,) = (each for each in manifests() if each["kind"] == kind)
    return found


# -- systemd -----------------------------------------------------------------------------------------------------------


@needs_systemd
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_understands_the_unit(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace("ExecStart=/usr/bin/", "ExecStart=/bin/true "))  # it has to be there
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "servicebus" in line]
    assert ours == [] and done.returncode == 0, done.stderr


@needs_systemd
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_what_the_unit_may_do_is_little(path: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    exposure = re.search(r"exposure level for .*: ([\d.]+)", done.stdout)
    assert exposure and float(exposure[1]) <= 2.0


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_the_unit_agrees_with_the_program(path: Path) -> None:
    unit = UnitFile(path)
    program = unit.one("ExecStart").split()[0]
    assert program.removeprefix("/usr/bin/") in {
        each.name for each in INSTALLED.entry_points if each.group == "console_scripts"
    }
    assert unit.one("Type") == "notify" and int(unit.one("WatchdogSec")) > 0
    assert unit.one("ExecReload") == "/bin/kill -HUP $MAINPID"
    assert int(unit.one("RestartPreventExitStatus")) == ExitCode.CONFIGURATION == EXIT_BAD_CONFIGURATION
    assert set(unit.pairs("LoadCredential")) <= {"secret", "password"}


def test_an_agent_may_drain_before_it_is_killed() -> None:
    unit = UnitFile(PACKAGING / "systemd/servicebus-agent@.service", "shop")
    assert int(unit.one("TimeoutStopSec")) > DEFAULTS.drain_timeout
    assert unit.one("KillMode") == "mixed" and unit.one("OOMPolicy") == "continue"
    assert unit.one("ExecStart").endswith(" run /etc/servicebus/shop.yaml")


# -- samples and the Debian package ------------------------------------------------------------------------------------


def test_the_samples_are_good_configurations() -> None:
    sample = Configuration.load(PACKAGING / "examples/shop.yaml")
    server = load_logging(PACKAGING / "debian/logserver.yaml")
    unit = UnitFile(PACKAGING / "systemd/servicebus-agent@.service", "shop")
    assert sample.status_socket and f"/run/{unit.one('RuntimeDirectory')}/" in str(sample.status_socket)
    assert sample.logging.port == server.port and server.secrets
    logs = UnitFile(PACKAGING / "systemd/servicebus-logd.service").one("LogsDirectory")
    assert server.file == f"/var/log/{logs}/servicebus.log"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_read_by_their_shells(path: Path) -> None:
    shell = path.read_text().splitlines()[0].split()[-1].removeprefix("#!/bin/")
    subprocess.run([shell, "-n", str(path)], check=True)
    assert path.stat().st_mode & 0o111


def test_packages_and_images_have_the_same_extras() -> None:
    package = re.search(r"EXTRAS:-([\w,]+)\}", (CHECKOUT / "bin/deb").read_text())
    image = re.search(r"ARG EXTRAS=([\w,]+)", (PACKAGING / "container/Containerfile").read_text())
    assert package and image and package[1] == image[1]
    page = (CHECKOUT / "docs/install.rst").read_text().partition("With pip")[2].partition("On Debian")[0]
    described = set(re.findall(r"``(\w+)``", "".join(re.findall(r"^   \* - (.*)$", page, re.MULTILINE))))
    known = set(INSTALLED.metadata.get_all("Provides-Extra") or [])
    assert set(package[1].split(",")) == described == known - OF_DEVELOPERS


def test_the_image_builds_from_what_the_wheel_is_made_of() -> None:
    text = (PACKAGING / "container/Containerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (?!--)(.*) /src.*$", text, re.MULTILINE) for name in line.split()}
    assert {"pyproject.toml", "README.rst", "LICENSE", "servicebus", "logging_service"} <= copied
    assert all((CHECKOUT / name).exists() for name in copied)
    allowed = (PACKAGING / "container/Containerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} <= set(allowed)
    assert f"EXPOSE {metrics_port()}" in text


# -- Kubernetes --------------------------------------------------------------------------------------------------------


def metrics_port() -> int:
    assert DEFAULTS.metrics is not None
    return DEFAULTS.metrics.port


def container() -> dict[str, Any]:
    (found,) = manifest("StatefulSet")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_probes_ask_for_pages_that_the_agent_has() -> None:
    configuration = Configuration.load(PACKAGING / "kubernetes/agent.yaml")
    assert configuration.metrics is not None and configuration.metrics.host == "0.0.0.0"  # noqa: S104
    (port,) = container()["ports"]
    assert port["containerPort"] == configuration.metrics.port == metrics_port()
    pages = Pages(lambda: document_of("SHOP", [], is_stopping=False), list)
    for probe, path in {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}.items():
        assert container()[probe]["httpGet"] == {"path": path, "port": port["name"]}
        assert pages.answer(PageRequest(path, "", {})) is not None
    pod = manifest("StatefulSet")["spec"]["template"]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(metrics_port())
    assert manifest("Service")["spec"]["ports"] == [{"name": port["name"], "port": metrics_port()}]


def test_a_pod_may_drain_before_it_is_killed() -> None:
    configuration = Configuration.load(PACKAGING / "kubernetes/agent.yaml")
    pod = manifest("StatefulSet")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > configuration.drain_timeout


def test_the_pod_has_what_its_configuration_names() -> None:
    pod = manifest("StatefulSet")["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    claims = manifest("StatefulSet")["spec"]["volumeClaimTemplates"]
    volumes = {volume["name"] for volume in pod["volumes"]} | {claim["metadata"]["name"] for claim in claims}
    assert set(mounts) == volumes
    variables = {each["name"]: each["value"] for each in container()["env"]}
    assert variables["CREDENTIALS_DIRECTORY"] == mounts["secrets"]
    assert Path(variables["STATE_DIRECTORY"]).is_relative_to(mounts["journal"])
    socket = Configuration.load(PACKAGING / "kubernetes/agent.yaml").status_socket
    assert socket and Path(str(socket)).is_relative_to(mounts["run"])
    assert container()["args"] == ["run", f"{mounts['configuration']}/agent.yaml"]
    assert container()["securityContext"]["readOnlyRootFilesystem"] and pod["securityContext"]["runAsNonRoot"]


def test_what_the_kustomization_names_is_there() -> None:
    kustomization = manifest("Kustomization")
    (generated,) = kustomization["configMapGenerator"]
    for name in (*kustomization["resources"], *generated["files"]):
        assert (PACKAGING / "kubernetes" / name).is_file()
    labels = manifest("StatefulSet")["spec"]["selector"]["matchLabels"]
    for selected in (
        manifest("Service")["spec"]["selector"],
        manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ):
        assert selected == labels == manifest("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize", str(PACKAGING / "kubernetes")]
        made = list(yaml.safe_load_all(subprocess.run(command, capture_output=True, check=True).stdout))
        names = {each["kind"]: each["metadata"]["name"] for each in made}
        (pod,) = (each["spec"]["template"]["spec"] for each in made if each["kind"] == "StatefulSet")
        assert {"configMap": {"name": names["ConfigMap"]}, "name": "configuration"} in pod["volumes"]
