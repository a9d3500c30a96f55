//! Names of images, as the registry and the runtime know them.

/// The registry that is meant when a name says none, and what stands for it in old credentials.
const DEFAULT_REGISTRY: &str = "docker.io";
const LEGACY_REGISTRY: &str = "index.docker.io";
/// Where that registry has images whose names have no `/`.
const OFFICIAL: &str = "library";

/// The whole name of an image, as a runtime shows it: with its registry, and with the tag `latest` when it has neither
/// tag nor digest.
#[must_use]
pub fn normalized(image: &str) -> String {
    let repository = repository(image);
    let (_, tag, digest) = parts(image);
    match (tag, digest) {
        // The tag of a name that has a digest means nothing.
        (_, Some(digest)) => format!("{repository}@{digest}"),
        (Some(tag), None) => format!("{repository}:{tag}"),
        (None, None) => format!("{repository}:latest"),
    }
}

/// The repository of an image: its whole name without tag and digest.
#[must_use]
pub fn repository(image: &str) -> String {
    let (name, ..) = parts(image);
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    match (registry, path.contains('/')) {
        (DEFAULT_REGISTRY | LEGACY_REGISTRY, false) => {
            format!("{DEFAULT_REGISTRY}/{OFFICIAL}/{path}")
        }
        (LEGACY_REGISTRY, true) => format!("{DEFAULT_REGISTRY}/{path}"),
        _ => format!("{registry}/{path}"),
    }
}

/// The first part of a name is a registry when it cannot be a user's name.
fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Name, tag and digest.
fn parts(image: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    // A colon before the last slash is that of a port.
    match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag), digest),
        _ => (rest, None, digest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_a_runtime_completes_them() {
        for (image, repo, whole) in [
            (
                "busybox",
                "docker.io/library/busybox",
                "docker.io/library/busybox:latest",
            ),
            (
                "busybox:1.36",
                "docker.io/library/busybox",
                "docker.io/library/busybox:1.36",
            ),
            ("team/app:2", "docker.io/team/app", "docker.io/team/app:2"),
            (
                "index.docker.io/app",
                "docker.io/library/app",
                "docker.io/library/app:latest",
            ),
            (
                "docker.io/team/app",
                "docker.io/team/app",
                "docker.io/team/app:latest",
            ),
            ("localhost/app:dev", "localhost/app", "localhost/app:dev"),
            (
                "registry.test:5000/a/b:3",
                "registry.test:5000/a/b",
                "registry.test:5000/a/b:3",
            ),
            (
                "registry.test:5000/a",
                "registry.test:5000/a",
                "registry.test:5000/a:latest",
            ),
            ("r.test/a:1@sha256:0f", "r.test/a", "r.test/a@sha256:0f"),
            ("Host/a", "Host/a", "Host/a:latest"),
        ] {
            assert_eq!(repository(image), repo, "{image}");
            assert_eq!(normalized(image), whole, "{image}");
            assert_eq!(normalized(whole), whole, "{image}");
        }
    }
}
