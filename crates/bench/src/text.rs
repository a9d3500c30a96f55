//! Results for a terminal.

use std::fmt::Write as _;

use crate::audit::Writes;
use crate::results::{Comparison, Content, Fill, Load, ResultsFile, Round, Run};
use crate::stats::Summary;

/// All of a results file except its samples.
pub(crate) fn results(file: &ResultsFile) -> String {
    let machine = &file.machine;
    let mut text = format!(
        "{}, {} cores, {} GiB, Linux {}{}, load {:.2} before\n",
        machine.cpu,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        server(file),
        machine.load_before
    );
    match &file.content {
        Content::Run(run) => text.push_str(&self::run(run)),
        Content::Comparison(comparison) => text.push_str(&self::comparison(comparison)),
        Content::Fill(fill) => text.push_str(&self::fill(fill)),
        Content::Scale(scale) => text.push_str(&scale.text()),
        Content::Binds(binds) => text.push_str(&binds.text()),
    }
    text
}

/// Which API server took part, if any.
pub(crate) fn server(file: &ResultsFile) -> String {
    match file.server.as_str() {
        "" => String::new(),
        version => format!(", Kubernetes {version}"),
    }
}

fn run(run: &Run) -> String {
    let mut text = format!(
        "{}\n\n{:10}{:>9}{:>9}{:>9}{:>9}  ms\n",
        load(&run.load),
        "",
        "p50",
        "p90",
        "p99",
        "max"
    );
    let figures = &run.figures;
    let rows = [
        ("ready", figures.ready),
        ("ttfi", figures.ttfi),
        ("posted", figures.posted),
        ("lateness", figures.lateness),
    ];
    let phases = run
        .phases
        .iter()
        .map(|(name, summary)| (name.as_str(), Some(*summary)));
    for (name, summary) in rows.into_iter().chain(phases) {
        if let Some(Summary {
            p50, p90, p99, max, ..
        }) = summary
        {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:10}{p50:>9.2}{p90:>9.2}{p99:>9.2}{max:>9.2}");
        }
    }
    if let Some(millis) = figures.all_ready_ms {
        let _ = writeln!(text, "\nall {} ready after {millis:.0} ms", run.load.count);
    }
    let _ = writeln!(
        text,
        "lost {}, silent {}, left behind {}",
        figures.lost, figures.silent, run.release.left
    );
    let _ = writeln!(text, "released in {:.2} s", run.release.seconds);
    if let Some(pool) = &run.pool {
        let again = pool
            .whole_again_seconds
            .map_or_else(|| "never in time".to_owned(), |s| format!("{s:.1} s"));
        let _ = writeln!(text, "pool of {} whole again after {again}", pool.replicas);
    }
    if !run.cpu_seconds.is_empty() {
        let used: Vec<String> = run
            .cpu_seconds
            .iter()
            .map(|(name, seconds)| format!("{name} {seconds:.2}"))
            .collect();
        let _ = writeln!(text, "CPU seconds: {}", used.join(", "));
    }
    for sample in run
        .samples
        .iter()
        .filter(|sample| sample.error.is_some())
        .take(5)
    {
        let _ = writeln!(
            text,
            "{}: {}",
            sample.name,
            sample.error.as_deref().unwrap_or_default()
        );
    }
    text
}

/// One round in one line.
pub(crate) fn round(round: &Round) -> String {
    let p50 = |run: &Run| run.figures.ready.map_or(f64::NAN, |ready| ready.p50);
    let all = |run: &Run| run.figures.all_ready_ms.unwrap_or(f64::NAN);
    format!(
        "  floor p50 {:.2} ms, all ready {:.0} ms; ours p50 {:.2} ms, all ready {:.0} ms; lost {}; one at a time the floor took {:.2} ms",
        p50(&round.floor),
        all(&round.floor),
        p50(&round.ours),
        all(&round.ours),
        round.ours.figures.lost,
        p50(&round.calibration),
    )
}

fn comparison(comparison: &Comparison) -> String {
    let mut text = comparison
        .rounds
        .first()
        .map_or_else(String::new, |round| load(&round.ours.load))
        + "\n\n";
    for (name, ratio) in &comparison.verdict.ratios {
        let rounds = ratio.rounds.len();
        let _ = writeln!(
            text,
            "{name:9} {:.2} x the floor ({:.2} to {:.2} in {rounds} rounds)",
            ratio.median, ratio.min, ratio.max
        );
    }
    if let Some(budget) = &comparison.verdict.budget {
        let outcome = if budget.met { "met" } else { "missed" };
        let _ = writeln!(
            text,
            "budget {} ≤ {:.2}: {outcome}",
            budget.metric, budget.limit
        );
    }
    if let Some(void) = &comparison.verdict.void {
        let _ = writeln!(text, "VOID: {void}");
    }
    text
}

fn fill(fill: &Fill) -> String {
    let mut text = String::new();
    if let Some(ratio) = &fill.ratio {
        let _ = writeln!(
            text,
            "{}: {:.2} times the bare loop ({:.2} – {:.2}), {} rounds",
            filled(fill),
            ratio.median,
            ratio.min,
            ratio.max,
            fill.rounds.len()
        );
        if let Some(budget) = fill.budget {
            let outcome = if ratio.median <= budget {
                "met"
            } else {
                "missed"
            };
            let _ = writeln!(text, "budget ≤ {budget:.2}: {outcome}");
        }
    }
    text
}

/// What was filled, in a few words.
pub(crate) fn filled(fill: &Fill) -> String {
    format!("a pool of {}, {} at once", fill.count, fill.parallel)
}

/// A load in a few words.
pub(crate) fn load(load: &Load) -> String {
    let count = load.count;
    let claims = match (load.mode.as_str(), load.rate, load.duration_s) {
        ("one", ..) => format!("{count} one at a time"),
        ("burst", ..) => format!("{count} at once"),
        (_, Some(rate), Some(seconds)) => format!("{rate}/s for {seconds} s ({count} arrivals)"),
        (mode, ..) => format!("{count}, {mode}"),
    };
    let claims = match load.variables {
        0 => claims,
        1 => format!("{claims}, each with a variable"),
        more => format!("{claims}, each with {more} variables"),
    };
    match load.dwell_s {
        Some(dwell) => format!("{claims}, each kept for {dwell} s"),
        None => claims,
    }
}

/// Counted writes.
pub(crate) fn writes(writes: &Writes) -> String {
    let mut text = String::new();
    if let Some(max) = writes.before_each.iter().max() {
        let answered = writes.before_each.len();
        let sum: usize = writes.before_each.iter().sum();
        let mean = sum as f64 / answered as f64;
        let _ = writeln!(
            text,
            "writes up to and with the answer: {mean:.2} a claim, at most {max} ({answered} of {} claims)",
            writes.claims
        );
        write_by_user(&mut text, &writes.before, answered);
    }
    let _ = writeln!(text, "writes in all:");
    write_by_user(&mut text, &writes.total, writes.claims);
    text
}

fn write_by_user(
    text: &mut String,
    users: &std::collections::BTreeMap<String, std::collections::BTreeMap<String, usize>>,
    claims: usize,
) {
    for (user, kinds) in users {
        let sum: usize = kinds.values().sum();
        let _ = writeln!(text, "  {user}: {sum}{}", a_claim(sum, claims));
        for (kind, count) in kinds {
            let _ = writeln!(text, "    {kind:32}{count:>7}{}", a_claim(*count, claims));
        }
    }
}

fn a_claim(count: usize, claims: usize) -> String {
    if claims == 0 {
        String::new()
    } else {
        format!(", {:.2} a claim", count as f64 / claims as f64)
    }
}
