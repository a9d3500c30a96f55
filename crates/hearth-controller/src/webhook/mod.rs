//! The webhook that converts objects between `v1alpha1` and `v1beta1`, off unless it is asked for.
//!
//! Every replica serves it: an API server asks whichever the Service leads to. What it serves with is in a Secret that all
//! replicas watch, so that a new certificate is in use without a restart. The leader alone makes certificates, and tells
//! API servers whom to trust by the `caBundle` of the CRDs. Where the operator brings certificates, they are files, and
//! the CRDs are his too.
//!
//! Nothing else depends on it: the controller reads and writes the version that is stored, so that it is ready whether or
//! not conversions work. Only what an earlier release has stored in `v1alpha1` is read through it, and that is why it asks
//! for the Lease alone and not for a controller that knows all objects.

mod authority;
mod certificates;
mod keeper;
mod server;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures::TryStreamExt as _;
use hearth_api::constants::WEBHOOK_SECRET;
use hearth_telemetry::ErrorChain;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt as _, watcher::watch_object};
use kube::{Api, Client};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::election::Leadership;
use authority::Pair;
use certificates::{Certificates, Files};
use keeper::Keeper;

/// What the webhook is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Where it listens. Port 0 takes a free one.
    pub address: SocketAddr,
    /// Where its certificate comes from.
    pub certificate: CertificateSource,
}

/// Where the webhook's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// We make it, keep it in a Secret and have the CRDs trust it.
    Managed {
        /// Namespace of the Secret and the Service.
        namespace: String,
        /// Name of the Service that leads here.
        service: String,
    },
    /// Somebody puts it into files, and sees to the CRDs. They are read anew for each connection.
    Files {
        /// The certificate and what signed it, PEM.
        certificate: PathBuf,
        /// Its key, PEM.
        key: PathBuf,
    },
}

/// Why the webhook cannot be served.
#[derive(Debug, Error)]
#[error(
    "cannot listen on {address} for conversions; choose another webhook-port, or turn enable-webhook off"
)]
pub struct WebhookError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// The webhook, bound.
#[derive(Debug)]
pub(crate) struct Webhook {
    listener: TcpListener,
    certificate: CertificateSource,
}

impl Webhook {
    /// # Errors
    /// When the address is taken or not ours.
    pub(crate) async fn bind(settings: &WebhookSettings) -> Result<Self, WebhookError> {
        let address = settings.address;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| WebhookError { address, source })?;
        tracing::info!(%address, "v1alpha1 is converted");
        Ok(Self {
            listener,
            certificate: settings.certificate.clone(),
        })
    }

    /// Serves until `token` is cancelled.
    pub(crate) async fn run(
        self,
        writing: Client,
        watching: Client,
        leadership: watch::Receiver<Leadership>,
        token: CancellationToken,
    ) {
        let certificates = Arc::new(Certificates::default());
        match self.certificate {
            CertificateSource::Files { certificate, key } => {
                let files = Files { certificate, key };
                server::serve(self.listener, certificates, Some(files), token).await;
            }
            CertificateSource::Managed { namespace, service } => {
                let (seen, secret) = watch::channel(None);
                let secrets = Api::namespaced(watching.clone(), &namespace);
                let keeper = Keeper::new(&writing, &watching, &namespace, &service);
                let kept = async {
                    tokio::join!(
                        follow(secrets, &certificates, &seen),
                        keeper.run(secret, leadership),
                    );
                };
                tokio::join!(
                    server::serve(
                        self.listener,
                        Arc::clone(&certificates),
                        None,
                        token.clone()
                    ),
                    token.run_until_cancelled(kept),
                );
            }
        }
    }
}

/// Serves with what the Secret has, whenever it changes, and passes it on. Never ends.
async fn follow(
    secrets: Api<Secret>,
    certificates: &Certificates,
    seen: &watch::Sender<Option<Option<Secret>>>,
) {
    let mut events = std::pin::pin!(watch_object(secrets, WEBHOOK_SECRET).default_backoff());
    loop {
        match events.try_next().await {
            Ok(Some(secret)) => {
                if let Some(secret) = &secret {
                    take_over(secret, certificates);
                }
                seen.send_replace(Some(secret));
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), secret = WEBHOOK_SECRET, "watch interrupted");
            }
        }
    }
}

/// One that cannot be used changes nothing: the leader makes another.
fn take_over(secret: &Secret, certificates: &Certificates) {
    let loaded = Pair::certified(secret).map(|certified| certificates.set(certified));
    match loaded {
        Ok(true) => tracing::info!(secret = WEBHOOK_SECRET, "serving with the certificate"),
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(error = %ErrorChain(&error), secret = WEBHOOK_SECRET, "the certificate cannot be used");
        }
    }
}
