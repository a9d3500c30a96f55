//! `agent-sandbox-controller`: arguments and the ConfigMap to configuration to run. `agent-sandbox-controller migrate` is
//! a program of its own.

mod config;
mod flags;
mod go_flags;
mod go_values;
mod migrate;

use std::process::ExitCode;

use hearth_controller::operator_config::{self, DomainsError};
use hearth_controller::{ConnectError, RunError, own_namespace, run};
use hearth_telemetry::{ErrorChain, init_logging, shutdown_on_signal};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::config::Invalid;
use crate::flags::{Options, TuningError, usage};
use crate::go_flags::UsageError;

/// What Go's `flag` ends with when a command line makes no sense.
const USAGE: u8 = 2;

/// Why the controller ends.
#[derive(Debug, Error)]
enum MainError {
    #[error("a flag must not have this value")]
    Invalid(#[source] Invalid),
    #[error("the ConfigMap {} cannot be used", operator_config::NAME)]
    Tuning(#[source] TuningError),
    #[error("the domains of labels cannot be read")]
    Domains(#[source] DomainsError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Run(#[from] RunError),
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    if let Some((first, rest)) = args.split_first()
        && first == migrate::COMMAND
    {
        return migrate::main(rest);
    }
    let options = match Options::parse(&args, |name| std::env::var(name).ok()) {
        Ok(options) => options,
        Err(UsageError::Help) => {
            eprint!("{}", usage());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprint!("{error}\n{}", usage());
            return ExitCode::from(USAGE);
        }
    };
    if options.flags().version {
        println!("agent-sandbox-controller {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    init_logging(
        config::log_format(options.flags()),
        options.flags().zap_log_level.filter(),
    );
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the async runtime");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let token = CancellationToken::new();
        let controller = async {
            let result = start(options, token.clone()).await;
            // Nobody waits for a signal any more: a process that must not lead ends, and is started again.
            token.cancel();
            result
        };
        let (result, signals) = tokio::join!(controller, shutdown_on_signal(token.clone()));
        if let Err(error) = signals {
            tracing::error!(%error, "cannot listen for signals");
        }
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %ErrorChain(&error), "the controller ends");
            ExitCode::FAILURE
        }
    }
}

/// Completes the options with what the ConfigMap says, and runs the controller.
async fn start(mut options: Options, token: CancellationToken) -> Result<(), MainError> {
    // What makes no sense by itself is said before anybody is asked.
    config::validate(options.flags()).map_err(MainError::Invalid)?;
    let kubeconfig = config::kubeconfig(options.flags());
    let namespace = own_namespace();
    let reading = operator_config::read(kubeconfig.as_deref(), &namespace);
    // Cancel-safe: it only reads.
    let Some(data) = token.run_until_cancelled(reading).await else {
        return Ok(());
    };
    let data = data?;
    let tuned = options
        .tune(&data, &[operator_config::LABEL_DOMAINS])
        .map_err(MainError::Tuning)?;
    if !tuned.applied.is_empty() {
        tracing::info!(flags = ?tuned.applied, "set by the ConfigMap");
    }
    if !tuned.skipped.is_empty() {
        tracing::warn!(keys = ?tuned.skipped, "the ConfigMap has keys that set nothing");
    }
    if !options.surplus().is_empty() {
        tracing::warn!(arguments = ?options.surplus(), "arguments behind the last flag mean nothing");
    }
    for (flag, why) in options.without_effect() {
        tracing::warn!(flag, why, "a flag has not the effect that it has elsewhere");
    }
    let domains = operator_config::label_domains(&data).map_err(MainError::Domains)?;
    let mut config = config::build(options.flags(), domains).map_err(MainError::Invalid)?;
    config.follow_domains_in = Some(namespace).filter(|_| !operator_config::has_domains_file());
    run(config, token).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;

    use super::*;

    /// What users of the agent-sandbox controller look for, and arguments that this program takes.
    #[test]
    fn the_deployment_has_upstream_s_names_and_flags_that_there_are() {
        let text = include_str!("../../../deploy/controller/deployment.yaml");
        let deployment: serde_json::Value = serde_saphyr::from_str(text).unwrap();
        let deployment: Deployment = serde_json::from_value(deployment).unwrap();
        let name = Some("agent-sandbox-controller");
        assert_eq!(deployment.metadata.name.as_deref(), name);
        let namespace = deployment.metadata.namespace.as_deref();
        assert_eq!(namespace, Some("agent-sandbox-system"));
        let template = deployment.spec.unwrap().template;
        let labels = template.metadata.unwrap().labels.unwrap();
        assert_eq!(labels.get("app").map(String::as_str), name);
        let pod = template.spec.unwrap();
        assert_eq!(pod.service_account_name.as_deref(), name);
        let container = pod.containers.first().unwrap();
        assert_eq!(Some(container.name.as_str()), name);
        let options = Options::parse(container.args.as_deref().unwrap(), |_| None).unwrap();
        assert!(options.surplus().is_empty());
        let without_effect = options.without_effect();
        assert!(without_effect.is_empty(), "{without_effect:?}");
        config::build(options.flags(), Vec::new()).unwrap();
    }
}
