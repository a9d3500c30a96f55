"""What the checks see of the cluster beside the SDK: objects, waited for until they are as they should be."""

import math
import time
import urllib.request

from kubernetes import client, config, watch
from kubernetes.client import ApiException

CLAIMS = ("extensions.agents.x-k8s.io", "v1beta1", "sandboxclaims")
SANDBOXES = ("agents.x-k8s.io", "v1beta1", "sandboxes")
TEMPLATES = ("extensions.agents.x-k8s.io", "v1beta1", "sandboxtemplates")

# Seconds. How long anything may take on a busy machine: to tell "does not come" from "is slow".
PATIENCE = 60
# Seconds that one request may take.
REQUEST = 30
# HTTP status of a resource version that the API server has forgotten.
GONE = 410

# The sandboxes are on this machine's own network, whatever proxy the environment names.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NotInTime(Exception):
    """Something did not come to be as it should within its time; says what was wrong at the end."""


class View:
    """One namespace, with the rights of the kubeconfig's user."""

    def __init__(self, namespace):
        config.load_kube_config()
        self.namespace = namespace
        self.api = client.CustomObjectsApi()

    def list(self, kind, **selector):
        """All objects of a kind that `field_selector` or `label_selector` choose, and their resource version."""
        group, version, plural = kind
        listed = self.api.list_namespaced_custom_object(
            group, version, self.namespace, plural, _request_timeout=REQUEST, **selector
        )
        return listed["items"], listed["metadata"]["resourceVersion"]

    def until(self, kind, accept, **selector):
        """Waits until `accept` finds nothing wrong with the chosen objects, and returns them.

        `accept` gets a list and returns what is wrong, or None.
        """
        group, version, plural = kind
        deadline = time.monotonic() + PATIENCE
        wrong = "nothing was seen"
        while (left := deadline - time.monotonic()) > 0:
            items, seen = self.list(kind, **selector)
            objects = {item["metadata"]["name"]: item for item in items}
            if (wrong := accept(list(objects.values()))) is None:
                return list(objects.values())
            events = watch.Watch().stream(
                self.api.list_namespaced_custom_object,
                group,
                version,
                self.namespace,
                plural,
                resource_version=seen,
                timeout_seconds=math.ceil(left),
                _request_timeout=math.ceil(left) + REQUEST,
                **selector,
            )
            try:
                for event in events:
                    item = event["object"]
                    name = item["metadata"]["name"]
                    if event["type"] == "DELETED":
                        objects.pop(name, None)
                    else:
                        objects[name] = item
                    if (wrong := accept(list(objects.values()))) is None:
                        return list(objects.values())
                    if time.monotonic() > deadline:
                        break
            except ApiException as error:
                if error.status != GONE:
                    raise
            finally:
                events.close()
        raise NotInTime(wrong)

    def until_one(self, kind, name, accept):
        """Waits until the object of this name is there and `accept` finds nothing wrong with it, and returns it."""

        def only(objects):
            return accept(objects[0]) if objects else f"there is no {name}"

        return self.until(kind, only, field_selector=f"metadata.name={name}")[0]

    def until_none(self, kind, **selector):
        """Waits until there is no such object."""

        def none(objects):
            names = [item["metadata"]["name"] for item in objects]
            return f"there are {names}: {[item.get('status') for item in objects]}" if names else None

        self.until(kind, none, **selector)


def condition(item, kind):
    """The condition of that type, or an empty one."""
    conditions = (item.get("status") or {}).get("conditions") or []
    return next((found for found in conditions if found["type"] == kind), {})


def page(address, port, path):
    """What a sandbox serves, without the end of its last line."""
    with _DIRECT.open(f"http://{address}:{port}{path}", timeout=REQUEST) as answer:
        return answer.read().decode().rstrip("\n")


def fnv1a(text):
    """FNV-1a, 32 bits, as eight hexadecimal digits: the hash in labels."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{value:08x}"
