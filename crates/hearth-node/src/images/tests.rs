use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hearth_core::images::Keyring;
use hearth_core::podspec::{Config, ConfigKind, ConfigRef, Configs, PodPlan, PullPolicy};
use hearth_core::sandbox::Priority;
use hearth_cri::Operation;
use hearth_cri::fake::FakeRuntime;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::*;

const IMAGE: &str = "registry.test/team/app:1";

fn images(runtime: &FakeRuntime, notes: Option<PathBuf>) -> Images {
    let config = ImageConfig {
        max_parallel_pulls: 2,
        notes,
    };
    Images::new(Arc::new(runtime.clone()), &config, ImageMetrics::default())
}

/// The credentials of a pod that names these Secrets, each with a user and password for the registry.
fn keyring(secrets: &[(&str, &str)]) -> Keyring {
    let mut configs = Configs::default();
    let mut plan = PodPlan::default();
    for (index, (user, password)) in secrets.iter().enumerate() {
        let name = format!("s{index}");
        let login = json!({"registry.test": {"username": user, "password": password}});
        let config = Config {
            version: String::new(),
            data: BTreeMap::from([(".dockercfg".to_owned(), login.to_string().into())]),
        };
        let config_ref = ConfigRef::new(ConfigKind::Secret, &name);
        configs.known.insert(config_ref, Some(Arc::new(config)));
        plan.pull_secrets.push(name);
    }
    plan.keyring(&configs).unwrap()
}

fn want<'a>(image: &'a str, policy: PullPolicy, keyring: &'a Keyring) -> Want<'a> {
    Want {
        image,
        policy,
        keyring,
    }
}

async fn fetch(images: &Images, want: Want<'_>) -> Result<(), String> {
    let fetched = images.fetch(want, Priority::Wanted, None).await;
    fetched.map_err(|error| error.to_string())
}

#[tokio::test(start_paused = true)]
async fn credentials_are_tried_in_turn_and_each_answer_is_told() {
    let runtime = FakeRuntime::default();
    runtime.publish_private_image(IMAGE, "me", "secret");
    let images = images(&runtime, None);
    let wrong = keyring(&[("me", "wrong"), ("you", "secret")]);
    let error = fetch(&images, want(IMAGE, PullPolicy::IfNotPresent, &wrong)).await;
    let error = error.unwrap_err();
    assert!(
        error.starts_with("ImagePullBackOff: image registry.test/team/app:1 could not be pulled: with Secret \"s0\": ")
            && error.contains("; with Secret \"s1\": ")
            && error.contains("pull access denied"),
        "{error}"
    );
    let right = keyring(&[("me", "wrong"), ("me", "secret")]);
    fetch(&images, want(IMAGE, PullPolicy::IfNotPresent, &right))
        .await
        .unwrap();
    assert_eq!(runtime.calls(Operation::PullImage), 4);
    // Where nobody answers, the others are not tried.
    runtime.fail_next(Operation::PullImage, hearth_cri::ErrorKind::Unavailable);
    let always = fetch(&images, want(IMAGE, PullPolicy::Always, &right)).await;
    assert!(always.is_err());
    assert_eq!(runtime.calls(Operation::PullImage), 5);
}

#[tokio::test(start_paused = true)]
async fn an_image_that_was_pulled_with_credentials_is_kept_from_those_who_have_none() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("images.json");
    let runtime = FakeRuntime::default();
    runtime.publish_private_image(IMAGE, "me", "secret");
    let (mine, none) = (keyring(&[("me", "secret")]), Keyring::default());
    let first = images(&runtime, Some(file.clone()));
    fetch(&first, want(IMAGE, PullPolicy::IfNotPresent, &mine))
        .await
        .unwrap();
    // A daemon that comes after knows it as well, and one that cannot read what was kept trusts nobody.
    let second = images(&runtime, Some(file.clone()));
    std::fs::write(&file, "{").unwrap();
    let third = images(&runtime, Some(file.clone()));
    for (images, holder) in [(&first, true), (&second, true), (&third, false)] {
        let usable = async |keyring| {
            let want = want(IMAGE, PullPolicy::IfNotPresent, keyring);
            images.is_usable(want).await.unwrap()
        };
        assert!(!usable(&none).await);
        assert_eq!(usable(&mine).await, holder);
        let error = fetch(images, want(IMAGE, PullPolicy::IfNotPresent, &none)).await;
        assert!(error.unwrap_err().contains("pull access denied"));
        let error = fetch(images, want(IMAGE, PullPolicy::Never, &none)).await;
        assert!(
            error
                .unwrap_err()
                .contains("credentials that the pod does not have")
        );
    }
    // Whoever proves it may use it.
    fetch(&third, want(IMAGE, PullPolicy::IfNotPresent, &mine))
        .await
        .unwrap();
    fetch(&third, want(IMAGE, PullPolicy::Never, &mine))
        .await
        .unwrap();
    // And what the registry gives to everybody is everybody's.
    runtime.publish_image(IMAGE);
    fetch(&third, want(IMAGE, PullPolicy::IfNotPresent, &none))
        .await
        .unwrap();
    fetch(&third, want(IMAGE, PullPolicy::Never, &none))
        .await
        .unwrap();
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(!kept.contains("secret"), "{kept}");
}

#[tokio::test(start_paused = true)]
async fn an_image_of_the_nodes_own_needs_no_credentials() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("images.json");
    std::fs::write(&file, "{").unwrap();
    let runtime = FakeRuntime::default();
    runtime.add_image("localhost/app:1");
    let images = images(&runtime, Some(file));
    let none = Keyring::default();
    let never = want("localhost/app:1", PullPolicy::Never, &none);
    assert!(images.is_usable(never).await.is_err());
    images.set_own(["localhost/app:1".to_owned()]);
    assert!(images.is_usable(never).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_same_image_shares_its_pull() {
    let runtime = FakeRuntime::default();
    runtime.publish_image(IMAGE);
    runtime.delay(Operation::PullImage, Duration::from_secs(5));
    let images = images(&runtime, None);
    let none = Keyring::default();
    let wants = (0..20).map(|_| fetch(&images, want(IMAGE, PullPolicy::Always, &none)));
    let done = futures::future::join_all(wants).await;
    assert!(done.iter().all(Result::is_ok));
    assert_eq!(runtime.calls(Operation::PullImage), 1);
    // One that came later asks again: the name may mean another image by now.
    fetch(&images, want(IMAGE, PullPolicy::Always, &none))
        .await
        .unwrap();
    assert_eq!(runtime.calls(Operation::PullImage), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pull_goes_on_while_anybody_waits_and_ends_when_nobody_does() {
    let runtime = FakeRuntime::default();
    runtime.publish_image(IMAGE);
    runtime.delay(Operation::PullImage, Duration::from_secs(5));
    let images = images(&runtime, None);
    let none = Keyring::default();
    let one = || Box::pin(fetch(&images, want(IMAGE, PullPolicy::IfNotPresent, &none)));
    let (mut first, mut second) = (one(), one());
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    drop(first);
    second.await.unwrap();
    assert_eq!(runtime.calls(Operation::PullImage), 1);
    runtime.lose_image(IMAGE);
    let mut last = one();
    assert!((&mut last).now_or_never().is_none());
    drop(last);
    sleep(Duration::from_secs(60)).await;
    assert!(images.status(IMAGE).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_leaves_a_turn_to_others() {
    let runtime = FakeRuntime::default();
    runtime.delay(Operation::PullImage, Duration::from_secs(5));
    let images = images(&runtime, None);
    let none = Keyring::default();
    let names: Vec<String> = (0..5).map(|n| format!("registry.test/stock:{n}")).collect();
    names.iter().for_each(|name| runtime.publish_image(name));
    runtime.publish_image(IMAGE);
    let stock = names.iter().map(|name| {
        images.fetch(
            want(name, PullPolicy::IfNotPresent, &none),
            Priority::Background,
            None,
        )
    });
    let mut stock = Box::pin(futures::future::join_all(stock));
    assert!((&mut stock).now_or_never().is_none());
    let begun = Instant::now();
    let wanted = fetch(&images, want(IMAGE, PullPolicy::IfNotPresent, &none));
    let (wanted, stock) = tokio::join!(
        async {
            wanted.await.unwrap();
            begun.elapsed()
        },
        async {
            assert!(stock.await.iter().all(Result::is_ok));
            begun.elapsed()
        }
    );
    assert_eq!(
        (wanted.as_secs(), stock.as_secs()),
        (5, 25),
        "one at a time"
    );
}

mod keeper {
    use hearth_core::images::{Needed, Thresholds};
    use hearth_core::storage::PressureRules;
    use hearth_cri::{CriError, ImageStore};
    use hearth_sys::disk::FileSystem;
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::super::keeper::{DiskKeeper, DiskRules, Users};
    use super::*;

    /// Who names these images, and was told that there is no room.
    #[derive(Debug, Default)]
    struct Named {
        images: Mutex<Vec<&'static str>>,
        no_room: Mutex<Option<String>>,
    }

    #[async_trait::async_trait]
    impl Users for Named {
        fn named(&self) -> Needed {
            let mut needed = Needed::default();
            self.images
                .lock()
                .iter()
                .for_each(|image| needed.name(image));
            needed
        }

        async fn needed(&self) -> Result<Needed, CriError> {
            Ok(self.named())
        }

        fn set_no_room(&self, why: Option<String>) {
            *self.no_room.lock() = why;
        }
    }

    /// A disk of 100 MiB of which each image takes one, and the rest what a test says.
    struct Disk {
        runtime: FakeRuntime,
        images: Images,
        users: Arc<Named>,
        other: Arc<Mutex<u64>>,
        synced: watch::Sender<bool>,
        pressure: watch::Receiver<Option<String>>,
        stop: CancellationToken,
    }

    impl Disk {
        fn new() -> Self {
            let runtime = FakeRuntime::default();
            let images = images(&runtime, None);
            let (users, other) = (Arc::new(Named::default()), Arc::new(Mutex::new(0)));
            let (synced, is_synced) = watch::channel(false);
            let used = Arc::clone(&other);
            let rules = DiskRules {
                images: Thresholds {
                    high_percent: 80,
                    low_percent: 78,
                    min_age: Duration::from_secs(60),
                },
                pressure: PressureRules::default(),
            };
            let keeper = DiskKeeper::new(
                images.clone(),
                users.clone(),
                Arc::new(move || {
                    Ok(FileSystem {
                        capacity_bytes: 100 << 20,
                        available_bytes: (100 << 20) - (*used.lock() << 20),
                        ..FileSystem::default()
                    })
                }),
                rules,
                is_synced,
            );
            let pressure = keeper.pressure();
            let stop = CancellationToken::new();
            tokio::spawn(keeper.run(stop.clone()));
            Self {
                runtime,
                images,
                users,
                other,
                synced,
                pressure,
                stop,
            }
        }

        async fn there(&self) -> Vec<String> {
            let images = self.runtime.list_images().await.unwrap();
            let mut names: Vec<_> = images
                .into_iter()
                .flat_map(|image| image.repo_tags)
                .collect();
            names.retain(|name| name.starts_with("registry.test"));
            names
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn images_that_nobody_needs_go_when_the_disk_gets_full() {
        let disk = Disk::new();
        for name in ["a", "b", "c", "d"] {
            disk.runtime.add_image(&format!("registry.test/{name}:1"));
        }
        // The fake's own two are as good as an archive's.
        let own = [
            "localhost/hearth-pause:dev",
            "localhost/hearth-busybox:dev",
            "registry.test/d:1",
        ];
        disk.images.set_own(own.map(str::to_owned));
        disk.users.images.lock().push("registry.test/a:1");
        *disk.other.lock() = 85;
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(
            disk.there().await.len(),
            4,
            "not before all sandboxes are known"
        );
        disk.synced.send_replace(true);
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(
            disk.there().await,
            ["registry.test/a:1", "registry.test/d:1"]
        );
        assert_eq!(disk.images.metrics().gone(), (2, 2 << 20));
        assert_eq!(*disk.pressure.borrow(), None, "it is not as full as that");
        // Once nobody needs it any more it goes too.
        disk.users.images.lock().clear();
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(disk.there().await, ["registry.test/d:1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_with_room_keeps_its_images() {
        let disk = Disk::new();
        disk.synced.send_replace(true);
        disk.runtime.add_image("registry.test/a:1");
        *disk.other.lock() = 79;
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(disk.there().await.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_new_is_begun_while_the_disk_is_nearly_full() {
        let mut disk = Disk::new();
        disk.synced.send_replace(true);
        sleep(Duration::from_secs(60)).await;
        disk.runtime.add_image("registry.test/young:1");
        *disk.other.lock() = 95;
        disk.pressure.changed().await.unwrap();
        let why = "less than 10% of the node's disk is available";
        assert_eq!(disk.pressure.borrow_and_update().as_deref(), Some(why));
        assert_eq!(disk.users.no_room.lock().as_deref(), Some(why));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(disk.there().await, [""; 0], "as young as it is");
        *disk.other.lock() = 89;
        sleep(Duration::from_secs(60)).await;
        assert!(disk.pressure.borrow().is_some(), "not enough room to tell");
        *disk.other.lock() = 50;
        disk.pressure.changed().await.unwrap();
        assert_eq!(*disk.users.no_room.lock(), None);
    }
}
