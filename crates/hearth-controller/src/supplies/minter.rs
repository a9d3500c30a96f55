//! Having tokens made, each bound to a Secret of its sandbox.
//!
//! The Secret is empty; what it is for is to be deleted: with the sandbox, or by whoever wants its tokens to be void. Its
//! name follows from the sandbox's UID, so that the next leader finds it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use hearth_api::constants::SANDBOX_API_VERSION;
use hearth_core::podspec::Config;
use hearth_core::tokens::{Job, Minted, Owner, TokenRequest};
use hearth_telemetry::ErrorChain;
use k8s_openapi::api::authentication::v1 as authentication;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use thiserror::Error;
use tokio::time::{sleep_until, timeout};

use super::{Content, Shared, State, tokens_of};

/// Jobs under way at once.
const PARALLEL: usize = 8;
/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Says what the Secrets are for.
const SECRET_TYPE: &str = "hearth.dev/token-binding";

/// The one that has tokens made.
pub(super) struct Minter {
    client: Client,
    shared: Arc<Shared>,
}

/// Why no token was made, or no Secret deleted.
#[derive(Debug, Error)]
enum MintError {
    #[error("the API server refuses or does not answer")]
    Api(#[from] kube::Error),
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Deadline,
    #[error("Secret {0:?} is there and not the Sandbox's")]
    Foreign(String),
    #[error("the API server's answer lacks {0}")]
    Incomplete(&'static str),
}

/// Tokens by [`TokenRequest::key`], and how long they are good for.
struct Tokens {
    minted: Minted,
    texts: BTreeMap<String, Vec<u8>>,
}

enum Done {
    Minted(Owner, Result<Tokens, MintError>),
    Revoked(Owner, Result<(), MintError>),
}

impl Minter {
    pub(super) fn new(client: Client, shared: Arc<Shared>) -> Self {
        Self { client, shared }
    }

    /// Has tokens made until it is dropped.
    pub(super) async fn run(self) {
        let mut jobs: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        loop {
            while jobs.len() < PARALLEL
                && let Some(job) = self.next_job()
            {
                jobs.push(perform(self.client.clone(), job).boxed());
            }
            // With all hands full there is nothing to wake up for.
            let deadline = (jobs.len() < PARALLEL)
                .then(|| self.shared.state.lock().tokens.next_deadline())
                .flatten();
            let started = self.shared.started;
            let timer = async {
                match deadline {
                    Some(at) => sleep_until(started + at).await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safe: jobs are polled by reference, a notice not taken stays, the timer is made anew.
            tokio::select! {
                Some(done) = jobs.next() => self.ended(done),
                () = self.shared.to_mint.notified() => {}
                () = timer => {}
            }
        }
    }

    fn next_job(&self) -> Option<Job> {
        let now = self.shared.now();
        self.shared.state.lock().tokens.next(now)
    }

    fn ended(&self, done: Done) {
        let now = self.shared.now();
        let mut state = self.shared.state.lock();
        match done {
            Done::Minted(owner, Ok(Tokens { minted, texts })) => {
                if state.tokens.minted(&owner.uid, Some(minted), now) {
                    state.put_tokens(&owner, texts);
                }
            }
            Done::Minted(owner, Err(error)) => {
                tracing::warn!(sandbox = %owner.key, error = %ErrorChain(&error), "no token was made; it is tried again");
                state.tokens.minted(&owner.uid, None, now);
            }
            Done::Revoked(owner, done) => {
                if let Err(error) = &done {
                    tracing::warn!(sandbox = %owner.key, error = %ErrorChain(error), "tokens were not revoked; it is tried again");
                }
                state.tokens.revoked(&owner.uid, done.is_ok(), now);
            }
        }
    }
}

impl State {
    /// Takes new tokens in beside those that are still good.
    fn put_tokens(&mut self, owner: &Owner, texts: BTreeMap<String, Vec<u8>>) {
        let key = tokens_of(owner);
        if self.holders.get(&key) != Some(&owner.uid) {
            return;
        }
        let before = self.objects.get(&key).map(|object| &object.content);
        let mut data = match before {
            Some(Content::Here(config)) => config.data.clone(),
            _ => BTreeMap::new(),
        };
        data.extend(texts);
        let held: Vec<_> = self
            .tokens
            .held(&owner.uid)
            .map(TokenRequest::key)
            .collect();
        data.retain(|key, _| held.contains(key));
        let mut hasher = DefaultHasher::new();
        data.hash(&mut hasher);
        let version = format!("{:016x}", hasher.finish());
        self.put(&key, Content::Here(Arc::new(Config { version, data })));
    }
}

async fn perform(client: Client, job: Job) -> Done {
    match job {
        Job::Mint {
            owner,
            secret,
            requests,
        } => {
            let minted = timeout(DEADLINE, mint(&client, &owner, secret, requests)).await;
            Done::Minted(owner, minted.unwrap_or(Err(MintError::Deadline)))
        }
        Job::Revoke { owner } => {
            let revoked = timeout(DEADLINE, revoke(&client, &owner)).await;
            Done::Revoked(owner, revoked.unwrap_or(Err(MintError::Deadline)))
        }
    }
}

async fn mint(
    client: &Client,
    owner: &Owner,
    secret: Option<String>,
    requests: Vec<TokenRequest>,
) -> Result<Tokens, MintError> {
    let secret = match secret {
        Some(secret) => secret,
        None => bind(client, owner).await?,
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &owner.key.namespace);
    let mut tokens = Tokens {
        minted: Minted {
            secret: secret.clone(),
            lives: Vec::new(),
        },
        texts: BTreeMap::new(),
    };
    for request in requests {
        let asked = asked(&request, owner, &secret);
        let answer: authentication::TokenRequest = accounts
            .create_subresource("token", &request.account, &PostParams::default(), &asked)
            .await?;
        let token = answer.status.and_then(|status| status.token);
        let token = token.ok_or(MintError::Incomplete("status.token"))?;
        // What was asked for, unless the API server gives less. By its word alone, so that no two clocks are compared.
        let seconds = answer.spec.and_then(|spec| spec.expiration_seconds);
        let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let seconds = seconds.ok_or(MintError::Incomplete("spec.expirationSeconds"))?;
        tokens.texts.insert(request.key(), token.into_bytes());
        tokens
            .minted
            .lives
            .push((request, Duration::from_secs(seconds)));
    }
    Ok(tokens)
}

fn asked(request: &TokenRequest, owner: &Owner, secret: &str) -> authentication::TokenRequest {
    let audiences = Some(request.audience.clone()).filter(|audience| !audience.is_empty());
    authentication::TokenRequest {
        spec: Some(authentication::TokenRequestSpec {
            audiences: audiences.map(|audience| vec![audience]),
            bound_object_ref: Some(authentication::BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Secret".to_owned()),
                name: Some(owner.secret()),
                uid: Some(secret.to_owned()),
            }),
            expiration_seconds: i64::try_from(request.seconds).ok(),
        }),
        ..authentication::TokenRequest::default()
    }
}

/// Makes the sandbox's Secret, or finds it. Returns its UID.
async fn bind(client: &Client, owner: &Owner) -> Result<String, MintError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &owner.key.namespace);
    let name = owner.secret();
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: Some(vec![OwnerReference {
                api_version: SANDBOX_API_VERSION.to_owned(),
                kind: "Sandbox".to_owned(),
                name: owner.key.name.clone(),
                uid: owner.uid.0.clone(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        type_: Some(SECRET_TYPE.to_owned()),
        ..Secret::default()
    };
    let metadata = match secrets.create(&PostParams::default(), &secret).await {
        Ok(made) => made.metadata,
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            let found = secrets.get_metadata(&name).await?.metadata;
            let owners = found.owner_references.iter().flatten();
            if !owners
                .into_iter()
                .any(|reference| reference.uid == owner.uid.0)
            {
                return Err(MintError::Foreign(name));
            }
            found
        }
        Err(error) => return Err(error.into()),
    };
    metadata.uid.ok_or(MintError::Incomplete("metadata.uid"))
}

async fn revoke(client: &Client, owner: &Owner) -> Result<(), MintError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &owner.key.namespace);
    let deleted = secrets
        .delete(&owner.secret(), &DeleteParams::default())
        .await;
    match deleted {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
