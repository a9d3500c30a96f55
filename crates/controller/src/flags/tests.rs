//! That the flags are upstream's, and where their values come from.

use super::*;

fn parse(args: &[&str]) -> Result<Options, UsageError> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    Options::parse(&args, |_| None)
}

fn data(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn upstream_s_flags_are_taken_in_both_forms() {
    for args in [
        &["--leader-elect=true", "--extensions"][..],
        &["-leader-elect", "-extensions=t", "-zap-log-level=debug"],
        &["--kube-api-qps", "-1", "--kube-api-burst=10"],
        &["--sandbox-warm-pool-readiness-grace-period=1h2m3.5s"],
        &[
            "--enable-webhook=false",
            "--webhook-port=9443",
            "-zap-encoder",
            "json",
        ],
    ] {
        assert!(parse(args).unwrap().surplus().is_empty(), "{args:?}");
    }
}

#[test]
fn all_of_upstream_s_flags_are_there_with_its_defaults() {
    // As the agent-sandbox controller's usage text has them. Of these three the default differs: pools and claims
    // are always served, v1alpha1 only if asked for, and the certificate's directory is not known before.
    let ours = ["extensions", "enable-webhook", "webhook-cert-dir"];
    let flags = Flags::default();
    for (name, default) in [
        ("api-connections", "1"),
        ("cache-label-selectors", "false"),
        ("cluster-domain", "cluster.local"),
        ("disable-claim-events", "false"),
        ("disable-claim-observability-annotations", "false"),
        ("disable-sandbox-events", "false"),
        ("enable-pprof", "false"),
        ("enable-pprof-debug", "false"),
        ("enable-tracing", "false"),
        ("enable-warm-pool-eviction", "true"),
        ("enable-webhook", "true"),
        ("extensions", "false"),
        ("health-probe-bind-address", "0.0.0.0:8081"),
        ("kube-api-burst", "10"),
        ("kube-api-qps", "-1"),
        ("kubeconfig", ""),
        ("leader-elect", "true"),
        ("leader-election-namespace", ""),
        ("manage-webhook-certs", "true"),
        ("metrics-bind-address", "0.0.0.0:8080"),
        ("pprof-block-profile-rate", "1000000"),
        ("pprof-mutex-profile-fraction", "10"),
        ("sandbox-claim-concurrent-workers", "50"),
        ("sandbox-concurrent-workers", "100"),
        ("sandbox-template-concurrent-workers", "1"),
        ("sandbox-warm-pool-concurrent-workers", "1"),
        ("sandbox-warm-pool-max-batch-size", "300"),
        ("sandbox-warm-pool-max-refill-rate", "0"),
        ("sandbox-warm-pool-readiness-grace-period", "5m0s"),
        ("sandbox-warm-pool-replenish-delay", "0s"),
        ("sandbox-warm-pool-unschedulable-recheck-interval", "1m0s"),
        ("sandbox-write-behind-window", "0s"),
        ("separate-watch-connection", "false"),
        ("version", "false"),
        ("webhook-cert-dir", "(temporary)"),
        ("webhook-cert-name", "tls.crt"),
        ("webhook-key-name", "tls.key"),
        ("webhook-namespace", "agent-sandbox-system"),
        ("webhook-port", "9443"),
        ("webhook-service-name", "agent-sandbox-webhook-service"),
        ("zap-devel", "false"),
        ("zap-encoder", ""),
        ("zap-log-level", "info"),
        ("zap-stacktrace-level", ""),
        ("zap-time-encoding", ""),
    ] {
        let set_to = flags.show(name).unwrap_or_else(|| panic!("no flag {name}"));
        if !ours.contains(&name) {
            assert_eq!(set_to, default, "{name}");
        }
    }
}

#[test]
fn what_is_listed_of_flags_is_about_flags_that_there_are() {
    let listed = FROM_ENVIRONMENT.into_iter().chain(TUNABLE);
    for name in listed.chain(WITHOUT_EFFECT.map(|(name, _)| name)) {
        assert_eq!(Flags::name(name), Some(name));
    }
}

#[test]
fn every_default_can_be_given() {
    let mut flags = Flags::default();
    for (name, _) in WITHOUT_EFFECT {
        let shown = flags.show(name).unwrap();
        assert_eq!(flags.set(name, &shown), Ok(()), "{name}={shown}");
    }
    for name in FROM_ENVIRONMENT.into_iter().chain(TUNABLE) {
        let shown = flags.show(name).unwrap();
        assert_eq!(flags.set(name, &shown), Ok(()), "{name}={shown}");
    }
    assert_eq!(flags, Flags::default());
}

#[test]
fn the_command_line_goes_before_the_environment() {
    let environment = |name: &str| match name {
        "HEARTH_CLUSTER_DOMAIN" => Some("from.env".to_owned()),
        "HEARTH_LEASE_DURATION_SECONDS" => Some("7".to_owned()),
        _ => None,
    };
    let args = ["--cluster-domain=from.args".to_owned()];
    let options = Options::parse(&args, environment).unwrap();
    assert_eq!(options.flags().cluster_domain, "from.args");
    assert_eq!(options.flags().lease_duration_seconds, 7);
}

#[test]
fn a_bad_variable_is_named() {
    let environment =
        |name: &str| (name == "HEARTH_METRICS_BIND_ADDRESS").then(|| "8080".to_owned());
    let error = Options::parse(&[], environment).unwrap_err().to_string();
    assert!(error.contains("HEARTH_METRICS_BIND_ADDRESS"), "{error}");
}

#[test]
fn the_config_map_sets_what_was_not_given() {
    let mut options = parse(&["--kube-api-burst=20"]).unwrap();
    let tuned = options.tune(
        &data(&[
            ("_note", "for people"),
            (".hidden", "too"),
            ("allowed-label-domains", "example.com"),
            ("cluster-domain", "the command line's alone"),
            ("kube-api-burst", "99"),
            ("sandbox-warm-pool-replenish-delay", " 20s\n"),
            ("sandbox-warmpool-max-batch-size", "3"),
        ]),
        &["allowed-label-domains"],
    );
    let expected = Tuned {
        applied: vec!["sandbox-warm-pool-replenish-delay".into()],
        skipped: vec![
            "cluster-domain".into(),
            "sandbox-warmpool-max-batch-size".into(),
        ],
    };
    assert_eq!(tuned, Ok(expected));
    let flags = options.flags();
    assert_eq!(flags.kube_api_burst, 20);
    assert_eq!(flags.cluster_domain, "cluster.local");
    let delay = GoDuration::from_secs(20);
    assert_eq!(flags.sandbox_warm_pool_replenish_delay, delay);
}

#[test]
fn a_value_that_makes_no_sense_in_the_config_map_is_named() {
    let mut options = parse(&[]).unwrap();
    let error = options
        .tune(&data(&[("api-connections", "many")]), &[])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"the ConfigMap's key "api-connections" has the value "many": parse error"#
    );
}

#[test]
fn what_has_no_effect_is_said_only_when_it_was_asked_for() {
    let names = |args: &[&str]| -> Vec<_> {
        let found = parse(args).unwrap().without_effect();
        found.into_iter().map(|(name, _)| name).collect()
    };
    let none: [&str; 0] = [];
    assert_eq!(names(&[]), none);
    assert_eq!(names(&["--extensions", "--leader-elect=true"]), none);
    assert_eq!(names(&["--zap-encoder=json"]), none);
    assert_eq!(
        names(&["--extensions=false", "--sandbox-concurrent-workers=7"]),
        ["extensions", "sandbox-concurrent-workers"]
    );
    assert_eq!(
        names(&["--zap-encoder=json", "--log-format=text"]),
        ["zap-encoder"]
    );
    assert_eq!(names(&["--enable-webhook"]), none);
    let port = "--webhook-port=1";
    assert_eq!(names(&[port]), ["webhook-port"]);
    assert_eq!(names(&[port, "--enable-webhook"]), none);
    let (files, service) = ("--webhook-cert-dir=/x", "--webhook-namespace=x");
    assert_eq!(
        names(&[files, service, "--enable-webhook"]),
        ["webhook-cert-dir"]
    );
    assert_eq!(
        names(&[
            files,
            service,
            "--enable-webhook",
            "--manage-webhook-certs=false"
        ]),
        ["webhook-namespace"]
    );
}

#[test]
fn usage_names_every_flag_once() {
    let usage = usage();
    assert!(usage.contains(
        "  -api-connections int\n    \tConnections to the API server for all but watches, \
         which have one of their own. (default 1)\n"
    ));
    assert!(
        usage.contains("  -version\n    \tPrint the version and end.\n"),
        "{usage}"
    );
}
