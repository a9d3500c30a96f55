"""What a user of the Python SDK of agent-sandbox sees, checked against a cluster.

Usage: run.py VERSION NAMESPACE, with the KUBECONFIG of a user who has the rights in cluster.yaml, in a namespace that
has the objects in it. VERSION is that of the SDK that must be installed. Prints a line for each check, and fails when
one does.
"""

import asyncio
import faulthandler
import logging
import sys
import traceback
from importlib import metadata

# Before the SDK is imported, which otherwise may have its progress printed among the checks.
logging.basicConfig(level=logging.ERROR, stream=sys.stderr)

from k8s_agent_sandbox import (  # noqa: E402
    AsyncSandboxClient,
    SandboxClaimFailedError,
    SandboxClient,
    SandboxTemplateNotFoundError,
    SandboxWarmPoolNotFoundError,
)
from k8s_agent_sandbox.models import SandboxInClusterConnectionConfig  # noqa: E402
from kubernetes.client import ApiException  # noqa: E402

from cluster_view import (  # noqa: E402
    CLAIMS,
    PATIENCE,
    SANDBOXES,
    TEMPLATES,
    NotInTime,
    View,
    condition,
    fnv1a,
    page,
)

# Seconds that all of it may take; then the interpreter says where it stands, and ends.
LIMIT = 600
# Where the sandboxes listen.
PORT = 8888
# The label that tells the claims of one step from those of the others.
STEP = "example.com/step"


class Report:
    """The checks, a line each."""

    def __init__(self, version):
        self.version = version
        self.step = ""
        self.passed = 0
        self.failed = 0

    def equal(self, what, expected, got):
        """A value is the expected one."""
        self.holds(what, f"{expected!r}", expected == got, f"{got!r}")

    def holds(self, what, expected, verdict, got):
        """Something is as `expected` says; `got` is what there is instead."""
        if verdict:
            self.passed += 1
            self._line("ok", what)
        else:
            self.failed += 1
            self._line("FAIL", f"{what}: expected {expected}, got {got}")

    def raises(self, what, kind, text, action):
        """Fails as a user can tell: by this exception, with this in its message."""
        expected = f"{kind.__name__} with {text!r}"
        try:
            result = action()
        except Exception as error:  # Whatever it is, it is what the user gets.
            got = f"{type(error).__name__}: {error}"
            self.holds(what, expected, isinstance(error, kind) and text in str(error), got)
        else:
            self.holds(what, expected, False, f"no exception but {result!r}")

    def within(self, what, wait):
        """Comes to be within its time."""
        try:
            wait()
        except NotInTime as late:
            self.holds(what, f"within {PATIENCE} s", False, str(late))
        else:
            self.holds(what, f"within {PATIENCE} s", True, "")

    def run(self, step, *arguments):
        """Runs a step; one that ends with an exception has failed, and the next one is tried nevertheless."""
        self.step = step.__name__
        try:
            step(self, *arguments)
        except Exception as error:
            self.holds("goes through", "no exception", False, f"{type(error).__name__}: {error}")
            traceback.print_exc()

    def _line(self, verdict, text):
        print(f"    {verdict:<4}  {self.version}  {self.step}: {text}", flush=True)


def new_client():
    """A client that talks to sandboxes by their addresses. It opens nothing until it is asked to."""
    return SandboxClient(connection_config=SandboxInClusterConnectionConfig(server_port=PORT))


def create(client, view, pool, **options):
    """A sandbox, or the exception that the user gets."""
    return client.create_sandbox(pool, view.namespace, PATIENCE, **options)


def check_gone(report, view, claim, sandbox_id):
    """Claim and Sandbox go; nobody else is asked to."""
    by_name = {"field_selector": f"metadata.name={claim}"}
    report.within("the claim is gone", lambda: view.until_none(CLAIMS, **by_name))
    by_name = {"field_selector": f"metadata.name={sandbox_id}"}
    report.within("its Sandbox is gone", lambda: view.until_none(SANDBOXES, **by_name))


def rights(report, view):
    """The user is not an administrator, or the rest would prove little."""
    report.raises(
        "templates are not for this user",
        ApiException,
        "Forbidden",
        lambda: view.list(TEMPLATES),
    )


def warm(report, view):
    """A claim on a pool with members: handle, metadata, list, a second client, suspend, resume, delete."""
    client = new_client()
    sandbox = create(
        client,
        view,
        "warm",
        labels={STEP: "warm"},
        pod_labels={"sandbox.users.io/team": "blue"},
        pod_annotations={"example.com/note": "hello"},
    )
    claim, name = sandbox.claim_name, sandbox.sandbox_id
    report.holds("it is a member of the pool", "warm-…", name.startswith("warm-"), name)
    check_handle(report, sandbox)
    check_metadata(report, view, claim, name)
    listed = client.list_all_sandboxes(view.namespace, label_selector=f"{STEP}=warm")
    report.equal("it is listed by its label", [claim], listed)
    other = new_client().get_sandbox(claim, view.namespace)
    report.equal("a second client finds it", name, other.sandbox_id)
    suspend_and_resume(report, view, other)
    client.delete_sandbox(claim, view.namespace)
    check_gone(report, view, claim, name)


def check_handle(report, sandbox):
    """What the handle tells is right at once, without waiting."""
    name = sandbox.sandbox_id
    report.equal("its status", "SandboxReady", sandbox.status()[0])
    report.equal("the name of its pod", name, sandbox.get_pod_name())
    report.equal("the hash of its name", fnv1a(name), sandbox.get_sandbox_name_hash())
    answer = sandbox.connector.send_request("GET", "index.html").text.strip()
    report.equal("it answers to the SDK's own request", name, answer)


def check_metadata(report, view, claim, name):
    """What the SDK writes into the claim reaches the Sandbox's pod template."""

    def adopted(item):
        owners = item["metadata"].get("ownerReferences") or []
        if [owner["name"] for owner in owners] != [claim]:
            return f"its owners are {owners}"
        pod = item["spec"]["podTemplate"].get("metadata") or {}
        wanted = {
            "labels": {
                "sandbox.users.io/team": "blue",
                "agents.x-k8s.io/created-by": "python-client",
            },
            "annotations": {"example.com/note": "hello"},
        }
        lacks = [
            (part, key)
            for part, entries in wanted.items()
            for key, value in entries.items()
            if (pod.get(part) or {}).get(key) != value
        ]
        return f"{lacks} are missing in {pod}" if lacks else None

    report.within(
        "its Sandbox is the claim's, with the pod's labels and annotations",
        lambda: view.until_one(SANDBOXES, name, adopted),
    )


def suspend_and_resume(report, view, sandbox):
    """As the SDK's own extension does it: the operating mode is patched, then the pod is waited for."""
    name = sandbox.sandbox_id

    def suspended(item):
        found = condition(item, "Suspended")
        if found.get("status") != "True" or (item["status"].get("podIPs") or []):
            return f"it has {item.get('status')}"
        return None

    def patch(mode):
        group, version, plural = SANDBOXES
        sandbox.k8s_helper.custom_objects_api.patch_namespaced_custom_object(
            group=group,
            version=version,
            namespace=view.namespace,
            plural=plural,
            name=name,
            body={"spec": {"operatingMode": mode}},
        )

    patch("Suspended")
    report.within(
        "suspended, it has no address", lambda: view.until_one(SANDBOXES, name, suspended)
    )
    report.equal("suspended, its status", "SandboxNotReady", sandbox.status()[0])
    report.equal("suspended, its address", None, sandbox.get_pod_ip())
    patch("Running")
    sandbox.k8s_helper.wait_for_sandbox_ready(name, view.namespace, PATIENCE)
    report.equal("resumed, its status", "SandboxReady", sandbox.status()[0])
    report.equal("resumed, it answers", name, page(sandbox.get_pod_ip(), PORT, "/"))


def cold(report, view):
    """A claim on a pool without members."""
    client = new_client()
    sandbox = create(client, view, "cold")
    claim, name = sandbox.claim_name, sandbox.sandbox_id
    report.equal("it is named like the claim", claim, name)
    check_handle(report, sandbox)
    client.delete_sandbox(claim, view.namespace)
    check_gone(report, view, claim, name)


def expiry(report, view):
    """A claim that is to end by itself."""
    sandbox = create(new_client(), view, "warm", shutdown_after_seconds=8)
    report.equal("its status", "SandboxReady", sandbox.status()[0])
    check_gone(report, view, sandbox.claim_name, sandbox.sandbox_id)


def refusals(report, view, cases):
    """Claims that cannot be fulfilled: the SDK says so before its patience ends, and takes the claim away."""
    client = new_client()
    for number, (what, pool, options, kind, text) in enumerate(cases):
        label = f"refusal-{number}"
        report.raises(
            what,
            kind,
            text,
            lambda: create(client, view, pool, labels={STEP: label}, **options),
        )
        report.within(
            f"{what}: no claim is left",
            lambda: view.until_none(CLAIMS, label_selector=f"{STEP}={label}"),
        )


REFUSALS = [
    ("no pool", "nowhere", {}, SandboxWarmPoolNotFoundError, "nowhere"),
    ("no template", "orphan", {}, SandboxTemplateNotFoundError, "nowhere"),
    (
        "a label without a domain",
        "warm",
        {"pod_labels": {"team": "blue"}},
        SandboxClaimFailedError,
        "InvalidMetadata",
    ),
    (
        "a volume that the template does not allow",
        "warm",
        {
            "volume_claim_templates": [
                {
                    "metadata": {"name": "data"},
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "1Mi"}},
                    },
                }
            ]
        },
        SandboxClaimFailedError,
        "VolumeClaimTemplatesError",
    ),
]

# What the SDK learnt with version 1.
LATER_REFUSALS = [
    (
        "a variable that the template does not allow",
        "warm",
        {"env": {"COLOUR": "red"}},
        SandboxClaimFailedError,
        "EnvVarsInjectionRejected",
    ),
    ("a pod that has ended", "ends", {}, SandboxClaimFailedError, "PodSucceeded"),
]


def variables(report, view):
    """A claim that sets a variable which the template lets it set."""
    client = new_client()
    sandbox = create(client, view, "open", env={"COLOUR": "red"})
    claim, name = sandbox.claim_name, sandbox.sandbox_id
    report.equal("its status", "SandboxReady", sandbox.status()[0])
    report.equal("it has the variable", "red", page(sandbox.get_pod_ip(), PORT, "/colour"))
    client.delete_sandbox(claim, view.namespace)
    check_gone(report, view, claim, name)


def named(report, view):
    """A claim with a name of the user's, which a second client takes over."""
    options = {"claim_name": "mine", "adopt_existing": True}
    client = new_client()
    first = create(client, view, "warm", **options)
    name = first.sandbox_id
    second = create(new_client(), view, "warm", **options)
    report.equal("a second client gets the same sandbox", name, second.sandbox_id)
    report.equal("its status", "SandboxReady", second.status()[0])
    report.raises(
        "another pool is refused",
        ValueError,
        "references warm pool 'warm'",
        lambda: create(new_client(), view, "cold", **options),
    )
    left = client.list_all_sandboxes(view.namespace)
    report.holds("that leaves the claim alone", "mine in the list", "mine" in left, f"{left}")
    client.delete_sandbox("mine", view.namespace)
    check_gone(report, view, "mine", name)


def asynchronous(report, view):
    """The asynchronous client, once through."""

    async def life():
        connection = SandboxInClusterConnectionConfig(server_port=PORT)
        async with AsyncSandboxClient(connection_config=connection, cleanup=False) as client:
            sandbox = await client.create_sandbox("warm", view.namespace, PATIENCE)
            claim, name = sandbox.claim_name, sandbox.sandbox_id
            report.equal("its status", "SandboxReady", (await sandbox.status())[0])
            report.equal("the name of its pod", name, await sandbox.get_pod_name())
            answer = await sandbox.connector.send_request("GET", "index.html")
            report.equal("it answers to the SDK's own request", name, answer.text.strip())
        return claim, name

    claim, name = asyncio.run(life())
    check_gone(report, view, claim, name)


def main():
    _, version, namespace = sys.argv
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    report = Report(version)
    report.step = "setup"
    report.equal("the SDK's version", version, metadata.version("k8s-agent-sandbox"))
    report.equal("the hash that is expected", "9d22159f", fnv1a("tpl"))
    view = View(namespace)
    later = int(version.split(".")[0]) >= 1
    for step in (rights, warm, cold, expiry, asynchronous):
        report.run(step, view)
    report.run(refusals, view, REFUSALS + (LATER_REFUSALS if later else []))
    if later:
        report.run(variables, view)
        report.run(named, view)
    print(f"    {version}: {report.passed} checks passed, {report.failed} failed", flush=True)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
