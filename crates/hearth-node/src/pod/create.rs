//! Making a container: from its plan to the runtime's call.

use hearth_core::podspec::{ContainerPlan, Known, MountPlan, Profile, SubPath};
use hearth_core::sandbox::{Learned, Pod};
use hearth_cri::v1;

use super::cri_config::{self, LABEL_BOUND_ENV};
use super::host::Part;
use super::words;
use super::work::{Problem, Result, Subject, blocking};

const ETC_HOSTS: &str = "/etc/hosts";

impl Subject {
    pub(super) async fn create(
        &self,
        container: &ContainerPlan,
        attempt: u32,
        with_env: bool,
    ) -> Result<Learned> {
        self.check_user(container).await?;
        self.check_profile(container).await?;
        let pod = self.pod()?;
        let Some(sandbox_id) = pod.sandbox.id() else {
            return Err(Problem::Failed(
                "there is no sandbox to create it in".to_owned(),
            ));
        };
        let container = &self.with_env_files(container).await?;
        let configs = self.shared.configs.of(&self.key, &pod.plan);
        let settled = pod.plan.settled(container, &self.known(pod), &configs);
        let container = &settled.map_err(|missing| Problem::Failed(missing.to_string()))?;
        let mut config = self.with_places(|pod, identity, places| {
            cri_config::container(&pod.plan, container, identity, places, attempt)
        })?;
        // Last, so that a template cannot say it.
        config.labels.remove(LABEL_BOUND_ENV);
        if with_env {
            config
                .labels
                .insert(LABEL_BOUND_ENV.to_owned(), "true".to_owned());
        }
        for (index, mount) in container.mounts.iter().enumerate() {
            if let (Some(part), Some(config)) =
                (part(pod, container, index), config.mounts.get_mut(index))
            {
                config.host_path = self.mount_part(part, mount).await?;
            }
        }
        let has_hosts = config
            .mounts
            .iter()
            .any(|mount| mount.container_path == ETC_HOSTS);
        let hosts = async {
            if has_hosts {
                return Ok(None);
            }
            self.hosts(container).await.map(Some)
        };
        let (hosts, words) = tokio::try_join!(hosts, self.last_words(container, attempt))?;
        config.mounts.extend(hosts);
        config.mounts.push(words);
        config.log_path = self.next_log(container).await?;
        cri_config::map_ids(&mut config.mounts, pod.first_id);
        let sandbox = self.sandbox_config(pod.attempt)?;
        let created = self
            .shared
            .runtime
            .create_container(sandbox_id, config, sandbox)
            .await;
        created
            .map(Learned::Container)
            .map_err(|error| Problem::of_change(&error))
    }

    async fn last_words(&self, container: &ContainerPlan, attempt: u32) -> Result<v1::Mount> {
        let uid = self.pod()?.uid.clone();
        let place = words::place(&container.name, attempt);
        let path = blocking(&self.shared, move |host| host.make_last_words(&uid, &place)).await?;
        Ok(v1::Mount {
            container_path: container.last_words.path.clone(),
            host_path: path.to_string_lossy().into_owned(),
            ..Default::default()
        })
    }

    async fn mount_part(&self, part: Part, mount: &MountPlan) -> Result<String> {
        let uid = self.pod()?.uid.clone();
        let mounted = blocking(&self.shared, move |host| host.mount_part(&uid, &part)).await;
        let place = mounted.map_err(|problem| problem.of_one("volume", &mount.volume))?;
        Ok(place.to_string_lossy().into_owned())
    }

    /// What a container may be told of its pod.
    pub(super) fn known<'a>(&'a self, pod: &'a Pod) -> Known<'a> {
        let config = &self.shared.config;
        Known {
            name: &self.key.name,
            namespace: &self.key.namespace,
            uid: &pod.uid.0,
            node_name: &config.node_name,
            host_ip: &config.host_ip,
            ips: &pod.ips,
            machine_cpu_millis: config.machine_cpu_millis,
            machine_memory: config.machine_memory,
            services: &config.services,
            metadata: self.metadata.as_deref(),
        }
    }

    /// A container that must not run as root, and does not say as whom it runs, runs as its image says.
    async fn check_user(&self, container: &ContainerPlan) -> Result<()> {
        let security = &container.security;
        if !security.run_as_non_root {
            return Ok(());
        }
        let (root, known) = match security.run_as_user {
            Some(user) => (user == 0, true),
            None => {
                let status = self.shared.images.status(&container.image).await;
                let image = status
                    .map_err(|error| Problem::of(&error))?
                    .unwrap_or_default();
                let user = image.uid.map(|uid| uid.value);
                // An image without any user runs as root.
                (
                    user == Some(0) || (user.is_none() && image.username.is_empty()),
                    user.is_some(),
                )
            }
        };
        let image = &container.image;
        match (root, known) {
            (true, _) => Err(Problem::Failed(format!(
                "image {image} runs as root, and runAsNonRoot is true: set runAsUser"
            ))),
            (false, false) => Err(Problem::Failed(format!(
                "image {image} runs as a user by name, which may be root, and runAsNonRoot is true: set runAsUser"
            ))),
            (false, true) => Ok(()),
        }
    }

    /// A profile that is not there is named before the runtime stumbles over it.
    async fn check_profile(&self, container: &ContainerPlan) -> Result<()> {
        let Profile::Localhost(path) = &container.security.seccomp else {
            return Ok(());
        };
        let directory = &self.shared.config.seccomp_dir;
        match tokio::fs::metadata(directory.join(path)).await {
            Ok(found) if found.is_file() => Ok(()),
            _ => Err(Problem::Failed(format!(
                "seccompProfile.localhostProfile is {path:?}: there is no such file in {} of this node",
                directory.display()
            ))),
        }
    }

    async fn hosts(&self, container: &ContainerPlan) -> Result<v1::Mount> {
        let pod = self.pod()?;
        let uid = pod.uid.clone();
        let content = if pod.plan.host.network {
            // What the node knows by name its pods know as well.
            let own = tokio::fs::read_to_string(&self.shared.config.etc_hosts).await;
            own.map_err(|error| Problem::of(&error))?
        } else {
            hosts_file(&pod.ips, &self.names(pod)?.in_hosts.join("\t"))
        };
        let content = with_aliases(content, &pod.plan.host_aliases);
        let path = blocking(&self.shared, move |host| host.write_hosts(&uid, &content)).await?;
        Ok(v1::Mount {
            container_path: ETC_HOSTS.to_owned(),
            host_path: path.to_string_lossy().into_owned(),
            readonly: container.security.read_only_root,
            ..Default::default()
        })
    }
}

/// The part of a volume that a container's mount is of; `None` when it is of all of it.
fn part(pod: &Pod, container: &ContainerPlan, index: usize) -> Option<Part> {
    let mount = container.mounts.get(index)?;
    let Some(SubPath::Path(path)) = &mount.sub_path else {
        return None;
    };
    let mut volumes = pod.plan.volumes.iter();
    let volume = volumes.find(|volume| volume.name == mount.volume)?;
    Some(Part {
        volume: mount.volume.clone(),
        path: path.clone(),
        place: format!("{}-{index}", container.name),
        make: volume.files.is_none()
            && volume.host_path.is_none()
            && !mount.read_only
            && volume.claim.as_ref().is_none_or(|claim| !claim.read_only),
    })
}

fn hosts_file(ips: &[String], names: &str) -> String {
    let mut content =
        String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for ip in ips {
        content.push_str(&format!("{ip}\t{names}\n"));
    }
    content
}

fn with_aliases(mut content: String, aliases: &[(String, Vec<String>)]) -> String {
    if !content.ends_with('\n') {
        content.push('\n');
    }
    for (ip, names) in aliases {
        content.push_str(&format!("{ip}\t{}\n", names.join(" ")));
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let aliases = [(
            "10.1.1.1".to_owned(),
            vec!["db".to_owned(), "db.local".to_owned()],
        )];
        let content = with_aliases(hosts_file(&["10.88.0.2".to_owned()], "box"), &aliases);
        let lines: Vec<&str> = content.lines().collect();
        assert_eq!(lines[0], "127.0.0.1\tlocalhost");
        assert_eq!(lines[2..], ["10.88.0.2\tbox", "10.1.1.1\tdb db.local"]);
    }
}
