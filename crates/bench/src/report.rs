//! Results as Markdown: the generated part of `docs/benchmarks.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use crate::results::{Comparison, Content, Fill, FillRound, FillRun, ResultsFile, Round, Run};
use crate::stats::{Summary, median};
use crate::text::{filled, load, server};
use crate::verdict::{ALL_READY, P50, P99};

const BEGIN: &str = "<!-- results: written by `hearth-bench report` -->";
const END: &str = "<!-- end of results -->";

/// Puts `sections` between the marks of `document`.
pub(crate) fn replace(document: &str, sections: &str) -> Result<String> {
    let (before, rest) = document
        .split_once(BEGIN)
        .with_context(|| format!("the document has no mark {BEGIN}"))?;
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("the document has no mark {END}"))?;
    Ok(format!(
        "{before}{BEGIN}\n\n{}\n\n{END}{after}",
        sections.trim()
    ))
}

/// One section per file.
pub(crate) fn render(files: &[ResultsFile]) -> String {
    let mut text = String::new();
    if files
        .iter()
        .any(|file| matches!(file.content, Content::Comparison(_)))
    {
        text.push_str(&overview(files));
    }
    for file in files {
        text.push_str(&section(file));
    }
    text
}

fn title(file: &ResultsFile) -> String {
    let described = match &file.content {
        Content::Run(run) => Some(load(&run.load)),
        Content::Comparison(comparison) => {
            let first = comparison.rounds.first();
            first.map(|round| load(&round.ours.load))
        }
        Content::Fill(fill) => Some(filled(fill)),
        Content::Scale(scale) => Some(scale.title()),
        Content::Binds(binds) => Some(binds.title()),
    };
    file.title
        .clone()
        .or(described)
        .unwrap_or_else(|| "no rounds".to_owned())
}

fn overview(files: &[ResultsFile]) -> String {
    let mut text = "| load | measure | floor, ms | claims, ms | ratio (spread) | budget | lost |\n|---|---|---|---|---|---|---|\n".to_owned();
    for file in files {
        let Content::Comparison(comparison) = &file.content else {
            continue;
        };
        for (metric, ratio) in &comparison.verdict.ratios {
            let figure = figure_of(metric);
            let budget = comparison
                .verdict
                .budget
                .as_ref()
                .filter(|budget| budget.metric == *metric);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {}**{:.2}** ({:.2} – {:.2}) | {} | {} |",
                title(file),
                describe(metric),
                of_rounds(comparison, |round| figure(&round.floor)),
                of_rounds(comparison, |round| figure(&round.ours)),
                if comparison.verdict.void.is_some() {
                    "void: "
                } else {
                    ""
                },
                ratio.median,
                ratio.min,
                ratio.max,
                budget.map_or_else(String::new, |budget| {
                    format!(
                        "≤ {}: {}",
                        budget.limit,
                        if budget.met { "met" } else { "missed" }
                    )
                }),
                comparison
                    .rounds
                    .iter()
                    .map(|round| round.ours.figures.lost)
                    .sum::<usize>(),
            );
        }
    }
    text + "\n"
}

fn section(file: &ResultsFile) -> String {
    let machine = &file.machine;
    let mut text = format!(
        "### {}\n\n{}: {}, {} cores, {} GiB, Linux {}{}, commit `{}`.\n\n",
        title(file),
        machine.date.strftime("%Y-%m-%d"),
        machine.cpu,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        server(file),
        machine.commit,
    );
    match &file.content {
        Content::Run(run) => run_tables(&mut text, &[run]),
        Content::Comparison(comparison) => {
            if let Some(void) = &comparison.verdict.void {
                let _ = writeln!(text, "**Void**: {void}.\n");
            }
            rounds_table(&mut text, comparison);
            let ours: Vec<&Run> = comparison.rounds.iter().map(|round| &round.ours).collect();
            run_tables(&mut text, &ours);
        }
        Content::Fill(fill) => fill_tables(&mut text, fill),
        Content::Scale(scale) => scale.markdown(&mut text),
        Content::Binds(binds) => binds.markdown(&mut text),
    }
    text
}

fn fill_tables(text: &mut String, fill: &Fill) {
    text.push_str(
        "| round | load average before | bare loop, s | pool, s | ratio |\n|---|---|---|---|---|\n",
    );
    for (number, round) in fill.rounds.iter().enumerate() {
        let load = round
            .bare
            .load_before
            .map_or_else(|| "–".to_owned(), |load| format!("{load:.1}"));
        let (bare, pool) = (round.bare.seconds, round.pool.seconds);
        let _ = writeln!(
            text,
            "| {} | {load} | {bare:.2} | {pool:.2} | {:.2} |",
            number + 1,
            pool / bare
        );
    }
    if let Some(ratio) = &fill.ratio {
        let budget = fill.budget.map_or_else(String::new, |budget| {
            let outcome = if ratio.median <= budget {
                "met"
            } else {
                "missed"
            };
            format!(" Budget ≤ {budget}: {outcome}.")
        });
        let _ = writeln!(
            text,
            "\nMedian ratio **{:.2}** ({:.2} – {:.2}).{budget}\n",
            ratio.median, ratio.min, ratio.max
        );
    }
    for name in ["bare loop", "pool"] {
        let mut used: BTreeMap<&str, f64> = BTreeMap::new();
        for (process, seconds) in fill
            .rounds
            .iter()
            .flat_map(|round| &run_of(round, name).cpu_seconds)
        {
            *used.entry(process).or_default() += seconds;
        }
        let pods = (fill.rounds.len() * fill.count).max(1) as f64;
        let each = used
            .iter()
            .map(|(process, seconds)| format!("{process} {:.0}", seconds * 1000.0 / pods));
        let each = each.collect::<Vec<_>>().join(", ");
        if !each.is_empty() {
            let _ = writeln!(text, "CPU per pod, {name}, ms: {each}.\n");
        }
    }
}

fn run_of<'a>(round: &'a FillRound, way: &str) -> &'a FillRun {
    match way {
        "pool" => &round.pool,
        _ => &round.bare,
    }
}

fn rounds_table(text: &mut String, comparison: &Comparison) {
    text.push_str("| round | floor, one at a time | floor p50 | floor p99 | floor, all ready | p50 | p99 | all ready | pool whole again |\n|---|---|---|---|---|---|---|---|---|\n");
    for (number, round) in (1..).zip(&comparison.rounds) {
        let whole = round
            .ours
            .pool
            .as_ref()
            .and_then(|pool| pool.whole_again_seconds);
        let _ = writeln!(
            text,
            "| {number} | {} | {} | {} | {} | {} | {} | {} | {} |",
            millis(p50(&round.calibration)),
            millis(p50(&round.floor)),
            millis(p99(&round.floor)),
            millis(round.floor.figures.all_ready_ms),
            millis(p50(&round.ours)),
            millis(p99(&round.ours)),
            millis(round.ours.figures.all_ready_ms),
            whole.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.1} s")),
        );
    }
    text.push_str("\nMilliseconds; p99 of a round with few samples is close to its maximum.\n\n");
}

/// What the runs have in common: medians over the runs of each run's percentiles.
fn run_tables(text: &mut String, runs: &[&Run]) {
    let mut rows: BTreeMap<(u8, String), Vec<Summary>> = BTreeMap::new();
    for run in runs {
        let named = [
            ("POST to Ready", run.figures.ready),
            ("POST to first HTTP answer", run.figures.ttfi),
        ];
        for (name, summary) in named {
            rows.entry((0, name.to_owned()))
                .or_default()
                .extend(summary);
        }
        for (phase, summary) in &run.phases {
            rows.entry((1, format!("phase `{phase}`")))
                .or_default()
                .push(*summary);
        }
    }
    rows.retain(|_, summaries| !summaries.is_empty());
    if !rows.is_empty() {
        text.push_str("| ms | p50 | p90 | p99 | max |\n|---|---|---|---|---|\n");
    }
    for ((_, name), summaries) in &rows {
        let of = |pick: fn(&Summary) -> f64| {
            millis(median(&summaries.iter().map(pick).collect::<Vec<_>>()))
        };
        let (p50, p90, p99) = (
            of(|summary| summary.p50),
            of(|summary| summary.p90),
            of(|summary| summary.p99),
        );
        let max = summaries
            .iter()
            .map(|summary| summary.max)
            .max_by(f64::total_cmp);
        let _ = writeln!(text, "| {name} | {p50} | {p90} | {p99} | {} |", millis(max));
    }
    cpu_line(text, runs);
}

fn cpu_line(text: &mut String, runs: &[&Run]) {
    let claims: usize = runs.iter().map(|run| run.load.count).sum();
    let mut used: BTreeMap<&str, f64> = BTreeMap::new();
    for (name, seconds) in runs.iter().flat_map(|run| &run.cpu_seconds) {
        *used.entry(name).or_default() += seconds;
    }
    if used.is_empty() || claims == 0 {
        return text.push('\n');
    }
    let each = used
        .iter()
        .map(|(name, seconds)| format!("{name} {:.1}", seconds * 1000.0 / claims as f64));
    let _ = writeln!(
        text,
        "\nCPU per claim within the window, ms: {}.\n",
        each.collect::<Vec<_>>().join(", ")
    );
}

fn describe(metric: &str) -> &str {
    match metric {
        ALL_READY => "first POST to last Ready",
        P50 => "POST to Ready, p50",
        P99 => "POST to Ready, p99",
        other => other,
    }
}

fn figure_of(metric: &str) -> fn(&Run) -> Option<f64> {
    match metric {
        ALL_READY => |run| run.figures.all_ready_ms,
        P99 => p99,
        _ => p50,
    }
}

fn p50(run: &Run) -> Option<f64> {
    run.figures.ready.map(|ready| ready.p50)
}

fn p99(run: &Run) -> Option<f64> {
    run.figures.ready.map(|ready| ready.p99)
}

fn of_rounds(comparison: &Comparison, figure: impl Fn(&Round) -> Option<f64>) -> String {
    millis(median(
        &comparison
            .rounds
            .iter()
            .filter_map(figure)
            .collect::<Vec<_>>(),
    ))
}

fn millis(value: Option<f64>) -> String {
    match value {
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
        None => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULTS: &str = include_str!("../testdata/results-v1.json");

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let replaced = replace(&document, "new\n\n").unwrap();
        assert_eq!(
            replaced,
            format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n")
        );
        assert_eq!(replace(&replaced, "new").unwrap(), replaced);
        assert!(replace("no marks", "new").is_err());
    }

    #[test]
    fn a_comparison_is_rendered_with_its_ratio_its_budget_and_its_phases() {
        let text = render(&[serde_json::from_str(RESULTS).unwrap()]);
        for expect in [
            "| Two at once | POST to Ready, p50 | 4.00 | 6.00 | void: **1.50** (1.50 – 1.50) |  | 0 |",
            "| Two at once | first POST to last Ready | 5.00 | 8.00 | void: **1.60** (1.60 – 1.60) | ≤ 2: missed | 0 |",
            "**Void**: 1 rounds, 5 are needed.",
            "| phase `thaw` | 0.30 |",
            "CPU per claim within the window, ms: etcd 2.0, kube-apiserver 10.0.",
        ] {
            assert!(text.contains(expect), "{expect}\n---\n{text}");
        }
    }
}
